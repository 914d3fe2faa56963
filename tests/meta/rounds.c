/* SPDX-License-Identifier: MIT */
/* Two axes: a part of the variants is in group quick. What is made of it: runner.bats. */
#include "ringwedge.h"

static const struct row {
	const char *name;
	bool bad;
} rows[] = { { "bad", true }, { "good", false } };

static const struct {
	const char *name;
} columns[] = { { "first" }, { "second" } };

static void run(const void *const *at)
{
	if (((const struct row *)at[0])->bad)
		rw_fail("the kernel is wrong");
}

const struct rw_test rw_test = {
	.name = "rounds",
	.summary = "a run comes to each test twice",
	.axes = { RW_AXIS(rows), RW_AXIS(columns) },
	.run = run,
};
