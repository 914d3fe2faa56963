/* SPDX-License-Identifier: MIT */
/*
 * Direct reads in flight.
 *
 * They count in i_dio_count like writes: who takes blocks away, moves or replaces them waits for the
 * reads first, or these find what the blocks were given to next, of whatever file. A read writes
 * back what is dirty in its range before it starts (kiocb_write_and_wait()), ends exactly at the
 * end of the file, and finds blocks that are being written for the first time as zeros or with the
 * data, never as they were on the disk.
 */
#include "ringwedge.h"

#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/mman.h>

#define SIZE (512 * RW_KIB)
#define AT (128 * RW_KIB)
#define LEN (128 * RW_KIB)
#define READS 4
#define READ (96 * RW_KIB)
#define MANY 64 /* writes in flight: all there are, since nothing moves any more */

/* The ring, and reads of its own file, which must stay in place until they are reaped. */
struct reads {
	struct rw_ring *ring;
	struct rw_file *file;
	struct rw_io io[READS];
};

static void submit(struct reads *r, off_t from, size_t len)
{
	memset(r->io, 0, sizeof(r->io));
	for (int i = 0; i < READS; i++) {
		r->io[i].read = true;
		r->io[i].off = from + i * (off_t)len;
		r->io[i].len = len;
		rw_submit(r->ring, r->file, &r->io[i]);
	}
}

/* What the reads must have come back with, `size` being that of the file. */
static void check_results(const struct reads *r, off_t size)
{
	for (int i = 0; i < READS; i++) {
		off_t left = size - r->io[i].off;

		left = left < 0 ? 0 : left;
		if (rw_read_gave_up(&r->io[i]))
			continue;
		rw_eq(r->io[i].res, left < (off_t)r->io[i].len ? left : (off_t)r->io[i].len);
	}
}

/* ---- calls that must wait for them ---------------------------------------- */

struct op {
	const char *name;
	int mode; /* of fallocate(2); -1: ftruncate(2); -2: clone another file over it */
	struct rw_change change;
	void (*play)(struct reads *r); /* instead of all that */
};

struct arg {
	const struct op *op;
	const struct rw_file *file, *other;
};

static void call(const void *p)
{
	const struct arg *a = p;
	const struct file_clone_range range = { a->other->fd, AT, LEN, AT };

	if (a->op->mode == -1)
		rw_supported("ftruncate", ftruncate(a->file->fd, a->op->change.off));
	else if (a->op->mode == -2)
		rw_supported("reflink", ioctl(a->file->fd, FICLONERANGE, &range));
	else
		rw_supported(a->op->name, fallocate(a->file->fd, a->op->mode, AT, LEN));
}

static struct arg start(struct reads *r, const struct op *op)
{
	struct rw_file *other = rw_file("other", RW_WRITTEN, SIZE);
	struct arg a = { op, rw_file("file", RW_WRITTEN, SIZE), other };

	/* Is it supported? And the metadata that it needs is in memory from here on. */
	call(&a);
	r->file = rw_file("file", RW_WRITTEN, SIZE);
	a.file = r->file;
	rw_use(r->ring, r->file);
	rw_use(r->ring, other);
	return a;
}

static void finish(struct reads *r, const struct op *op, const struct arg *a, bool held)
{
	struct rw_change change = op->change;

	change.from = a->other;
	if (held) {
		rw_reap(r->ring); /* the file as it was before the call */
		check_results(r, SIZE);
		rw_then(r->file, change);
	} else {
		rw_reap_either(r->ring, r->file, change);
	}
	rw_verify(r->file);
}

static void beside(struct reads *r, const struct op *op, const struct rw_who *who)
{
	enum rw_change_kind change = op->change.kind;

	if (rw_fs() == RW_F2FS && (change == RW_COLLAPSE || change == RW_INSERT))
		rw_skip("needs a shift that is whole: f2fs moves block by block, unlocked in "
			"between");
	if (rw_has_gate()) {
		struct arg a = start(r, op);
		struct rw_file *other = rw_file("blocker", RW_WRITTEN, SIZE);
		bool held;

		rw_use(r->ring, other);
		rw_gate_shut();
		rw_write(r->ring, other, 0, 16 * RW_KIB, 0);
		held = rw_in_flight(1) > 0 && rw_queue_held();
		submit(r, AT - READ / 2, READ);
		/* Of one thread (SQPOLL) several reads may be one to the device. */
		held &= rw_reads_in_flight(READS) > 0;
		/* btrfs reads on from blocks that are taken out: they stay as they are for now. */
		held &= rw_fs() != RW_BTRFS || op->mode == -1;
		rw_held_by(who, call, &a, held);
		finish(r, op, &a, held);
		rw_then(other, (struct rw_change){ RW_KEEP });
	}
	rw_for_ms(10) {
		struct arg a = start(r, op);

		submit(r, AT - READ / 2, READ);
		rw_jitter(100);
		rw_by(who, call, &a);
		finish(r, op, &a, false);
	}
}

