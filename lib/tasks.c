/* SPDX-License-Identifier: MIT */
/*
 * tasks.c - what the threads of a test are doing, sampled from /proc/PID/task/TID (proc(5)).
 *
 * The io_uring workers (iou-wrk-*, iou-sqp-*) are threads of the process that owns the ring, so
 * they are seen here like any other.
 */
#include "internal.h"

#include <ctype.h>
#include <dirent.h>
#include <sys/syscall.h>

static const struct {
	long nr;
	const char *name;
} syscalls[] = {
#include "syscalls.h"
};

ssize_t rw_slurp(const char *path, char *buf, size_t len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t used = 0;
	ssize_t n = -1;
	int error;

	buf[0] = '\0';
	if (fd < 0)
		return -1;
	while (used < len - 1 && (n = read(fd, buf + used, len - 1 - used)) > 0)
		used += (size_t)n;
	error = errno;
	close(fd);
	errno = error;
	if (n < 0 && !used)
		return -1;
	while (used && buf[used - 1] == '\n')
		used--;
	buf[used] = '\0';
	return (ssize_t)used;
}

bool rw_stack_readable(void)
{
	char buf[256];

	return rw_slurp("/proc/self/stack", buf, sizeof(buf)) >= 0;
}

const char *rw_syscall_name(const char *line)
{
	char *end;
	long nr = strtol(line, &end, 10);

	if (end == line)
		return "";
	for (size_t i = 0; i < RW_ARRAY_SIZE(syscalls); i++)
		if (syscalls[i].nr == nr)
			return syscalls[i].name;
	return "";
}

/* "[<0>] f+0x1/0x2 [module]\n..." -> "f < ..." */
static void fold_stack(char *raw, char *out, size_t len)
{
	size_t used = 0;
	char *line, *save = NULL;

	out[0] = '\0';
	for (line = strtok_r(raw, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *name = strstr(line, "] ");

		name = name ? name + 2 : line;
		name[strcspn(name, "+ ")] = '\0';
		if (used + strlen(name) + 4 > len)
			break;
		used += (size_t)snprintf(out + used, len - used, "%s%s", used ? " < " : "", name);
	}
}

static uint64_t field(const char *text, const char *key)
{
	const char *at = strstr(text, key);

	return at ? strtoull(at + strlen(key), NULL, 10) : 0;
}

static void read_stat(struct rw_task *t, const char *base)
{
	unsigned long long user = 0, sys = 0;
	char path[128], buf[1024];
	const char *open, *close;

	t->state = '?';
	snprintf(path, sizeof(path), "%s/stat", base);
	if (rw_slurp(path, buf, sizeof(buf)) < 0)
		return;
	/* The name is the only field that may hold spaces; it ends at the last ')'. */
	open = strchr(buf, '(');
	close = strrchr(buf, ')');
	if (!open || !close || close < open)
		return;
	snprintf(t->comm, sizeof(t->comm), "%.*s", (int)(close - open - 1), open + 1);
	sscanf(close + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &t->state, &user,
	       &sys);
	t->cpu_ns = (user + sys) * (1000000000ull / (uint64_t)sysconf(_SC_CLK_TCK));
}

/* Asleep or not, without `stat`. */
static void read_running(struct rw_task *t, const char *base)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/syscall", base);
	if (rw_slurp(path, t->syscall, sizeof(t->syscall)) < 0)
		return;
	snprintf(path, sizeof(path), "%s/comm", base);
	if (rw_slurp(path, t->comm, sizeof(t->comm)) >= 0)
		t->state = strcmp(t->syscall, "running") ? 'S' : 'R';
}

/*
 * `stat` and `status` take a reference to the task's memory, and whose is the last one ends its
 * aio contexts (mmput(), exit_aio()): a reader that meets a task at its exit may sleep there in its
 * place until the I/O has ended. The watchdog can afford that, but not who is to open the gate.
 */
static bool sample(struct rw_task *t, pid_t pid, pid_t tid, enum rw_depth depth)
{
	unsigned long long run = 0, wait = 0, runs = 0;
	char base[64], path[128], buf[8192];

	memset(t, 0, sizeof(*t));
	t->pid = pid;
	t->tid = tid;
	t->state = '?';
	snprintf(base, sizeof(base), "/proc/%d/task/%d", pid, tid);
	if (depth != RW_WHOLE)
		read_running(t, base);
	if (t->state == '?')
		read_stat(t, base);
	if (t->state == '?')
		return false;
	t->io_worker = !strncmp(t->comm, "iou-", 4);
	snprintf(path, sizeof(path), "%s/schedstat", base);
	if (rw_slurp(path, buf, sizeof(buf)) > 0 &&
	    sscanf(buf, "%llu %llu %llu", &run, &wait, &runs) == 3 && runs) {
		t->cpu_ns = run;
		t->wait_ns = wait;
		t->switches = runs;
	} else { /* a kernel without CONFIG_SCHED_INFO, or a task that is new */
		snprintf(path, sizeof(path), "%s/status", base);
		if (rw_slurp(path, buf, sizeof(buf)) > 0)
			t->switches = field(buf, "\nvoluntary_ctxt_switches:") +
				      field(buf, "\nnonvoluntary_ctxt_switches:");
	}
	if (depth == RW_GLANCE)
		return true;
	snprintf(path, sizeof(path), "%s/stack", base);
	if (rw_slurp(path, buf, sizeof(buf)) > 0)
		fold_stack(buf, t->stack, sizeof(t->stack));
	if (depth == RW_STACKS)
		return true;
	snprintf(path, sizeof(path), "%s/wchan", base);
	rw_slurp(path, t->wchan, sizeof(t->wchan));
	snprintf(path, sizeof(path), "%s/syscall", base);
	rw_slurp(path, t->syscall, sizeof(t->syscall));
	return true;
}

