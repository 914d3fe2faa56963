/* SPDX-License-Identifier: MIT */
/*
 * The AIO contexts of a process: many of them, and how they go.
 *
 * They are in a table that grows (fs/aio.c, ioctx_add_table()): one that is lost there cannot be used
 * or destroyed any more, and exit_aio() does not wait for what is in flight on it. kill_ioctx() wakes
 * who sleeps in io_getevents(2), for nothing else would, and io_destroy(2) waits for him in D; and it
 * gives back what io_setup(2) took from the system's number of requests, without which in the end
 * nobody has AIO any more (EAGAIN).
 */
#include "ringwedge.h"

#include <libaio.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

#define CONTEXTS 17 /* the table has room for 4, then 16, then 64 */
#define BEFORE 3    /* the last one that there was room for at first */
#define LEN (8 * RW_KIB)
#define SIZE (CONTEXTS * LEN)

static const struct rw_ring_kind *const aio = &rw_aio_kinds[0];

/* Each is used and destroyed, whether it was made before the table grew or after. */
static void used(struct rw_file *f)
{
	struct rw_ring *ring[CONTEXTS];

	if (rw_has_gate())
		rw_gate_shut();
	for (int i = 0; i < CONTEXTS; i++) {
		ring[i] = rw_ring(aio, 1);
		rw_write(ring[i], f, i * LEN, LEN, 0);
	}
	if (rw_has_gate())
		rw_gate_open();
	for (int i = 0; i < CONTEXTS; i++)
		rw_reap(ring[i]);
	rw_then(f, (struct rw_change){ RW_KEEP });
	for (int i = 0; i < CONTEXTS; i += 8)
		rw_ring_close(ring[i]);
}

struct owner {
	struct rw_file *file;
	unsigned int promise;
};

static void own(const void *p)
{
	const struct owner *o = p;

	for (int i = 0; i < CONTEXTS; i++) {
		struct rw_ring *ring = rw_ring(aio, 1);

		if (i == BEFORE)
			rw_write_promised(ring, o->file, 0, LEN, o->promise, 0);
	}
	rw_pause();
}

/* Exit waits for RCU, too: it has done so when as much was waited for here. */
static void wait_for_rcu(void)
{
	rw_ring_close(rw_ring(aio, 1));
	rw_in_flight(1);
}

/* A write is in flight on a context that was made before the table grew. */
static void exits(struct rw_file *f)
{
	struct owner o = { f, rw_promise(f, 0, LEN) };
	siginfo_t ended = { 0 };
	struct rw_helper owner;
	bool held = false;

	if (rw_has_gate())
		rw_gate_shut();
	owner = rw_start(own, &o);
	rw_wait_paused(&owner);
	if (rw_has_gate())
		held = rw_in_flight(1);
	rw_go_on(&owner);
	if (held) {
		rw_in_flight(1);
		wait_for_rcu();
		rw_set_up(waitid(P_PID, (id_t)owner.pid, &ended, WEXITED | WNOHANG | WNOWAIT));
		if (ended.si_pid && rw_gate_is_shut())
			rw_fail("a task ended while a direct write was in flight on one of its %d "
				"AIO contexts",
				CONTEXTS);
	}
	if (rw_has_gate())
		rw_gate_open();
	rw_join(owner);
	rw_then(f, (struct rw_change){ RW_KEEP });
}

struct waiter {
	io_context_t ctx;
	_Atomic pid_t tid;
	int ret;
};

static void *wait_for_two(void *p)
{
	struct waiter *w = p;
	struct io_event e[2];

	w->tid = gettid();
	do
		w->ret = io_getevents(w->ctx, 2, 2, e, NULL);
	while (w->ret == -EINTR);
	return NULL;
}

static void destroy(const void *p)
{
	rw_enter("io_destroy");
	rw_eq(io_destroy(((const struct waiter *)p)->ctx), 0);
}

static void destroy_waits(const void *p)
{
	rw_must_wait(destroy, p);
}

/* A thread waits for two events, of which one will come; another one destroys the context. */
static void destroyed(struct rw_file *f)
{
	struct rw_ring *ring = rw_ring(aio, 1);
	struct waiter w = { .ctx = rw_aio_context(ring) };
	pthread_t id;

	if (rw_has_gate())
		rw_gate_shut();
	rw_write(ring, f, 0, LEN, 0);
	rw_set_up(pthread_create(&id, NULL, wait_for_two, &w) ? -1 : 0);
	while (!w.tid)
		sched_yield();
	rw_asleep_in(w.tid, "io_getevents");
	if (rw_has_gate())
		rw_held_by(&rw_whos[0], rw_in_flight(1) ? destroy_waits : destroy, &w, false);
	else
		destroy(&w);
	rw_enter("wait for the thread that was in io_getevents");
	rw_set_up(pthread_join(id, NULL) ? -1 : 0);
	if (w.ret != 1) /* it may have found the event of the write */
		rw_eq(w.ret, -EINVAL);
	rw_then(f, (struct rw_change){ RW_KEEP });
}

#define TAKEN 2048 /* requests */

static long aio_nr(void)
{
	FILE *file = fopen("/proc/sys/fs/aio-nr", "re");
	long n;

	if (!file || fscanf(file, "%ld", &n) != 1)
		rw_broken("/proc/sys/fs/aio-nr: %s", strerror(errno));
	fclose(file);
	return n;
}

static void take(bool give_back)
{
	io_context_t ctx = NULL;
	int ret;

	if ((ret = io_setup(TAKEN, &ctx)))
		rw_skip("needs Linux AIO (io_setup): %s", strerror(-ret));
	if (give_back)
		rw_eq(io_destroy(ctx), 0);
}

static void take_and_exit(const void *p)
{
	(void)p;
	take(false);
}

/* Others take and give back, too: but not as many as this, again and again at this moment. */
static void given_back(struct rw_file *f)
{
	(void)f;
	for (int destroys = 0; destroys < 2; destroys++) {
		int tries = 5;
		long before;

		do {
			if (!tries--)
				rw_fail("fs.aio-nr is %ld: %d requests more with each %s", aio_nr(),
					TAKEN, destroys ? "io_destroy" : "exit");
			before = aio_nr();
			if (destroys)
				take(true);
			else
				rw_by(&rw_whos[1], take_and_exit, NULL);
		} while (aio_nr() >= before + TAKEN);
	}
}

static const struct scene {
	const char *name;
	void (*play)(struct rw_file *f);
} scenes[] = {
	{ "used", used },
	{ "exit", exits },
	{ "destroyed", destroyed },
	{ "given-back", given_back },
};

static void run(const void *const *at)
{
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);

	((const struct scene *)at[0])->play(f);
	rw_verify(f);
}

static const char *const guards[] = {
	"6098b45b32e6 aio: block exit_aio() until all context requests are completed",
	NULL,
};

static const char *const groups[] = { "aio", "exit", NULL };

const struct rw_test rw_test = {
	.name = "aio-contexts-dio",
	.summary = "each of a process's AIO contexts works, and is destroyed, with what it took "
		   "given back",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(scenes) },
	.run = run,
};
