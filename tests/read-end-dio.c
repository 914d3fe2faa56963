/* SPDX-License-Identifier: MIT */
/*
 * Direct reads at the end of a file, which may be moving.
 *
 * A read ends exactly where the file does: the bytes behind it, of the same sector or block, are
 * nobody's. While writes move the end it stands before such a write or behind it, and once it has
 * moved their data are there: who sets the size before the data has come reads zeros, or what the
 * blocks held (xfs_dio_write_end_io(), ext4_handle_inode_extension()).
 */
#include "ringwedge.h"

#define SIZE (512 * RW_KIB)
#define LEN (128 * RW_KIB)
#define READS 4
#define MANY 64 /* writes in flight: all there are, since nothing moves any more */

/* A file, and reads of it, which must stay in place until they are reaped. */
struct reads {
	struct rw_ring *ring;
	struct rw_file *file;
	struct rw_io io[READS];
};

/* Beside each other. */
static void submit(struct reads *r, off_t from, off_t len)
{
	for (int i = 0; i < READS; i++) {
		r->io[i] =
			(struct rw_io){ .read = true, .off = from + i * len, .len = (size_t)len };
		rw_submit(r->ring, r->file, &r->io[i]);
	}
}

static void check(const struct reads *r, off_t size)
{
	for (int i = 0; i < READS; i++)
		rw_check_read(&r->io[i], size);
}

/* Reads that end at, across and behind the end of files that end anywhere in a block. */
static void to_the_end(struct reads *r)
{
	static const off_t sizes[] = { SIZE, SIZE - 512, SIZE - 1000, SIZE - 4096, SIZE + 1 };
	static const off_t lens[] = { 96 * RW_KIB, 4096 };

	for (size_t i = 0; i < RW_ARRAY_SIZE(sizes); i++) {
		r->file = rw_file("file", RW_WRITTEN, SIZE);
		rw_use(r->ring, r->file);
		rw_ok(ftruncate(r->file->fd, sizes[i]));
		rw_then(r->file, (struct rw_change){ RW_RESIZE, sizes[i] });
		for (size_t k = 0; k < RW_ARRAY_SIZE(lens); k++) {
			submit(r, SIZE - 2 * lens[k], lens[k]);
			rw_reap(r->ring);
			check(r, sizes[i]);
		}
	}
}

static bool all_done(const struct reads *r)
{
	for (int i = 0; i < READS; i++)
		if (!r->io[i].done)
			return false;
	return true;
}

/*
 * Writes that extend the file: once the end has moved, their data are there, not zeros. (To one
 * extent: of several, xfs_iomap_write_unwritten() moves the end with the first that it converts.)
 */
static void behind_the_end(struct reads *r)
{
	const off_t step = 32 * RW_KIB;

	rw_for_ms(20) {
		r->file = rw_file("file", RW_WRITTEN, SIZE);
		rw_use(r->ring, r->file);
		for (off_t end = SIZE; end < SIZE + 8 * step; end += step) {
			rw_write(r->ring, r->file, end, (size_t)step, 0);
			rw_then(r->file, (struct rw_change){ RW_KEEP });
			while (rw_unreaped(r->ring)) {
				submit(r, end, step / READS);
				while (!all_done(r))
					rw_reap_ready(r->ring);
			}
		}
		rw_verify(r->file);
	}
}

/*
 * Reads across the end that were submitted while a write that moves it was held: they end where the
 * file did then, although the write has ended before them. (On ext4 they wait for its lock.)
 */
static void across_the_end(struct reads *r)
{
	struct rw_file *other = rw_file("other", RW_WRITTEN, SIZE);
	unsigned int writes;
	bool held;

	if (!rw_has_gate())
		rw_skip("needs a gate");
	r->file = rw_file("file", RW_WRITTEN, SIZE);
	rw_use(r->ring, r->file);
	rw_use(r->ring, other);
	rw_gate_shut();
	rw_write(r->ring, r->file, SIZE, LEN, 0);
	/* The device serves its queue in order: time for the write to be ended by the filesystem, too. */
	for (int i = 0; i < 4; i++)
		rw_write(r->ring, other, i * LEN, LEN, 0);
	writes = rw_in_flight(MANY);
	for (int i = 0; i < READS; i++) {
		r->io[i] = (struct rw_io){ .read = true, .off = SIZE - (i + 1) * 4096, .len = LEN };
		rw_submit(r->ring, r->file, &r->io[i]);
	}
	held = rw_unpolled(writes + READS) >= writes + READS && writes && rw_gate_is_shut() &&
	       rw_fs() == RW_XFS;
	rw_gate_open();
	rw_reap_either(r->ring, r->file, (struct rw_change){ RW_KEEP });
	if (held)
		check(r, SIZE);
	rw_then(other, (struct rw_change){ RW_KEEP });
	rw_verify(r->file);
}

static const struct scene {
	const char *name;
	void (*play)(struct reads *r);
} scenes[] = {
	{ "to-the-end", to_the_end },
	{ "behind-the-end", behind_the_end },
	{ "across-the-end", across_the_end },
};

static void run(const void *const *at)
{
	struct reads r = { rw_ring(at[1], READS + 5) };

	((const struct scene *)at[0])->play(&r);
	rw_ring_close(r.ring);
}

static const char *const groups[] = { "read", NULL };

const struct rw_test rw_test = {
	.name = "read-end-dio",
	.summary = "direct reads end where the file does, before writes that move its end or after",
	.groups = groups,
	.axes = { RW_AXIS(scenes), RW_AXIS(rw_ring_kinds) },
	.run = run,
};
