/* SPDX-License-Identifier: MIT */
/*
 * watchdog.c - the parent's side: has the variant ended, is it slow, or does it hang?
 *
 * A hang is lack of progress, not of time. When the counter that the test bumps at each call and
 * completion stands still, the test's threads are sampled: all asleep with the same stacks, no
 * context switch, no CPU used, and no I/O in flight at the device = nobody is left to go on
 * (deadlock when one sleeps in D, lost wake-up when all sleep in S). CPU burnt without progress =
 * livelock. Runnable but not run, or I/O in flight at a device = slow: wait on.
 *
 * Evidence goes to disk before any signal is sent, because a signal may change what there is to
 * see, and the machine may not survive it.
 */
#include "internal.h"

#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define TICK 20		     /* ms between looks at the counter */
#define SUSPECT 1000	     /* ms without progress before the first sample */
#define SAMPLES 5	     /* identical ones needed */
#define SAMPLE_GAP 200	     /* ms between them */
#define DEVICE_BUSY 30000    /* ms a device may hold I/O without ending any */
#define UNKNOWN_DEVICE 8000  /* ms in D on a device whose flushes cannot be seen (no gate) */
#define KERNEL_BUSY 6000     /* ms asleep while a thread of the kernel wants a CPU */
#define MOVING 60000	     /* ms of moving stacks without progress: livelock */
#define LONGEST 600000	     /* ms without progress, whatever the reason */
#define BURNT 4000	     /* ms of CPU without progress: livelock */
#define LONGEST_FREEZE 60000 /* ms for the guardian to freeze or thaw */
#define PROBE 300	     /* ms for the harmless signal to show */
#define KILL_WAIT 2000	     /* ms for SIGKILL to work */

/* How much slower than a present-day core this CPU runs, >= 1: emulation needs more CPU time. */
static double slowness = 1;

struct sample {
	uint64_t at; /* ns */
	unsigned int n;
	struct rw_task t[RW_MAX_TASKS];
};

struct watch {
	pid_t child;
	int pidfd;
	uint64_t progress, since,
		last_tick; /* ns; `since` is moved on for time this process lost */
	uint64_t cpu_at_start, next_sample, gate_since;
	struct rw_quiet quiet;
	struct rw_kmsg kmsg; /* from the variant's start on */
	unsigned int n_samples, n_same;
	struct sample *samples; /* SAMPLES of them, a ring */
};

static uint64_t scaled(unsigned int ms)
{
	return (uint64_t)(ms * rw_opt.timeout_scale) * RW_MS;
}

void rw_calibrate(void)
{
	/* About 2 ms on a present-day core, some 60 ms under TCG. */
	volatile uint64_t x = 88172645463325252ull;
	uint64_t best = UINT64_MAX;

	/* In small pieces: one of them will not be interrupted by the machine's other work. */
	for (int piece = 0; piece < 10; piece++) {
		uint64_t start = rw_now_ns(), took;

		for (int i = 0; i < 30000; i++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
		}
		took = rw_now_ns() - start;
		best = took < best ? took : best;
	}
	slowness = 10 * (double)best / (3.0 * RW_MS);
	slowness = slowness < 1 ? 1 : slowness > 20 ? 20 : slowness;
}

static uint64_t all_cpu(const struct sample *s)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < s->n; i++)
		sum += s->t[i].cpu_ns;
	return sum;
}

static bool same_stacks(const struct sample *a, const struct sample *b)
{
	if (a->n != b->n)
		return false;
	for (unsigned int i = 0; i < a->n; i++)
		if (a->t[i].tid != b->t[i].tid || a->t[i].state != b->t[i].state ||
		    a->t[i].switches != b->t[i].switches || strcmp(a->t[i].stack, b->t[i].stack) ||
		    strcmp(a->t[i].wchan, b->t[i].wchan))
			return false;
	return true;
}

static const struct sample *newest(const struct watch *w)
{
	return &w->samples[(w->n_samples - 1) % SAMPLES];
}

