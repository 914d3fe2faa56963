/* SPDX-License-Identifier: MIT */
/*
 * Files that grow by direct writes: their size, and what is behind their end.
 *
 * xfs sets i_size when a write ends, holding no lock meanwhile: whoever reads the size, or frees or
 * zeroes blocks behind it, must wait for the writes in flight first (xfs_file_fallocate(),
 * xfs_free_eofblocks() at close, xfs_file_write_zero_eof()); ext4 holds the inode lock instead.
 * Else the size goes back and data are cut off, blocks are freed under a write, or what was behind
 * the old end - of the block, of a mapping, of the file once - shows up in the file.
 */
#include "ringwedge.h"

#include <linux/falloc.h>
#include <sys/mman.h>

#define SIZE (256 * RW_KIB)
#define LEN (32 * RW_KIB)

/* A file that has been longer: the blocks that it is given again hold what they held then. */
static struct rw_file *start(struct rw_ring *ring)
{
	struct rw_file *f = rw_file("file", RW_WRITTEN, 2 * SIZE);

	rw_use(ring, f);
	rw_set_up(ftruncate(f->fd, SIZE));
	rw_then(f, (struct rw_change){ RW_RESIZE, SIZE });
	rw_set_up(syncfs(f->fd)); /* or they are busy yet */
	return f;
}

static void allocate(const struct rw_file *f)
{
	rw_ok(fallocate(f->fd, 0, SIZE, (off_t)rw_block_size()));
}

static void zero_range(const struct rw_file *f)
{
	rw_ok(fallocate(f->fd, FALLOC_FL_ZERO_RANGE, SIZE, (off_t)rw_block_size()));
}

/* The first one that was open for writing trims blocks behind the end (xfs_file_release()). */
static void close_another(const struct rw_file *f)
{
	rw_ok(close((int)rw_ok(open(rw_path(f), O_RDWR | O_CLOEXEC))));
}

struct op {
	const char *name;
	void (*call)(const struct rw_file *f); /* NULL: see the function below */
	void (*play)(struct rw_ring *ring);
	enum rw_change_kind kind; /* of the first block behind the end */
	unsigned int waits;	  /* which filesystems promise to wait */
	bool falloc;
};

struct arg {
	const struct op *op;
	const struct rw_file *file;
};

static void call(const void *p)
{
	const struct arg *a = p;

	a->op->call(a->file);
}

/* A call about the first block behind the end, with a write in flight that ends far behind it. */
static void beside(struct rw_ring *ring, const struct op *op, const struct rw_who *who)
{
	const struct rw_change change = { op->kind, SIZE, (off_t)rw_block_size() };
	struct rw_file *f = start(ring);
	const struct arg arg = { op, f };
	unsigned int n, in_flight;

	call(&arg);
	f = start(ring);
	rw_gate_shut();
	rw_write(ring, f, 0, LEN, 0);
	rw_write(ring, f, SIZE, 4 * LEN, 0);
	n = rw_unreaped(ring);
	in_flight = rw_in_flight(n);
	rw_held_by(who, call, &arg, in_flight > 0 && op->waits & rw_fs());
	rw_reap(ring);
	(in_flight == n ? rw_then : rw_race)(f, change);
	rw_verify(f);
}

/* What is behind a gap comes first: who zeroes from the end up to it must know where that is. */
static void out_of_order(struct rw_ring *ring)
{
	static const int order[] = { 4, 2, 0, 3, 1 };
	struct rw_file *f = start(ring);

	if (rw_has_gate())
		rw_gate_shut();
	for (size_t i = 0; i < RW_ARRAY_SIZE(order); i++) {
		rw_write(ring, f, SIZE + order[i] * LEN, LEN, 0);
		if (rw_has_gate() && rw_in_flight(i + 1) > 1 && rw_gate_is_shut() && order[i] &&
		    rw_fs() == RW_XFS)
			rw_fail("a write behind a gap did not wait for the one in flight");
	}
	if (rw_has_gate())
		rw_held_reap(ring);
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
}

/* One sector after another, each into a new block or behind the last one. */
static void by_sectors(struct rw_ring *ring)
{
	const off_t sector = (off_t)rw_sector_size(), block = (off_t)rw_block_size();
	const off_t from[] = { 0, block, block + sector, 4 * block - sector, 5 * block, 7 * block };
	struct rw_file *f = start(ring);

	for (size_t i = 0; i < RW_ARRAY_SIZE(from); i++) {
		rw_write(ring, f, SIZE + from[i], (size_t)sector, 0);
		rw_reap(ring);
		rw_then(f, (struct rw_change){ RW_KEEP });
		rw_verify(f);
	}
	/* The rest of the last block is in the file now. */
	rw_ok(ftruncate(f->fd, SIZE + 8 * block));
	rw_then(f, (struct rw_change){ RW_RESIZE, SIZE + 8 * block });
	rw_verify(f);
}

