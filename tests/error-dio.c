/* SPDX-License-Identifier: MIT */
/*
 * Direct I/O that fails, at once, half way or at the device, and what comes after it.
 *
 * Each way out of iomap_dio_rw(), io_uring and aio must let go of what the way in took: i_dio_count
 * (inode_dio_begin()), the hold against a freeze (kiocb_start_write()), locks. One leaked is not
 * seen until a later fallocate, truncate, clone, unaligned write or FIFREEZE sleeps for ever. And
 * the result must be the exact one: -errno, or as many bytes as are there.
 */
#include "ringwedge.h"

#include <linux/falloc.h>
#include <linux/fs.h>
#include <signal.h>
#include <sys/resource.h>

#define SIZE (512 * RW_KIB)
#define LEN (64 * RW_KIB)
#define PAGE (4 * RW_KIB)

static void do_io(struct rw_ring *ring, struct rw_file *f, struct rw_io *io)
{
	rw_submit(ring, f, io);
	if (ring)
		rw_reap(ring);
}

/* A write that must end with exactly `want`; nothing of one that fails may be there. */
static void write_wants(struct rw_ring *ring, struct rw_file *f, struct rw_io io, long want)
{
	do_io(ring, f, &io);
	rw_eq(io.res, want);
	(io.res < 0 ? rw_not_written : rw_ended)(f, &io);
}

/* -EFAULT, or the bytes before the fault: fewer than were asked for, in whole sectors. */
static void check_fault(struct rw_file *f, const struct rw_io *io)
{
	if (io->res != -EFAULT && (io->res <= 0 || io->res > (long)io->valid || io->res % 512))
		rw_eq(io->res, -EFAULT);
	if (!io->read)
		rw_ended(f, io);
}

/* The memory ends within the buffer, next to good requests that are in flight with it. */
static void fault(struct rw_ring *ring, struct rw_file *f)
{
	struct rw_io ios[] = {
		{ .off = 0, .len = LEN },
		{ .off = LEN, .len = LEN, .valid = PAGE },
		{ .off = 2 * LEN, .len = 2 * PAGE, .valid = PAGE, .read = true },
		{ .off = 3 * LEN, .len = LEN },
		{ .off = 4 * LEN, .len = LEN, .read = true },
		{ .off = SIZE - PAGE, .len = LEN, .valid = 8 * PAGE }, /* partly behind the end */
	};
	bool gate = ring && rw_has_gate();

	if (gate)
		rw_gate_shut();
	for (size_t i = 0; i < RW_ARRAY_SIZE(ios); i++)
		rw_submit(ring, f, &ios[i]);
	if (gate)
		rw_held_reap(ring);
	else if (ring)
		rw_reap(ring);
	for (size_t i = 0; i < RW_ARRAY_SIZE(ios); i++) {
		if (ios[i].valid) {
			check_fault(f, &ios[i]);
			continue;
		}
		rw_eq(ios[i].res, LEN);
		if (!ios[i].read)
			rw_ended(f, &ios[i]);
	}
}

static void drain(const void *p)
{
	const struct rw_file *f = p;

	rw_ok(fallocate(f->fd, FALLOC_FL_KEEP_SIZE, 0, LEN));
}

