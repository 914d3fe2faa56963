/* SPDX-License-Identifier: MIT */
/*
 * held.c - make the call under test, by the ring's owner or by another task, with writes held by
 * the gate or free-running, and judge the order in which things ended.
 */
#include "internal.h"

#include <linux/falloc.h>
#include <linux/fs.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>

const struct rw_who rw_whos[2] = { { "same", false }, { "other", true } };

static pid_t my_tid(void)
{
	return (pid_t)syscall(SYS_gettid);
}

/* The kernel has the function: only then can its absence from a stack mean something. */
static bool kernel_has_drain(void)
{
	static int known = -1;
	char line[512];
	FILE *f;

	if (known >= 0)
		return known;
	known = 0;
	f = rw_stack_readable() ? fopen("/proc/kallsyms", "re") : NULL;
	while (f && !known && fgets(line, sizeof(line), f))
		known = strstr(line, " inode_dio_wait\n") != NULL;
	if (f)
		fclose(f);
	return known;
}

bool rw_has_gate(void)
{
	return rw_gate_exists() && rw_direct();
}

enum counted { WRITES, READS, ALL };

static unsigned int device_holds(enum counted which)
{
	unsigned int writes = 0;
	int all = rw_device_in_flight(&writes);

	if (all < 0)
		rw_broken("no count of the I/O in flight at /dev/%s", rw_device_name());
	return which == WRITES ? writes : (unsigned int)all - (which == READS ? writes : 0);
}

/* For how long have the variant's other tasks been asleep? ns */
static uint64_t others_quiet(struct rw_quiet *q)
{
	static struct rw_task t[RW_MAX_TASKS];

	rw_look_quiet(q, t, rw_tasks(atomic_load(&rw_shared->child), t, RW_MAX_TASKS, RW_GLANCE),
		      my_tid());
	return q->since ? rw_now_ns() - q->since : 0;
}

/*
 * Writers that sleep on their way down, for a lock or the journal: their writes are not in flight,
 * and what is may be the journal's.
 */
static unsigned int stalled(void)
{
	static struct rw_task t[RW_MAX_TASKS];
	unsigned int n = rw_tasks(atomic_load(&rw_shared->child), t, RW_MAX_TASKS, RW_STACKS);
	unsigned int found = 0;

	for (unsigned int i = 0; i < n; i++)
		found += t[i].tid != my_tid() && strstr(t[i].stack, "write_iter") &&
			 !strstr(t[i].stack, "iomap_dio_rw");
	return found;
}

/*
 * A wake-up of a task on another CPU is an interrupt there (ttwu_queue_wakelist()): until it comes, the
 * task looks asleep. A virtual CPU may not run for many milliseconds; it has seen what was sent to it
 * before it runs this.
 */
static void visit_cpus(void)
{
	cpu_set_t all, one;

	if (sched_getaffinity(0, sizeof(all), &all))
		return;
	for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&all) > 1; cpu++) {
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		if (CPU_ISSET(cpu, &all))
			sched_setaffinity(0, sizeof(one), &one);
	}
	sched_setaffinity(0, sizeof(all), &all);
}

static unsigned int settle(unsigned int n, enum counted which)
{
	struct rw_quiet q = { 0, 0 };
	uint64_t end = rw_now_ns() + 2000 * RW_MS;
	unsigned int holds, asleep;
	uint64_t quiet, since;

	rw_progress();
	do {
		do {
			holds = device_holds(which);
			/* Workers may still be on their way; asleep, they wait for what is held. */
			quiet = others_quiet(&q);
			sched_yield();
		} while (quiet < (holds >= n ? 1 : 20) * RW_MS && rw_now_ns() < end);
		since = q.since;
		visit_cpus();
		others_quiet(&q);
	} while (q.since != since && rw_now_ns() < end);
	asleep = which == WRITES ? stalled() : 0;
	if (asleep && holds + asleep > n)
		holds = n > asleep ? n - asleep : 0;
	atomic_fetch_add(holds ? &rw_shared->held : &rw_shared->not_held, 1);
	return holds;
}

unsigned int rw_in_flight(unsigned int n)
{
	return settle(n, WRITES);
}

unsigned int rw_reads_in_flight(unsigned int n)
{
	return settle(n, READS);
}

bool rw_queue_held(void)
{
	uint64_t end = rw_now_ns() + 200 * RW_MS;

	rw_progress();
	do
		if (rw_driver_at_gate())
			return true;
	while (rw_now_ns() < end);
	return false;
}