static void take_sample(struct watch *w)
{
	struct sample *s = &w->samples[w->n_samples % SAMPLES];
	const struct sample *before = w->n_samples ? newest(w) : NULL;

	s->at = rw_now_ns();
	s->n = rw_tasks(w->child, s->t, RW_MAX_TASKS, RW_WHOLE);
	rw_look_quiet(&w->quiet, s->t, s->n, 0);
	w->n_same = before && w->quiet.since && same_stacks(before, s) ? w->n_same + 1 : 1;
	if (!w->n_samples++)
		w->cpu_at_start = all_cpu(s);
}

enum finding { MOVES_ON, DEADLOCK, LOST_WAKEUP, LIVELOCK, STARVED, GATE_STUCK };

static bool any_in_d(const struct sample *s)
{
	for (unsigned int i = 0; i < s->n; i++)
		if (s->t[i].state == 'D')
			return true;
	return false;
}

/*
 * How long a sleep can be sound with nothing of the test's to wait for. A function that sleeps for a
 * time looks again by itself, up to a second later. A grace period ends when every CPU has passed
 * through the scheduler; one that does not end is reported by RCU's own stall detector, after 21 s.
 */
static uint64_t patience(const struct sample *s)
{
	static const struct {
		const char *in; /* a function, or the first letters of several */
		unsigned int ms;
	} sleeps[] = {
		{ "xfs_buftarg_", 10000 },     { "balance_dirty_pages", 10000 },
		{ "msleep", 10000 },	       { "usleep_range", 10000 },
		{ "synchronize_rcu", 30000 },  { "exp_funnel_lock", 30000 },
		{ "__wait_rcu_gp", 30000 },    { "rcu_barrier", 30000 },
		{ "synchronize_srcu", 30000 },
	};
	unsigned int longest = 0;

	for (unsigned int i = 0; i < s->n; i++)
		for (size_t k = 0; k < RW_ARRAY_SIZE(sleeps); k++)
			if (strstr(s->t[i].stack, sleeps[k].in) && sleeps[k].ms > longest)
				longest = sleeps[k].ms;
	return scaled(longest);
}

/* The counter stands still: why? */
static enum finding judge(struct watch *w)
{
	uint64_t idle = rw_now_ns() - w->since;
	const struct sample *s;
	uint64_t enough = 0;

	take_sample(w);
	s = newest(w);
	if (w->n_same >= SAMPLES) {
		/* Writes behind a gate that nobody is going to open do not make the device slow. */
		if (!rw_gate_is_shut() && rw_device_busy())
			enough = scaled(DEVICE_BUSY);
		else if (!rw_gate_exists() && any_in_d(s))
			enough = scaled(UNKNOWN_DEVICE);
		else
			enough = patience(s);
		/* The one to wake it up may be waiting for its turn. */
		if (!enough && idle < scaled(KERNEL_BUSY) && rw_kernel_runnable())
			return MOVES_ON;
		if (idle > enough)
			return any_in_d(s) ? DEADLOCK : LOST_WAKEUP;
	}
	if ((double)(all_cpu(s) - w->cpu_at_start) > slowness * (double)scaled(BURNT))
		return LIVELOCK;
	if (idle > scaled(MOVING) && !w->quiet.since &&
	    (double)(all_cpu(s) - w->cpu_at_start) > 0.05 * (double)idle)
		return LIVELOCK;
	return idle > scaled(LONGEST) ? STARVED : MOVES_ON;
}

/* ---- evidence ------------------------------------------------------------ */

static void cat(FILE *f, const char *title, const char *path)
{
	static char buf[65536];
	ssize_t n = rw_slurp(path, buf, sizeof(buf));

	fprintf(f, "\n== %s (%s)\n%s\n", title, path, n < 0 ? strerror(errno) : buf);
}

