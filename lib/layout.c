/* SPDX-License-Identifier: MIT */
/*
 * layout.c - which blocks a file has (FS_IOC_FIEMAP, Documentation/filesystems/fiemap.rst).
 *
 * Contents do not tell an allocated block from a hole, nor whether it is another file's, too.
 */
#include "internal.h"

#include <linux/fs.h>

void rw_extents(const struct rw_file *f, struct rw_extents *x)
{
	union {
		struct fiemap map;
		char room[sizeof(struct fiemap) + RW_EXTENTS * sizeof(struct fiemap_extent)];
	} u = { .map = { .fm_length = FIEMAP_MAX_OFFSET,
			 .fm_flags = FIEMAP_FLAG_SYNC,
			 .fm_extent_count = RW_EXTENTS } };

	rw_set_up(ioctl(f->fd, FS_IOC_FIEMAP, &u.map));
	x->n = u.map.fm_mapped_extents;
	if (x->n == RW_EXTENTS)
		rw_broken("\"%s\" has more than %d extents", f->name, RW_EXTENTS);
	memcpy(x->e, u.map.fm_extents, x->n * sizeof(*x->e));
}

static void missing(const struct rw_file *f, off_t at)
{
	rw_fail("FIEMAP: \"%s\" has no block at offset %lld, in the range that was allocated",
		f->name, (long long)at);
}

void rw_layout(const struct rw_file *f, off_t off, off_t len, enum rw_layout must)
{
	struct rw_extents x;
	off_t at = off, end = off + len;

	/* btrfs and f2fs reserve and clone in ways that FIEMAP does not tell. */
	if (must == RW_ANY_LAYOUT || !(rw_fs() & (RW_XFS | RW_EXT4)))
		return;
	rw_extents(f, &x);
	for (unsigned int i = 0; i < x.n; i++) {
		const struct fiemap_extent *e = &x.e[i];
		off_t start = (off_t)e->fe_logical, stop = start + (off_t)e->fe_length;

		if (stop <= at || start >= end)
			continue;
		if (must == RW_UNMAPPED)
			rw_fail("FIEMAP: \"%s\" has blocks at offset %lld, where there is to be "
				"none",
				f->name, (long long)(start > at ? start : at));
		if (must == RW_OWN && e->fe_flags & FIEMAP_EXTENT_SHARED)
			rw_fail("FIEMAP: the block of \"%s\" at offset %lld is shared", f->name,
				(long long)(start > at ? start : at));
		if (start > at)
			missing(f, at);
		at = stop;
	}
	if (must != RW_UNMAPPED && at < end)
		missing(f, at);
}
