/* SPDX-License-Identifier: MIT */
/*
 * Signals, timers and task_work for a task that waits for direct I/O in flight.
 *
 * inode_dio_wait(), and freeze_super() for its writers, sleep without interruption, because their
 * callers cannot go back. Were a signal, a stop, a tracer or the task_work of another completion
 * to end the sleep, the call would change extents under the write, or return -EINTR or an internal
 * -ERESTART* half way; and a synchronous write would return, and free what its completion uses
 * (iomap_dio_rw()). It must sleep on, take effect once and whole; then comes the signal's turn.
 */
#include "ringwedge.h"

#include <linux/falloc.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ptrace.h>
#include <sys/time.h>
#include <sys/wait.h>

#define SIZE (256 * RW_KIB)
#define LEN (64 * RW_KIB)

struct arg {
	struct rw_file *file, *copy;
	void (*call)(const struct arg *a);
	bool timer;
	void *buf;
};

static void punch(const struct arg *a)
{
	rw_ok(fallocate(a->file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, LEN, LEN));
}

static void truncation(const struct arg *a)
{
	rw_ok(ftruncate(a->file->fd, LEN));
}

static void reflink(const struct arg *a)
{
	rw_ok(ioctl(a->copy->fd, FICLONE, a->file->fd));
}

static void freeze(const struct arg *a)
{
	(void)a;
	rw_freeze();
}

/* What it waits for is its own. */
static void write_itself(const struct arg *a)
{
	rw_eq(rw_ok(pwrite(a->file->fd, a->buf, LEN, LEN)), LEN);
}

static const struct op {
	const char *name;
	void (*call)(const struct arg *a);
	struct rw_change change;
	bool clones, allocates;
} ops[] = {
	{ "punch-hole", punch, { RW_ZERO, LEN, LEN }, .allocates = true },
	{ "truncate", truncation, { RW_RESIZE, LEN } },
	{ "clone", reflink, { RW_KEEP }, .clones = true },
	{ "freeze", freeze, { RW_KEEP } },
	{ "write", write_itself, { RW_KEEP } },
};

/* Not announced to the watchdog, as rw_set_up() would: it is to name the call that sleeps. */
static void must(long ret, const char *what)
{
	if (ret < 0)
		rw_broken("%s: %s", what, strerror(errno));
}

static void signals(pid_t pid, int fd)
{
	(void)fd;
	for (int i = 0; i < 3; i++)
		must(kill(pid, i % 2 ? SIGALRM : SIGUSR1), "kill");
}

/* Several ticks of the timer, which the task that waits has set for itself. */
static void ticks(pid_t pid, int fd)
{
	(void)pid;
	(void)fd;
	poll(NULL, 0, 10);
}

static void stop(pid_t pid, int fd)
{
	(void)fd;
	must(kill(pid, SIGSTOP), "kill");
}

static void go_on(pid_t pid)
{
	must(kill(pid, SIGCONT), "kill");
}

static void attach(pid_t pid, int fd)
{
	(void)fd;
	must(ptrace(PTRACE_ATTACH, pid, NULL, NULL), "PTRACE_ATTACH");
}

static void detach(pid_t pid)
{
	int status;

	must(waitpid(pid, &status, __WALL), "waitpid");
	rw_eq(WIFSTOPPED(status), true);
	must(ptrace(PTRACE_DETACH, pid, NULL, NULL), "PTRACE_DETACH");
}

static void fatal(pid_t pid, int fd)
{
	(void)fd;
	must(kill(pid, SIGKILL), "kill");
}

/* Ends a poll request of the ring's owner: task_work, for it to deliver the completion. */
static void event(pid_t pid, int fd)
{
	const uint64_t one = 1;

	(void)pid;
	must(write(fd, &one, sizeof(one)), "write to an eventfd");
}

static const struct rw_strike strikes[] = {
	{ "signals", signals },		  { "timer", ticks },
	{ "stop", stop, go_on },	  { "ptrace", attach, detach },
	{ "kill", fatal, NULL, SIGKILL }, { "task-work", event },
};

static void handler(int sig)
{
	(void)sig;
}

static void call(const void *p)
{
	const struct itimerval often = { { 0, 2000 }, { 0, 2000 } }, never = { 0 };
	const struct arg *a = p;

	if (a->timer)
		must(setitimer(ITIMER_REAL, &often, NULL), "setitimer");
	a->call(a);
	if (a->timer)
		must(setitimer(ITIMER_REAL, &never, NULL), "setitimer");
}

