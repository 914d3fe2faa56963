/* SPDX-License-Identifier: MIT */
/*
 * Whoever waits for room in the submission queue is woken when there is some.
 *
 * The thread of a SQPOLL ring empties the queue, and wakes the task that filled it with direct writes and
 * sleeps in io_sqpoll_wait_sq() (IORING_ENTER_SQ_WAIT). If not, nothing else does: the writes end, and the
 * task, which would write more and reap, does not hear of it: HANG. The thread is asleep at first, so
 * that the queue is still full when the task, which wakes it in the same call, comes to wait.
 */
#include "ringwedge.h"

#include <sched.h>

#define ENTRIES 4
#define LEN (16 * RW_KIB)
#define ROUNDS 3

static const struct rw_ring_kind kinds[] = {
	/* They do not overflow, reaped in time. */
	{ .name = "sqpoll", .setup = IORING_SETUP_SQPOLL, .overflows = ENTRIES },
};

static void wait_until_idle(const struct io_uring *uring)
{
	rw_enter("wait until the SQPOLL thread is asleep");
	rw_for_ms(20000) {
		if (__atomic_load_n(uring->sq.kflags, __ATOMIC_ACQUIRE) & IORING_SQ_NEED_WAKEUP)
			return;
		sched_yield();
	}
	rw_fail("the SQPOLL thread, with nothing to do, does not sleep");
}

/* As io_uring_submit(), but that would have the thread begin before the wait. */
static void submit_and_wait_for_room(struct io_uring *uring)
{
	int ret;

	__atomic_store_n(uring->sq.ktail, uring->sq.sqe_tail, __ATOMIC_RELEASE);
	rw_enter("io_uring_enter (wait for room in the submission queue)");
	do
		ret = io_uring_enter((unsigned int)uring->ring_fd, ENTRIES, 0,
				     IORING_ENTER_SQ_WAKEUP | IORING_ENTER_SQ_WAIT, NULL);
	while (ret == -EINTR);
	if (ret < 0)
		rw_fail("io_uring_enter: %s", strerror(-ret));
	if (!io_uring_sq_space_left(uring))
		rw_fail("a wait for room in the submission queue ended without any");
}

static void run(const void *const *at)
{
	struct rw_file *f = rw_file("file", RW_WRITTEN, ENTRIES * LEN);
	struct rw_ring *ring = rw_ring(at[0], ENTRIES);

	for (int round = 0; round < ROUNDS; round++) {
		wait_until_idle(rw_uring(ring));
		for (int i = 0; i < ENTRIES; i++)
			rw_queue_write(ring, f, i * LEN, LEN, 0);
		submit_and_wait_for_room(rw_uring(ring));
		rw_submit_queued(ring, 0); /* all are */
		rw_reap(ring);
		rw_then(f, (struct rw_change){ RW_KEEP });
	}
	rw_verify(f);
	rw_ring_close(ring);
}

static const char *const groups[] = { "wait", NULL };

const struct rw_test rw_test = {
	.name = "sq-room-dio",
	.summary = "a wait for room in the submission queue of a SQPOLL ring ends",
	.groups = groups,
	.axes = { RW_AXIS(kinds) },
	.run = run,
};
