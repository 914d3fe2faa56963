/* SPDX-License-Identifier: MIT */
/*
 * The owner of a ring goes while its direct writes are in flight, or done and not reaped.
 *
 * What the writes hold - the inode's i_dio_count, the superblock's write count, the open file, the
 * pinned buffers - must be let go of without the task that submitted them (io_fallback_req_func(),
 * io_ring_exit_work(), io_uring_unreg_ringfd(), exit_aio()), and not before they have ended. Otherwise
 * another process sleeps for ever in truncate or freeze, or finds the wrong data; or the exit itself never
 * ends.
 */
#include "ringwedge.h"

#include <linux/falloc.h>
#include <sys/wait.h>

#define SIZE (256 * RW_KIB)
#define LEN (16 * RW_KIB)
#define FROM (3 * LEN) /* N writes: to each sort of block of RW_MIXED */
#define N 4

static const struct end {
	const char *name;
	bool execs, killed;
	bool idle;	 /* is the poller, which waits for the writes, asleep? */
	bool registered; /* the task has the ring by its number alone (IORING_REGISTER_RING_FDS) */
} ends[] = {
	{ "exec", .execs = true },
	{ "exit" },
	{ "kill", .killed = true },
	{ "exit-idle", .idle = true },
	{ "exit-registered", .registered = true },
	{ "exec-registered", .execs = true, .registered = true },
};

struct owner {
	const struct end *end;
	const struct rw_ring_kind *kind;
	struct rw_file *file;
	unsigned int promise[N];
	bool queued; /* but the first, they wait for the only worker of io-wq */
};

static void register_ring(struct io_uring *ring)
{
	int ret = io_uring_register_ring_fd(ring);

	if (ret == -EINVAL)
		rw_skip("needs IORING_REGISTER_RING_FDS, Linux 5.18");
	rw_eq(ret, 1);
	rw_ok(close(ring->ring_fd));
}

static void own(const void *p)
{
	const struct owner *o = p;
	struct rw_ring *ring = rw_ring(o->kind, N + 1);
	struct rw_file file = *o->file;

	/* Not the descriptor that was inherited: this one nobody else has, but with a ring. */
	file.fd = (int)rw_set_up(open(rw_path(&file), O_RDWR | O_DIRECT | O_CLOEXEC));
	rw_use(ring, &file);
	if (o->end->registered)
		register_ring(rw_uring(ring));
	for (int i = 0; i < N; i++) {
		rw_write_promised(ring, &file, FROM + i * LEN, LEN, o->promise[i], 0);
		if (o->queued && !i)
			rw_occupy_worker(ring, &file);
	}
	rw_pause();
	if (!o->end->execs)
		return;
	rw_set_up(dup2((int)rw_set_up(open("/dev/null", O_WRONLY)), STDOUT_FILENO));
	rw_set_up(execl("/proc/self/exe", rw_test.name, "--list", NULL));
}

static const struct rw_change punched = { RW_ZERO, FROM + LEN, 2 * LEN };
static const struct rw_change shrunk = { RW_RESIZE, FROM + 3 * LEN };

static void punch(const void *p)
{
	rw_ok(fallocate(((const struct rw_file *)p)->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			punched.off, punched.len));
}

static struct owner prepare(const struct end *end, const struct rw_ring_kind *kind)
{
	enum rw_state state = rw_can_make(RW_UNWRITTEN) ? RW_MIXED : RW_WRITTEN;
	struct owner o = { end, kind };

	o.file = rw_file("file", state, SIZE);
	rw_supported("fallocate", fallocate(o.file->fd, 0, 0, SIZE));
	punch(o.file); /* reads the metadata that it needs */
	o.file = rw_file("file", state, SIZE);
	for (int i = 0; i < N; i++)
		o.promise[i] = rw_promise(o.file, FROM + i * LEN, LEN);
	return o;
}

static void end_it(const struct end *end, struct rw_helper *owner)
{
	if (end->killed)
		rw_kill(owner);
	else
		rw_go_on(owner);
}

/* With the owner as far on its way as it can come. */
static void look_around(const struct end *end, const struct rw_ring_kind *kind)
{
	if (kind->setup & IORING_SETUP_SQPOLL && !end->idle)
		return; /* a poller that ends never sleeps: the known bug of "exit-idle" */
	rw_in_flight(N);
	if (end->idle)
		rw_workers_asleep();
	/* If the pages of the writes were let go of, they are used now: foreign data. */
	rw_use_memory();
}

/* exit_aio() waits for all that is in flight. */
static void still_there(const struct rw_helper *h)
{
	siginfo_t ended = { 0 };

	rw_set_up(waitid(P_PID, (id_t)h->pid, &ended, WEXITED | WNOHANG | WNOWAIT));
	if (ended.si_pid && rw_gate_is_shut())
		rw_fail("a task ended while direct writes of its AIO context were in flight");
}

static void held(const struct end *end, const struct rw_ring_kind *kind, bool queued)
{
	struct owner o = prepare(end, kind);
	struct rw_helper owner;
	unsigned int n;

	o.queued = queued;
	rw_gate_shut();
	owner = rw_start(own, &o);
	rw_wait_paused(&owner);
	n = rw_in_flight(N);
	end_it(end, &owner);
	look_around(end, kind);
	if (kind->aio)
		still_there(&owner);
	/* What is queued may be in the way of the call, too, and may be cancelled. */
	rw_held_by(&rw_whos[0], punch, o.file, n > 0 && !queued);
	rw_join(owner);
	(n == N ? rw_then : rw_race_cancelled)(o.file, punched);
	rw_let_go(o.file);
}

/* The writes have ended; without a gate they may be on their way. */
static void free_running(const struct end *end, const struct rw_ring_kind *kind)
{
	struct owner o = prepare(end, kind);
	struct rw_helper owner = rw_start(own, &o);

	rw_wait_paused(&owner);
	if (rw_has_gate())
		rw_done();
	else
		rw_jitter(200);
	end_it(end, &owner);
	rw_ok(ftruncate(o.file->fd, shrunk.off));
	rw_join(owner);
	rw_race_cancelled(o.file, shrunk);
	rw_let_go(o.file);
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
	const struct end *end = at[0];

	/* What a ring keeps that has no descriptor any more is its registered files. */
	if (end->registered)
		return kind->fixed;
	/* exec waits under exec_update_lock, which /proc/PID/stack wants, too. */
	return !end->execs || !kind->aio;
}

static bool wedges(const void *const *at)
{
	(void)at;
	return true;
}

static const char *const guards[] = {
	"838b35bb6a89 io_uring/rw: disable IOCB_DIO_CALLER_COMP",
	"9011bf9a13e3 io_uring: fix stuck fallback reqs",
	"e09ee510600b io_uring: fix exiting io_req_task_work_add leaks",
	"6098b45b32e6 aio: block exit_aio() until all context requests are completed",
	NULL,
};

static const char *const groups[] = { "exit", NULL };

const struct rw_test rw_test = {
	.name = "ring-exit-dio",
	.summary = "direct writes end, and hold nothing, without the process that submitted them",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(ends), RW_AXIS(rw_ring_kinds) },
	.has = has,
	.wedges = wedges,
	.run = run,
};
