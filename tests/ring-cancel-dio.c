/* SPDX-License-Identifier: MIT */
/*
 * Direct writes are cancelled: in flight, or done and not reaped, or queued for io-wq.
 *
 * What the device has cannot be cancelled: its result is the exact one, and what must wait for it goes
 * on waiting. What is queued can be (io_wq_cancel_cb()): it completes with -ECANCELED, or is done,
 * wholly. A request that is lost between the two never completes; one that completes too early gives its
 * memory, or the inode, to others while the device writes.
 */
#include "ringwedge.h"

#include <linux/falloc.h>

#define SIZE (256 * RW_KIB)
#define LEN (16 * RW_KIB)
#define FROM (3 * LEN) /* N writes: to each sort of block of RW_MIXED */
#define N 4

static void cancel(const void *p)
{
	struct rw_ring *ring = *(struct rw_ring *const *)p;
	struct io_uring_sqe sqe = { 0 };

	io_uring_prep_cancel(&sqe, NULL, IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_ANY);
	rw_queue(ring, &sqe, &(struct rw_op){ "cancel", NULL, RW_ANY });
	rw_submit_queued(ring, 0);
	rw_reap(ring);
}

/* Waits for what it can neither cancel nor leave alone. */
static void sync_cancel(const void *p)
{
	struct rw_ring *ring = *(struct rw_ring *const *)p;
	struct io_uring_sync_cancel_reg reg = {
		.flags = IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_ANY,
		.timeout = { -1, -1 },
	};
	int ret;

	rw_enter("io_uring_register (IORING_REGISTER_SYNC_CANCEL)");
	ret = io_uring_register_sync_cancel(rw_uring(ring), &reg);
	if (ret == -EINVAL)
		rw_skip("needs IORING_REGISTER_SYNC_CANCEL: %s", strerror(-ret));
	if (ret < 0 && ret != -ENOENT)
		rw_fail("IORING_REGISTER_SYNC_CANCEL: %s", strerror(-ret));
	rw_reap(ring);
}

static const struct way {
	const char *name;
	void (*cancel_and_reap)(const void *);
} ways[] = {
	{ "cancel", cancel },
	{ "sync-cancel", sync_cancel },
};

static const struct rw_change punched = { RW_ZERO, FROM + LEN, 2 * LEN };

static void punch(const void *p)
{
	rw_ok(fallocate(((const struct rw_file *)p)->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			punched.off, punched.len));
}

static void punch_waits(const void *p)
{
	rw_must_wait(punch, p);
}

static struct rw_file *file(void)
{
	enum rw_state state = rw_can_make(RW_UNWRITTEN) ? RW_MIXED : RW_WRITTEN;
	struct rw_file *f = rw_file("file", state, SIZE);

	rw_supported("fallocate", fallocate(f->fd, 0, 0, SIZE));
	punch(f); /* reads the metadata that it needs */
	return rw_file("file", state, SIZE);
}

/* `queued`: but the first, they wait for the only worker of io-wq. */
static void submit(struct rw_ring *ring, struct rw_file *f, bool queued)
{
	for (int i = 0; i < N; i++) {
		rw_write(ring, f, FROM + i * LEN, LEN, 0);
		if (queued && !i)
			rw_occupy_worker(ring, f);
	}
}

/* In another process a call waits for the writes. */
static void held(const struct way *way, const struct rw_ring_kind *kind, bool queued)
{
	struct rw_ring *ring = rw_ring(kind, N + 2);
	struct rw_file *f = file();
	struct rw_helper other;
	unsigned int n;

	rw_gate_shut();
	submit(ring, f, queued);
	n = rw_in_flight(N);
	if (n < N)
		rw_may_cancel(ring);
	other = rw_start(n && !queued ? punch_waits : punch, f);
	rw_held_by(&rw_whos[0], way->cancel_and_reap, &ring, false);
	rw_join(other);
	rw_ring_close(ring);
	(n == N ? rw_then : rw_race_cancelled)(f, punched);
	rw_let_go(f);
}

/* The writes have ended; without a gate they may be on their way. */
static void free_running(const struct way *way, const struct rw_ring_kind *kind)
{
	struct rw_ring *ring = rw_ring(kind, N + 2);
	struct rw_file *f = file();
	struct rw_helper other;

	submit(ring, f, false);
	if (rw_has_gate())
		rw_done();
	rw_may_cancel(ring);
	other = rw_start(punch, f);
	way->cancel_and_reap(&ring);
	rw_join(other);
	rw_ring_close(ring);
	rw_race_cancelled(f, punched);
	rw_let_go(f);
}

static void run(const void *const *at)
{
	const struct rw_ring_kind *kind = at[1];

	if (rw_has_gate())
		held(at[0], kind, false);
	if (rw_has_gate() && kind->async)
		held(at[0], kind, true);
	free_running(at[0], kind);
}

/* Inline and deferred, or in io-wq. */
static bool has(const void *const *at)
{
	const struct rw_ring_kind *kind = at[1];
	const unsigned int deferred = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;

	return !kind->fixed && !kind->aio && !(kind->setup & ~deferred);
}

static const char *const guards[] = {
	"78a861b94959 io_uring: add sync cancelation API through io_uring_register()",
	NULL,
};

static const char *const groups[] = { "exit", NULL };

const struct rw_test rw_test = {
	.name = "ring-cancel-dio",
	.summary = "direct writes that are cancelled end, and are done wholly or not at all",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(ways), RW_AXIS(rw_ring_kinds) },
	.has = has,
	.run = run,
};
