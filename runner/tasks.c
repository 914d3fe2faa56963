// SPDX-License-Identifier: MIT
/*
 * A program watched from outside. It leads a process group, so that all of it can be killed at
 * once, and this process adopts its orphans, so that it knows when the last one is gone. The
 * library samples the threads.
 */
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "../lib/internal.h"
#include "runner.h"

struct rw_shared *rw_shared; /* the library's list of helpers: there are none here */

pid_t tasks_start(char *const *argv, int log)
{
	pid_t parent = getpid(), pid;
	sigset_t none;
	int sig;

	prctl(PR_SET_CHILD_SUBREAPER, 1);
	pid = fork();
	if (pid < 0)
		die("fork: %m");
	if (pid) {
		setpgid(pid, pid); /* both sides do it: neither can come too late */
		return pid;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
	setpgid(0, 0);
	/* A shell starts background jobs with SIGINT ignored, and that would be inherited. */
	for (sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (dup2(log, STDOUT_FILENO) >= 0 && dup2(log, STDERR_FILENO) >= 0)
		execvp(argv[0], argv);
	dprintf(STDERR_FILENO, "%s: %m\n", argv[0]);
	_exit(127);
}

static unsigned int sample(pid_t root, struct rw_task *task, unsigned int max, bool deep)
{
	static struct rw_shared no_helpers;
	pid_t pids[RW_MAX_TASKS] = { root };
	unsigned int nr_pids = 1 + rw_descendants(root, pids + 1, RW_MAX_TASKS - 1);
	unsigned int n = 0, i;

	rw_shared = &no_helpers;
	for (i = 0; i < nr_pids && n < max; i++)
		n += rw_tasks(pids[i], task + n, max - n, deep);
	return n;
}

uint64_t tasks_progress(pid_t root)
{
	static struct rw_task task[RW_MAX_TASKS];
	unsigned int n = sample(root, task, RW_MAX_TASKS, false), i;
	uint64_t sum = n;

	for (i = 0; i < n; i++)
		sum += task[i].cpu_ns + task[i].switches;
	return sum;
}

double tasks_waited(pid_t root)
{
	static struct rw_task task[RW_MAX_TASKS];
	unsigned int n = sample(root, task, RW_MAX_TASKS, false), i;
	double sum = 0;

	for (i = 0; i < n; i++)
		sum += (double)task[i].wait_ns / 1e9;
	return sum;
}

void tasks_dump(pid_t root, FILE *out)
{
	static struct rw_task task[RW_MAX_TASKS];
	unsigned int n = sample(root, task, RW_MAX_TASKS, true), i;

	for (i = 0; i < n; i++)
		fprintf(out,
			"%s/%d (process %d) state %c\n  wchan   %s\n  syscall %s (%s)\n  stack   "
			"%s\n",
			task[i].comm, task[i].tid, task[i].pid, task[i].state, task[i].wchan,
			task[i].syscall, rw_syscall_name(task[i].syscall),
			*task[i].stack ? task[i].stack : "cannot be read");
}

char *tasks_blame(pid_t root)
{
	static struct rw_task task[RW_MAX_TASKS];
	unsigned int n = sample(root, task, RW_MAX_TASKS, true), i;
	const struct rw_task *who = task;
	char where[512];

	if (!n)
		return format("gone");
	for (i = n; i-- > 0;)
		if (task[i].state == 'D')
			who = &task[i];
	rw_where(who, where, sizeof(where));
	return format("%s/%d %c in %s", who->comm, who->tid, who->state, where);
}

bool tasks_kill(pid_t group, int *status)
{
	const struct timespec tick = { .tv_nsec = 10 * 1000 * 1000 };
	double end = steady_clock() + 10;

	kill(-group, SIGKILL);
	while (steady_clock() < end) {
		int ended;
		pid_t pid = waitpid(-group, &ended, WNOHANG);

		if (pid == group)
			*status = ended;
		if (pid < 0)
			return true;
		if (!pid)
			nanosleep(&tick, NULL);
	}
	return false;
}