static unsigned int threads_of(pid_t pid, struct rw_task *out, unsigned int max,
			       enum rw_depth depth)
{
	struct dirent *e;
	unsigned int n = 0;
	char path[64];
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	d = opendir(path);
	if (!d)
		return 0;
	while (n < max && (e = readdir(d)))
		if (isdigit((unsigned char)e->d_name[0]) &&
		    sample(&out[n], pid, atoi(e->d_name), depth))
			n++;
	closedir(d);
	return n;
}

unsigned int rw_tasks(pid_t root, struct rw_task *out, unsigned int max, enum rw_depth depth)
{
	unsigned int n = threads_of(root, out, max, depth);
	int helpers = atomic_load(&rw_shared->n_helpers);

	for (int i = 0; i < helpers && i < RW_HELPERS; i++) {
		pid_t pid = atomic_load(&rw_shared->helpers[i]);

		if (pid)
			n += threads_of(pid, out + n, max - n, depth);
	}
	return n;
}

unsigned int rw_descendants(pid_t root, pid_t *out, unsigned int max)
{
	struct {
		pid_t pid, parent;
	} *all = NULL, *more_room;
	unsigned int n_all = 0, n = 0;
	char path[64], buf[1024];
	struct dirent *e;
	DIR *d = opendir("/proc");

	while (d && (e = readdir(d))) {
		const char *close;

		if (!isdigit((unsigned char)e->d_name[0]))
			continue;
		if (n_all % 512 == 0) {
			more_room = realloc(all, (n_all + 512) * sizeof(*all));
			if (!more_room)
				break;
			all = more_room;
		}
		snprintf(path, sizeof(path), "/proc/%.20s/stat", e->d_name);
		if (rw_slurp(path, buf, sizeof(buf)) < 0 || !(close = strrchr(buf, ')')))
			continue;
		all[n_all].pid = atoi(e->d_name);
		if (sscanf(close + 1, " %*c %d", &all[n_all].parent) == 1)
			n_all++;
	}
	if (d)
		closedir(d);
	/* Children may have lower numbers than their parents: go on until nothing is added. */
	for (bool more = true; more;) {
		more = false;
		for (unsigned int i = 0; i < n_all; i++) {
			bool ours = all[i].parent == root;

			for (unsigned int k = 0; k < n && !ours; k++)
				ours = all[i].parent == out[k];
			if (ours && n < max) {
				out[n++] = all[i].pid;
				all[i].parent = -1;
				more = true;
			}
		}
	}
	free(all);
	return n;
}

bool rw_kernel_runnable(void)
{
	const unsigned int kthread = 0x00200000; /* PF_KTHREAD, include/linux/sched.h */
	char path[64], buf[1024], state;
	struct dirent *e;
	bool found = false;
	DIR *d = opendir("/proc");

	while (d && !found && (e = readdir(d))) {
		const char *close;
		unsigned int flags;

		if (!isdigit((unsigned char)e->d_name[0]))
			continue;
		snprintf(path, sizeof(path), "/proc/%.20s/stat", e->d_name);
		if (rw_slurp(path, buf, sizeof(buf)) < 0 || !(close = strrchr(buf, ')')))
			continue;
		if (sscanf(close + 1, " %c %*d %*d %*d %*d %*d %u", &state, &flags) == 2)
			found = state == 'R' && flags & kthread;
	}
	if (d)
		closedir(d);
	return found;
}

static bool asleep(char state)
{
	return state == 'S' || state == 'D' || state == 'I' || state == 'Z' || state == 'X';
}

void rw_look_quiet(struct rw_quiet *q, const struct rw_task *t, unsigned int n, pid_t except)
{
	uint64_t sum = 0;
	bool quiet = n > 0;

	for (unsigned int i = 0; i < n; i++) {
		if (t[i].tid == except)
			continue;
		quiet &= asleep(t[i].state);
		/* Any run or switch of any thread changes the sum, as does a new thread. */
		sum += t[i].switches * 1000003 + t[i].cpu_ns + (uint64_t)t[i].tid * 7919;
	}
	if (!quiet) {
		q->since = 0;
	} else if (!q->since || sum != q->sum) {
		q->since = rw_now_ns();
		q->sum = sum;
	}
}

void rw_where(const struct rw_task *t, char *buf, size_t len)
{
	/* Generic sleeping primitives say nothing about who waits for what. */
	static const char *const skip[] = { "schedule",
					    "io_schedule",
					    "schedule_timeout",
					    "wait_on_bit",
					    "bit_wait",
					    "bit_wait_io",
					    "__wait_on_bit",
					    "out_of_line_wait_on_bit",
					    "wait_for_completion",
					    "__wait_for_common" };
	const char *at = t->stack;
	unsigned int shown = 0;
	size_t used = 0;

	buf[0] = '\0';
	while (*at && shown < 2) {
		size_t n = strcspn(at, " ");
		bool dull = false;

		for (size_t i = 0; i < RW_ARRAY_SIZE(skip); i++)
			dull |= strlen(skip[i]) == n && !strncmp(skip[i], at, n);
		if (!dull) {
			used += (size_t)snprintf(buf + used, len - used, "%s%.*s",
						 shown ? " < " : "", (int)n, at);
			shown++;
		}
		at += n;
		if (!strncmp(at, " < ", 3))
			at += 3;
	}
	if (!buf[0])
		snprintf(buf, len, "%s", t->wchan[0] && strcmp(t->wchan, "0") ? t->wchan : "?");
}
