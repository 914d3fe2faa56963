/* SPDX-License-Identifier: MIT */
/* Each way in which a variant can end by itself. What is made of it: verdicts.bats. */
#include "ringwedge.h"

#include <signal.h>

static void pass(void)
{
}

static void fail(void)
{
	rw_fail("the kernel is wrong");
}

static void not_equal(void)
{
	int got = 3;

	rw_eq(got, 2 + 2);
}

static void failed_call(void)
{
	rw_ok(close(-1));
}

static void skip(void)
{
	rw_skip("needs a feature that nobody has");
}

static void unsupported(void)
{
	errno = EOPNOTSUPP;
	rw_supported("a call of the future", -1);
}

static void broken(void)
{
	rw_set_up(open("/nonexistent/file", O_RDONLY));
}

static void crash(void)
{
	signal(SIGSEGV, SIG_DFL); /* a sanitizer has a handler */
	raise(SIGSEGV);
}

static void no_word(void)
{
	_exit(0);
}

/* Every report must come through this: a directive, quotes, a line of its own, not UTF-8. */
static void odd_reason(void)
{
	rw_fail("# SKIP \"x\" \\ \t\033[31m \xff\xfe\nok 99 - forged # TODO");
}

static const struct {
	const char *name;
	void (*end)(void);
} ends[] = {
	{ "pass", pass },	    { "fail", fail },
	{ "not-equal", not_equal }, { "failed-call", failed_call },
	{ "skip", skip },	    { "unsupported", unsupported },
	{ "broken", broken },	    { "crash", crash },
	{ "no-word", no_word },	    { "odd-reason", odd_reason },
	{ "pass-again", pass },
};

static void run(const void *const *at)
{
	((__typeof__(&ends[0]))at[0])->end();
}

static const char *const guards[] = { "0123456789ab meta: the commit that fixes it", NULL };
static const char *const groups[] = { "ends", NULL };

const struct rw_test rw_test = {
	.name = "verdicts",
	.summary = "each way to end becomes the verdict it should",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(ends) },
	.run = run,
};