static void one(struct rw_ring *ring, const struct op *op, const struct rw_strike *strike,
		const struct rw_who *who)
{
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);
	struct arg a = { f, rw_file("copy", RW_WRITTEN, SIZE), op->call, strike->hit == ticks };
	int fd = strike->hit == event ? (int)rw_set_up(eventfd(0, EFD_CLOEXEC)) : -1;
	struct io_uring_sqe poll_add = { 0 };

	if (op->allocates) { /* once with nothing in flight: is it supported? */
		rw_supported(op->name, fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
						 LEN, LEN));
		a.file = f = rw_file("file", RW_WRITTEN, SIZE);
	}
	rw_use(ring, f);
	if (fd >= 0) {
		io_uring_prep_poll_add(&poll_add, fd, POLLIN);
		rw_queue(ring, &poll_add, &(struct rw_op){ .what = "poll", .want = POLLIN });
		rw_submit_queued(ring, 0);
	}
	rw_set_up(syncfs(f->fd)); /* a commit behind the gate would hold the write back */
	rw_gate_shut();
	rw_write(ring, f, LEN / 2, LEN, 0);
	if (!rw_in_flight(1))
		rw_broken("the gate holds no write");
	rw_held_struck(who, call, &a, strike, fd);
	rw_thaw();
	rw_reap(ring);
	rw_then(f, op->change);
	/* Killed, xfs_reflink_remap_blocks() may end between two extents. */
	if (op->clones)
		(strike->hit == fatal ? rw_maybe : rw_then)(
			a.copy, (struct rw_change){ RW_COPY, 0, SIZE, f, 0 });
	rw_verify(f);
	rw_verify(a.copy);
	if (fd >= 0)
		close(fd);
}

static void call_must_wait(const void *p)
{
	rw_must_wait(call, p);
}

/* By a task that does without a ring. */
static void synchronous(const struct op *op, const struct rw_strike *strike)
{
	static char buf[LEN] __attribute__((aligned(4096)));
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);
	const struct arg a = { f, NULL, op->call, strike->hit == ticks, buf };
	struct rw_helper h;
	bool held;

	rw_fill(f, buf, LEN, LEN, rw_promise(f, LEN, LEN));
	rw_set_up(syncfs(f->fd)); /* a commit behind the gate would hold the write back */
	rw_gate_shut();
	h = rw_start(call_must_wait, &a);
	held = rw_in_flight(1); /* btrfs may write it through the page cache, and waits for that */
	if (held) {
		strike->hit(h.pid, -1);
		rw_submitted();
		h.sig = strike->dies_of;
	}
	rw_gate_open();
	if (held && strike->after)
		strike->after(h.pid);
	rw_join(h);
	rw_then(f, op->change);
	rw_verify(f);
}

static void run(const void *const *at)
{
	const struct op *op = at[0];
	const struct rw_strike *strike = at[1];
	/* Where a completion comes from, and how it is delivered, matters to task_work alone. */
	const size_t kinds = strike->hit == event ? 4 : 1;
	const struct sigaction sa = { .sa_handler = handler }; /* calls are not begun again */

	if (!rw_has_gate())
		rw_skip("needs a gate, and direct I/O");
	if (op->clones && !rw_can_make(RW_SHARED))
		rw_skip("needs reflink");
	rw_set_up(sigaction(SIGUSR1, &sa, NULL));
	rw_set_up(sigaction(SIGALRM, &sa, NULL));
	if (op->call == write_itself) {
		synchronous(op, strike);
		return;
	}
	for (size_t i = 0; i < kinds; i++) {
		struct rw_ring *ring = rw_ring(&rw_ring_kinds[i], 4);

		one(ring, op, strike, at[2]);
		rw_ring_close(ring);
	}
}

static bool has(const void *const *at)
{
	const struct op *op = at[0];
	const struct rw_strike *strike = at[1];
	const struct rw_who *who = at[2];

	if (op->call == write_itself && !who->other)
		return false;
	/* The owner's death is for ring-exit-dio; its task_work is nothing to another task. */
	return who->other ? strike->hit != event : !strike->dies_of;
}

static const char *const guards[] = {
	"838b35bb6a89 io_uring/rw: disable IOCB_DIO_CALLER_COMP (an interruptible drain was "
	"considered)",
	NULL,
};

static const char *const groups[] = { "signal", NULL };
static const char *const needs[] = { "a gate", NULL };

const struct rw_test rw_test = {
	.name = "signal-dio",
	.summary = "nothing that befalls a task ends its wait for direct writes in flight",
	.guards = guards,
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(ops), RW_AXIS(strikes), RW_AXIS(rw_whos) },
	.has = has,
	.run = run,
};
