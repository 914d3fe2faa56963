/* SPDX-License-Identifier: MIT */
/*
 * Whoever waits for direct writes to complete, for several of them or by poll(2), is woken by the last.
 *
 * The completion of a direct write is queued for the ring's owner, and on a DEFER_TASKRUN ring wakes
 * it only when as many are queued as it waits for (io_req_local_work_add(), IOU_F_TWQ_LAZY_WAKE). One
 * that is counted wrongly (by a timeout that the last is to end, too: io_flush_timeouts()), or left on a
 * list (io_sq_tw()), or told to nobody who polls the ring (io_poll_wq_wake(), the eventfd), is a wait that
 * never ends. A timeout that is cancelled is none of the requests that another counts (cq_timeouts). Nothing
 * else may end a wait: besides the writes there are requests in the ring that do not end.
 */
#include "ringwedge.h"

#include <poll.h>
#include <sys/eventfd.h>

#define N 34 /* more than a SQPOLL thread delivers at once */
#define APART (8 * RW_KIB)
#define LEN (4 * RW_KIB)
#define NEVER 2 /* requests that do not end */

static void all(const void *ring)
{
	rw_wait((struct rw_ring *)ring, N, 0);
}

static void timed(const void *ring)
{
	rw_wait((struct rw_ring *)ring, N, 3600);
}

#define MIN_TIMEOUT (1u << 15) /* IORING_FEAT_MIN_TIMEOUT, Linux 6.12 */

/* For `n`, but after a millisecond one is enough (min_wait_usec, once `pad`). As a system call. */
static int enter_min_wait(const struct rw_ring *ring, unsigned int n)
{
	struct __kernel_timespec ts = { .tv_sec = 3600 };
	struct io_uring_getevents_arg arg = { .pad = 1000, .ts = (uintptr_t)&ts };
	const unsigned int fd = (unsigned int)rw_uring((struct rw_ring *)ring)->ring_fd;
	int ret;

	do
		ret = io_uring_enter2(fd, 0, n, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG,
				      (void *)&arg, sizeof(arg));
	while (ret == -EINTR);
	errno = -ret;
	return ret < 0 ? -1 : 0;
}

static void min_wait(const void *p)
{
	struct rw_ring *ring = (struct rw_ring *)p;
	unsigned int n;

	while ((n = rw_unreaped(ring)) > NEVER) { /* more than will come */
		rw_ok(enter_min_wait(ring, n));
		if (!rw_reap_ready(ring))
			rw_fail("a wait for completions ended without any");
	}
}

/* One by one, as the eventfd tells. */
static void reap(const void *ring)
{
	rw_reap((struct rw_ring *)ring);
}

static void poll_ring(struct rw_ring *ring)
{
	struct pollfd p = { .fd = rw_uring(ring)->ring_fd, .events = POLLIN };

	rw_ok(poll(&p, 1, -1));
}

static void poll_all(const void *p)
{
	struct rw_ring *ring = (struct rw_ring *)p;

	while (rw_unreaped(ring) > NEVER) {
		poll_ring(ring);
		rw_reap_ready(ring);
	}
}

/* By another task, as `all`, too: it is the owner, asleep elsewhere, who makes them known. */
static void poll_once(const void *ring)
{
	poll_ring((struct rw_ring *)ring);
}

/* The writes, and the timeout that they end. */
static void counted(const void *ring)
{
	rw_wait((struct rw_ring *)ring, N + 1, 0);
}

static const struct way {
	const char *name;
	void (*wait)(const void *ring);
	bool other;	    /* task */
	bool half_is_there; /* before the wait begins */
	bool cancelled;	    /* with as many timeouts, which are not to count */
} ways[] = {
	{ "all", all },
	{ "timed", timed },
	{ "min-wait", min_wait },
	{ "reap", reap },
	{ "poll", poll_all },
	{ "poll-by-another", poll_once, true },
	{ "all-by-another", all, true },
	{ "counted", counted },
	{ "counted-cancelled", counted, .cancelled = true },
	{ "the-rest", all, .half_is_there = true },
};

#define DEFER (IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN)

static const struct rw_ring_kind kinds[] = {
	{ .name = "plain" },
	{ .name = "defer-taskrun", .setup = DEFER },
	{ .name = "sqpoll", .setup = IORING_SETUP_SQPOLL },
	{ .name = "async", .async = true },
	{ .name = "eventfd", .eventfd = true },
	{ .name = "defer-eventfd", .setup = DEFER | IORING_SETUP_TASKRUN_FLAG, .eventfd = true },
	{ .name = "aio", .aio = true },
};

