/* SPDX-License-Identifier: MIT */
/*
 * What is queued in io-wq behind other work of its kind gets its turn.
 *
 * Buffered writes of one file are done one after another, by io-wq's hash; all that a ring has is,
 * where it may have one worker only; and two tasks have an io-wq each for one inode. Direct writes are
 * between them, and behind them is what waits for them all. A hash that is not given on, or a worker
 * that is not woken (io_worker_handle_work()), is a ring that never ends.
 */
#include "ringwedge.h"

#include <linux/falloc.h>
#include <pthread.h>

#define SIZE (512 * RW_KIB)
#define N 12
#define APART (32 * RW_KIB)
#define AT (128 * RW_KIB)
#define LEN (128 * RW_KIB)
#define SMALL (N * APART)

static const struct mix {
	const char *name;
	bool buffered; /* every other pair of writes: through the page cache */
} mixes[] = { { "buffered-too", true }, { "written", false } };

static const struct queueing {
	const char *name;
	int tasks; /* 2: a thread, with an io-wq of its own, submits every other write */
	bool one_worker;
} queueings[] = {
	{ "forced", 1 },
	{ "one-worker", 1, .one_worker = true },
	{ "two-tasks", 2 },
};

/* Behind the writes: nothing, a punch, a truncation. */
static const struct rw_change changes[] = {
	{ RW_KEEP },
	{ RW_ZERO, AT, LEN },
	{ RW_RESIZE, SMALL },
};

struct job {
	struct rw_ring *ring;
	struct rw_file *direct, buffered; /* the same file */
	const struct mix *mix;
	int tasks;
	pthread_barrier_t barrier;
};

static void submit_from(struct job *j, int first)
{
	for (int i = first; i < N; i += j->tasks) {
		/* A synced one holds the hash until the gate opens: the others wait for it. */
		if (j->mix->buffered && i % 4 > 1)
			rw_write(j->ring, &j->buffered, i * APART, APART / 2, RWF_DSYNC);
		else
			rw_write(j->ring, j->direct, i * APART, APART / 2, 0);
	}
}

/* The thread stays: with it would go its workers. */
static void *second(void *p)
{
	struct job *j = p;

	submit_from(j, 1);
	pthread_barrier_wait(&j->barrier); /* submitted */
	pthread_barrier_wait(&j->barrier); /* reaped */
	return NULL;
}

static void submit_behind(struct job *j, const struct rw_change *c, unsigned int held)
{
	/* A punch waits for all writes, on btrfs for those to its range alone. */
	if (c->kind == RW_ZERO)
		rw_ring_fallocate(j->ring, j->direct, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				  c->off, c->len, rw_fs() == RW_BTRFS ? held == N : held > 0);
	else if (c->kind == RW_RESIZE)
		rw_ring_ftruncate(j->ring, j->direct, c->off, held > 0);
}

static void step(struct job *j, const struct rw_change *c)
{
	unsigned int held = 0;
	pthread_t thread;

	j->direct = rw_file("file", RW_WRITTEN, SIZE);
	j->buffered = *j->direct;
	j->buffered.fd = (int)rw_set_up(open(rw_path(j->direct), O_RDWR | O_CLOEXEC));
	if (rw_has_gate())
		rw_gate_shut();
	submit_from(j, 0);
	if (j->tasks > 1) {
		rw_set_up(pthread_create(&thread, NULL, second, j) ? -1 : 0);
		pthread_barrier_wait(&j->barrier);
	}
	if (rw_has_gate())
		held = rw_in_flight(N);
	submit_behind(j, c, held);
	if (held)
		rw_workers_asleep();
	if (rw_has_gate())
		rw_held_reap(j->ring);
	rw_reap(j->ring);
	if (j->tasks > 1) {
		pthread_barrier_wait(&j->barrier);
		pthread_join(thread, NULL);
	}
	(held == N ? rw_then : rw_race)(j->direct, *c);
	rw_verify(j->direct);
	close(j->buffered.fd);
}

static void run(const void *const *at)
{
	const struct queueing *queueing = at[1];
	struct job j = { .ring = rw_ring(&rw_ring_kinds[4], N + 1),
			 .mix = at[0],
			 .tasks = queueing->tasks };
	unsigned int most[2] = { 1, 1 };

	pthread_barrier_init(&j.barrier, NULL, 2);
	if (queueing->one_worker)
		rw_set_up(io_uring_register_iowq_max_workers(rw_uring(j.ring), most) ? -1 : 0);
	step(&j, &changes[0]);
	if (rw_can_make(RW_UNWRITTEN))
		step(&j, &changes[1]);
	if (rw_has_opcode(j.ring, RW_OP_FTRUNCATE))
		step(&j, &changes[2]);
	rw_ring_close(j.ring);
}

/* What is written directly alone, and to the only io-wq, is in iowq-dio. */
static bool has(const void *const *at)
{
	const struct mix *mix = at[0];

	return mix->buffered || at[1] != &queueings[0];
}

static const char *const guards[] = {
	"d3e3c102d107 io-wq: serialize hash clear with wakeup",
	NULL,
};

static const char *const groups[] = { "iowq", NULL };

const struct rw_test rw_test = {
	.name = "iowq-turns-dio",
	.summary = "what is queued in io-wq behind other writes of its file gets its turn",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(mixes), RW_AXIS(queueings) },
	.has = has,
	.run = run,
};