/* ---- on their own ---------------------------------------------------------- */

/* Reads that end at, across and behind the end of files that end anywhere in a block. */
static void to_the_end(struct reads *r)
{
	static const off_t sizes[] = { SIZE, SIZE - 512, SIZE - 1000, SIZE - 4096, SIZE + 1 };

	for (size_t i = 0; i < RW_ARRAY_SIZE(sizes); i++) {
		r->file = rw_file("file", RW_WRITTEN, SIZE);
		rw_use(r->ring, r->file);
		rw_ok(ftruncate(r->file->fd, sizes[i]));
		rw_then(r->file, (struct rw_change){ RW_RESIZE, sizes[i] });
		submit(r, SIZE - 2 * READ, READ);
		rw_reap(r->ring);
		check_results(r, sizes[i]);
		submit(r, SIZE - 8192, 4096);
		rw_reap(r->ring);
		check_results(r, sizes[i]);
	}
}

/* Dirty pages in the range: what was written to them is what must be read. */
static void dirty(struct reads *r)
{
	const off_t chunk = 4096;
	char buf[4096], *map;
	int fd;

	r->file = rw_file("file", RW_WRITTEN, SIZE);
	rw_use(r->ring, r->file);
	fd = (int)rw_set_up(open(rw_path(r->file), O_RDWR | O_CLOEXEC));
	map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		rw_broken("mmap: %s", strerror(errno));
	/* Among them the last page of a read. */
	for (off_t at = AT; at < AT + LEN; at += 3 * chunk) {
		rw_fill(r->file, buf, at, sizeof(buf), rw_promise(r->file, at, sizeof(buf)));
		if (at / chunk % 2)
			memcpy(map + at, buf, sizeof(buf));
		else
			rw_eq(rw_ok(pwrite(fd, buf, sizeof(buf), at)), sizeof(buf));
	}
	rw_then(r->file, (struct rw_change){ RW_KEEP });
	submit(r, 0, READ);
	rw_reap(r->ring);
	check_results(r, SIZE);
	munmap(map, SIZE);
	close(fd);
	rw_verify(r->file);
}

/* Writes to blocks of every state: reads find what was there before, or the data. */
static void over_writes(struct reads *r)
{
	static const enum rw_state states[] = { RW_WRITTEN, RW_UNWRITTEN, RW_HOLE,
						RW_SHARED,  RW_MIXED,	  RW_SHARED_MIXED };

	rw_for_ms(20) {
		for (size_t i = 0; i < RW_ARRAY_SIZE(states); i++) {
			if (!rw_can_make(states[i]))
				continue;
			r->file = rw_file("file", states[i], SIZE);
			rw_use(r->ring, r->file);
			rw_write(r->ring, r->file, AT, LEN, 0);
			rw_jitter(50);
			submit(r, AT - READ / 2, READ);
			rw_reap_either(r->ring, r->file, (struct rw_change){ RW_KEEP });
			check_results(r, SIZE);
			rw_verify(r->file);
		}
	}
}

static void read_cached(const void *p)
{
	const struct rw_file *f = p;
	static char buf[LEN];
	int fd = (int)rw_set_up(open(rw_path(f), O_RDONLY | O_CLOEXEC));

	for (;;)
		rw_eq(rw_ok(pread(fd, buf, sizeof(buf), AT)), LEN);
}

/*
 * Another task reads through the page cache, over and over. What it has of blocks that are not
 * converted yet is thrown away when they are (iomap_dio_complete(), in this order): to convert these
 * takes many transactions.
 */
static void cached_beside(struct reads *r)
{
	rw_for_ms(40) {
		struct rw_helper reader;

		r->file = rw_file("file", RW_UNWRITTEN, SIZE);
		rw_use(r->ring, r->file);
		for (off_t at = AT; at < AT + LEN; at += 2 * 4096) {
			rw_write(r->ring, r->file, at, 4096, 0);
			rw_reap(r->ring);
		}
		reader = rw_start(read_cached, r->file);
		for (int i = 0; i < 4; i++) {
			rw_write(r->ring, r->file, AT + i * LEN / 4, LEN / 4, 0);
			rw_reap(r->ring);
		}
		rw_kill(&reader);
		rw_join(reader);
		rw_then(r->file, (struct rw_change){ RW_KEEP });
		rw_verify(r->file);
	}
}

static bool all_done(const struct reads *r)
{
	for (int i = 0; i < READS; i++)
		if (!r->io[i].done)
			return false;
	return true;
}