static void write_fdinfo(FILE *f, pid_t pid)
{
	char path[320], target[256];
	struct dirent *e;
	ssize_t n;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	d = opendir(path);
	while (d && (e = readdir(d))) {
		snprintf(path, sizeof(path), "/proc/%d/fd/%.20s", pid, e->d_name);
		n = readlink(path, target, sizeof(target) - 1);
		if (n < 0)
			continue;
		target[n] = '\0';
		if (!strstr(target, "[io_uring]"))
			continue;
		snprintf(path, sizeof(path), "/proc/%d/fdinfo/%.20s", pid, e->d_name);
		cat(f, "io_uring", path);
	}
	if (d)
		closedir(d);
}

/* Every other task of the system that sleeps in D: the other half of a deadlock may be there. */
static void write_d_tasks(FILE *f, pid_t child)
{
	struct dirent *e;
	DIR *d = opendir("/proc");

	fprintf(f, "\n== other tasks of the system in D\n");
	while (d && (e = readdir(d))) {
		char path[64], buf[8192];
		pid_t pid = atoi(e->d_name);
		const char *close;

		snprintf(path, sizeof(path), "/proc/%.20s/stat", e->d_name);
		if (!pid || pid == child || rw_slurp(path, buf, sizeof(buf)) < 0)
			continue;
		close = strrchr(buf, ')');
		if (!close || close[1] != ' ' || close[2] != 'D')
			continue;
		fprintf(f, "%.*s\n", (int)(close + 3 - buf), buf);
		snprintf(path, sizeof(path), "/proc/%.20s/stack", e->d_name);
		fprintf(f, "%s\n", rw_slurp(path, buf, sizeof(buf)) < 0 ? strerror(errno) : buf);
	}
	if (d)
		closedir(d);
}

static void write_samples(FILE *f, const struct watch *w)
{
	unsigned int first = w->n_samples > SAMPLES ? w->n_samples - SAMPLES : 0;

	for (unsigned int i = first; i < w->n_samples; i++) {
		const struct sample *s = &w->samples[i % SAMPLES];

		fprintf(f, "\n== sample %u, %.3f s after the last progress\n", i + 1,
			(double)(s->at - w->since) / 1e9);
		for (unsigned int k = 0; k < s->n; k++) {
			const struct rw_task *t = &s->t[k];

			fprintf(f,
				"%s/%d (process %d)%s state %c, cpu %.3f ms, runnable %.3f ms, "
				"%llu switches, wchan %s\n"
				"    syscall %s (%s)\n    stack %s\n",
				t->comm, t->tid, t->pid, t->io_worker ? " io_uring worker," : "",
				t->state, (double)t->cpu_ns / 1e6, (double)t->wait_ns / 1e6,
				(unsigned long long)t->switches, t->wchan, t->syscall,
				rw_syscall_name(t->syscall), t->stack[0] ? t->stack : "(none)");
		}
	}
}

/* sysrq-w puts the stacks of all blocked tasks into the kernel log, where it is allowed. */
static void write_kernel_log(FILE *f, struct rw_kmsg *k)
{
	int fd = open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC);
	char bad[256];

	fprintf(f, "\n== kernel log since the variant began, and sysrq-w\n");
	if (fd < 0 || write(fd, "w", 1) != 1)
		fprintf(f, "missing: /proc/sysrq-trigger: %s\n", strerror(errno));
	if (fd >= 0)
		close(fd);
	if (k->fd < 0)
		fprintf(f, "missing: /dev/kmsg: %s\n", strerror(k->error));
	rw_kmsg_read(k, f, bad, sizeof(bad));
}

static FILE *write_evidence(struct watch *w, const char *variant, const char *reason,
			    struct rw_outcome *o)
{
	const char *calling = atomic_load(&rw_shared->calling);
	unsigned int writes = 0;
	char buf[256];
	int in_flight;
	FILE *f;