/* Who waits for a write is woken by its end, though that is an error. */
static void fault_drained(struct rw_ring *ring, struct rw_file *f)
{
	struct rw_io io = { .off = 0, .len = LEN, .valid = PAGE };

	if (!rw_has_gate())
		rw_skip("needs a gate");
	rw_supported("fallocate", fallocate(f->fd, FALLOC_FL_KEEP_SIZE, 0, LEN));
	rw_gate_shut();
	rw_submit(ring, f, &io);
	rw_held_by(&rw_whos[1], drain, f, rw_in_flight(1) > 0);
	rw_reap(ring);
	check_fault(f, &io);
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
	write_wants(ring, f, (struct rw_io){ .off = SIZE / 2 - PAGE, .len = LEN }, PAGE);
	write_wants(ring, f, (struct rw_io){ .off = SIZE / 2, .len = LEN }, -EFBIG);
	limit(SIZE + 2 * PAGE);
	write_wants(ring, f, (struct rw_io){ .off = SIZE, .len = LEN }, 2 * PAGE);
	write_wants(ring, f, (struct rw_io){ .off = SIZE + 2 * PAGE, .len = LEN }, -EFBIG);
	limit(-1);
	write_wants(ring, f, (struct rw_io){ .off = 0, .len = LEN }, LEN);
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

/* An offset, or a length, that no device can do: the length's end may come to light half way. */
static void misaligned(struct rw_ring *ring, struct rw_file *f)
{
	struct rw_io length = { .off = 0, .len = LEN - 8 };

	if (!rw_direct() || rw_fs() == RW_BTRFS)
		rw_skip("needs a filesystem that refuses it: here the page cache takes it");
	write_wants(ring, f, (struct rw_io){ .off = 8, .len = LEN }, -EINVAL);
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
		/* Blocks freed earlier come back when the commit of their transaction is done with. */
		if (io.res == LEN && late++ < 10) {
			make_hole(f);
			close(rw_fill_up());
			continue;
		}
		if (io.res <= 0 || io.res >= LEN)
			rw_eq(io.res, -ENOSPC);
		rw_ok(fallocate(filler, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, LEN / 4));
		room++;
	}
	close(filler);
	write_wants(ring, f, io, LEN);
}

/* The device takes the write, and fails it later. */
static void broken_device(struct rw_ring *ring, struct rw_file *f)
{
	struct rw_io io = { .off = LEN, .len = LEN };

	if (!rw_direct())
		rw_skip("needs direct I/O");
	rw_device_break(f);
	rw_then(f, (struct rw_change){ RW_ZERO, 0, SIZE });
	do_io(ring, f, &io);
	rw_device_mend();
	if (io.res != -ENOSPC) /* as the loop driver says */
		rw_eq(io.res, -EIO);
	rw_ended(f, &io);
	write_wants(ring, f, io, LEN);
}

/*
 * A write of several bios, to written and unwritten blocks and to a hole. The blocks of the hole are
 * found when the device is broken already, and are good: that one bio succeeds, be it the last to
 * end, is not to make good the others. In which order they end is for the device to say: so again.
 */
static void broken_in_part(struct rw_ring *ring, struct rw_file *f)
{
	const off_t turn = 16 * RW_KIB;
	const struct rw_io kinds[] = { { .off = 0, .len = 3 * turn },
				       { .off = 5 * turn, .len = 2 * turn } };
	struct rw_io ios[8];

	if (!rw_direct())
		rw_skip("needs direct I/O");
	if (rw_block_size() < PAGE)
		rw_skip("needs blocks as large as the image's, which fail as a whole");
	rw_device_break(f);
	rw_then(f, (struct rw_change){ RW_ZERO, 0, SIZE });
	for (size_t i = 0; i < RW_ARRAY_SIZE(ios); i++) {
		ios[i] = kinds[i % 2];
		do_io(ring, f, &ios[i]);
	}
	rw_device_mend();
	for (size_t i = 0; i < RW_ARRAY_SIZE(ios); i++) {
		if (ios[i].res != -ENOSPC) /* as the loop driver says */
			rw_eq(ios[i].res, -EIO);
		rw_ended(f, &ios[i]);
	}
	write_wants(ring, f, kinds[0], 3 * turn);
	write_wants(ring, f, kinds[1], 2 * turn);
}

static const struct how {
	const char *name;
	void (*run)(struct rw_ring *ring, struct rw_file *f);
	enum rw_state state;
	bool memory; /* of the request's own, not registered */
} hows[] = {
	{ "fault", fault, RW_WRITTEN, true },
	{ "fault-unwritten", fault, RW_UNWRITTEN, true },
	{ "fault-hole", fault, RW_HOLE, true },
	{ "fault-drained", fault_drained, RW_WRITTEN, true },
	{ "too-big", too_big, RW_WRITTEN },
	{ "past-end", past_end, RW_WRITTEN },
	{ "misaligned", misaligned, RW_WRITTEN },
	{ "full", full, RW_WRITTEN },
	{ "broken-device", broken_device, RW_WRITTEN },
	{ "broken-device-unwritten", broken_device, RW_UNWRITTEN },
	{ "broken-device-in-part", broken_in_part, RW_MIXED },
};