unsigned int rw_unpolled(unsigned int n)
{
	return settle(n, ALL);
}

void rw_done(void)
{
	uint64_t end = rw_now_ns() + 2000 * RW_MS;
	struct rw_quiet q = { 0, 0 };
	bool idle;

	rw_progress();
	do {
		idle = !device_holds(WRITES);
		sched_yield();
	} while ((others_quiet(&q) < 2 * RW_MS || !idle) && rw_now_ns() < end);
}

static const struct rw_task *find_task(const struct rw_task *t, unsigned int n, pid_t tid)
{
	for (unsigned int i = 0; i < n; i++)
		if (t[i].tid == tid)
			return &t[i];
	return NULL;
}

/* One that has run for half of the time, or is about to. */
static const struct rw_task *spinning(const struct rw_task *was, unsigned int n_was,
				      const struct rw_task *now, unsigned int n, uint64_t took)
{
	for (unsigned int i = 0; i < n; i++) {
		const struct rw_task *old = find_task(was, n_was, now[i].tid);

		if (now[i].io_worker && old &&
		    (now[i].state == 'R' || now[i].cpu_ns - old->cpu_ns > took / 2))
			return &now[i];
	}
	return NULL;
}

void rw_workers_asleep(void)
{
	static struct rw_task t[2][RW_MAX_TASKS];
	pid_t root = atomic_load(&rw_shared->child);
	const struct rw_task *spins = NULL;
	char where[512];

	/* Who works for a moment is calm in the next window; who spins never is. */
	for (int window = 0; window < 10; window++) {
		uint64_t start = rw_now_ns();
		unsigned int n = rw_tasks(root, t[0], RW_MAX_TASKS, RW_GLANCE), n_now;

		poll(NULL, 0, 20);
		n_now = rw_tasks(root, t[1], RW_MAX_TASKS, RW_STACKS);
		spins = spinning(t[0], n, t[1], n_now, rw_now_ns() - start);
		rw_progress();
		if (!spins)
			return;
	}
	rw_where(spins, where, sizeof(where));
	rw_fail("%s spins, with nothing that it could do: %s", spins->comm, where);
}

/* ---- in another task ----------------------------------------------------- */

static struct rw_helper self; /* in a helper */

static struct rw_helper start_helper(void (*call)(const void *), const void *arg, bool is_caller)
{
	struct rw_helper h = { .sig = 0 };
	pid_t parent = getpid();

	h.slot = atomic_load(&rw_shared->n_helpers);
	h.paused = eventfd(0, EFD_CLOEXEC);
	h.go = eventfd(0, EFD_CLOEXEC);
	if (h.paused < 0 || h.go < 0)
		rw_broken("eventfd: %s", strerror(errno));
	fflush(NULL);
	h.pid = fork();
	if (h.pid < 0)
		rw_broken("fork: %s", strerror(errno));
	if (!h.pid) {
		rw_die_with(parent);
		rw_child_signals();
		self = h;
		if (is_caller)
			atomic_store(&rw_shared->caller, my_tid());
		call(arg);
		_exit(0);
	}
	/* One slot is enough for helpers that come one after another. */
	for (h.slot = 0; h.slot < RW_HELPERS; h.slot++) {
		int none = 0;

		if (atomic_compare_exchange_strong(&rw_shared->helpers[h.slot], &none, h.pid))
			break;
	}
	if (h.slot == RW_HELPERS)
		rw_broken("more than %d helpers", RW_HELPERS);
	if (atomic_load(&rw_shared->n_helpers) <= h.slot)
		atomic_store(&rw_shared->n_helpers, h.slot + 1);
	return h;
}

static void join_helper(struct rw_helper h)
{
	int status;

	while (waitpid(h.pid, &status, 0) < 0)
		if (errno != EINTR)
			rw_broken("waitpid: %s", strerror(errno));
	atomic_store(&rw_shared->helpers[h.slot], 0);
	close(h.paused);
	close(h.go);
	rw_progress();
	if (atomic_load(&rw_shared->verdict))
		_exit(0); /* the helper spoke */
	if (WIFSIGNALED(status) && WTERMSIG(status) == h.sig)
		return;
	if (WIFSIGNALED(status))
		rw_fail("the other task was killed by signal %d (%s)", WTERMSIG(status),
			strsignal(WTERMSIG(status)));
	if (status)
		rw_broken("the other task ended with status %#x", status);
}

struct rw_helper rw_start(void (*call)(const void *), const void *arg)
{
	return start_helper(call, arg, false);
}