	snprintf(o->evidence, sizeof(o->evidence), "%s/%s.hang.txt", rw_opt.output, variant);
	f = fopen(o->evidence, "we");
	if (!f) {
		fprintf(stderr, "%s: %s: %s\n", rw_test.name, o->evidence, strerror(errno));
		o->evidence[0] = '\0';
		return NULL;
	}
	fprintf(f, "%s\n%s %s, config %s, seed %llu\n", reason, rw_test.name, variant,
		rw_opt.config, (unsigned long long)rw_opt.seed);
	rw_slurp("/proc/version", buf, sizeof(buf));
	fprintf(f, "%s\nlast call: %s%s\n", buf, calling ? calling : "none",
		atomic_load(&rw_shared->in_call) ? " (not returned)" : " (returned)");
	in_flight = rw_device_in_flight(&writes);
	fprintf(f, "I/O in flight at %s: %d, of it writes: %u; gate: %s\n", rw_device_name(),
		in_flight, writes, rw_gate_is_shut() ? "shut" : "open");
	if (!rw_stack_readable())
		fprintf(f, "missing: /proc/PID/stack cannot be read (needs root and "
			   "CONFIG_STACKTRACE); wchan and the system call must do\n");
	write_samples(f, w);
	write_fdinfo(f, w->child);
	fflush(f);
	fsync(fileno(f));
	write_d_tasks(f, w->child);
	write_kernel_log(f, &w->kmsg);
	fflush(f);
	fsync(fileno(f));
	return f;
}

/* ---- what is said of a hang ---------------------------------------------- */

/* The one to name: a task asleep in D, of those one that waits for direct I/O; else the child. */
static const struct rw_task *culprit(const struct sample *s)
{
	const struct rw_task *best = NULL;
	int best_score = -1;

	for (unsigned int i = 0; i < s->n; i++) {
		const struct rw_task *t = &s->t[i];
		int score = (t->state == 'D') * 8 + (strstr(t->stack, "dio_wait") != NULL) * 4 +
			    (t->state == 'R') * 2 + !t->io_worker;

		if (score > best_score) {
			best_score = score;
			best = t;
		}
	}
	return best;
}

static void name_hang(const struct watch *w, enum finding what, char *buf, size_t len)
{
	static const char *const words[] = {
		[LIVELOCK] = "livelock: ", [DEADLOCK] = "", [LOST_WAKEUP] = "lost wake-up: ",
		[MOVES_ON] = "",	   [STARVED] = "",  [GATE_STUCK] = ""
	};
	const struct rw_task *t = culprit(newest(w));
	const char *in, *calling = rw_in_call();
	char where[256];

	if (!t) {
		snprintf(buf, len, "no task left to look at");
		return;
	}
	rw_where(t, where, sizeof(where));
	in = !t->io_worker			? rw_syscall_name(t->syscall)
	     : !strncmp(t->comm, "iou-sqp-", 8) ? "SQPOLL"
						: "io-wq";
	snprintf(buf, len, "%s%s/%d %c in %s (%s)", words[what], t->comm, t->tid, t->state, where,
		 in[0]	   ? in
		 : calling ? calling
			   : "user space");
}

/* ---- signals ------------------------------------------------------------- */

static void signal_all(const struct watch *w, int sig)
{
	if (w->pidfd >= 0)
		syscall(SYS_pidfd_send_signal, w->pidfd, sig, NULL, 0);
	for (int i = 0, n = atomic_load(&rw_shared->n_helpers); i < n && i < RW_HELPERS; i++)
		if (atomic_load(&rw_shared->helpers[i]))
			kill(atomic_load(&rw_shared->helpers[i]), sig);
}

/* Every process of the variant gone (or a zombie)? */
static bool all_dead(const struct watch *w)
{
	static struct rw_task t[RW_MAX_TASKS];
	unsigned int n = rw_tasks(w->child, t, RW_MAX_TASKS, RW_WHOLE);

	for (unsigned int i = 0; i < n; i++)
		if (t[i].state != 'Z' && t[i].state != 'X')
			return false;
	return true;
}

static bool wait_dead(const struct watch *w, unsigned int ms)
{
	uint64_t end = rw_now_ns() + scaled(ms);

	while (!all_dead(w)) {
		if (rw_now_ns() > end)
			return false;
		poll(NULL, 0, 10); /* workers have no descriptor to wait for */
	}
	return true;
}

