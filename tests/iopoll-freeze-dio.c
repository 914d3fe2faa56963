/* SPDX-License-Identifier: MIT */
/*
 * FIFREEZE under direct writes of a ring with IORING_SETUP_IOPOLL.
 *
 * A write holds the filesystem against a freeze (sb_start_write()) until it ends, which is told to
 * io_complete_rw_iopoll() there. It must let go, as io_complete_rw() does, when the write has ended at the
 * device, and not only when the ring's owner polls, who may be the one that freezes: else FIFREEZE sleeps
 * for ever.
 */
#include "ringwedge.h"

#define SIZE (256 * RW_KIB)
#define LEN (32 * RW_KIB)

static void freeze(const void *unused)
{
	(void)unused;
	rw_freeze();
}

static void submit(struct rw_ring *ring, struct rw_file *f)
{
	rw_use(ring, f);
	rw_write(ring, f, 0, LEN, 0);
	rw_write(ring, f, SIZE, LEN, 0);
}

static void end(struct rw_ring *ring, struct rw_file *f)
{
	rw_thaw();
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
}

static void run(const void *const *at)
{
	static const enum rw_state states[] = { RW_WRITTEN, RW_UNWRITTEN };
	struct rw_ring *ring = rw_ring(at[1], 2);
	const struct rw_who *who = at[0];

	if (!rw_has_gate())
		rw_skip("needs a gate, for whoever thaws");
	for (size_t i = 0; i < RW_ARRAY_SIZE(states); i++) {
		struct rw_file *f = rw_file("file", states[i], SIZE);

		rw_gate_shut();
		submit(ring, f);
		rw_held_by(who, freeze, NULL, rw_in_flight(2) > 0);
		end(ring, f);

		f = rw_file("file", states[i], SIZE);
		submit(ring, f);
		rw_done(); /* and nobody has polled */
		rw_by(who, freeze, NULL);
		end(ring, f);
	}
	rw_ring_close(ring);
}

/* The thread of a SQPOLL ring polls, and is never asleep meanwhile, as rw_held_by() awaits. */
static bool has(const void *const *at)
{
	return !(((const struct rw_ring_kind *)at[1])->setup & IORING_SETUP_SQPOLL);
}

static const char *const groups[] = { "iopoll", "freeze", NULL };
static const char *const needs[] = { "a gate, for whoever thaws", NULL };

const struct rw_test rw_test = {
	.name = "iopoll-freeze-dio",
	.summary = "a freeze waits for polled direct writes in flight, and not for who polls",
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(rw_whos), RW_AXIS(rw_iopoll_kinds) },
	.has = has,
	.run = run,
};
