/* SPDX-License-Identifier: MIT */
/*
 * Where a file's blocks are, and what it is, asked and told with direct writes to it in flight.
 *
 * FIEMAP and FIBMAP take the locks that the end of a write needs, and may not wait for that end with
 * them. An overwrite moves no block. A block that was given to a write is unwritten as long as that
 * is in flight, and written after: one that is called written early holds another file's old data
 * (swap files, and who copies by the map, believe it). FS_IOC_FSSETXATTR may change an inode beside a
 * write, but no extent size hint once there are blocks, be they of a write that has not ended.
 */
#include "ringwedge.h"

#include <linux/fiemap.h>
#include <linux/fs.h>

#define SIZE (256 * RW_KIB)
#define LEN (32 * RW_KIB)
#define EXTENTS 32

union map {
	struct fiemap head;
	char room[sizeof(struct fiemap) + EXTENTS * sizeof(struct fiemap_extent)];
};

struct arg {
	const struct op *op;
	struct rw_file *file;
	off_t off;    /* of a write */
	bool known;   /* what the map must say */
	bool written; /* before the write */
	bool held;    /* all that was submitted */
	off_t at;     /* on the device, as it was told the last time; 0: nowhere */
};

/* Is the write at `off` in flight for certain, now that the call has returned? */
static bool in_flight(const struct arg *a)
{
	return a->held && rw_gate_is_shut();
}

static void judge(struct arg *a, const char *who, off_t at, bool written)
{
	const char *when = in_flight(a) ? "in flight" : "that has ended";

	if (!a->known || (a->held && !in_flight(a)))
		return;
	if (written != (a->written || !in_flight(a)))
		rw_fail("%s: the blocks of a direct write %s are %s", who, when,
			written ? "written already" : "not written");
	if (written && a->written && a->at && at != a->at)
		rw_fail("%s: the block at offset %lld was at %lld of the device, and is at %lld",
			who, (long long)a->off, (long long)a->at, (long long)at);
	a->at = written ? at : a->at;
}

static void ask_map(struct arg *a, unsigned int flags)
{
	union map m = { .head = { .fm_start = (uint64_t)a->off,
				  .fm_length = LEN,
				  .fm_flags = flags,
				  .fm_extent_count = EXTENTS } };
	bool written = true;
	off_t at = 0;

	rw_supported("FIEMAP", ioctl(a->file->fd, FS_IOC_FIEMAP, &m.head));
	for (unsigned int i = 0; i < m.head.fm_mapped_extents; i++) {
		const struct fiemap_extent *e = &m.head.fm_extents[i];

		written &= !(e->fe_flags & FIEMAP_EXTENT_UNWRITTEN);
		if (!i)
			at = (off_t)e->fe_physical + a->off - (off_t)e->fe_logical;
	}
	judge(a, "FIEMAP", at, written && m.head.fm_mapped_extents);
}

static void fiemap(struct arg *a)
{
	ask_map(a, 0);
}

static void fiemap_sync(struct arg *a)
{
	ask_map(a, FIEMAP_FLAG_SYNC);
}

static void fibmap(struct arg *a)
{
	int block = (int)(a->off / (off_t)rw_block_size());

	if (ioctl(a->file->fd, FIBMAP, &block) && errno == EPERM)
		rw_skip("needs CAP_SYS_RAWIO");
	block = (int)(a->off / (off_t)rw_block_size());
	rw_supported("FIBMAP", ioctl(a->file->fd, FIBMAP, &block));
	judge(a, "FIBMAP", block * (off_t)rw_block_size(), block != 0);
}

static struct fsxattr get(const struct arg *a)
{
	struct fsxattr x;

	rw_supported("FS_IOC_FSGETXATTR", ioctl(a->file->fd, FS_IOC_FSGETXATTR, &x));
	return x;
}

static void refused(const struct arg *a, const char *what, struct fsxattr x)
{
	if (!ioctl(a->file->fd, FS_IOC_FSSETXATTR, &x))
		rw_fail("FS_IOC_FSSETXATTR: %s of a file that has blocks was changed", what);
	rw_eq(errno, EINVAL);
}

