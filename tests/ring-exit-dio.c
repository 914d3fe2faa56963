/* SPDX-License-Identifier: MIT */
/*
 * The owner of a ring goes while its direct writes are in flight, or done and not reaped.
 *
 * What the writes hold - the inode's i_dio_count, the superblock's write count, the open file, the
 * pinned buffers - must be let go of without the task that submitted them (io_fallback_req_func(),
 * io_ring_exit_work(), exit_aio()), and not before they have ended. Otherwise another process sleeps
 * for ever in truncate or freeze, or finds the wrong data; or the exit itself never ends.
 */
#include "ringwedge.h"

#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/wait.h>

#define SIZE (256 * RW_KIB)
#define SMALL (96 * RW_KIB)
#define AT (64 * RW_KIB) /* the hole that is punched */

/* To written, unwritten blocks and a hole: see RW_MIXED. */
static const struct {
	off_t off, len;
} writes[] = { { AT - 16 * RW_KIB, 16 * RW_KIB },
	       { AT, 16 * RW_KIB },
	       { AT + 16 * RW_KIB, 16 * RW_KIB },
	       { SMALL, 8 * RW_KIB } };
#define N RW_ARRAY_SIZE(writes)

#define DEFER (IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN)

struct owner {
	const struct end *end;
	const struct rw_ring_kind *kind;
	struct rw_file *file;
	struct rw_ring *ring; /* NULL before it is made; made before: passed on */
	unsigned int promise[N];
	bool queued;		  /* but the first, they wait for the only worker of io-wq */
	int submitted, go, leave; /* eventfds */
	eventfd_t held;		  /* how many writes the gate holds, plus 1: the value of `go` */
};

static void go_exec(struct owner *o)
{
	(void)o;
	rw_set_up(dup2((int)rw_set_up(open("/dev/null", O_WRONLY)), STDOUT_FILENO));
	rw_set_up(execl("/proc/self/exe", rw_test.name, "--list", NULL));
}

static void close_ring(const void *p)
{
	rw_ring_close(((const struct owner *)p)->ring);
}

static void go_close(struct owner *o)
{
	eventfd_t v;

	/* io_destroy(2) waits for all that is in flight. */
	if (o->kind->aio && o->held > 1)
		rw_must_wait(close_ring, o);
	else
		close_ring(o);
	eventfd_read(o->leave, &v);
	rw_unpinned();
}

static void reap(struct owner *o)
{
	if (o->held <= N)
		rw_may_cancel(o->ring); /* what waits in io-wq's queue */
	rw_reap(o->ring);
}

/* The thread that submitted is no more. Nobody else may wait on a ring of a single issuer. */
static void go_thread(struct owner *o)
{
	if (o->kind->setup & IORING_SETUP_SINGLE_ISSUER)
		rw_ring_close(o->ring);
	else
		reap(o);
}

static void go_cancel(struct owner *o)
{
	struct io_uring_sqe sqe = { 0 };

	io_uring_prep_cancel(&sqe, NULL, IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_ANY);
	rw_queue(o->ring, &sqe, &(struct rw_op){ "cancel", NULL, RW_ANY });
	rw_submit_queued(o->ring, 0);
	reap(o);
}

static void go_sync_cancel(struct owner *o)
{
	struct io_uring_sync_cancel_reg reg = {
		.flags = IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_ANY,
		.timeout = { -1, -1 },
	};
	int ret;

	rw_enter("io_uring_register (IORING_REGISTER_SYNC_CANCEL)");
	ret = io_uring_register_sync_cancel(rw_uring(o->ring), &reg);
	if (ret == -EINVAL)
		rw_skip("needs IORING_REGISTER_SYNC_CANCEL: %s", strerror(-ret));
	if (ret < 0 && ret != -ENOENT)
		rw_fail("IORING_REGISTER_SYNC_CANCEL: %s", strerror(-ret));
	reap(o);
}

/* What is taken out is kept for the writes in flight; some kernels wait for them (Linux 6.12). */
static void let_go(struct owner *o)
{
	if (o->held > 1)
		rw_pinned();
	/* If the file was, another one is now where it stood. */
	for (int i = 0; i < 64; i++)
		rw_set_up(open("/dev/null", O_RDONLY | O_CLOEXEC));
	reap(o);
	rw_unpinned();
}

/* Memory and file are then the ring's and the writes' only. */
static void give_up(struct owner *o)
{
	rw_adopt(o->ring); /* unmaps the buffers */
	close(o->file->fd);
}

static void go_unregister(struct owner *o)
{
	give_up(o);
	rw_enter("io_uring_register (unregister buffers and files)");
	rw_eq(io_uring_unregister_buffers(rw_uring(o->ring)), 0);
	rw_eq(io_uring_unregister_files(rw_uring(o->ring)), 0);
	let_go(o);
}

