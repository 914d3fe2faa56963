/* SPDX-License-Identifier: MIT */
/*
 * Wrong contents, written behind the model's back: rw_verify() must find each and say what it is.
 */
#include "ringwedge.h"

#define SIZE (64 * RW_KIB)
#define BLOCK 4096
#define AT (8 * RW_KIB)

enum from { NOWHERE, BEFORE, ELSEWHERE, OTHER_FILE };

static const struct wrong {
	const char *name;
	enum from from;
	uint64_t word; /* all of the block, when it comes from nowhere */
	size_t at, len;
} wrongs[] = {
	{ "stale", BEFORE, 0, 0, BLOCK },
	{ "shifted", ELSEWHERE, 0, 0, BLOCK },
	{ "foreign-file", OTHER_FILE, 0, 0, BLOCK },
	{ "foreign-word", NOWHERE, 0xdeadbeefdeadbeef, 0, BLOCK },
	{ "zeroed", NOWHERE, 0, 0, BLOCK },
	/* One word of the block, first and last. */
	{ "first-word", NOWHERE, 0, 0, 8 },
	{ "last-word", NOWHERE, 0, BLOCK - 8, 8 },
	/* All is as it should be. */
	{ "none", NOWHERE, 0, 0, 0 },
};

static char *block(void)
{
	char *p = aligned_alloc(BLOCK, BLOCK);

	if (!p)
		rw_broken("out of memory");
	return p;
}

static void read_block(const struct rw_file *f, char *buf, off_t at)
{
	rw_set_up(pread(f->fd, buf, BLOCK, at) == BLOCK ? 0 : -1);
}

static void run(const void *const *at)
{
	const struct wrong *w = at[0];
	struct rw_file *other = rw_file("other", RW_WRITTEN, SIZE);
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);
	char *bad = block(), *good = block();

	if (w->from == NOWHERE)
		for (size_t i = 0; i < BLOCK / 8; i++)
			memcpy(bad + i * 8, &w->word, 8);
	else
		read_block(w->from == OTHER_FILE ? other : f, bad,
			   w->from == ELSEWHERE ? 4 * AT : AT);
	if (w->from == BEFORE)
		f = rw_file("file", RW_WRITTEN, SIZE);
	read_block(f, good, AT);
	memcpy(good + w->at, bad + w->at, w->len);
	rw_set_up(pwrite(f->fd, good, BLOCK, AT) == BLOCK ? 0 : -1);
	rw_verify(f);
	free(bad);
	free(good);
}

const struct rw_test rw_test = {
	.name = "contents",
	.summary = "wrong contents are found and named",
	.axes = { RW_AXIS(wrongs) },
	.run = run,
};
