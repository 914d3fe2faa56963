/* SPDX-License-Identifier: MIT */
/*
 * More direct writes than the device has requests.
 *
 * The workers of io-wq that find none left sleep for one (blk_mq_get_tag()), with the locks of the inode;
 * each that ends must wake one (sbitmap_queue_wake_up()), and what waits for the writes goes on at last. In
 * io-wq alone: iomap does not tell the device of IOCB_NOWAIT, so that a submission would sleep, too.
 */
#include "ringwedge.h"

#include <linux/falloc.h>

#define RINGS 3
#define DEPTH 64
#define N (RINGS * DEPTH) /* the loop driver has 128 (drivers/block/loop.c, hw_queue_depth) */
#define LEN (4 * RW_KIB)
#define APART (16 * RW_KIB) /* or they would be merged */
#define SIZE ((size_t)N * APART)
#define AT (SIZE / 2)

static void punch(const void *p)
{
	rw_ok(fallocate(((const struct rw_file *)p)->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			AT, SIZE / 4));
}

static const struct state {
	const char *name;
	enum rw_state state;
} states[] = {
	{ "written", RW_WRITTEN },
	{ "unwritten", RW_UNWRITTEN },
};

static const struct rw_ring_kind async = { .name = "async", .async = true };

static void run(const void *const *at)
{
	const struct state *state = at[0];
	struct rw_ring *rings[RINGS];
	struct rw_file *f;

	if (!rw_has_gate())
		rw_skip("needs a gate");
	if (!rw_can_make(RW_UNWRITTEN))
		rw_skip("needs fallocate");
	f = rw_file("file", state->state, SIZE);
	punch(f); /* reads the metadata that it needs */
	f = rw_file("file", state->state, SIZE);
	for (int i = 0; i < RINGS; i++) {
		rings[i] = rw_ring(&async, DEPTH);
		rw_use(rings[i], f);
	}
	rw_gate_shut();
	for (int i = 0; i < N; i++)
		rw_write(rings[i / DEPTH], f, i * APART, LEN, 0);
	rw_in_flight(N);
	rw_held_by(&rw_whos[0], punch, f, false);
	for (int i = 0; i < RINGS; i++)
		rw_reap(rings[i]);
	rw_race(f, (struct rw_change){ RW_ZERO, AT, SIZE / 4 });
	rw_verify(f);
	for (int i = 0; i < RINGS; i++)
		rw_ring_close(rings[i]);
}

static const char *const groups[] = { "iowq", "large", NULL };
static const char *const needs[] = { "a gate", NULL };

const struct rw_test rw_test = {
	.name = "crowd-dio",
	.summary = "more direct writes than the device has room for end, and so does what waits "
		   "for them",
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(states) },
	.run = run,
};