/* From unwritten blocks before the end to ones behind it: to be converted, and to be extended. */
static void across_the_end(struct rw_ring *ring)
{
	struct rw_file *f = rw_file("file", RW_UNWRITTEN, SIZE);

	rw_use(ring, f);
	rw_set_up(fallocate(f->fd, FALLOC_FL_KEEP_SIZE, SIZE, SIZE));
	rw_write(ring, f, SIZE - LEN / 2, LEN, 0);
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
}

/* The file ends inside a sector, and a mapping has stored something behind its end. */
static void mapped_tail(struct rw_ring *ring)
{
	const off_t end = SIZE - 4096 + 1000;
	struct rw_file *f = start(ring);
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, SIZE - 4096);

	if (page == MAP_FAILED)
		rw_broken("mmap: %s", strerror(errno));
	rw_ok(ftruncate(f->fd, end));
	rw_then(f, (struct rw_change){ RW_RESIZE, end });
	memset(page + 1000, 0xa5, 4096 - 1000);
	rw_write(ring, f, SIZE, LEN, 0);
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
	munmap(page, 4096);
}

/* The file was cut within a block, whose rest is before the write then. */
static void cut_tail(struct rw_ring *ring)
{
	struct rw_file *f = start(ring);

	rw_ok(ftruncate(f->fd, SIZE - 4096 + 1000));
	rw_then(f, (struct rw_change){ RW_RESIZE, SIZE - 4096 + 1000 });
	rw_write(ring, f, SIZE, LEN, 0);
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
}

/* By write(2), each where the last one ended, and with O_APPEND. */
static void by_position(struct rw_ring *ring)
{
	struct rw_file *f = start(ring);
	char *buf = aligned_alloc(4096, LEN);

	if (!buf)
		rw_broken("out of memory");
	rw_set_up(lseek(f->fd, SIZE, SEEK_SET));
	for (int i = 0; i < 4; i++) {
		const off_t off = SIZE + i * LEN;

		if (i == 2)
			rw_set_up(fcntl(f->fd, F_SETFL, O_DIRECT | O_APPEND));
		rw_fill(f, buf, off, LEN, rw_promise(f, off, LEN));
		rw_eq(rw_ok(write(f->fd, buf, LEN)), LEN);
		rw_eq(rw_ok(lseek(f->fd, 0, SEEK_CUR)), off + LEN);
	}
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
	free(buf);
}

static const struct op ops[] = {
	{ "allocate", allocate, .kind = RW_GROW, .waits = RW_XFS | RW_EXT4, .falloc = true },
	{ "zero-range", zero_range, .kind = RW_ZERO, .waits = RW_XFS | RW_EXT4, .falloc = true },
	{ "close", close_another, .kind = RW_KEEP, .waits = RW_XFS },
	{ "out-of-order", .play = out_of_order },
	{ "by-sectors", .play = by_sectors },
	{ "across-the-end", .play = across_the_end, .falloc = true },
	{ "cut-tail", .play = cut_tail },
	{ "mapped-tail", .play = mapped_tail },
	{ "by-position", .play = by_position },
};

static void run(const void *const *at)
{
	const struct op *op = at[0];
	struct rw_ring *ring = rw_ring(at[1], 8);

	if (op->falloc && !rw_can_make(RW_UNWRITTEN))
		rw_skip("needs fallocate");
	if (op->call && !rw_has_gate())
		rw_skip("needs a gate");
	rw_only_grows(ring);
	if (op->call)
		beside(ring, op, at[2]);
	else
		op->play(ring);
	rw_ring_close(ring);
}

static bool has(const void *const *at)
{
	const struct op *op = at[0];
	const struct rw_ring_kind *kind = at[1];
	const struct rw_who *who = at[2];

	/* A mapping does not know by which ring the file was written, and write(2) needs none. */
	if (who->other || op->play == mapped_tail || op->play == by_position)
		return kind == &rw_ring_kinds[0] && (op->call || !who->other);
	return true;
}

static const char *const guards[] = {
	"249bd9087a52 xfs: properly serialise fallocate against AIO+DIO",
	"40c63fbc55a9 xfs: direct IO EOF zeroing needs to drain AIO",
	NULL,
};

static const char *const groups[] = { "append", NULL };

const struct rw_test rw_test = {
	.name = "append-dio",
	.summary = "files that grow by direct writes have their size, their data and nothing else",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(ops), RW_AXIS(rw_ring_kinds), RW_AXIS(rw_whos) },
	.has = has,
	.run = run,
};
