/* SPDX-License-Identifier: MIT */
/*
 * What frees or zeroes blocks behind the end of a file waits for the direct writes that it grows by.
 *
 * xfs sets i_size when a write ends, holding no lock meanwhile: whoever reads the size, or frees or
 * zeroes blocks behind it, must wait for the writes in flight first (xfs_file_fallocate(),
 * xfs_free_eofblocks() at close); ext4 holds the inode lock instead. Else the size goes back and
 * data are cut off, or blocks are freed under a write.
 */
#include "ringwedge.h"

#include <linux/falloc.h>

#define SIZE (256 * RW_KIB)
#define LEN (32 * RW_KIB)

static void allocate(const void *p)
{
	const struct rw_file *f = p;

	rw_ok(fallocate(f->fd, 0, SIZE, (off_t)rw_block_size()));
}

static void zero_range(const void *p)
{
	const struct rw_file *f = p;

	rw_ok(fallocate(f->fd, FALLOC_FL_ZERO_RANGE, SIZE, (off_t)rw_block_size()));
}

/* The first one that was open for writing trims blocks behind the end (xfs_file_release()). */
static void close_another(const void *p)
{
	rw_ok(close((int)rw_ok(open(rw_path(p), O_RDWR | O_CLOEXEC))));
}

/* About the first block behind the end, with a write in flight that ends far behind it. */
static const struct op {
	const char *name;
	void (*call)(const void *);
	enum rw_change_kind kind;
	unsigned int waits; /* which filesystems promise to wait */
	bool falloc;
} ops[] = {
	{ "allocate", allocate, RW_GROW, RW_XFS | RW_EXT4, .falloc = true },
	{ "zero-range", zero_range, RW_ZERO, RW_XFS | RW_EXT4, .falloc = true },
	{ "close", close_another, RW_KEEP, RW_XFS },
};

static void run(const void *const *at)
{
	const struct op *op = at[0];
	const struct rw_change change = { op->kind, SIZE, (off_t)rw_block_size() };
	struct rw_ring *ring = rw_ring(at[1], 4);
	struct rw_file *f;
	unsigned int n, in_flight;

	if (op->falloc && !rw_can_make(RW_UNWRITTEN))
		rw_skip("needs fallocate");
	if (!rw_has_gate())
		rw_skip("needs a gate");
	rw_only_grows(ring);
	op->call(rw_file("file", RW_SHRUNK, SIZE)); /* reads the metadata that it needs */
	f = rw_file("file", RW_SHRUNK, SIZE);
	rw_use(ring, f);
	rw_gate_shut();
	rw_write(ring, f, 0, LEN, 0);
	rw_write(ring, f, SIZE, 4 * LEN, 0);
	n = rw_unreaped(ring);
	in_flight = rw_in_flight(n);
	rw_held_by(at[2], op->call, f, in_flight > 0 && op->waits & rw_fs());
	rw_reap(ring);
	(in_flight == n ? rw_then : rw_race)(f, change);
	rw_verify(f);
	rw_ring_close(ring);
}

static bool has(const void *const *at)
{
	const struct rw_who *who = at[2];

	return !who->other || at[1] == &rw_ring_kinds[0];
}

static const char *const guards[] = {
	"249bd9087a52 xfs: properly serialise fallocate against AIO+DIO",
	NULL,
};

static const char *const groups[] = { "append", NULL };

const struct rw_test rw_test = {
	.name = "append-dio",
	.summary = "calls about what is behind the end wait for the direct writes that move it",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(ops), RW_AXIS(rw_ring_kinds), RW_AXIS(rw_whos) },
	.has = has,
	.run = run,
};