/* Returns words for the reason line. */
static const char *put_down(const struct watch *w, struct rw_outcome *o, FILE *f)
{
	const struct rw_task *t = culprit(newest(w));
	struct rw_task *now = malloc(sizeof(*now) * RW_MAX_TASKS);
	uint64_t before = t ? t->switches : 0;
	const char *how = "killed";
	bool woke = false;

	signal_all(w, SIGUSR2);
	for (uint64_t end = rw_now_ns() + PROBE * RW_MS; now && t && !woke && rw_now_ns() < end;) {
		unsigned int n = rw_tasks(w->child, now, RW_MAX_TASKS, RW_WHOLE);

		for (unsigned int i = 0; i < n; i++)
			woke |= now[i].tid == t->tid && now[i].switches != before;
		poll(NULL, 0, 10);
	}
	free(now);
	signal_all(w, SIGKILL);
	if (!wait_dead(w, KILL_WAIT)) {
		how = "unkillable";
		if (rw_gate_is_shut()) {
			rw_gate_request(RW_GATE_DO_OPEN);
			if (wait_dead(w, KILL_WAIT))
				how = "unkillable until the gate was opened";
		}
		if (!all_dead(w) && atomic_load(&rw_shared->frozen)) {
			rw_thaw_left();
			if (wait_dead(w, KILL_WAIT))
				how = "unkillable until the filesystem was thawed";
		}
		o->unkillable = !all_dead(w);
	}
	if (f)
		fprintf(f, "\n== signals\nSIGUSR2 (harmless) %s the task; SIGKILL: %s\n",
			woke ? "woke" : "did not wake", how);
	return how;
}

/*
 * Writing the evidence took time: has the test gone on meanwhile? Then it was slow, whatever the
 * reason, and what was taken for a hang was none.
 */
static bool went_on(struct watch *w, enum finding what)
{
	const struct sample *s;
	struct sample last;

	if (atomic_load(&rw_shared->progress) != w->progress)
		return true;
	if (what != DEADLOCK && what != LOST_WAKEUP)
		return false;
	last = *newest(w);
	take_sample(w);
	s = newest(w);
	return !same_stacks(&last, s);
}

/* Returns false when it was none. */
static bool hang(struct watch *w, enum finding what, const char *variant, struct rw_outcome *o)
{
	double after = (double)(rw_now_ns() - w->since) / 1e9;
	char what_hangs[512], line[700];
	const char *how, *before = NULL;
	FILE *f;

	if (!w->n_samples)
		take_sample(w);
	name_hang(w, what, what_hangs, sizeof(what_hangs));
	snprintf(line, sizeof(line), "HANG after %.1f s: %s", after, what_hangs);
	f = write_evidence(w, variant, line, o);
	if (went_on(w, what)) {
		if (f)
			fclose(f);
		unlink(o->evidence);
		o->evidence[0] = '\0';
		return false;
	}
	how = put_down(w, o, f);
	if (f) {
		fflush(f);
		fsync(fileno(f));
		fclose(f);
	}
	o->verdict = what == STARVED || what == GATE_STUCK ? RW_BROKEN : RW_HANG;
	/* It had its say and hangs at its own exit: both are worth knowing. */
	if (atomic_load(&rw_shared->verdict) > RW_PASS)
		before = rw_shared->reason;
	if (what == GATE_STUCK)
		snprintf(o->reason, sizeof(o->reason), "the gate's guardian does not answer: %s",
			 what_hangs);
	else if (what == STARVED)
		snprintf(o->reason, sizeof(o->reason), "no CPU for %.0f s: %s", after, what_hangs);
	else
		snprintf(o->reason, sizeof(o->reason), "%s, %s%s%.200s", line, how,
			 before ? "; before that: " : "", before ? before : "");
	return true;
}

/* ---- the watch ----------------------------------------------------------- */

