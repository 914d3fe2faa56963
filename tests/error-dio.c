/* SPDX-License-Identifier: MIT */
/*
 * Direct I/O whose memory ends within the buffer, and what comes after it.
 *
 * Each way out of iomap_dio_rw(), io_uring and aio must let go of what the way in took: i_dio_count
 * (inode_dio_begin()), the hold against a freeze (kiocb_start_write()), locks. One leaked is not
 * seen until a later fallocate, truncate, clone, unaligned write or FIFREEZE sleeps for ever. The
 * result must be -EFAULT, or as many bytes as are there, and blocks that a write got before it failed
 * must not show what they held.
 */
#include "ringwedge.h"

#include <linux/falloc.h>

#define SIZE (512 * RW_KIB)
#define LEN (64 * RW_KIB)
#define PAGE (4 * RW_KIB)

/* -EFAULT, or the bytes before the fault: fewer than were asked for, in whole sectors. */
static void check_fault(struct rw_file *f, const struct rw_io *io)
{
	bool part = io->res > 0 && io->res <= (long)io->valid && io->res % 512 == 0;

	if (!part && !rw_gave_up(io)) /* with a part in flight, too */
		rw_eq(io->res, -EFAULT);
	if (!io->read)
		rw_ended(f, io);
}

/* Next to good requests that are in flight with them. */
static void fault(struct rw_ring *ring, struct rw_file *f, bool gate)
{
	struct rw_io ios[] = {
		{ .off = 0, .len = LEN },
		{ .off = LEN, .len = LEN, .valid = PAGE },
		{ .off = 2 * LEN, .len = 2 * PAGE, .valid = PAGE, .read = true },
		{ .off = 3 * LEN, .len = LEN },
		{ .off = 4 * LEN, .len = LEN, .read = true },
		{ .off = SIZE - PAGE, .len = LEN, .valid = 8 * PAGE }, /* partly behind the end */
	};

	if (gate)
		rw_gate_shut();
	for (size_t i = 0; i < RW_ARRAY_SIZE(ios); i++)
		rw_submit(ring, f, &ios[i]);
	(gate ? rw_held_reap : rw_reap)(ring);
	for (size_t i = 0; i < RW_ARRAY_SIZE(ios); i++) {
		if (ios[i].valid) {
			check_fault(f, &ios[i]);
		} else if (ios[i].read) {
			rw_check_read(&ios[i], SIZE);
		} else {
			rw_eq(ios[i].res, LEN);
			rw_ended(f, &ios[i]);
		}
	}
}

static void drain(const void *p)
{
	const struct rw_file *f = p;

	rw_ok(fallocate(f->fd, FALLOC_FL_KEEP_SIZE, 0, LEN));
}

/* Who waits for a write is woken by its end, though that is an error. */
static void fault_drained(struct rw_ring *ring, struct rw_file *f, bool gate)
{
	struct rw_io io = { .off = 0, .len = LEN, .valid = PAGE };

	if (!gate)
		rw_skip("needs a gate");
	rw_supported("fallocate", fallocate(f->fd, FALLOC_FL_KEEP_SIZE, 0, LEN));
	rw_gate_shut();
	rw_submit(ring, f, &io);
	rw_held_by(&rw_whos[1], drain, f, rw_in_flight(1) > 0);
	rw_reap(ring);
	check_fault(f, &io);
}

/* It ends within a block that the file gets for it: the rest of that must be zeroed. */
static void fault_in_block(struct rw_ring *ring, struct rw_file *f, bool gate)
{
	const size_t sector = rw_sector_size() % PAGE;
	struct rw_io io = {
		.off = 2 * LEN, .len = 2 * PAGE, .into = sector, .valid = PAGE - sector
	};

	(void)gate;
	if (!sector)
		rw_skip("needs device sectors smaller than a page");
	if (rw_fs() == RW_EXT4) /* it goes on with the page cache, and fails there */
		rw_skip("ext4 ends it with -EFAULT, after which the block may hold anything");
	rw_submit(ring, f, &io);
	rw_reap(ring);
	check_fault(f, &io);
}

/* Before the end that the page cache has, and behind that of the inode on disk (ext4_iomap_alloc()). */
static void fault_ahead(struct rw_ring *ring, struct rw_file *f, bool gate)
{
	struct rw_io io = { .off = SIZE + LEN, .len = LEN, .valid = PAGE };

	(void)gate;
	rw_cache_dirty(f, 2 * SIZE, PAGE);
	rw_submit(ring, f, &io);
	rw_reap(ring);
	check_fault(f, &io);
}

static const struct how {
	const char *name;
	enum rw_state state;
	void (*play)(struct rw_ring *ring, struct rw_file *f, bool gate);
} hows[] = {
	{ "fault", RW_WRITTEN, fault },
	{ "fault-unwritten", RW_UNWRITTEN, fault },
	{ "fault-hole", RW_HOLE, fault },
	{ "fault-drained", RW_WRITTEN, fault_drained },
	{ "fault-in-unwritten-block", RW_UNWRITTEN, fault_in_block },
	{ "fault-in-new-block", RW_HOLE, fault_in_block },
	{ "fault-ahead", RW_WRITTEN, fault_ahead },
};

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
	const struct rw_way *way = at[1];
	struct rw_ring *ring = rw_ring(way->kind, 8);
	struct rw_file *f = start(how->state);

	rw_use(ring, f);
	how->play(ring, f, rw_has_gate() && !way->kind->sync);
	rw_ring_close(ring);
	rw_let_go(f);
}

static bool has(const void *const *at)
{
	const struct how *how = at[0];
	const struct rw_way *way = at[1];

	/* The memory is the request's own, not registered. */
	return !way->kind->fixed && !(how->play == fault_drained && way->kind->sync) &&
	       (how->play != fault_ahead || way->kind == &rw_ring_kinds[0] || way->kind->sync);
}

static const char *const guards[] = {
	"2ec33a6c3cca io_uring/rw: ensure kiocb_end_write() is always called",
	"4d9cb92ca41d io_uring/rw: fix short rw error handling",
	NULL,
};

static const char *const groups[] = { "error", NULL };

const struct rw_test rw_test = {
	.name = "error-dio",
	.summary = "direct I/O that faults half way has the exact result, and nothing waits for it "
		   "afterwards",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(hows), RW_AXIS(rw_ways) },
	.has = has,
	.run = run,
};
