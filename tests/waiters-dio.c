/* SPDX-License-Identifier: MIT */
/*
 * Two tasks wait for direct writes of one ring, the first of them for more than there are.
 *
 * Both are in ctx->cq_wait, one behind the other. When a completion is posted, io_wake_function() is
 * asked for each of them in turn whether it is content. If its answer for the first, who is not, ends
 * that (-1), the second is never asked: it sleeps on with all that it waits for in the ring.
 */
#include "ringwedge.h"

#include <poll.h>

#define N 8
#define APART (16 * RW_KIB)
#define LEN (4 * RW_KIB)

static const struct rw_ring_kind kinds[] = {
	{ .name = "plain" },
};

/* As a system call: it is others that reap. */
static void wait_for(const struct rw_ring *ring, unsigned int n)
{
	const unsigned int fd = (unsigned int)rw_uring((struct rw_ring *)ring)->ring_fd;
	int ret;

	rw_enter("io_uring_enter (wait for completions)");
	do
		ret = io_uring_enter(fd, 0, n, IORING_ENTER_GETEVENTS, NULL);
	while (ret == -EINTR);
	rw_eq(ret, 0);
}

static void wait_for_more(const void *ring)
{
	wait_for(ring, N + 1);
}

static void wait_for_all(const void *ring)
{
	wait_for(ring, N);
	rw_pause();
}

static struct rw_helper asleep(void (*wait)(const void *), struct rw_ring *ring)
{
	struct rw_helper h = rw_start(wait, ring);

	rw_asleep_in(h.pid, "io_uring_enter");
	return h;
}

/* In the ring, whoever waits. */
static bool completed(const struct rw_ring *ring)
{
	const struct io_uring *uring = rw_uring((struct rw_ring *)ring);

	return __atomic_load_n(uring->cq.ktail, __ATOMIC_ACQUIRE) >= N;
}

static bool has_paused(const struct rw_helper *h)
{
	struct pollfd p = { .fd = h->paused, .events = POLLIN };

	return poll(&p, 1, 0) == 1;
}

static void run(const void *const *at)
{
	struct rw_ring *ring = rw_ring(at[0], N + 1);
	struct rw_file *f = rw_file("file", RW_WRITTEN, N * APART);
	const struct io_uring_sqe nop = { .opcode = IORING_OP_NOP };
	struct rw_helper first, second;

	first = asleep(wait_for_more, ring);
	second = asleep(wait_for_all, ring);
	for (int i = 0; i < N; i++)
		rw_write(ring, f, i * APART, LEN, 0);
	rw_enter("wait until all are in the ring");
	rw_for_ms(20000)
		if (completed(ring))
			break;
	rw_eq(completed(ring), true);
	rw_in_flight(0); /* none, and who was woken has come to its pause */
	if (!has_paused(&second) && rw_asleep_in(second.pid, "io_uring_enter"))
		rw_fail("who waits for %d completions, behind one who waits for more, sleeps on "
			"over them",
			N);
	rw_go_on(&second);
	rw_join(second);
	rw_queue(ring, &nop, &(struct rw_op){ "nop" });
	rw_submit_queued(ring, 0);
	rw_join(first);
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
	rw_ring_close(ring);
}

static const char *const groups[] = { "wait", NULL };

const struct rw_test rw_test = {
	.name = "waiters-dio",
	.summary = "who waits for direct writes behind one that waits for more is woken by them",
	.groups = groups,
	.axes = { RW_AXIS(kinds) },
	.run = run,
};
