/* SPDX-License-Identifier: MIT */
/*
 * A filesystem that grows, is trimmed and synced under direct writes.
 *
 * XFS_IOC_FSGROWFSDATA, EXT4_IOC_RESIZE_FS, FITRIM and syncfs(2) do not wait for direct writes in
 * flight, and may not keep one from its end either. To convert unwritten blocks takes a transaction:
 * a resize that has stopped those (jbd2_journal_lock_updates()) and waits for conversions waits for
 * ever. Nor may the blocks be trimmed that a write was given, or a write be given blocks that are
 * being trimmed: it would read as zeros.
 */
#include "ringwedge.h"

#include <linux/fs.h>
#include <sys/statvfs.h>

#define SIZE (256 * RW_KIB)
#define AT (8 * RW_KIB)
#define LEN (64 * RW_KIB)

/* As in fs/xfs/libxfs/xfs_fs.h and fs/ext4/ext4.h. */
struct growfs_data {
	uint64_t newblocks;
	uint32_t imaxpct;
};
#define XFS_IOC_FSGROWFSDATA _IOW('X', 110, struct growfs_data)
#define EXT4_IOC_RESIZE_FS _IOW('f', 16, uint64_t)

struct arg {
	const struct op *op;
	int fd;	    /* on the filesystem */
	off_t size; /* of its device */
};

static void resize(const struct arg *a)
{
	struct growfs_data to = { (uint64_t)a->size / rw_block_size(), 25 };
	int ret;

	rw_enter("resize");
	ret = rw_fs() == RW_XFS ? ioctl(a->fd, XFS_IOC_FSGROWFSDATA, &to)
				: ioctl(a->fd, EXT4_IOC_RESIZE_FS, &to.newblocks);
	if (ret && errno == EPERM)
		rw_skip("needs CAP_SYS_RESOURCE");
	rw_leave("resize", ret, RW_FAIL, __FILE__, __LINE__);
}

static void trim(const struct arg *a)
{
	struct fstrim_range all = { 0, UINT64_MAX, 0 };

	rw_ok(ioctl(a->fd, FITRIM, &all));
}

static void sync_all(const struct arg *a)
{
	rw_ok(syncfs(a->fd));
}

static const struct op {
	const char *name;
	void (*call)(const struct arg *a);
	off_t more; /* room on the device, enough for another group of ext4 or xfs */
} ops[] = {
	{ "grow", resize, 4096 * RW_KIB },
	{ "same-size", resize, 0 }, /* writes its superblocks, flushes its journal */
	{ "trim", trim, 0 },
	{ "syncfs", sync_all, 0 },
};

static void call(const void *p)
{
	const struct arg *a = p;

	a->op->call(a);
}

static void submit(struct rw_ring *ring, struct rw_file *f, bool extend)
{
	rw_write(ring, f, AT, LEN, 0);
	rw_write(ring, f, SIZE - LEN, LEN, 0);
	if (extend)
		rw_write(ring, f, SIZE, LEN, 0);
}

static void end(struct rw_ring *ring, struct rw_file *f)
{
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
}

static unsigned long long blocks(const struct rw_file *f)
{
	struct statvfs s;

	rw_set_up(fstatvfs(f->fd, &s));
	return s.f_blocks;
}

static void held(struct rw_ring *ring, const struct op *op, struct rw_file *f, bool extend)
{
	struct arg a = { op, f->fd, rw_device_grow(op->more) };
	const unsigned long long before = blocks(f);

	rw_use(ring, f);
	rw_gate_shut();
	submit(ring, f, extend);
	rw_in_flight(rw_unreaped(ring));
	rw_held_by(&rw_whos[0], call, &a, false);
	if (op->more && blocks(f) <= before)
		rw_fail("resized, it has %llu blocks, and had %llu", blocks(f), before);
	end(ring, f);
}

/* Soon after the writes, and again as long as they go on. */
static void racing(struct rw_ring *ring, const struct op *op, struct rw_file *f, bool extend)
{
	struct arg a = { op, f->fd, rw_device_grow(0) };

	rw_use(ring, f);
	submit(ring, f, extend);
	do {
		rw_jitter(200);
		call(&a);
		rw_reap_ready(ring);
	} while (rw_unreaped(ring));
	end(ring, f);
}

static void run(const void *const *at)
{
	const enum rw_state states[] = { rw_can_make(RW_MIXED) ? RW_MIXED : RW_WRITTEN, RW_SHARED };
	const struct op *op = at[0];
	const struct rw_ring_kind *kind = at[1];
	struct rw_ring *ring = rw_ring(kind, 4);
	const bool extend = !kind->aio; /* io_submit would wait for the end of that one */
	struct arg a = { op };

	if (!(rw_fs() & (RW_XFS | RW_EXT4)))
		rw_skip("needs xfs or ext4");
	a.fd = rw_file("file", RW_WRITTEN, SIZE)->fd;
	a.size = rw_device_grow(0);
	call(&a); /* is it supported? and what it reads is in memory from here on */
	for (size_t i = 0; i < RW_ARRAY_SIZE(states); i++)
		if (rw_can_make(states[i]))
			held(ring, op, rw_file("file", states[i], SIZE), extend);
	rw_for_ms(10)
		racing(ring, op, rw_file("file", states[0], SIZE), extend);
	rw_ring_close(ring);
}

/* How a completion is delivered matters only to an owner who is waited for, which is none here. */
static const struct rw_ring_kind kinds[] = {
	{ .name = "plain" },
	{ .name = "sqpoll", .setup = IORING_SETUP_SQPOLL },
	{ .name = "async", .async = true },
	{ .name = "aio", .aio = true },
};

static const char *const guards[] = {
	"89cfa899608f xfs: reduce AGF hold times during fstrim operations (what is being trimmed "
	"may not be given to a write)",
	NULL,
};

static const char *const groups[] = { "resize", NULL };
static const char *const needs[] = { "xfs or ext4", "a gate", NULL };

const struct rw_test rw_test = {
	.name = "resize-dio",
	.summary =
		"a filesystem grows, is trimmed and synced without harm to direct writes in flight",
	.guards = guards,
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(ops), RW_AXIS(kinds) },
	.run = run,
};
