/* SPDX-License-Identifier: MIT */
/*
 * Direct writes to shared blocks and to what is beside them.
 *
 * On xfs the blocks of such a write come from the copy-on-write fork (xfs_reflink_allocate_cow()), which
 * an earlier write may have filled ahead of itself (cowextsize), and become the file's when the write
 * has ended. The same write may have unwritten blocks to convert and the size to move as well
 * (xfs_dio_write_end_io()). What is forgotten of that reads as zeros or as the clone's data, or the file
 * is too short; what goes to the shared blocks themselves changes the clone.
 */
#include "ringwedge.h"

#include <linux/fs.h>
#include <sys/mman.h>

#define SIZE (192 * RW_KIB)
#define PART (4 * RW_KIB) /* of an earlier write: so much before the write, and into it */

static const struct place {
	const char *name;
	enum rw_state state;
	off_t off, len, size;
} places[] = {
	{ "shared", RW_WRITTEN, 16 * RW_KIB, 80 * RW_KIB, SIZE },
	{ "mixed", RW_MIXED, 8 * RW_KIB, 96 * RW_KIB, SIZE }, /* shared at both of its ends */
	{ "end", RW_WRITTEN, SIZE - 16 * RW_KIB, 64 * RW_KIB, SIZE },
	{ "last-block", RW_WRITTEN, SIZE - 32 * RW_KIB, 32 * RW_KIB, SIZE - 512 },
};

static void dirty(struct rw_ring *ring, struct rw_file *f, off_t off)
{
	(void)ring;
	rw_cache_dirty(f, off, 2 * PART);
}

static void write_back(struct rw_ring *ring, struct rw_file *f, off_t off)
{
	dirty(ring, f, off);
	rw_ok(fsync(f->fd));
}

static void write_direct(struct rw_ring *ring, struct rw_file *f, off_t off)
{
	rw_write(ring, f, off, 2 * PART, 0);
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
}

/* It has blocks by then, and no data for them: they may not become the file's, whoever ends next. */
static void fail(struct rw_ring *ring, struct rw_file *f, off_t off)
{
	void *none = mmap(NULL, 2 * PART, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)ring;
	if (none == MAP_FAILED)
		rw_broken("mmap: %s", strerror(errno));
	rw_eq(pwrite(f->fd, none, 2 * PART, off), -1);
	rw_eq(errno, EFAULT);
	munmap(none, 2 * PART);
}

static const struct earlier {
	const char *name;
	void (*write)(struct rw_ring *ring, struct rw_file *f, off_t off);
} earliers[] = {
	{ "first" },
	{ "dirty", dirty },
	{ "written-back", write_back },
	{ "direct", write_direct },
	{ "failed", fail },
};

static void run(const void *const *at)
{
	const struct place *p = at[0];
	const struct earlier *earlier = at[1];
	struct rw_ring *ring = rw_ring(at[2], 2);
	struct rw_file *f = rw_file("file", p->state, SIZE);
	struct rw_file *clone = rw_file("clone", RW_HOLE, 0);

	rw_ok(ftruncate(f->fd, p->size));
	rw_then(f, (struct rw_change){ RW_RESIZE, p->size });
	rw_supported("reflink", ioctl(clone->fd, FICLONE, f->fd));
	rw_then(clone, (struct rw_change){ RW_COPY, 0, p->size, f, 0 });
	rw_use(ring, f);
	if (earlier->write)
		earlier->write(ring, f, p->off - PART);
	rw_write(ring, f, p->off, (size_t)p->len, 0);
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
	rw_verify(clone);
	rw_layout(f, p->off, p->len, RW_OWN);
	rw_ring_close(ring);
}

static const char *const guards[] = {
	"05a630d76bd3 xfs: allow unwritten extents in the CoW fork",
	"55f669f34184 xfs: only remap the written blocks in xfs_reflink_end_cow_extent",
	NULL,
};

static const char *const groups[] = { "clone", NULL };
static const char *const needs[] = { "reflink", NULL };

const struct rw_test rw_test = {
	.name = "cow-dio",
	.summary = "a direct write over shared blocks and others is whole, and the clone as it was",
	.guards = guards,
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(places), RW_AXIS(earliers), RW_AXIS(rw_two_kinds) },
	.run = run,
};
