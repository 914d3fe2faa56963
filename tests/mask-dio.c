/* SPDX-License-Identifier: MIT */
/*
 * A wait for a direct write with a signal mask of its own, as ppoll(2) has one.
 *
 * io_cqring_wait() and io_pgetevents(2) put the mask in place of the task's (set_user_sigmask()) and give
 * the task its own back when the wait is over, or, if a signal ended it, when the handler has run
 * (restore_saved_sigmask_unless()). Not applied, the wait ends by a signal that it blocks, or sleeps over
 * one that it lets through; not given back, the task is deaf to the signal from then on, or open to it.
 */
#include "ringwedge.h"

#define SIZE (64 * RW_KIB)
#define LEN (16 * RW_KIB)

static const struct event {
	const char *name;
	bool ends;   /* the wait: the mask lets through what the task blocks; else the reverse */
	bool before; /* it is pending when the wait begins */
} events[] = {
	{ "blocked" },
	{ "unblocked", .ends = true },
	{ "pending", .ends = true, .before = true },
};

static const struct way {
	const char *name;
	const struct rw_ring_kind *kind;
	unsigned int s; /* the mask is in an IORING_ENTER_EXT_ARG beside a time-out, or alone */
} ways[] = {
	{ "plain", &rw_ring_kinds[0] },
	{ "timed", &rw_ring_kinds[0], 3600 },
	{ "defer-taskrun", &rw_ring_kinds[2], 3600 },
	{ "aio", &rw_ring_kinds[6] },
};

struct waiter {
	pid_t pid;
	const struct event *event;
	const struct way *way;
	struct rw_ring *ring;
	sigset_t *mask;
	int handled; /* signals */
};

static void handler(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	++*(volatile int *)info->si_value.sival_ptr;
}

static void send_signal(const struct waiter *w)
{
	const union sigval v = { .sival_ptr = (void *)&w->handled }; /* of the waiter */

	if (sigqueue(w->pid, SIGUSR1, v))
		rw_broken("sigqueue: %s", strerror(errno));
}

/* Another task: what does not end the wait, the gate does. */
static void send_to_sleeper(const void *p)
{
	const struct waiter *w = p;

	rw_asleep_in(w->pid, w->way->kind->aio ? "getevents" : "io_uring_enter");
	send_signal(w);
	if (w->event->ends)
		return;
	rw_in_flight(1); /* if it was woken, it has come as far as it can */
	rw_gate_open();
}

static void wait(const void *p)
{
	const struct waiter *w = p;
	bool ended = !rw_wait_masked(w->ring, 1, w->way->s, w->mask);

	if (ended && !w->event->ends)
		rw_fail("a wait for a direct write was ended by a signal that its mask blocks");
}

static void check_mask(bool blocked)
{
	sigset_t now;

	rw_set_up(sigprocmask(SIG_BLOCK, NULL, &now));
	if (sigismember(&now, SIGUSR1) != blocked)
		rw_fail("after a wait with a signal mask the task still has that: SIGUSR1 is %s",
			blocked ? "not blocked" : "blocked");
}

static void wait_with_signal(struct waiter *w)
{
	struct rw_helper h;

	if (w->event->before)
		send_signal(w);
	else
		h = rw_start(send_to_sleeper, w);
	if (w->event->ends)
		wait(w);
	else
		rw_must_wait(wait, w);
	check_mask(w->event->ends);
	rw_eq(w->handled, 1);
	rw_gate_open();
	if (!w->event->before)
		rw_join(h);
}

static void run(const void *const *at)
{
	const struct sigaction sa = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO };
	struct waiter w = { .pid = getpid(), .event = at[0], .way = at[1] };
	struct rw_file *f;
	sigset_t none, one;

	if (!rw_has_gate())
		rw_skip("needs a gate, and direct I/O");
	sigemptyset(&none);
	sigemptyset(&one);
	sigaddset(&one, SIGUSR1);
	w.mask = w.event->ends ? &none : &one;
	rw_set_up(sigaction(SIGUSR1, &sa, NULL));
	rw_set_up(sigprocmask(SIG_SETMASK, w.event->ends ? &one : &none, NULL));
	w.ring = rw_ring(w.way->kind, 1);
	f = rw_file("file", RW_WRITTEN, SIZE);
	rw_set_up(syncfs(f->fd)); /* a commit behind the gate would hold the write back */
	rw_gate_shut();
	rw_write(w.ring, f, LEN, LEN, 0);
	if (!rw_in_flight(1))
		rw_broken("the gate holds no write");
	wait_with_signal(&w);
	rw_reap(w.ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
	rw_ring_close(w.ring);
}

/* How the mask is passed makes no difference to the signal, nor the ring to one that is pending. */
static bool has(const void *const *at)
{
	const struct event *event = at[0];
	const struct way *way = at[1];

	if (!event->ends || way->kind->aio)
		return true;
	return event->before ? way == &ways[0] : way != &ways[0];
}

static const char *const groups[] = { "signal", "wait", NULL };
static const char *const needs[] = { "a gate", NULL };

const struct rw_test rw_test = {
	.name = "mask-dio",
	.summary = "the signal mask of a wait for direct writes is that of the wait, and no longer",
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(events), RW_AXIS(ways) },
	.has = has,
	.run = run,
};
