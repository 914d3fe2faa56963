/* SPDX-License-Identifier: MIT */
/*
 * What lies between the old end of a file and a direct write behind it reads as zeros.
 *
 * The last block has a rest, and the blocks that the file is given again hold what they held once.
 * Who writes behind a gap zeroes it from the end on, and must know where that is: xfs waits for the
 * writes in flight first (xfs_file_write_zero_eof()). Else what was behind the old end - of the block,
 * of a mapping, of the file once - shows up in the file, or data of another write are zeroed.
 */
#include "ringwedge.h"

#include <sys/mman.h>

#define SIZE (256 * RW_KIB)
#define END (SIZE - 4096 + 1000) /* within a block, and a sector */
#define LEN (32 * RW_KIB)

static void write_and_verify(struct rw_ring *ring, struct rw_file *f, off_t off, size_t len)
{
	rw_write(ring, f, off, len, 0);
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
}

static void resize(struct rw_file *f, off_t to)
{
	rw_ok(ftruncate(f->fd, to));
	rw_then(f, (struct rw_change){ RW_RESIZE, to });
}

/* What is behind a gap comes first. */
static void out_of_order(struct rw_ring *ring, struct rw_file *f)
{
	static const int order[] = { 4, 2, 0, 3, 1 };

	if (rw_has_gate())
		rw_gate_shut();
	for (size_t i = 0; i < RW_ARRAY_SIZE(order); i++) {
		rw_write(ring, f, SIZE + order[i] * LEN, LEN, 0);
		if (rw_has_gate() && rw_in_flight(i + 1) > 1 && rw_gate_is_shut() && order[i] &&
		    rw_fs() == RW_XFS)
			rw_fail("a write behind a gap did not wait for the one in flight");
	}
	if (rw_has_gate())
		rw_held_reap(ring);
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
}

/* One sector after another, each into a new block or behind the last one. */
static void by_sectors(struct rw_ring *ring, struct rw_file *f)
{
	const off_t sector = (off_t)rw_sector_size(), block = (off_t)rw_block_size();
	const off_t from[] = { 0, block, block + sector, 4 * block - sector, 5 * block, 7 * block };

	for (size_t i = 0; i < RW_ARRAY_SIZE(from); i++)
		write_and_verify(ring, f, SIZE + from[i], (size_t)sector);
	/* The rest of the last block is in the file now. */
	resize(f, SIZE + 8 * block);
	rw_verify(f);
}

static void cut_tail(struct rw_ring *ring, struct rw_file *f)
{
	resize(f, END);
	write_and_verify(ring, f, SIZE, LEN);
}

/* By a mapping, which is returned. */
static char *store_behind_end(struct rw_file *f)
{
	char *page = rw_map(f->fd, SIZE - 4096, 4096);

	resize(f, END);
	memset(page + END % 4096, 0xa5, 4096 - END % 4096);
	return page;
}

static void mapped_tail(struct rw_ring *ring, struct rw_file *f)
{
	char *page = store_behind_end(f);

	write_and_verify(ring, f, SIZE, LEN);
	munmap(page, 4096);
}

/* Not a write, but what else makes the file longer. */
static void mapped_truncate(struct rw_ring *ring, struct rw_file *f)
{
	char *page = store_behind_end(f);

	resize(f, SIZE);
	rw_verify(f);
	write_and_verify(ring, f, SIZE, LEN);
	munmap(page, 4096);
}

static const struct scene {
	const char *name;
	void (*play)(struct rw_ring *ring, struct rw_file *f);
	bool one; /* kind of rings: a mapping does not know by which the file was written */
} scenes[] = {
	{ "out-of-order", out_of_order },
	{ "by-sectors", by_sectors },
	{ "cut-tail", cut_tail },
	{ "mapped-tail", mapped_tail, true },
	{ "mapped-truncate", mapped_truncate, true },
};

static void run(const void *const *at)
{
	const struct scene *scene = at[0];
	struct rw_ring *ring = rw_ring(at[1], 8);
	struct rw_file *f = rw_file("file", RW_SHRUNK, SIZE);

	rw_use(ring, f);
	rw_only_grows(ring);
	scene->play(ring, f);
	rw_ring_close(ring);
}

static bool has(const void *const *at)
{
	const struct scene *scene = at[0];

	return !scene->one || at[1] == &rw_ring_kinds[0];
}

static const char *const guards[] = {
	"7d9b474ee4cc iomap: make zero range flush conditional on unwritten mappings",
	"40c63fbc55a9 xfs: direct IO EOF zeroing needs to drain AIO",
	"52aecaee1c26 mm: zero range of eof folio exposed by inode size extension",
	"c7fc0366c656 ext4: partial zero eof block on unaligned inode size extension",
	NULL,
};

static const char *const groups[] = { "append", NULL };

const struct rw_test rw_test = {
	.name = "append-tail-dio",
	.summary = "what lies between the end and a direct write behind it reads as zeros",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(scenes), RW_AXIS(rw_ring_kinds) },
	.has = has,
	.run = run,
};
