/* SPDX-License-Identifier: MIT */
/*
 * Direct I/O that meets a limit: of the size of files, the end of the file, a sector, the space.
 *
 * What lies before the limit is done, and the result is exactly that much (io_rw_done(),
 * iomap_dio_complete()); where nothing does, it is the limit's own error. A write told to have failed, or
 * to have come further than it has, is lost data. The ways out must let go of what the way in took,
 * or a later fallocate, truncate, clone or FIFREEZE sleeps for ever (see error-dio).
 */
#include "ringwedge.h"

#include <linux/falloc.h>
#include <signal.h>
#include <sys/resource.h>

#define SIZE (512 * RW_KIB)
#define LEN (64 * RW_KIB)
#define PAGE (4 * RW_KIB)

static void do_io(struct rw_ring *ring, struct rw_file *f, struct rw_io *io)
{
	rw_submit(ring, f, io);
	rw_reap(ring);
}

/* A write of LEN that must end with exactly `want`; nothing of one that fails may be there. */
static void write_wants(struct rw_ring *ring, struct rw_file *f, off_t off, long want)
{
	struct rw_io io = { .off = off, .len = LEN };

	do_io(ring, f, &io);
	rw_eq(io.res, want);
	(io.res < 0 ? rw_not_written : rw_ended)(f, &io);
}

static void limit(long bytes)
{
	const struct rlimit r = { bytes < 0 ? RLIM_INFINITY : (rlim_t)bytes, RLIM_INFINITY };

	signal(SIGXFSZ, SIG_IGN);
	rw_set_up(setrlimit(RLIMIT_FSIZE, &r));
}

/* RLIMIT_FSIZE cuts a write short, or refuses it: within the file, and where it would grow. */
static void too_big(struct rw_ring *ring, struct rw_file *f)
{
	limit(SIZE / 2);
	write_wants(ring, f, SIZE / 2 - PAGE, PAGE);
	write_wants(ring, f, SIZE / 2, -EFBIG);
	limit(SIZE + 2 * PAGE);
	write_wants(ring, f, SIZE, 2 * PAGE);
	write_wants(ring, f, SIZE + 2 * PAGE, -EFBIG);
	limit(-1);
	write_wants(ring, f, 0, LEN);
}

/* Reads across the end are cut short, behind it there is nothing. */
static void past_end(struct rw_ring *ring, struct rw_file *f)
{
	struct rw_io across = { .read = true, .off = SIZE - PAGE, .len = LEN };
	struct rw_io behind = { .read = true, .off = SIZE, .len = LEN };

	do_io(ring, f, &across);
	rw_eq(across.res, PAGE);
	do_io(ring, f, &behind);
	rw_eq(behind.res, 0);
}

/* Of no bytes: what is taken for a write is let go of, though there is nothing to wait for. */
static void nothing(struct rw_ring *ring, struct rw_file *f)
{
	static const off_t offs[] = { 0, SIZE, 2 * SIZE };

	for (size_t i = 0; i < RW_ARRAY_SIZE(offs); i++) {
		struct rw_io read = { .read = true, .off = offs[i] };
		struct rw_io write = { .off = offs[i] };

		do_io(ring, f, &read);
		rw_eq(read.res, 0);
		do_io(ring, f, &write);
		rw_eq(write.res, 0);
		rw_ended(f, &write);
	}
	rw_verify(f);
}

/* An offset, or a length, that no device can do: the length's end may come to light half way. */
static void misaligned(struct rw_ring *ring, struct rw_file *f)
{
	struct rw_io length = { .off = 0, .len = LEN - 8 };

	if (!rw_direct() || rw_fs() == RW_BTRFS)
		rw_skip("needs a filesystem that refuses it: here the page cache takes it");
	write_wants(ring, f, 8, -EINVAL);
	do_io(ring, f, &length);
	rw_eq(length.res, -EINVAL);
	rw_ended(f, &length);
}

static void make_hole(struct rw_file *f)
{
	rw_ok(fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, LEN, 3 * LEN));
	rw_then(f, (struct rw_change){ RW_ZERO, LEN, 3 * LEN });
}

/* No room, or room for a part, for the blocks of a hole. */
static void full(struct rw_ring *ring, struct rw_file *f)
{
	struct rw_io io = { .off = 2 * LEN, .len = LEN };
	int filler, room = 0, late = 0;

	make_hole(f);
	filler = rw_fill_up();
	while (room < 2) {
		do_io(ring, f, &io);
		rw_ended(f, &io);
		rw_verify(f);
		/*
		 * Blocks freed earlier come back when the commit of their transaction is done with.
		 * They are taken for good, or the next write finds them as these were found.
		 */
		if (io.res == LEN && late++ < 10) {
			make_hole(f);
			rw_fill_up();
			continue;
		}
		if (io.res <= 0 || io.res >= LEN)
			rw_eq(io.res, -ENOSPC);
		rw_ok(fallocate(filler, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, LEN / 4));
		room++;
	}
	close(filler);
	write_wants(ring, f, io.off, LEN);
}

static const struct bound {
	const char *name;
	void (*meet)(struct rw_ring *ring, struct rw_file *f);
} bounds[] = {
	{ "too-big", too_big },	      { "past-end", past_end }, { "nothing", nothing },
	{ "misaligned", misaligned }, { "full", full },
};

static void run(const void *const *at)
{
	struct rw_ring *ring = rw_ring(((const struct rw_way *)at[1])->kind, 2);
	/* It has been longer: the blocks that it is given again hold what they held then. */
	struct rw_file *f = rw_file("file", RW_WRITTEN, 2 * SIZE);

	rw_set_up(ftruncate(f->fd, SIZE));
	rw_then(f, (struct rw_change){ RW_RESIZE, SIZE });
	rw_set_up(syncfs(f->fd)); /* or they are busy yet */
	rw_use(ring, f);
	((const struct bound *)at[0])->meet(ring, f);
	rw_ring_close(ring);
	rw_let_go(f);
}

/* Where a read of no bytes is an oops, the ring's lock is lost (docs/found/btrfs-empty-fixed-read.md). */
static bool wedges(const void *const *at)
{
	const struct rw_way *way = at[1];

	return ((const struct bound *)at[0])->meet == nothing && way->kind && way->kind->fixed;
}

static const char *const guards[] = {
	"4d9cb92ca41d io_uring/rw: fix short rw error handling",
	NULL,
};

static const char *const groups[] = { "error", NULL };

const struct rw_test rw_test = {
	.name = "limit-dio",
	.summary = "direct I/O that meets a limit ends with what was before it, or its own error",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(bounds), RW_AXIS(rw_ways) },
	.wedges = wedges,
	.run = run,
};
