/* SPDX-License-Identifier: MIT */
/*
 * The page cache, and direct writes that begin and end within its pages.
 *
 * A write that crosses from one page into another, shorter than a page though it be, has both of
 * them dropped, when it is submitted and when it has ended: the last one is that of its last byte
 * (kiocb_invalidate_post_direct_write()), not so many behind the first as its length has pages. One
 * that is left has old data for read(2) and mappings, for ever.
 */
#include "ringwedge.h"

#include <sys/mman.h>

#define SIZE (256 * RW_KIB)
#define PAGE 4096L

/* In sectors, from a page on. */
static const struct part {
	int off, len;
} parts[] = {
	{ -1, 2 }, { 1, 1 }, { -1, 9 }, { 1, 9 }, { 7, 17 }, { 1, 15 },
};

static const struct when {
	const char *name;
	enum rw_state state;
	bool meanwhile; /* blocks without data are read as zeros although the gate is shut */
	bool large;	/* folios, where the filesystem makes them of one large cached write */
	bool dirty;
} whens[] = {
	{ "read-before", RW_WRITTEN },
	{ "read-meanwhile-hole", RW_HOLE, true },
	{ "read-meanwhile-unwritten", RW_UNWRITTEN, true },
	{ "written-before", RW_WRITTEN, .large = true },
	{ "dirty", RW_WRITTEN, .large = true, .dirty = true },
};

/* Every page: by a fault, which waits for no lock of the inode. */
static void look(const void *p)
{
	const volatile char *map = p;

	for (off_t at = 0; at < SIZE; at += PAGE)
		(void)map[at];
}

static void one(struct rw_ring *ring, const struct when *when, const struct part *part)
{
	const off_t sector = (off_t)rw_sector_size();
	struct rw_file *f = rw_file("file", when->state, SIZE);
	char *map = rw_map(f->fd, 0, SIZE);

	rw_use(ring, f);
	if (when->large)
		rw_cache_dirty(f, 0, SIZE);
	if (when->large && !when->dirty)
		rw_ok(fsync(f->fd));
	if (!when->meanwhile)
		look(map);
	else if (rw_has_gate())
		rw_gate_shut();
	rw_write(ring, f, SIZE / 2 + part->off * sector, (size_t)(part->len * sector), 0);
	if (when->meanwhile && rw_has_gate()) {
		rw_in_flight(1);
		rw_held_by(&rw_whos[1], look, map, false);
	} else if (when->meanwhile) {
		rw_by(&rw_whos[1], look, map);
	}
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_check(f, "read through a mapping", map, 0, SIZE);
	rw_verify(f);
	munmap(map, SIZE);
}

static void run(const void *const *at)
{
	const struct when *when = at[0];
	struct rw_ring *ring = rw_ring(at[1], 1);

	if (!rw_can_make(when->state))
		rw_skip("needs fallocate");
	for (size_t i = 0; i < RW_ARRAY_SIZE(parts); i++)
		one(ring, when, &parts[i]);
	rw_ring_close(ring);
}

static const char *const groups[] = { "cache", NULL };

const struct rw_test rw_test = {
	.name = "cache-part-dio",
	.summary =
		"cached reads and mappings have what direct writes to parts of pages have written",
	.groups = groups,
	.axes = { RW_AXIS(whens), RW_AXIS(rw_ring_kinds) },
	.run = run,
};