static void await(int efd)
{
	eventfd_t v;

	while (eventfd_read(efd, &v))
		if (errno != EINTR)
			rw_broken("read of an eventfd: %s", strerror(errno));
	rw_progress();
}

void rw_pause(void)
{
	eventfd_write(self.paused, 1);
	await(self.go);
}

void rw_wait_paused(const struct rw_helper *h)
{
	await(h->paused);
}

void rw_go_on(const struct rw_helper *h)
{
	eventfd_write(h->go, 1);
}

void rw_kill(struct rw_helper *h)
{
	h->sig = SIGKILL;
	rw_set_up(kill(h->pid, SIGKILL));
}

void rw_join(struct rw_helper h)
{
	rw_enter("wait for the other task to end");
	join_helper(h);
	rw_returned();
}

void rw_by(const struct rw_who *who, void (*call)(const void *), const void *arg)
{
	if (who->other)
		join_helper(start_helper(call, arg, false));
	else
		call(arg);
}

/* ---- with the gate shut -------------------------------------------------- */

struct timed {
	void (*call)(const void *);
	const void *arg;
	bool must_wait;
};

/* In the task that calls: did it come back before the writes could end? */
static void timed_call(const void *p)
{
	const struct timed *t = p;
	const char *what;

	t->call(t->arg);
	what = atomic_load(&rw_shared->calling);
	if (t->must_wait && !atomic_load(&rw_shared->opening_at))
		rw_fail("%s returned while a direct write submitted before it was in flight",
			what ? what : "the call");
}

void rw_must_wait(void (*call)(const void *), const void *arg)
{
	timed_call(&(struct timed){ call, arg, true });
}

static void check_blocked(void)
{
	char where[512];
	struct rw_task t = { 0 };

	if (!atomic_load(&rw_shared->blocked_seen) || !kernel_has_drain())
		return;
	memcpy(t.stack, rw_shared->blocked_in, sizeof(t.stack));
	rw_where(&t, where, sizeof(where));
	rw_fail("with direct writes in flight the call did not wait for them: it slept in %s",
		where);
}

void rw_check_slept(const char *what)
{
	char where[512];
	struct rw_task t = { 0 };

	if (!atomic_load(&rw_shared->slept))
		return;
	memcpy(t.stack, rw_shared->blocked_in, sizeof(t.stack));
	rw_where(&t, where, sizeof(where));
	rw_fail("%s may not sleep, and slept until the gate was opened, in %s", what, where);
}

/* `pid` 0: one of the rings' workers; `function` NULL: in the drain. */
static bool sleeps(pid_t pid, const char *function)
{
	static struct rw_task t[RW_MAX_TASKS];
	uint64_t end = rw_now_ns() + 2000 * RW_MS;

	rw_progress();
	do {
		unsigned int n =
			rw_tasks(atomic_load(&rw_shared->child), t, RW_MAX_TASKS, RW_STACKS);

		for (unsigned int i = 0; i < n; i++)
			if ((pid ? t[i].tid == pid : !strncmp(t[i].comm, "iou-wrk-", 8)) &&
			    t[i].state != 'R' &&
			    (function ? strstr(t[i].stack, function) != NULL
				      : rw_in_drain(t[i].stack)))
				return true;
		sched_yield();
	} while (rw_now_ns() < end);
	return false;
}

bool rw_in_drain_now(pid_t pid)
{
	return sleeps(pid, NULL);
}

bool rw_asleep_in(pid_t pid, const char *function)
{
	return sleeps(pid, function);
}

void rw_worker_in(const char *function)
{
	uint64_t end = rw_until(20000);

	while (!sleeps(0, function) && rw_more(end))
		;
}

void rw_submitted(void)
{
	static struct rw_task t[RW_MAX_TASKS];
	uint64_t end = rw_now_ns() + 2000 * RW_MS;
	struct rw_quiet q = { 0, 0 };
	char where[512];
	unsigned int n;

	while (others_quiet(&q) < 20 * RW_MS && rw_now_ns() < end)
		sched_yield();
	n = rw_tasks(atomic_load(&rw_shared->child), t, RW_MAX_TASKS, RW_STACKS);
	for (unsigned int i = 0; i < n; i++) {
		if (strncmp(t[i].comm, "iou-sqp-", 8) || !strstr(t[i].stack, "io_submit"))
			continue;
		rw_where(&t[i], where, sizeof(where));
		rw_fail("the SQPOLL thread may not sleep in a request, and does, in %s", where);
	}
}

