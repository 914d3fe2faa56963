/* SPDX-License-Identifier: MIT */
/*
 * What becomes of a virtual machine whose guest panics, resets, runs out of memory or is taken away:
 * these variants do that to their kernel, so they run in a guest only.
 */
#include "internal.h"

#include <poll.h>
#include <sys/mman.h>

static void put(const char *path, const char *text)
{
	int fd = (int)rw_set_up(open(path, O_WRONLY | O_CLOEXEC));

	rw_set_up(write(fd, text, strlen(text)));
	close(fd);
}

/* Documentation/admin-guide/sysrq.rst */
static void panic(void)
{
	put("/proc/sysrq-trigger", "c");
}

static void reset(void)
{
	put("/proc/sysrq-trigger", "b");
}

/* Its own pages stay: to read them anew, again and again, would put off the end by minutes. */
static void use_all_memory(void)
{
	const size_t piece = 16ul << 20;

	rw_set_up(mlockall(MCL_CURRENT));
	for (;;) {
		char *p = mmap(NULL, piece, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

		if (p == MAP_FAILED)
			rw_broken("mmap: %s", strerror(errno));
		rw_progress();
	}
}

/* Alive for a while, for whoever wants to take the guest away meanwhile. */
static void linger(void)
{
	rw_for_ms(30000)
		poll(NULL, 0, 100);
}

static void taint(void)
{
	put("/proc/sys/kernel/tainted", "512"); /* TAINT_WARN */
}

static void pass(void)
{
}

static const struct {
	const char *name;
	void (*end)(void);
} ends[] = {
	{ "panic", panic },	     { "pass-after-panic", pass },
	{ "reset", reset },	     { "out-of-memory", use_all_memory },
	{ "linger", linger },	     { "taint", taint },
	{ "pass-at-the-end", pass },
};

static void run(const void *const *at)
{
	if (!getenv("RINGWEDGE_VM"))
		rw_skip("needs a virtual machine of its own (--vm)");
	((__typeof__(&ends[0]))at[0])->end();
}

const struct rw_test rw_test = {
	.name = "guest-ends",
	.summary = "whatever becomes of a guest is a verdict of what was running in it",
	.axes = { RW_AXIS(ends) },
	.run = run,
};