/*
 * Writes that extend the file: once the end has moved, their data are there, not zeros. (To one
 * extent: of several, xfs_iomap_write_unwritten() moves the end with the first that it converts.)
 */
static void behind_the_end(struct reads *r)
{
	const off_t step = 32 * RW_KIB;

	rw_for_ms(20) {
		r->file = rw_file("file", RW_WRITTEN, SIZE);
		rw_use(r->ring, r->file);
		for (off_t end = SIZE; end < SIZE + 8 * step; end += step) {
			rw_write(r->ring, r->file, end, (size_t)step, 0);
			rw_then(r->file, (struct rw_change){ RW_KEEP });
			while (rw_unreaped(r->ring)) {
				submit(r, end, (size_t)step / READS);
				while (!all_done(r))
					rw_reap_ready(r->ring);
			}
		}
		rw_verify(r->file);
	}
}

/*
 * Reads across the end that were submitted while a write that moves it was held: they end where the
 * file did then, although the write has ended before them. (On ext4 they wait for its lock.)
 */
static void across_the_end(struct reads *r)
{
	struct rw_file *other = rw_file("other", RW_WRITTEN, SIZE);
	unsigned int writes;
	bool held;

	if (!rw_has_gate())
		rw_skip("needs a gate");
	r->file = rw_file("file", RW_WRITTEN, SIZE);
	rw_use(r->ring, r->file);
	rw_use(r->ring, other);
	rw_gate_shut();
	rw_write(r->ring, r->file, SIZE, LEN, 0);
	/* The device serves its queue in order: time for the write to be ended by the filesystem, too. */
	for (int i = 0; i < 4; i++)
		rw_write(r->ring, other, i * LEN, LEN, 0);
	writes = rw_in_flight(MANY);
	for (int i = 0; i < READS; i++) {
		r->io[i] = (struct rw_io){ .read = true, .off = SIZE - (i + 1) * 4096, .len = LEN };
		rw_submit(r->ring, r->file, &r->io[i]);
	}
	held = rw_unpolled(writes + READS) >= writes + READS && writes && rw_gate_is_shut() &&
	       rw_fs() == RW_XFS;
	rw_gate_open();
	rw_reap_either(r->ring, r->file, (struct rw_change){ RW_KEEP });
	if (held)
		check_results(r, SIZE);
	rw_then(other, (struct rw_change){ RW_KEEP });
	rw_verify(r->file);
}

static const struct op ops[] = {
	{ "punch-hole", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, { RW_ZERO, AT, LEN } },
	{ "zero-range", FALLOC_FL_ZERO_RANGE, { RW_ZERO, AT, LEN } },
	{ "collapse-range", FALLOC_FL_COLLAPSE_RANGE, { RW_COLLAPSE, AT, LEN } },
	{ "insert-range", FALLOC_FL_INSERT_RANGE, { RW_INSERT, AT, LEN } },
	{ "truncate", -1, { RW_RESIZE, AT } },
	{ "clone-over", -2, { RW_COPY, AT, LEN, NULL, AT } },
	{ "to-the-end", .play = to_the_end },
	{ "dirty", .play = dirty },
	{ "over-writes", .play = over_writes },
	{ "behind-the-end", .play = behind_the_end },
	{ "across-the-end", .play = across_the_end },
	{ "cached-beside", .play = cached_beside },
};

static void run(const void *const *at)
{
	const struct op *op = at[0];
	struct reads r = { rw_ring(at[1], 16) };

	if (op->play)
		op->play(&r);
	else
		beside(&r, op, at[2]);
	rw_ring_close(r.ring);
}

static bool has(const void *const *at)
{
	const struct op *op = at[0];
	const struct rw_ring_kind *kind = at[1];
	const struct rw_who *who = at[2];

	if (op->play == cached_beside && kind != &rw_ring_kinds[0] && !kind->aio)
		return false;
	/* The same to a call that waits are reads by a plain ring, with task_work or without. */
	if (!op->play && (kind->fixed || kind->setup == IORING_SETUP_COOP_TASKRUN))
		return false;
	return !who->other || (!op->play && kind == &rw_ring_kinds[0]);
}

static const char *const guards[] = {
	"17335dcc4711 ext4: serialize dio nonlocked reads with defrag workers",
	"1c9114f9c0f1 ext4: serialize unlocked dio reads with truncate",
	NULL,
};

static const char *const groups[] = { "read", NULL };

const struct rw_test rw_test = {
	.name = "read-dio",
	.summary = "direct reads find a file as it was before a call or is after it, to its end",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(ops), RW_AXIS(rw_ring_kinds), RW_AXIS(rw_whos) },
	.has = has,
	.run = run,
};
