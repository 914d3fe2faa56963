/* SPDX-License-Identifier: MIT */
/*
 * The owner of a ring waits for a chain of direct writes, of which the first is in flight.
 *
 * The rest of the chain starts when the owner comes back to the ring: what it waits for in fallocate(2)
 * is the first write's end, which must not need the owner, too. It would if writes with IOSQE_IO_LINK
 * completed in its task_work (IOCB_DIO_CALLER_COMP): fallocate() never returns.
 */
#include "ringwedge.h"

#include <linux/falloc.h>

#define SIZE (256 * RW_KIB)
#define AT (64 * RW_KIB)
#define LEN (64 * RW_KIB)

static const struct link {
	const char *name;
	unsigned int flags;
} links[] = {
	{ "linked", IOSQE_IO_LINK },
	{ "hard-linked", IOSQE_IO_HARDLINK },
};

static void punch(const void *p)
{
	rw_supported("fallocate", fallocate(((const struct rw_file *)p)->fd,
					    FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, AT, LEN));
}

static void step(struct rw_ring *ring, const struct link *link, bool gate)
{
	struct rw_file *f;

	punch(rw_file("file", RW_WRITTEN, SIZE)); /* reads the metadata that it needs */
	f = rw_file("file", RW_WRITTEN, SIZE);
	if (gate)
		rw_gate_shut();
	rw_queue_write(ring, f, AT - 16 * RW_KIB, 32 * RW_KIB, link->flags);
	rw_queue_write(ring, f, AT + 48 * RW_KIB, 32 * RW_KIB, link->flags);
	rw_queue_write(ring, f, SIZE - 80 * RW_KIB, 16 * RW_KIB, 0);
	rw_submit_queued(ring, 0);
	if (gate)
		rw_held_by(&rw_whos[0], punch, f, rw_in_flight(1) > 0);
	else
		punch(f);
	rw_reap(ring);
	rw_race(f, (struct rw_change){ RW_ZERO, AT, LEN });
	rw_verify(f);
}

static void run(const void *const *at)
{
	struct rw_ring *ring = rw_ring(at[1], 4);

	if (rw_has_gate())
		step(ring, at[0], true);
	step(ring, at[0], false);
	rw_ring_close(ring);
}

static bool has(const void *const *at)
{
	const struct rw_ring_kind *kind = at[1];

	return kind == &rw_ring_kinds[0] || kind->setup & IORING_SETUP_SINGLE_ISSUER;
}

static const char *const guards[] = {
	"838b35bb6a89 io_uring/rw: disable IOCB_DIO_CALLER_COMP",
	NULL,
};

static const char *const groups[] = { "link", NULL };

const struct rw_test rw_test = {
	.name = "link-owner-dio",
	.summary = "what waits for a chain of direct writes ends, though it is their owner's",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(links), RW_AXIS(rw_ring_kinds) },
	.has = has,
	.run = run,
};