static void ended(int status, struct rw_outcome *o)
{
	int said = atomic_load(&rw_shared->verdict);

	if (said) {
		o->verdict = (enum rw_verdict)said;
		snprintf(o->reason, sizeof(o->reason), "%s", rw_shared->reason);
	} else if (WIFSIGNALED(status)) {
		o->verdict = RW_FAIL;
		snprintf(o->reason, sizeof(o->reason),
			 "the test was killed by signal %d (%s) in %s", WTERMSIG(status),
			 strsignal(WTERMSIG(status)), rw_in_call() ? rw_in_call() : "its own code");
	} else {
		o->verdict = RW_BROKEN;
		snprintf(o->reason, sizeof(o->reason),
			 "the test exited (status %d) without a verdict", WEXITSTATUS(status));
	}
}

/* Looks once. Returns what it found. */
static enum finding look(struct watch *w)
{
	uint64_t now = rw_now_ns(), progress = atomic_load(&rw_shared->progress);
	uint64_t late = now - w->last_tick > TICK * RW_MS ? now - w->last_tick - TICK * RW_MS : 0;

	w->last_tick = now;
	/* Time in which this process itself got no CPU says nothing about the test. */
	if (late > 50 * RW_MS)
		w->since += late;
	if (!rw_gate_busy())
		w->gate_since = now;
	/* FIFREEZE writes back what is dirty, which takes what it takes: but not for ever. */
	if (now - w->gate_since > scaled(LONGEST_FREEZE))
		return GATE_STUCK;
	if (progress != w->progress || rw_gate_busy()) {
		w->progress = progress;
		w->since = now;
		w->n_samples = 0;
		w->n_same = 0;
		w->next_sample = 0;
		return MOVES_ON;
	}
	if (now - w->since < scaled(SUSPECT) || now < w->next_sample)
		return MOVES_ON;
	w->next_sample = now + scaled(SAMPLE_GAP);
	return judge(w);
}

static void interrupted(const struct watch *w, struct rw_outcome *o)
{
	if (rw_gate_exists())
		rw_gate_request(RW_GATE_DO_OPEN);
	signal_all(w, SIGKILL);
	rw_thaw_left();
	o->unkillable = !wait_dead(w, KILL_WAIT);
	waitpid(w->child, NULL, WNOHANG);
	o->verdict = RW_BROKEN;
	snprintf(o->reason, sizeof(o->reason), "interrupted by signal %d", (int)rw_interrupted);
}

void rw_watch(pid_t child, const char *variant, struct rw_outcome *o)
{
	struct watch w = { .child = child };
	uint64_t start = rw_now_ns();
	enum finding found = MOVES_ON;
	int status = 0;
	struct pollfd p;

	w.pidfd = (int)syscall(SYS_pidfd_open, child, 0);
	w.samples = calloc(SAMPLES, sizeof(*w.samples));
	if (!w.samples || w.pidfd < 0) {
		o->verdict = RW_BROKEN;
		snprintf(o->reason, sizeof(o->reason), "watchdog: %s", strerror(errno));
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		return;
	}
	w.since = w.last_tick = w.gate_since = start;
	rw_kmsg_open(&w.kmsg);
	p.fd = w.pidfd;
	p.events = POLLIN;
	while (found == MOVES_ON && !rw_interrupted && poll(&p, 1, TICK) <= 0) {
		found = look(&w);
		if (found != MOVES_ON && !hang(&w, found, variant, o))
			found = MOVES_ON;
	}
	if (rw_interrupted && found == MOVES_ON) {
		interrupted(&w, o);
	} else if (found == MOVES_ON) {
		waitpid(child, &status, 0);
		ended(status, o);
	} else {
		waitpid(child, &status, WNOHANG);
	}
	/* A verdict given with the gate shut must not leave it so. */
	if (rw_gate_exists() && (rw_gate_is_shut() || rw_gate_busy()))
		rw_gate_request(RW_GATE_DO_OPEN);
	rw_thaw_left();
	rw_own_put_back();
	o->seconds = (double)(rw_now_ns() - start) / 1e9;
	close(w.pidfd);
	rw_kmsg_close(&w.kmsg);
	free(w.samples);
}