static void queue_never(struct rw_ring *ring, int fd)
{
	struct io_uring_sqe sqe = { 0 };

	io_uring_prep_poll_add(&sqe, fd, POLLIN);
	for (int i = 0; i < NEVER; i++)
		rw_queue(ring, &sqe, &(struct rw_op){ .what = "poll", .want = POLLIN });
	rw_submit_queued(ring, 0);
}

/* It ends when N requests have, and not by its time (io_uring_prep_timeout(3)). */
static void queue_timeout(struct rw_ring *ring)
{
	struct __kernel_timespec hour = { .tv_sec = 3600 };
	struct io_uring_sqe sqe = { 0 };

	io_uring_prep_timeout(&sqe, &hour, N, 0);
	rw_queue(ring, &sqe,
		 &(struct rw_op){ "timeout for all writes", .must_wait = rw_has_gate() });
	rw_submit_queued(ring, 0);
}

/* Nothing else of the ring may end meanwhile. */
static void cancel_timeout(struct io_uring *ring, int i)
{
	struct __kernel_timespec hour = { .tv_sec = 3600 };
	struct io_uring_sync_cancel_reg reg = { .addr = ~0ull, .timeout = { -1, -1 } };
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct io_uring_cqe *cqe;
	int ret;

	io_uring_prep_timeout(sqe, &hour, 0, 0);
	sqe->user_data = reg.addr;
	rw_ok(io_uring_submit(ring) == 1 ? 0 : -1);
	ret = io_uring_register_sync_cancel(ring, &reg);
	errno = -ret;
	rw_supported("IORING_REGISTER_SYNC_CANCEL", ret < 0 ? -1 : 0);
	rw_ok(io_uring_wait_cqe(ring, &cqe) ? -1 : 0);
	if (cqe->user_data != reg.addr)
		rw_fail("a timeout for %d requests ended when %d others had been cancelled, before "
			"any request had ended",
			N, i);
	rw_eq(cqe->res, -ECANCELED);
	io_uring_cqe_seen(ring, cqe);
}

static void run(const void *const *at)
{
	const struct way *way = at[0];
	const struct rw_ring_kind *kind = at[1];
	struct rw_file *f = rw_file("file", RW_WRITTEN, N * APART);
	struct rw_ring *ring = rw_ring(kind, N + NEVER + 1);
	int fd = (int)rw_set_up(eventfd(0, EFD_CLOEXEC));
	const struct rw_who *who = &rw_whos[way->other];
	int i = 0;

	if (way->wait == min_wait && !(rw_uring(ring)->features & MIN_TIMEOUT))
		rw_skip("needs IORING_FEAT_MIN_TIMEOUT, Linux 6.12");
	if (!kind->aio && way->wait != reap && !way->cancelled)
		queue_never(ring, fd);
	if (way->wait == counted)
		queue_timeout(ring);
	for (; way->half_is_there && i < N / 2; i++)
		rw_write(ring, f, i * APART, LEN, 0);
	if (rw_has_gate() && i)
		rw_done();
	if (rw_has_gate())
		rw_gate_shut();
	for (int k = 0; way->cancelled && k <= N; k++) /* the last one sees what they ended */
		cancel_timeout(rw_uring(ring), k);
	for (; i < N; i++)
		rw_write(ring, f, i * APART, LEN, 0);
	if (rw_has_gate())
		rw_held_by(who, way->wait, ring, false);
	else
		rw_by(who, way->wait, ring);
	rw_set_up(eventfd_write(fd, 1));
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
	rw_ring_close(ring);
	close(fd);
}

static bool has(const void *const *at)
{
	const struct way *way = at[0];
	const struct rw_ring_kind *kind = at[1];

	if (kind->eventfd || way->wait == reap)
		return kind->eventfd && way->wait == reap;
	if (way->half_is_there)
		return !kind->async && !(kind->setup & IORING_SETUP_SQPOLL);
	if (kind->aio)
		return !way->other && (way->wait == all || way->wait == timed);
	if (way->wait == timed)
		return !kind->async && !(kind->setup & IORING_SETUP_SQPOLL);
	if (way->wait == counted) /* in one call: docs/found/drain-defer-taskrun.md */
		return !kind->setup && !kind->async;
	return !way->other || !(kind->setup & IORING_SETUP_SINGLE_ISSUER);
}

static const char *const groups[] = { "wait", NULL };

const struct rw_test rw_test = {
	.name = "wait-dio",
	.summary = "a wait for several direct writes, in whatever way, ends when the last one does",
	.groups = groups,
	.axes = { RW_AXIS(ways), RW_AXIS(kinds) },
	.has = has,
	.run = run,
};