static void set_attributes(struct arg *a)
{
	struct fsxattr x = get(a), y = x;

	x.fsx_xflags ^= FS_XFLAG_NOATIME;
	rw_supported("FS_IOC_FSSETXATTR", ioctl(a->file->fd, FS_IOC_FSSETXATTR, &x));
	rw_eq(get(a).fsx_xflags & FS_XFLAG_NOATIME, x.fsx_xflags & FS_XFLAG_NOATIME);
	x.fsx_projid++;
	if (ioctl(a->file->fd, FS_IOC_FSSETXATTR, &x))
		rw_eq(errno, EOPNOTSUPP); /* made without projects */
	else
		rw_eq(get(a).fsx_projid, x.fsx_projid);
	if (rw_fs() != RW_XFS || !a->known || (a->held && !in_flight(a)))
		return;
	y = get(a);
	y.fsx_xflags |= FS_XFLAG_EXTSIZE;
	y.fsx_extsize = 64 * RW_KIB;
	refused(a, "the extent size hint", y);
	y = get(a);
	y.fsx_xflags ^= FS_XFLAG_REALTIME;
	refused(a, "the device", y);
}

static const struct op {
	const char *name;
	void (*call)(struct arg *a);
} ops[] = {
	{ "fiemap", fiemap },
	{ "fiemap-sync", fiemap_sync },
	{ "fibmap", fibmap },
	{ "fssetxattr", set_attributes },
};

static void call(const void *p)
{
	struct arg *a = (struct arg *)p;

	a->op->call(a);
}

/* What the write at `off` meets. */
static const struct state {
	enum rw_state state;
	off_t off;
	unsigned int
		not_on; /* ext4: it is waited for, and what is behind the end is not to be seen */
} states[] = {
	{ RW_WRITTEN, 64 * RW_KIB, 0 },
	{ RW_UNWRITTEN, 64 * RW_KIB, 0 },
	{ RW_HOLE, 64 * RW_KIB, 0 },
	{ RW_WRITTEN, SIZE, RW_EXT4 },
};

static void one(struct rw_ring *ring, const struct op *op, const struct state *s)
{
	struct rw_file *f = rw_file("file", s->state, SIZE);
	struct arg a = { op, f, s->off, .written = s->state == RW_WRITTEN && s->off < SIZE };

	op->call(&a); /* is it supported? and what it reads is in memory from here on */
	a.known = rw_fs() & (RW_XFS | RW_EXT4) && rw_can_make(RW_UNWRITTEN);
	f = rw_file("file", s->state, SIZE);
	if (a.written)
		op->call(&a);
	rw_use(ring, f);
	rw_gate_shut();
	rw_write(ring, f, s->off, LEN, 0);
	rw_write(ring, f, 0, LEN, 0);
	a.held = rw_in_flight(2) == 2;
	a.known &= a.held;
	rw_held_by(&rw_whos[0], call, &a, false);
	rw_reap(ring);
	a.held = false;
	op->call(&a);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
}

static void run(const void *const *at)
{
	struct rw_ring *ring = rw_ring(at[1], 2);

	if (!rw_has_gate())
		rw_skip("needs a gate, and direct I/O");
	for (size_t i = 0; i < RW_ARRAY_SIZE(states); i++)
		if (rw_can_make(states[i].state) && !(rw_fs() & states[i].not_on))
			one(ring, at[0], &states[i]);
	rw_ring_close(ring);
}

static const char *const guards[] = {
	"2a492ff66673 xfs: Check for delayed allocations before setting extsize",
	"b0ad381fa769 btrfs: fix deadlock with fiemap and extent locking",
	NULL,
};

static const char *const groups[] = { "ioctl", NULL };
static const char *const needs[] = { "a gate", NULL };

const struct rw_test rw_test = {
	.name = "map-dio",
	.summary = "FIEMAP, FIBMAP and FSSETXATTR are right while direct writes are in flight",
	.guards = guards,
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(ops), RW_AXIS(rw_two_kinds) },
	.run = run,
};
