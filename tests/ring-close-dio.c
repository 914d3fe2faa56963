/* SPDX-License-Identifier: MIT */
/*
 * A ring is closed by its owner, who lives on, while its direct writes are in flight, or done and
 * not reaped.
 *
 * io_uring goes on without it (io_ring_exit_work()), and keeps the file, the registered memory and the
 * inode's i_dio_count until each write has ended; io_destroy(2) waits for all of them. What is let go of
 * too early is foreign data in the file, what is not let go of a hang in truncate or freeze, a
 * file that stays open or memory that stays pinned.
 */
#include "ringwedge.h"

#include <linux/falloc.h>

#define SIZE (256 * RW_KIB)
#define LEN (16 * RW_KIB)
#define FROM (3 * LEN) /* N writes: to each sort of block of RW_MIXED */
#define N 4

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

static void close_ring(const void *p)
{
	rw_ring_close(*(struct rw_ring *const *)p);
}

static void close_waits(const void *p)
{
	rw_must_wait(close_ring, p);
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
	rw_use(ring, f);
	for (int i = 0; i < N; i++) {
		rw_write(ring, f, FROM + i * LEN, LEN, 0);
		if (queued && !i)
			rw_occupy_worker(ring, f);
	}
}

/* io_destroy(2) waits, and in another process a call that waits for the writes, too. */
static void destroyed(const struct rw_ring_kind *kind)
{
	struct rw_ring *ring = rw_ring(kind, N);
	struct rw_file *f = file();
	struct rw_helper other;
	unsigned int n;

	rw_gate_shut();
	submit(ring, f, false);
	n = rw_in_flight(N);
	other = rw_start(n ? punch_waits : punch, f);
	rw_held_by(&rw_whos[0], n ? close_waits : close_ring, &ring, false);
	rw_join(other);
	(n == N ? rw_then : rw_race)(f, punched);
	rw_let_go(f);
}

static void closed(const struct rw_ring_kind *kind, bool queued)
{
	struct rw_ring *ring = rw_ring(kind, N + 1);
	struct rw_file *f = file();
	unsigned int n;

	rw_gate_shut();
	submit(ring, f, queued);
	n = rw_in_flight(N);
	rw_ring_close(ring);			  /* unmaps the memory */
	if (!(kind->setup & IORING_SETUP_SQPOLL)) /* see exit-idle.sqpoll of ring-exit-dio */
		rw_in_flight(N);
	rw_use_memory(); /* its pages, if they were free */
	/* What is queued may be in the way of the call, too, and may be cancelled. */
	rw_held_by(&rw_whos[0], punch, f, n > 0 && !queued);
	rw_unpinned();
	(n == N ? rw_then : rw_race_cancelled)(f, punched);
	rw_let_go(f);
}

/* The writes have ended; without a gate they may be on their way. */
static void free_running(const struct rw_ring_kind *kind)
{
	struct rw_ring *ring = rw_ring(kind, N);
	struct rw_file *f = file();

	submit(ring, f, false);
	if (rw_has_gate())
		rw_done();
	rw_ring_close(ring);
	punch(f);
	rw_unpinned();
	rw_race_cancelled(f, punched);
	rw_let_go(f);
}

static void run(const void *const *at)
{
	const struct rw_ring_kind *kind = at[0];

	if (rw_has_gate() && kind->aio)
		destroyed(kind);
	else if (rw_has_gate())
		closed(kind, false);
	if (rw_has_gate() && kind->async)
		closed(kind, true);
	free_running(kind);
}

static const char *const guards[] = {
	"e09ee510600b io_uring: fix exiting io_req_task_work_add leaks",
	"e02ba72aabfa aio: block io_destroy() until all context requests are completed",
	NULL,
};

static const char *const groups[] = { "exit", NULL };

const struct rw_test rw_test = {
	.name = "ring-close-dio",
	.summary = "direct writes end, and hold nothing, when their ring is closed",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(rw_ring_kinds) },
	.run = run,
};
