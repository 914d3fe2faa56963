/* SPDX-License-Identifier: MIT */
/*
 * The task that submitted direct writes goes while they are in flight, or done and not reaped, and
 * the ring stays: another thread of its process has it, or another process.
 *
 * The completions, for which the kernel would have used the task (task_work), come to whoever waits on
 * the ring (io_fallback_req_func(); of AIO as ever), each with its result, and not before the write
 * has ended. One that is lost is a hang in the wait for it; what it held, a hang in truncate or freeze.
 */
#include "ringwedge.h"

#include <linux/falloc.h>
#include <pthread.h>

#define SIZE (256 * RW_KIB)
#define LEN (16 * RW_KIB)
#define FROM (3 * LEN) /* N writes: to each sort of block of RW_MIXED */
#define N 4

struct submitter {
	const struct rw_ring_kind *kind;
	struct rw_ring *ring;
	struct rw_file *file;
	unsigned int promise[N];
	bool queued; /* but the first, they wait for the only worker of io-wq */
};

static void *submit(void *p)
{
	const struct submitter *s = p;

	for (int i = 0; i < N; i++) {
		rw_write_promised(s->ring, s->file, FROM + i * LEN, LEN, s->promise[i], 0);
		if (s->queued && !i)
			rw_occupy_worker(s->ring, s->file);
	}
	/* What waits in io-wq's queue may be cancelled, what the device has may not. */
	if (!rw_gate_is_shut() || rw_in_flight(N) < N)
		rw_may_cancel(s->ring);
	rw_pause();
	return NULL;
}

static void *make_and_submit(void *p)
{
	struct submitter *s = p;

	s->ring = rw_ring(s->kind, N + 1);
	rw_use(s->ring, s->file);
	return submit(s);
}

/* Another thread reaps. On a ring of a single issuer nobody else may wait. */
static void thread(const void *p)
{
	struct submitter s = *(const struct submitter *)p;
	struct rw_file file = *s.file;
	pthread_t id;

	/* Not the descriptor that was inherited: this one nobody else has, but with a ring. */
	file.fd = (int)rw_set_up(open(rw_path(&file), O_RDWR | O_DIRECT | O_CLOEXEC));
	s.file = &file;
	rw_set_up(pthread_create(&id, NULL, make_and_submit, &s) ? -1 : 0);
	pthread_join(id, NULL);
	if (s.kind->setup & IORING_SETUP_SINGLE_ISSUER)
		rw_ring_close(s.ring);
	else
		rw_reap(s.ring);
}

/* The ring is its parent's, which reaps. */
static void process(const void *p)
{
	struct submitter s = *(const struct submitter *)p;

	rw_adopt(s.ring);
	submit(&s);
}

static const struct scene {
	const char *name;
	void (*go)(const void *);
} scenes[] = {
	{ "thread-exit", thread },
	{ "pass-and-exit", process },
};

static const struct rw_change punched = { RW_ZERO, FROM + LEN, 2 * LEN };

static void punch(const void *p)
{
	rw_ok(fallocate(((const struct rw_file *)p)->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			punched.off, punched.len));
}

static struct submitter prepare(const struct scene *scene, const struct rw_ring_kind *kind)
{
	enum rw_state state = rw_can_make(RW_UNWRITTEN) ? RW_MIXED : RW_WRITTEN;
	struct submitter s = { kind };

	s.file = rw_file("file", state, SIZE);
	rw_supported("fallocate", fallocate(s.file->fd, 0, 0, SIZE));
	punch(s.file); /* reads the metadata that it needs */
	s.file = rw_file("file", state, SIZE);
	for (int i = 0; i < N; i++)
		s.promise[i] = rw_promise(s.file, FROM + i * LEN, LEN);
	if (scene->go == process)
		s.ring = rw_ring(kind, N + 1);
	return s;
}

static void finish(struct submitter *s, struct rw_helper h)
{
	rw_join(h);
	if (!s->ring)
		return;
	rw_reap(s->ring);
	rw_ring_close(s->ring);
}

static void held(const struct scene *scene, const struct rw_ring_kind *kind, bool queued)
{
	struct submitter s = prepare(scene, kind);
	struct rw_helper h;
	unsigned int n;

	s.queued = queued;
	rw_gate_shut();
	h = rw_start(scene->go, &s);
	rw_wait_paused(&h);
	n = rw_in_flight(N);
	rw_go_on(&h);
	rw_in_flight(N); /* it has come as far as it can */
	rw_use_memory(); /* the pages of the writes, if they were let go of */
	rw_held_by(&rw_whos[0], punch, s.file, n > 0 && !queued);
	finish(&s, h);
	(n == N ? rw_then : rw_race_cancelled)(s.file, punched);
	rw_let_go(s.file);
}

/* The writes have ended; without a gate they may be on their way. */
static void free_running(const struct scene *scene, const struct rw_ring_kind *kind)
{
	struct submitter s = prepare(scene, kind);
	struct rw_helper h = rw_start(scene->go, &s);

	rw_wait_paused(&h);
	if (rw_has_gate())
		rw_done();
	rw_go_on(&h);
	punch(s.file);
	finish(&s, h);
	rw_race_cancelled(s.file, punched);
	rw_let_go(s.file);
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

static bool has(const void *const *at)
{
	const struct rw_ring_kind *kind = at[1];

	/* The memory, and the submitter, must be the process's own. */
	return ((const struct scene *)at[0])->go == thread ||
	       (!kind->fixed && !kind->aio && !(kind->setup & ~IORING_SETUP_COOP_TASKRUN));
}

static bool wedges(const void *const *at)
{
	(void)at;
	return true;
}

static const char *const guards[] = {
	"838b35bb6a89 io_uring/rw: disable IOCB_DIO_CALLER_COMP",
	"9011bf9a13e3 io_uring: fix stuck fallback reqs",
	NULL,
};

static const char *const groups[] = { "exit", NULL };

const struct rw_test rw_test = {
	.name = "ring-stays-dio",
	.summary = "direct writes end, for who has the ring, without the task that submitted them",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(scenes), RW_AXIS(rw_ring_kinds) },
	.has = has,
	.wedges = wedges,
	.run = run,
};
