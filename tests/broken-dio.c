/* SPDX-License-Identifier: MIT */
/*
 * Direct writes that the device takes, and fails later.
 *
 * The error of any of a write's bios is the result of the whole (iomap_dio_set_error()): one that
 * succeeds, be it the last to end, is not to make it good, or data is lost that was said to be
 * written. And the end lets go of what the submission took (i_dio_count, the hold against a freeze),
 * or a later fallocate, truncate, clone or FIFREEZE sleeps for ever.
 */
#include "ringwedge.h"

#define SIZE (512 * RW_KIB)
#define LEN (64 * RW_KIB)
#define TURN (16 * RW_KIB) /* of RW_MIXED */
#define TRIES 8

/*
 * Not at the begin or end of the file, where a block of the image may be another file's, too: a write that
 * can be done in part is a success to the loop driver (docs/found/loop-short-write.md).
 *
 * In part: to written and unwritten blocks, which fail, and to a hole. Its blocks are found when the
 * device is broken already, and are good. In which order they end is for the device to say: so again.
 */
static const struct range {
	const char *name;
	enum rw_state state;
	struct rw_io io[2]; /* by turns */
} ranges[] = {
	{ "broken-device",
	  RW_WRITTEN,
	  { { .off = LEN, .len = LEN }, { .off = 3 * LEN, .len = LEN } } },
	{ "broken-device-unwritten",
	  RW_UNWRITTEN,
	  { { .off = LEN, .len = LEN }, { .off = 3 * LEN, .len = LEN } } },
	{ "broken-device-in-part",
	  RW_MIXED,
	  { { .off = 0, .len = 3 * TURN }, { .off = 5 * TURN, .len = 2 * TURN } } },
};

static void run(const void *const *at)
{
	const struct range *range = at[0];
	struct rw_ring *ring = rw_ring(((const struct rw_way *)at[1])->kind, 2);
	struct rw_file *f = rw_file("file", range->state, SIZE);
	struct rw_io ios[TRIES];

	if (!rw_direct())
		rw_skip("needs direct I/O");
	if (range->state == RW_MIXED && rw_block_size() < 4096)
		rw_skip("needs blocks as large as the image's, which fail as a whole");
	rw_use(ring, f);
	rw_device_break(f);
	rw_then(f, (struct rw_change){ RW_ZERO, 0, SIZE });
	for (int i = 0; i < TRIES; i++) {
		ios[i] = range->io[i % 2];
		rw_submit(ring, f, &ios[i]);
		rw_reap(ring);
	}
	rw_device_mend();
	for (int i = 0; i < TRIES; i++) {
		if (ios[i].res != -ENOSPC) /* as the loop driver says */
			rw_eq(ios[i].res, -EIO);
		rw_ended(f, &ios[i]);
	}
	for (int i = 0; i < 2; i++)
		rw_write(ring, f, range->io[i].off, range->io[i].len, 0);
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_ring_close(ring);
	rw_let_go(f);
}

static const char *const groups[] = { "error", NULL };

const struct rw_test rw_test = {
	.name = "broken-dio",
	.summary = "direct writes that the device fails end with its error, and nothing waits for "
		   "them afterwards",
	.groups = groups,
	.axes = { RW_AXIS(ranges), RW_AXIS(rw_ways) },
	.run = run,
};