static const struct way {
	const char *name;
	const struct rw_ring_kind *kind; /* NULL: pwritev2, preadv2 */
} ways[] = {
	{ "plain", &rw_ring_kinds[0] },		{ "coop-taskrun", &rw_ring_kinds[1] },
	{ "defer-taskrun", &rw_ring_kinds[2] }, { "sqpoll", &rw_ring_kinds[3] },
	{ "async", &rw_ring_kinds[4] },		{ "fixed", &rw_ring_kinds[5] },
	{ "aio", &rw_ring_kinds[6] },		{ "sync", NULL },
};

static void resize(struct rw_file *f, off_t size)
{
	rw_ok(ftruncate(f->fd, size));
	rw_then(f, (struct rw_change){ RW_RESIZE, size });
	rw_verify(f);
}

/* On the inode as it is, still open: everything that waits for direct I/O, or for writers. */
static void check(struct rw_ring *ring, struct rw_file *f)
{
	const size_t sector = rw_sector_size();

	rw_verify(f);
	if (!fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, LEN, LEN))
		rw_then(f, (struct rw_change){ RW_ZERO, LEN, LEN });
	write_wants(ring, f, (struct rw_io){ .off = LEN + (off_t)sector, .len = sector },
		    (long)sector);
	if (rw_can_make(RW_SHARED)) {
		const struct rw_file *copy = rw_file("copy", RW_HOLE, SIZE);

		rw_ok(ioctl(copy->fd, FICLONE, f->fd));
	}
	if (rw_has_gate()) {
		rw_freeze();
		rw_thaw();
	}
	/* Over blocks that a write which failed may have left behind the end. */
	resize(f, 2 * SIZE);
	resize(f, SIZE / 2);
}

/*
 * A file that has been longer: the blocks that it is given again hold what they held then. So do those
 * of a hole in its middle, next to blocks that it has.
 */
static struct rw_file *start(enum rw_state state)
{
	struct rw_file *f = rw_file("file", state == RW_HOLE ? RW_WRITTEN : state, 2 * SIZE);

	if (state == RW_HOLE) {
		rw_supported("punch-hole",
			     fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, LEN,
				       SIZE - 2 * LEN));
		rw_then(f, (struct rw_change){ RW_ZERO, LEN, SIZE - 2 * LEN });
	}
	rw_set_up(ftruncate(f->fd, SIZE));
	rw_then(f, (struct rw_change){ RW_RESIZE, SIZE });
	rw_set_up(syncfs(f->fd)); /* or they are busy yet */
	return f;
}

static void run(const void *const *at)
{
	const struct how *how = at[0];
	const struct way *way = at[1];
	struct rw_ring *ring = way->kind ? rw_ring(way->kind, 8) : NULL;
	struct rw_file *f = start(how->state);

	if (ring)
		rw_use(ring, f);
	how->run(ring, f);
	check(ring, f);
	if (ring)
		rw_ring_close(ring);
}

static bool has(const void *const *at)
{
	const struct how *how = at[0];
	const struct way *way = at[1];

	if (how->run == fault_drained && !way->kind)
		return false;
	return !how->memory || !way->kind || !way->kind->fixed;
}

static const char *const guards[] = {
	"2ec33a6c3cca io_uring/rw: ensure kiocb_end_write() is always called",
	"4d9cb92ca41d io_uring/rw: fix short rw error handling",
	NULL,
};

static const char *const groups[] = { "error", NULL };

const struct rw_test rw_test = {
	.name = "error-dio",
	.summary =
		"direct I/O that fails has the exact result, and nothing waits for it afterwards",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(hows), RW_AXIS(ways) },
	.has = has,
	.run = run,
};
