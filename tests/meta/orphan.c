/* SPDX-License-Identifier: MIT */
/*
 * Tests that leave processes behind: "after" must find none, whether the one before passed, was
 * killed, or left a process that leads a session of its own and ignores signals.
 */
#include "internal.h"

#include <signal.h>

static void stay(bool hide)
{
	pid_t pid = fork();

	if (pid < 0)
		rw_broken("fork: %s", strerror(errno));
	if (pid)
		return;
	if (hide) {
		if (setsid() < 0 || fork())
			_exit(0);
		for (int sig = 1; sig < NSIG; sig++)
			signal(sig, SIG_IGN);
	}
	for (;;)
		pause();
}

static void child(void)
{
	stay(false);
}

static void daemon_of_its_own(void)
{
	stay(true);
}

static void crash(void)
{
	stay(false);
	raise(SIGKILL);
}

static void after(void)
{
	pid_t left[64];
	unsigned int n = rw_descendants(getppid(), left, 64);

	if (n != 1)
		rw_fail("%u processes are left", n - 1);
}

static const struct {
	const char *name;
	void (*leave)(void);
} who[] = {
	{ "child", child },	   { "after-child", after }, { "daemon", daemon_of_its_own },
	{ "after-daemon", after }, { "crash", crash },	     { "after-crash", after },
};

static void run(const void *const *at)
{
	((__typeof__(&who[0]))at[0])->leave();
}

const struct rw_test rw_test = {
	.name = "orphan",
	.summary = "no process outlives its variant",
	.axes = { RW_AXIS(who) },
	.run = run,
};
