/* SPDX-License-Identifier: MIT */
/*
 * The submission of a direct write takes as long with another task's truncation in its way as without.
 *
 * nowait-dio sees a submission that sleeps as long as what is in its way. One that sleeps for a time,
 * or tries again and again, before it leaves the request to io-wq gets through there. Here the
 * truncation has the inode locked and waits for a direct write in flight, which the gate holds: so
 * each of several submissions would be slow, and the fastest of them tells.
 */
#include "ringwedge.h"

#include <time.h>

#define SIZE (512 * RW_KIB)
#define LEN (16 * RW_KIB)
#define TIMES 9
#define RATIO 20 /* io-wq may have to make a worker */

static double submit(struct rw_ring *ring, struct rw_file *f, int i)
{
	uint64_t start = rw_now_ns();

	rw_write(ring, f, i * LEN, LEN, 0);
	return (double)(rw_now_ns() - start) / 1e3;
}

static int compare(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

static void shrink(const void *p)
{
	const struct rw_file *f = p;

	rw_ok(ftruncate(f->fd, SIZE - LEN));
}

static void run(const void *const *at)
{
	struct rw_ring *ring = rw_ring(at[0], TIMES + 1);
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);
	double alone[TIMES], barred[TIMES];
	struct rw_helper helper;
	bool locked;

	if (!rw_has_gate())
		rw_skip("needs a gate, and direct I/O");
	rw_use(ring, f);
	for (int i = 0; i < TIMES; i++) {
		alone[i] = submit(ring, f, i);
		rw_reap(ring);
		rw_then(f, (struct rw_change){ RW_KEEP });
	}
	rw_gate_shut();
	rw_write(ring, f, TIMES * LEN, LEN, 0);
	rw_in_flight(1);
	helper = rw_start(shrink, f);
	locked = rw_in_drain_now(helper.pid);
	for (int i = 0; i < TIMES; i++)
		barred[i] = submit(ring, f, i);
	rw_gate_open();
	rw_join(helper);
	rw_reap(ring);
	rw_race(f, (struct rw_change){ RW_RESIZE, SIZE - LEN });
	rw_verify(f);
	rw_ring_close(ring);
	qsort(alone, TIMES, sizeof(alone[0]), compare);
	qsort(barred, TIMES, sizeof(barred[0]), compare);
	if (locked && barred[0] > RATIO * alone[TIMES / 2])
		rw_fail("each of %d submissions took %.0f us or more with a truncation in the way, "
			"%.0f times as long as without (%.0f us, the median)",
			TIMES, barred[0], barred[0] / alone[TIMES / 2], alone[TIMES / 2]);
}

static const struct rw_ring_kind kinds[] = {
	{ .name = "plain" },
	{ .name = "defer-taskrun",
	  .setup = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN },
};

static const char *const guards[] = {
	"942491c9e6d6 xfs: fix AIM7 regression (trylock only with IOCB_NOWAIT)",
	NULL,
};

static const char *const groups[] = { "nowait", NULL };
static const char *const needs[] = { "a gate", NULL };

const struct rw_test rw_test = {
	.name = "latency-dio",
	.summary = "the submission of a direct write is no slower for what is in its way",
	.guards = guards,
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(kinds) },
	.run = run,
};
