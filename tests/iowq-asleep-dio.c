/* SPDX-License-Identifier: MIT */
/*
 * What needs nothing is done by io-wq while its other workers sleep for direct writes in flight.
 *
 * An idle worker is woken once for all that is queued before it runs. It takes the first request, and
 * sleeps in it: then it is on the worker to have another one made for what is left
 * (io_wq_dec_running()). If not, that waits until the sleep ends; here, with the gate shut, for ever:
 * HANG, in the wait for it. io-wq has workers of two kinds, which are counted apart.
 */
#include "ringwedge.h"

#include <linux/falloc.h>

#define SIZE (64 * RW_KIB)
#define LEN (16 * RW_KIB)
#define AT (2 * LEN)
#define SLEEPERS 2
#define ROUNDS 3

struct job {
	const struct workers *workers;
	struct rw_ring *ring;
	struct rw_file *held[SLEEPERS], *cached;
	struct rw_file synced[SLEEPERS], reader; /* the same files, through the page cache */
	char data[SLEEPERS][LEN], read[LEN];
};

/* In the drain, behind a direct write. */
static void queue_fallocate(struct job *j, int i)
{
	struct io_uring_sqe sqe = { 0 };

	io_uring_prep_fallocate(&sqe, -1, FALLOC_FL_KEEP_SIZE, 0, SIZE);
	rw_queue(j->ring, &sqe, &(struct rw_op){ "fallocate", j->held[i] });
}

static void queue_nop(struct job *j)
{
	struct io_uring_sqe sqe = { .opcode = IORING_OP_NOP, .flags = IOSQE_ASYNC };

	rw_queue(j->ring, &sqe, &(struct rw_op){ "nop" });
}

/* Until its pages are on the device: O_DSYNC. */
static void queue_synced_write(struct job *j, int i)
{
	struct io_uring_sqe sqe = { 0 };

	io_uring_prep_write(&sqe, -1, j->data[i], LEN, AT);
	sqe.flags = IOSQE_ASYNC;
	rw_queue(j->ring, &sqe, &(struct rw_op){ "write", &j->synced[i], LEN });
}

static void queue_cached_read(struct job *j)
{
	struct io_uring_sqe sqe = { 0 };

	io_uring_prep_read(&sqe, -1, j->read, LEN, 0);
	sqe.flags = IOSQE_ASYNC;
	rw_queue(j->ring, &sqe, &(struct rw_op){ "read", &j->reader, LEN });
}

/* As the kernel counts them (io_prep_async_work()). */
static const struct workers {
	const char *name;
	void (*queue_sleeper)(struct job *, int i);
	void (*queue_easy)(struct job *);
	bool writes;
} workers[] = {
	{ "bound", queue_fallocate, queue_nop },
	{ "unbound", queue_synced_write, queue_cached_read, .writes = true },
};

static struct rw_file opened(const struct rw_file *f, int flags)
{
	struct rw_file again = *f;

	again.fd = (int)rw_set_up(open(rw_path(f), O_RDWR | O_NOATIME | O_CLOEXEC | flags));
	return again;
}

static void make_files(struct job *j)
{
	for (int i = 0; i < SLEEPERS; i++) {
		struct rw_file *f = rw_file(i ? "b" : "a", RW_WRITTEN, SIZE);

		j->held[i] = f;
		j->synced[i] = opened(f, O_DSYNC);
		if (j->workers->writes)
			rw_fill(f, j->data[i], AT, LEN, rw_promise(f, AT, LEN));
	}
	j->cached = rw_file("cached", RW_WRITTEN, SIZE);
	j->reader = opened(j->cached, 0);
	rw_cache(j->cached, 0, LEN);
}

/* In a task, and so with an io-wq, of its own: that has one worker of the kind, idle. */
static void submit_and_wait(const void *p)
{
	struct job *j = (struct job *)p;

	j->ring = rw_ring(&rw_ring_kinds[0], SLEEPERS + 1);
	j->workers->queue_easy(j);
	rw_submit_queued(j->ring, 0);
	rw_reap(j->ring);
	rw_submitted();
	for (int i = 0; i < SLEEPERS; i++)
		j->workers->queue_sleeper(j, i);
	j->workers->queue_easy(j);
	rw_submit_queued(j->ring, 0);
	rw_wait(j->ring, 1, 0);
	rw_gate_open();
	rw_reap(j->ring);
	if (j->workers->writes)
		rw_check(j->cached, "read by io-wq", j->read, 0, LEN);
	rw_ring_close(j->ring);
}

static void run(const void *const *at)
{
	static struct job j;
	struct rw_ring *holder = rw_ring(&rw_ring_kinds[0], SLEEPERS);

	j.workers = at[0];
	if (!rw_has_gate())
		rw_skip("needs a gate, and direct I/O");
	if (!j.workers->writes && !rw_can_make(RW_UNWRITTEN))
		rw_skip("needs fallocate");
	for (int n = 0; n < ROUNDS; n++) {
		make_files(&j);
		rw_gate_shut();
		for (int i = 0; i < SLEEPERS; i++)
			rw_write(holder, j.held[i], 0, LEN, 0);
		rw_in_flight(SLEEPERS);
		rw_by(&rw_whos[1], submit_and_wait, &j);
		rw_reap(holder);
		for (int i = 0; i < SLEEPERS; i++) {
			rw_then(j.held[i], (struct rw_change){ RW_KEEP });
			rw_verify(j.held[i]);
			close(j.synced[i].fd);
		}
		close(j.reader.fd);
	}
	rw_ring_close(holder);
}

static const char *const groups[] = { "iowq", NULL };
static const char *const needs[] = { "a gate", NULL };

const struct rw_test rw_test = {
	.name = "iowq-asleep-dio",
	.summary = "io-wq does what needs nothing while its workers sleep for direct writes",
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(workers) },
	.run = run,
};
