/* SPDX-License-Identifier: MIT */
/*
 * ext4's own ioctls against direct writes in flight.
 *
 * EXT4_IOC_MOVE_EXT copies a file's data to other blocks, EXT4_IOC_SWAP_BOOT gives its blocks to the
 * boot loader's inode, FS_JOURNAL_DATA_FL sends its data through the journal, FS_IMMUTABLE_FL says
 * that they do not change any more. Each waits in inode_dio_wait() first. Without that the write
 * lands in blocks that the file has given away, or is in none of the promised states. What is cached
 * of the file goes with its blocks.
 */
#include "ringwedge.h"

#include <linux/fs.h>

#define SIZE (512 * RW_KIB)
#define AT (64 * RW_KIB)
#define LEN (256 * RW_KIB)
#define CACHED (AT + 96 * RW_KIB) /* where no direct write goes */
#define PART (16 * RW_KIB)

/* As in fs/ext4/ext4.h, which is no header of Debian 12's kernel. */
struct move_extent {
	uint32_t reserved, donor_fd;
	uint64_t orig_start, donor_start, len, moved_len; /* in blocks */
};
#define EXT4_IOC_MOVE_EXT _IOWR('f', 15, struct move_extent)
#define EXT4_IOC_SWAP_BOOT _IO('f', 17)

struct files {
	struct rw_file *file, *donor;
};

static void move_extents(const struct files *f)
{
	const uint64_t block = rw_block_size();
	struct move_extent m = { 0, (uint32_t)f->donor->fd, AT / block, AT / block, LEN / block };

	rw_supported("EXT4_IOC_MOVE_EXT", ioctl(f->file->fd, EXT4_IOC_MOVE_EXT, &m));
	rw_eq(m.moved_len, LEN / block);
}

/* To the boot loader's inode, which is empty, and back: meanwhile so is the page cache. */
static void swap_boot(const struct files *f)
{
	static const char zeros[PART];
	static char buf[PART];
	int fd = (int)rw_set_up(open(rw_path(f->file), O_RDONLY | O_CLOEXEC));

	rw_supported("EXT4_IOC_SWAP_BOOT", ioctl(f->file->fd, EXT4_IOC_SWAP_BOOT));
	rw_ok(ftruncate(f->file->fd, SIZE));
	rw_eq(rw_ok(pread(fd, buf, PART, CACHED)), PART);
	if (memcmp(buf, zeros, PART))
		rw_fail("a cached read finds the old data, though the boot loader has the blocks");
	rw_ok(ftruncate(f->file->fd, 0));
	rw_ok(ioctl(f->file->fd, EXT4_IOC_SWAP_BOOT));
	close(fd);
}

static int flags_of(const struct files *f)
{
	int flags;

	rw_ok(ioctl(f->file->fd, FS_IOC_GETFLAGS, &flags));
	return flags;
}

static void set_flags(const struct files *f, int flags)
{
	rw_ok(ioctl(f->file->fd, FS_IOC_SETFLAGS, &flags));
}

static void journal_data(const struct files *f)
{
	int flags = flags_of(f) | FS_JOURNAL_DATA_FL;

	if (ioctl(f->file->fd, FS_IOC_SETFLAGS, &flags)) {
		if (errno == EPERM)
			rw_skip("needs CAP_SYS_RESOURCE");
		rw_fail("FS_IOC_SETFLAGS: %s", strerror(errno));
	}
	if (!(flags_of(f) & FS_JOURNAL_DATA_FL))
		rw_skip("needs a journal");
}

static void immutable(const struct files *f)
{
	set_flags(f, flags_of(f) | FS_IMMUTABLE_FL);
	set_flags(f, flags_of(f) & ~FS_IMMUTABLE_FL);
}

static const struct op {
	const char *name;
	void (*call)(const struct files *f);
	bool donor; /* writes to the donor, too */
} ops[] = {
	{ "move-extents", move_extents, true },
	{ "swap-boot", swap_boot },
	{ "journal-data", journal_data },
	{ "immutable", immutable },
};

/* Which file the writes in flight go to. */
static const struct side {
	const char *name;
	bool file, donor;
} sides[] = {
	{ "file", true, false },
	{ "donor", false, true },
	{ "both", true, true },
};

struct arg {
	const struct op *op;
	struct files f;
};

static void call(const void *p)
{
	const struct arg *a = p;

	a->op->call(&a->f);
}

static struct files make(enum rw_state state)
{
	return (struct files){ rw_file("file", state, SIZE), rw_file("donor", RW_WRITTEN, SIZE) };
}

static void submit(struct rw_ring *ring, struct rw_file *f)
{
	rw_use(ring, f);
	rw_write(ring, f, AT, 64 * RW_KIB, 0);
	rw_write(ring, f, AT + 192 * RW_KIB, 32 * RW_KIB, 0);
}

static void held(struct rw_ring *ring, const struct op *op, const struct side *side,
		 const struct rw_who *who, enum rw_state state)
{
	struct arg arg = { op, make(state) };
	unsigned int in_flight;

	/* Is it supported? And the metadata that it needs is in memory from here on. */
	call(&arg);
	arg.f = make(state);
	rw_cache(arg.f.file, CACHED, PART);
	rw_gate_shut();
	if (side->file)
		submit(ring, arg.f.file);
	if (side->donor)
		submit(ring, arg.f.donor);
	in_flight = rw_in_flight(rw_unreaped(ring));
	rw_held_by(who, call, &arg, in_flight > 0);
	rw_reap(ring);
	/* None of it changes what the file reads like. A donor's contents are promised to nobody. */
	rw_then(arg.f.file, (struct rw_change){ RW_KEEP });
	rw_then(arg.f.donor, (struct rw_change){ RW_KEEP });
	rw_verify(arg.f.file);
}

static void run(const void *const *at)
{
	static const enum rw_state states[] = { RW_WRITTEN, RW_UNWRITTEN };
	struct rw_ring *ring = rw_ring(at[2], 8);

	if (rw_fs() != RW_EXT4)
		rw_skip("needs ext4");
	if (!rw_has_gate())
		rw_skip("needs a gate");
	for (size_t i = 0; i < RW_ARRAY_SIZE(states); i++)
		if (rw_can_make(states[i]))
			held(ring, at[0], at[1], at[3], states[i]);
	rw_ring_close(ring);
}

static bool has(const void *const *at)
{
	const struct op *op = at[0];
	const struct side *side = at[1];
	const struct rw_ring_kind *kind = at[2];
	const struct rw_who *who = at[3];

	return (op->donor || !side->donor) && (!who->other || !kind->aio);
}

static const char *const guards[] = {
	"17335dcc4711 ext4: serialize dio nonlocked reads with defrag workers",
	NULL,
};

static const char *const groups[] = { "ioctl", NULL };
static const char *const needs[] = { "ext4", NULL };

const struct rw_test rw_test = {
	.name = "ext4-ioctl-dio",
	.summary = "ext4's own ioctls wait for direct writes in flight and lose none",
	.guards = guards,
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(ops), RW_AXIS(sides), RW_AXIS(rw_two_kinds), RW_AXIS(rw_whos) },
	.has = has,
	.run = run,
};
