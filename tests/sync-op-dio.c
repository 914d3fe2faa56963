/* SPDX-License-Identifier: MIT */
/*
 * fallocate(2), truncation, clone and copy of a file, after direct writes, put on stable storage.
 *
 * On a synchronous file the call forces the log before it returns (xfs_file_fallocate() and
 * xfs_file_remap_range(), by xfs_file_sync_writes(); ext4_handle_sync() and ext4_fallocate()); else
 * fsync(2) does. Without that it is in memory only; and so is the end of the writes before it, which come
 * before it in the log: the conversion of unwritten blocks and the size. ext4's fast commits have only
 * what they were told of, call by call (ext4_fc_track_range()), and are looked for only behind a log that
 * is not empty. A hole drops pages that the file grew by,
 * whose writeback would have moved the size on disk (ext4_update_disksize_before_punch()). When the
 * filesystem is shut down without a flush of its log, as by a loss of power, and mounted again, all of it
 * must be there.
 */
#include "ringwedge.h"

#include <linux/falloc.h>
#include <linux/fs.h>

#define SIZE (256 * RW_KIB)
#define AT (64 * RW_KIB)
#define LEN (64 * RW_KIB)
#define PART (32 * RW_KIB)
#define GROWN (SIZE + PART) /* by a direct write */

static const struct op {
	const char *name;
	int mode;
	struct rw_change change;
	bool clone, copy;
	bool dirty; /* what is punched has been written to the page cache only, and the file grew by it */
} ops[] = {
	{ "allocate", 0, { RW_GROW, AT, SIZE } },
	{ "punch-hole", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, { RW_ZERO, AT, LEN } },
	{ "punch-end",
	  FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
	  { RW_ZERO, GROWN, LEN },
	  .dirty = true },
	{ "zero-range", FALLOC_FL_ZERO_RANGE, { RW_ZERO, AT, LEN } },
	{ "collapse-range", FALLOC_FL_COLLAPSE_RANGE, { RW_COLLAPSE, AT, LEN } },
	{ "insert-range", FALLOC_FL_INSERT_RANGE, { RW_INSERT, AT, LEN } },
	{ "clone", 0, { RW_COPY, AT, LEN }, .clone = true },
	{ "copy", 0, { RW_COPY, AT, LEN }, .copy = true },
	{ "shrink", 0, { RW_RESIZE, AT + LEN / 2 } },
	{ "grow", 0, { RW_RESIZE, 2 * SIZE } },
};

static const struct how {
	const char *name;
	bool later; /* by fsync(2), which ext4 is to do by fast commits */
	bool empty; /* the log, before that */
} hows[] = {
	{ "o-sync", false },
	{ "fsync", true },
	{ "fsync-empty-log", true, true },
};

/* Of the inode (chattr +S), which ext4 asks for most, and of the descriptor. */
static int synchronous(const struct rw_file *f)
{
	int fd = (int)rw_ok(open(rw_path(f), O_RDWR | O_DIRECT | O_SYNC | O_CLOEXEC));
	unsigned int flags;

	rw_ok(ioctl(fd, FS_IOC_GETFLAGS, &flags));
	flags |= FS_SYNC_FL;
	rw_ok(ioctl(fd, FS_IOC_SETFLAGS, &flags));
	rw_ok(fsync(fd));
	return fd;
}

/* What comes before the fsync(2) is committed, and the log holds that, or nothing any more. */
static void commit(const struct rw_file *f, bool empty)
{
	uint32_t flags = 0;

	rw_ok(syncfs(f->fd));
	if (empty)
		rw_supported("EXT4_IOC_CHECKPOINT", ioctl(f->fd, RW_EXT4_CHECKPOINT, &flags));
}

static void call(const struct op *op, int fd)
{
	const struct rw_change *c = &op->change;
	struct file_clone_range clone = {
		.src_fd = fd,
		.src_length = (uint64_t)c->len,
		.dest_offset = (uint64_t)c->off,
	};
	loff_t in = 0, out = c->off;

	if (c->kind == RW_RESIZE)
		rw_ok(ftruncate(fd, c->off));
	else if (op->clone)
		rw_supported("clone", ioctl(fd, FICLONERANGE, &clone));
	else if (op->copy)
		rw_eq(rw_ok(copy_file_range(fd, &in, fd, &out, (size_t)c->len, 0)), c->len);
	else
		rw_supported("fallocate", fallocate(fd, op->mode, c->off, c->len));
}

static void step(struct rw_own *own, const struct op *op, const struct how *how,
		 enum rw_state state)
{
	struct rw_file *f = rw_file("file", state, SIZE);
	struct rw_ring *ring = rw_ring(&rw_ring_kinds[0], 3);
	struct rw_change change = op->change;
	int fd = how->later ? (int)rw_ok(dup(f->fd)) : synchronous(f);

	if (how->later)
		commit(f, how->empty);
	rw_use(ring, f);
	rw_write(ring, f, 0, PART, 0);
	rw_write(ring, f, AT + LEN / 2, LEN, 0);
	rw_write(ring, f, SIZE, PART, 0);
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_ring_close(ring);
	if (op->dirty)
		rw_cache_dirty(f, op->change.off, (size_t)op->change.len);
	call(op, fd);
	if (op->clone || op->copy)
		change.from = f; /* its beginning */
	rw_then(f, change);
	if (how->later)
		rw_ok(fsync(fd));
	close(fd);
	rw_own_lose_power(own, f);
	rw_verify(f);
}

static void run(const void *const *at)
{
	static const enum rw_state states[] = { RW_WRITTEN, RW_UNWRITTEN, RW_HOLE };
	static const char *const fast[] = { "-O", "fast_commit", NULL };
	const struct how *how = at[1];
	struct rw_own own = { .dies = true };

	if (!(rw_fs() & (RW_XFS | RW_EXT4)))
		rw_skip("only xfs and ext4 promise that");
	if (how->empty && rw_fs() != RW_EXT4)
		rw_skip("needs ext4, whose log can be emptied");
	rw_own_make(&own, how->later && rw_fs() == RW_EXT4 ? fast : NULL);
	rw_eq(rw_own_mount(&own, NULL), 0);
	for (size_t i = 0; i < RW_ARRAY_SIZE(states); i++)
		step(&own, at[0], how, states[i]);
}

static bool has(const void *const *at)
{
	const struct op *op = at[0];
	const struct how *how = at[1];

	if (how->empty)
		return op == ops;
	return how->later || op->change.kind != RW_RESIZE; /* O_SYNC is not about ftruncate(2) */
}

static const char *const groups[] = { "dsync", NULL };
static const char *const needs[] = { "root, for a filesystem of its own", NULL };

const struct rw_test rw_test = {
	.name = "sync-op-dio",
	.summary = "what was done to a file after direct writes, and synced, outlives a shutdown",
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(ops), RW_AXIS(hows) },
	.has = has,
	.run = run,
};
