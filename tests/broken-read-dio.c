/* SPDX-License-Identifier: MIT */
/*
 * Direct reads that the device takes, and fails later.
 *
 * The error of any of a read's bios is the result of the whole (iomap_dio_bio_end_io()): lost, be it to
 * one that succeeds and ends last, the memory's old contents, or zeros, are taken for the file's. And
 * the end lets go of what the submission took (i_dio_count, the file), or a later truncate, or umount,
 * waits for ever, or fails.
 */
#include "ringwedge.h"

#include <sys/mount.h>

#define TURN (16 * RW_KIB) /* of RW_MIXED */
#define READS 5
#define TRIES 8

static const struct range {
	const char *name;
	enum rw_state state;
	size_t size;
	struct rw_io io[READS]; /* in flight together */
} ranges[] = {
	/* One extent, of which the second half is lost. */
	{ "one-extent",
	  RW_WRITTEN,
	  8 * TURN,
	  { { .off = 0, .len = 2 * TURN },
	    { .off = 5 * TURN, .len = 2 * TURN },
	    { .off = 3 * TURN, .len = 2 * TURN },
	    { .off = 0, .len = 8 * TURN },
	    { .off = 2 * TURN, .len = 2 * TURN } } },
	/* Two that are written, each a bio of its own; half of one is lost. */
	{ "several-extents",
	  RW_MIXED,
	  6 * TURN,
	  { { .off = 0, .len = TURN },
	    { .off = 0, .len = 6 * TURN },
	    { .off = 3 * TURN, .len = TURN },
	    { .off = TURN / 2, .len = 4 * TURN },
	    { .off = TURN, .len = 2 * TURN } } },
};

static void read_all(struct rw_ring *ring, struct rw_file *f, const struct rw_own *own,
		     const struct range *range)
{
	struct rw_io ios[READS];

	for (int i = 0; i < READS; i++) {
		ios[i] = range->io[i];
		ios[i].read = true;
		rw_submit(ring, f, &ios[i]);
	}
	rw_reap(ring);
	for (int i = 0; i < READS; i++) {
		if (!rw_own_is_cut(own, f, ios[i].off, ios[i].len))
			rw_check_read(&ios[i], (off_t)range->size);
		else if (!rw_gave_up(&ios[i]))
			rw_eq(ios[i].res, -EIO);
	}
}

static void run(const void *const *at)
{
	const struct range *range = at[0];
	struct rw_ring *ring = rw_ring(((const struct rw_way *)at[1])->kind, READS);
	struct rw_own own = { .dies = true };
	struct rw_file *f;

	rw_own_make(&own, NULL);
	rw_eq(rw_own_mount(&own, NULL), 0);
	if (!rw_direct())
		rw_skip("needs direct I/O");
	f = rw_file("file", range->state, range->size);
	rw_own_cut(&own, f);
	rw_use(ring, f);
	for (int i = 0; i < TRIES; i++)
		read_all(ring, f, &own, range);
	rw_ring_close(ring);
	rw_own_mend(&own, f);
	rw_let_go(f);
	close(f->fd);
	rw_ok(umount2(own.mnt, MNT_DETACH));
	rw_own_gone(&own);
}

static const char *const groups[] = { "error", NULL };
static const char *const needs[] = { "root", NULL };

const struct rw_test rw_test = {
	.name = "broken-read-dio",
	.summary = "direct reads that the device fails end with its error, and nothing waits for "
		   "them afterwards",
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(ranges), RW_AXIS(rw_ways) },
	.run = run,
};