static void go_replace(struct owner *o)
{
	struct iovec none[(N + 3) / 2] = { { NULL, 0 } }; /* as many as the ring has */
	unsigned int n = RW_ARRAY_SIZE(none);
	int no_file = -1;

	give_up(o);
	rw_enter("io_uring_register (replace buffers and files)");
	rw_eq(io_uring_register_buffers_update_tag(rw_uring(o->ring), 0, none, NULL, n), n);
	rw_eq(io_uring_register_files_update(rw_uring(o->ring), 0, &no_file, 1), 1);
	let_go(o);
}

static const struct end {
	const char *name;
	void (*go)(struct owner *o); /* NULL: it just exits */
	bool exits;		     /* a task exits with its writes in flight */
	bool killed, thread;
	bool idle;   /* is the poller, which waits for the writes, asleep? */
	bool passed; /* the ring is another process's, which reaps */
	bool uring;  /* io_uring knows this only */
	bool by_fd;  /* buffers are registered, files are not: those hold the ring's node, too */
} ends[] = {
	{ "exit", NULL, .exits = true },
	{ "exit-idle", NULL, .exits = true, .idle = true },
	{ "exec", go_exec, .exits = true },
	{ "kill", NULL, .exits = true, .killed = true },
	{ "thread-exit", go_thread, .exits = true, .thread = true },
	{ "pass-and-exit", NULL, .exits = true, .passed = true, .uring = true },
	{ "close", go_close },
	{ "cancel", go_cancel, .uring = true },
	{ "sync-cancel", go_sync_cancel, .uring = true },
	{ "unregister", go_unregister, .uring = true },
	{ "unregister-buffers", go_unregister, .uring = true, .by_fd = true },
	{ "replace", go_replace, .uring = true },
	{ "replace-buffers", go_replace, .uring = true, .by_fd = true },
};

/* The only worker waits for the first write. */
static void occupy(struct rw_ring *ring, struct rw_file *f)
{
	unsigned int most[2] = { 1, 1 };

	rw_set_up(io_uring_register_iowq_max_workers(rw_uring(ring), most) ? -1 : 0);
	rw_in_flight(1);
	rw_ring_fallocate(ring, f, FALLOC_FL_KEEP_SIZE, 0, SIZE, false);
	rw_submitted();
}

static void *submit(void *p)
{
	struct owner *o = p;

	if (o->ring)
		rw_adopt(o->ring);
	else
		o->ring = rw_ring(o->kind, N + 2);
	rw_use(o->ring, o->file);
	for (size_t i = 0; i < N; i++) {
		rw_write_promised(o->ring, o->file, writes[i].off, (size_t)writes[i].len,
				  o->promise[i], 0);
		if (o->queued && !i)
			occupy(o->ring, o->file);
	}
	eventfd_write(o->submitted, 1);
	eventfd_read(o->go, &o->held);
	return NULL;
}

static void own(const void *p)
{
	struct owner o = *(const struct owner *)p;
	struct rw_file file = *o.file;
	pthread_t thread;

	/* Not the descriptor that was inherited: this one nobody else has, but with a ring. */
	if (!o.end->passed) {
		file.fd = (int)rw_set_up(open(rw_path(&file), O_RDWR | O_DIRECT | O_CLOEXEC));
		o.file = &file;
	}
	if (o.end->thread) {
		rw_set_up(pthread_create(&thread, NULL, submit, &o) ? -1 : 0);
		pthread_join(thread, NULL);
	} else {
		submit(&o);
	}
	if (o.end->go)
		o.end->go(&o);
}

static void punch(const void *p)
{
	rw_ok(fallocate(((const struct rw_file *)p)->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			AT, 32 * RW_KIB));
}

static void shrink(const void *p)
{
	rw_ok(ftruncate(((const struct rw_file *)p)->fd, SMALL));
}

static const struct op {
	void (*call)(const void *);
	struct rw_change change;
} ops[] = { { punch, { RW_ZERO, AT, 32 * RW_KIB } }, { shrink, { RW_RESIZE, SMALL } } };

