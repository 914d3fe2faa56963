/* SPDX-License-Identifier: MIT */
/*
 * What a read through the page cache finds there at once, and the rest from behind direct writes.
 *
 * io_read() takes what is cached and tries again for the rest, later or in io-wq: at the place in
 * the file and in the memory where it was, with the sum as the result. A second part that begins in
 * the wrong place is data that no such file ever held, or a buffer's end that nobody filled. The
 * same when the part is what the file has before its end.
 */
#include "ringwedge.h"

#define SIZE (512 * RW_KIB)
#define LEN (96 * RW_KIB)
#define CACHED (32 * RW_KIB)

/* What is in the cache, from the begin of the read on, and where the file ends. */
static const struct part {
	const char *name;
	off_t off; /* of the read */
	off_t cached;
	size_t len;
} parts[] = {
	{ "begin", 128 * RW_KIB, 128 * RW_KIB, CACHED },
	{ "page", 128 * RW_KIB, 128 * RW_KIB, 4096 },
	{ "within", 128 * RW_KIB, 160 * RW_KIB, CACHED },
	{ "across", 128 * RW_KIB, 112 * RW_KIB, CACHED },
	{ "in-page", 128 * RW_KIB + 1536, 128 * RW_KIB, CACHED },
	{ "end-of-file", SIZE - LEN / 2, SIZE - LEN / 2, 16 * RW_KIB },
};

static const struct rw_ring_kind kinds[] = {
	{ .name = "plain" },
	{ .name = "defer-taskrun",
	  .setup = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN },
	{ .name = "sqpoll", .setup = IORING_SETUP_SQPOLL },
	{ .name = "async", .async = true },
	{ .name = "fixed", .fixed = true },
};

static void one(struct rw_ring *ring, const struct part *part)
{
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE), buffered = *f;
	struct rw_io read[2] = { { .read = true, .off = part->off, .len = LEN },
				 { .read = true, .off = part->off, .len = LEN } };

	rw_use(ring, f);
	rw_write(ring, f, part->off / 4096 * 4096, LEN / 2, 0);
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	buffered.fd = (int)rw_set_up(open(rw_path(f), O_RDWR | O_CLOEXEC));
	/* Else what is missing is read in advance, and there when it is asked for. */
	rw_set_up(posix_fadvise(buffered.fd, 0, 0, POSIX_FADV_RANDOM) ? -1 : 0);
	rw_use(ring, &buffered);
	for (int i = 0; i < 2; i++) { /* one by a vector */
		off_t left = SIZE - part->off;

		rw_cache(f, part->cached, part->len);
		rw_submit(ring, &buffered, &read[i]);
		rw_reap(ring);
		rw_eq(read[i].res, left < LEN ? left : LEN);
	}
	close(buffered.fd);
	rw_verify(f);
}

static void run(const void *const *at)
{
	struct rw_ring *ring = rw_ring(at[1], 4);

	one(ring, at[0]);
	rw_ring_close(ring);
}

static bool has(const void *const *at)
{
	/* Which part there is makes no difference to whoever takes the other one. */
	return at[0] == &parts[0] || at[1] == &kinds[0] || at[0] == &parts[4];
}

static const char *const guards[] = {
	"4d9cb92ca41d io_uring/rw: fix short rw error handling",
	NULL,
};

static const char *const groups[] = { "read", NULL };

const struct rw_test rw_test = {
	.name = "partial-dio",
	.summary = "a read in parts goes on where it was, behind direct writes",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(parts), RW_AXIS(kinds) },
	.has = has,
	.run = run,
};