void rw_held_by(const struct rw_who *who, void (*call)(const void *), const void *arg,
		bool must_wait)
{
	struct timed t = { call, arg, must_wait };

	/* -1: the other task, not there yet; 0: any sleep will do. */
	atomic_store(&rw_shared->caller, !must_wait ? 0 : who->other ? -1 : my_tid());
	rw_gate_request(RW_GATE_OPEN_WHEN_BLOCKED);
	if (who->other)
		join_helper(start_helper(timed_call, &t, must_wait));
	else
		timed_call(&t);
	if (!atomic_load(&rw_shared->opening_at))
		rw_gate_open();
	if (must_wait)
		check_blocked();
}

/* ---- and something befalls the task that waits ----------------------------- */

struct struck {
	const struct rw_strike *strike;
	pid_t target;
	int fd;
};

static void strike(const void *p)
{
	const struct struck *s = p;
	struct rw_quiet q = { 0, 0 };
	uint64_t end = rw_now_ns() + 1000 * RW_MS;
	bool waited = rw_in_drain_now(s->target), ended;

	s->strike->hit(s->target, s->fd);
	while (others_quiet(&q) < 10 * RW_MS && rw_now_ns() < end)
		sched_yield();
	/* Sleeping without interruption, it takes notice of nothing before the I/O has ended. */
	ended = waited && kernel_has_drain() && !rw_in_drain_now(s->target);
	rw_gate_open();
	if (s->strike->after)
		s->strike->after(s->target); /* or it would stay stopped */
	if (ended)
		rw_fail("%s ended a task's wait for direct I/O in flight", s->strike->name);
}

void rw_held_struck(const struct rw_who *who, void (*call)(const void *), const void *arg,
		    const struct rw_strike *by, int fd)
{
	struct timed t = { call, arg, true };
	struct struck s = { by, getpid(), fd };
	struct rw_helper h;

	if (who->other) {
		h = start_helper(timed_call, &t, true);
		s.target = h.pid;
		strike(&s);
		h.sig = by->dies_of;
	} else {
		h = rw_start(strike, &s);
		timed_call(&t);
	}
	rw_join(h);
}

void rw_held_reap(struct rw_ring *ring)
{
	atomic_store(&rw_shared->caller, 0);
	rw_gate_request(RW_GATE_OPEN_WHEN_BLOCKED);
	rw_reap(ring);
	rw_gate_open();
}

void rw_occupy_worker(struct rw_ring *ring, struct rw_file *f)
{
	unsigned int most[2] = { 1, 1 };
	struct stat st;

	rw_set_up(fstat(f->fd, &st));
	rw_set_up(io_uring_register_iowq_max_workers(rw_uring(ring), most) ? -1 : 0);
	rw_in_flight(1);
	rw_ring_fallocate(ring, f, FALLOC_FL_KEEP_SIZE, 0, st.st_size, false);
	rw_submitted();
}

/* ---- and when all is over -------------------------------------------------- */

static void resize(struct rw_file *f, off_t size)
{
	rw_ok(ftruncate(f->fd, size));
	rw_then(f, (struct rw_change){ RW_RESIZE, size });
	rw_verify(f);
}

void rw_let_go(struct rw_file *f)
{
	const off_t more = 64 * RW_KIB;
	const size_t sector = rw_sector_size();
	struct rw_io unaligned = { .len = sector };
	struct stat st;
	off_t half;

	rw_verify(f);
	if (rw_has_gate()) { /* the filesystem is the test's own */
		rw_freeze();
		rw_thaw();
	}
	rw_set_up(fstat(f->fd, &st));
	half = st.st_size / 2 / 4096 * 4096;
	resize(f, 2 * st.st_size);
	resize(f, half);
	if (rw_can_make(RW_UNWRITTEN)) {
		rw_ok(fallocate(f->fd, 0, half, more));
		rw_then(f, (struct rw_change){ RW_GROW, half, more });
	}
	unaligned.off = half + (off_t)sector;
	rw_submit(NULL, f, &unaligned);
	rw_eq(unaligned.res, (long)sector);
	rw_ended(f, &unaligned);
	if (rw_can_make(RW_SHARED)) {
		struct rw_file *clone = rw_file("clone", RW_HOLE, 0);

		rw_ok(ioctl(clone->fd, FICLONE, f->fd));
		rw_then(clone, (struct rw_change){ RW_COPY, 0, half + more, f, 0 });
		rw_verify(clone);
		close(clone->fd);
		clone->fd = -1;
	}
	rw_verify(f);
	rw_sole(f);
}