/* Nothing that the owner held is left, and all that others may do works. */
static void afterwards(struct rw_file *f)
{
	rw_verify(f);
	if (rw_has_gate()) { /* the filesystem is the test's own */
		rw_freeze();
		rw_thaw();
	}
	shrink(f);
	rw_then(f, (struct rw_change){ RW_RESIZE, SMALL });
	rw_ok(fallocate(f->fd, 0, SMALL, AT));
	rw_then(f, (struct rw_change){ RW_GROW, SMALL, AT });
	if (rw_can_make(RW_SHARED)) {
		struct rw_file *clone = rw_file("clone", RW_HOLE, 0);

		rw_ok(ioctl(clone->fd, FICLONE, f->fd));
		rw_then(clone, (struct rw_change){ RW_COPY, 0, SMALL + AT, f, 0 });
		rw_verify(clone);
	}
	rw_verify(f);
	rw_sole(f);
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

static const struct rw_ring_kind by_fd = { .name = "fixed", .fixed = true, .by_fd = true };

enum moment { HELD, QUEUED, DONE, RACING };

static void step(const struct end *end, const struct rw_ring_kind *kind, enum moment moment)
{
	const struct op *op = &ops[rw_rand(RW_ARRAY_SIZE(ops))];
	enum rw_state state = rw_can_make(RW_UNWRITTEN) ? RW_MIXED : RW_WRITTEN;
	struct rw_file *f = rw_file("file", state, SIZE);
	struct owner o = { end, end->by_fd ? &by_fd : kind, f,
			   .ring = end->passed ? rw_ring(kind, N + 1) : NULL };
	struct rw_helper helper;
	bool gated = moment == HELD || moment == QUEUED;
	unsigned int held = 0;
	eventfd_t v;

	o.submitted = (int)rw_set_up(eventfd(0, EFD_CLOEXEC));
	o.go = (int)rw_set_up(eventfd(0, EFD_CLOEXEC));
	o.leave = (int)rw_set_up(eventfd(0, EFD_CLOEXEC));
	/* Once with nothing in flight, to read the metadata it needs. */
	rw_supported("fallocate", fallocate(f->fd, 0, 0, SIZE));
	op->call(f);
	f = rw_file("file", state, SIZE);
	for (size_t i = 0; i < N; i++)
		o.promise[i] = rw_promise(f, writes[i].off, (size_t)writes[i].len);
	o.queued = moment == QUEUED;
	if (gated)
		rw_gate_shut();
	helper = rw_start(own, &o);
	eventfd_read(o.submitted, &v);
	if (gated)
		held = rw_in_flight(N);
	else if (moment == DONE)
		rw_done();
	else
		rw_jitter(200);
	if (end->killed)
		rw_kill(&helper);
	else
		eventfd_write(o.go, held + 1);
	if (gated)
		look_around(end, kind);
	if (gated && kind->aio && end->exits)
		still_there(&helper);
	if (gated) /* what is queued may be in the way of the call, too */
		rw_held_by(&rw_whos[0], op->call, f, moment == HELD && held > 0);
	else
		op->call(f);
	eventfd_write(o.leave, 1);
	rw_join(helper);
	if (o.ring) {
		if (held < N)
			rw_may_cancel(o.ring);
		rw_reap(o.ring);
		rw_ring_close(o.ring);
	}
	(held == N ? rw_then : rw_race_cancelled)(f, op->change);
	afterwards(f);
	close(o.submitted);
	close(o.go);
	close(o.leave);
}

static void run(const void *const *at)
{
	if (rw_has_gate()) {
		step(at[0], at[1], HELD);
		if (((const struct rw_ring_kind *)at[1])->async)
			step(at[0], at[1], QUEUED);
		step(at[0], at[1], DONE);
	} else {
		step(at[0], at[1], RACING);
	}
}

static bool has(const void *const *at)
{
	const struct end *end = at[0];
	const struct rw_ring_kind *kind = at[1];

	if (end->go == go_unregister || end->go == go_replace)
		return kind->fixed;
	if (end->go == go_exec && kind->aio)
		return false; /* waits under exec_update_lock, which /proc/PID/stack wants, too */
	if (end->passed)      /* the memory, and the submitter, must be the process's own */
		return !kind->fixed && !(kind->setup & ~IORING_SETUP_COOP_TASKRUN) && !kind->aio;
	if (end->uring) /* inline and deferred, or in io-wq */
		return !kind->fixed && !kind->aio && !(kind->setup & ~DEFER);
	return true;
}

static bool wedges(const void *const *at)
{
	return ((const struct end *)at[0])->exits;
}

static const char *const guards[] = {
	"838b35bb6a89 io_uring/rw: disable IOCB_DIO_CALLER_COMP",
	"9011bf9a13e3 io_uring: fix stuck fallback reqs",
	"e09ee510600b io_uring: fix exiting io_req_task_work_add leaks",
	"e02ba72aabfa aio: block io_destroy() until all context requests are completed",
	"6098b45b32e6 aio: block exit_aio() until all context requests are completed",
	NULL,
};

static const char *const groups[] = { "exit", NULL };

const struct rw_test rw_test = {
	.name = "ring-exit-dio",
	.summary = "direct writes end, and hold nothing, without the task that submitted them",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(ends), RW_AXIS(rw_ring_kinds) },
	.has = has,
	.wedges = wedges,
	.run = run,
};
