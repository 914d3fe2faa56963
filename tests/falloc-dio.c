/* SPDX-License-Identifier: MIT */
/*
 * fallocate(2) against direct writes in flight.
 *
 * The filesystem must wait in inode_dio_wait() before it changes extents under a write. When the
 * write's completion needs the very task that waits (IOCB_DIO_CALLER_COMP in 6.6-rc), fallocate
 * sleeps for ever in D. When the wait is missing, fallocate returns too early, the write lands in
 * freed or moved blocks, or the size goes back to what it was before an extending write.
 */
#include "ringwedge.h"

#include <linux/falloc.h>

#define SIZE (512 * RW_KIB)
#define AT (128 * RW_KIB) /* the range of the call: whole clusters even with bigalloc */
#define LEN (128 * RW_KIB)
#define PART (AT + 64 * RW_KIB + 512) /* from within a block to within another one */

/* Who calls: see rw_whos, and a request of the ring itself, behind its own writes. */
static const struct who {
	const char *name;
	const struct rw_who *task; /* NULL: the ring */
} whos[] = { { "same", &rw_whos[0] }, { "other", &rw_whos[1] }, { "in-ring", NULL } };

static const struct op {
	const char *name;
	int mode;
	off_t off, len;
	struct rw_change change;
	enum rw_layout layout; /* of the range, afterwards */
	bool shared;
	bool plain;  /* by whatever ring the writes come, it makes no difference */
	bool behind; /* its range is that of the write that extends the file */
} ops[] = {
	{ "allocate", 0, SIZE, LEN, { RW_GROW, SIZE, LEN }, RW_MAPPED, .behind = true },
	{ "keep-size", FALLOC_FL_KEEP_SIZE, SIZE, LEN, { RW_KEEP }, RW_MAPPED, .behind = true },
	{ "punch-hole",
	  FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
	  AT,
	  LEN,
	  { RW_ZERO, AT, LEN },
	  RW_UNMAPPED },
	{ "zero-range", FALLOC_FL_ZERO_RANGE, AT, LEN, { RW_ZERO, AT, LEN }, RW_MAPPED },
	{ "collapse-range", FALLOC_FL_COLLAPSE_RANGE, AT, LEN, { RW_COLLAPSE, AT, LEN } },
	{ "insert-range", FALLOC_FL_INSERT_RANGE, AT, LEN, { RW_INSERT, AT, LEN }, RW_UNMAPPED },
	{ "unshare-range", FALLOC_FL_UNSHARE_RANGE, AT, LEN, { RW_KEEP }, RW_OWN, .shared = true },
	{ "zero-keep-size",
	  FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
	  AT,
	  LEN,
	  { RW_ZERO, AT, LEN },
	  RW_MAPPED,
	  .plain = true },
	{ "punch-part",
	  FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
	  PART,
	  LEN / 2,
	  { RW_ZERO, PART, LEN / 2 },
	  .plain = true },
	{ "zero-part",
	  FALLOC_FL_ZERO_RANGE,
	  PART,
	  LEN / 2,
	  { RW_ZERO, PART, LEN / 2 },
	  .plain = true },
};

struct arg {
	const struct rw_file *file;
	const struct op *op;
};

static void call(const void *p)
{
	const struct arg *a = p;

	rw_ok(fallocate(a->file->fd, a->op->mode, a->op->off, a->op->len));
}

/*
 * Every other block of the last write is written before: to convert the others takes as many
 * transactions, and who came between them would move what is left.
 */
static void cut_up(struct rw_ring *ring, struct rw_file *f)
{
	for (off_t at = SIZE - 64 * RW_KIB; at < SIZE; at += 8 * RW_KIB)
		rw_write(ring, f, at, 4 * RW_KIB, 0);
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
}

static struct rw_file *start(struct rw_ring *ring, const struct op *op, enum rw_state state)
{
	struct rw_file *f = rw_file("file", state, SIZE);

	/* First with nothing in flight: is it supported, and read the metadata it needs. */
	rw_supported(op->name, fallocate(f->fd, op->mode, op->off, op->len));
	f = rw_file("file", state, SIZE);
	/* Where none of the direct writes goes: they are not to know of it. */
	rw_cache(f, AT, 16 * RW_KIB);
	rw_cache(f, AT + LEN, 16 * RW_KIB);
	rw_cache_dirty(f, AT + LEN + 32 * RW_KIB, 16 * RW_KIB);
	rw_use(ring, f);
	if (state == RW_UNWRITTEN)
		cut_up(ring, f);
	return f;
}

/*
 * Returns how many of the writes are in flight, with the gate shut. One that meets several extents
 * is several writes to the device: then each is waited for before the next, to know it from parts
 * of the one before.
 */
static unsigned int submit(struct rw_ring *ring, struct rw_file *f,
			   const struct rw_write_kind *kind, bool gate)
{
	const bool in_parts = kind->state == RW_UNWRITTEN || kind->state == RW_MIXED;
	const struct {
		off_t off;
		size_t len;
	} writes[] = {
		/* Apart from each other, and else in one extent even where blocks are mapped one by one. */
		{ 48 * RW_KIB, 64 * RW_KIB },
		{ AT + 64 * RW_KIB, 32 * RW_KIB },
		{ SIZE - 64 * RW_KIB, (kind->state == RW_UNWRITTEN ? 64 : 16) * RW_KIB },
		{ SIZE, 64 * RW_KIB },
	};
	const unsigned int n = kind->extend ? 4 : 3;
	unsigned int begun = 0, seen = 0;

	for (unsigned int i = 0; i < n; i++) {
		unsigned int was = seen;

		rw_write(ring, f, writes[i].off, writes[i].len, kind->rwf);
		if (!gate || !in_parts)
			continue;
		seen = rw_in_flight(was + 1);
		begun += seen > was;
	}
	return gate && !in_parts ? rw_in_flight(n) : begun;
}

static void held(struct rw_ring *ring, struct rw_file *f, const struct op *op,
		 const struct who *who, const struct rw_write_kind *kind)
{
	const struct arg a = { f, op };
	unsigned int in_flight = submit(ring, f, kind, true), n = rw_unreaped(ring);
	/* It waits for all writes, on btrfs for those to its range alone. */
	bool waits =
		rw_fs() == RW_BTRFS && op->behind ? kind->extend && in_flight == n : in_flight > 0;

	if (who->task) {
		rw_held_by(who->task, call, &a, waits);
		rw_reap(ring);
	} else {
		rw_ring_fallocate(ring, f, op->mode, op->off, op->len, waits);
		rw_held_reap(ring);
	}
	(in_flight == n ? rw_then : rw_race)(f, op->change);
	if (in_flight == n)
		rw_layout(f, op->off, op->len, op->layout);
}

/* Soon after the writes, or when they are done at the device and not reaped. */
static void racing(struct rw_ring *ring, struct rw_file *f, const struct op *op,
		   const struct who *who, bool done)
{
	const struct arg a = { f, op };

	if (done)
		rw_done();
	else
		rw_jitter(200);
	if (who->task)
		rw_by(who->task, call, &a);
	else
		rw_ring_fallocate(ring, f, op->mode, op->off, op->len, false);
	rw_reap(ring);
	rw_race(f, op->change);
}

static void run(const void *const *at)
{
	const struct op *op = at[0];
	struct rw_ring *ring = rw_ring(at[1], 8);
	bool done = rw_has_gate();
	struct rw_file *f;

	for (size_t k = 0; rw_has_gate() && k < RW_WRITE_KINDS; k++) {
		const struct rw_write_kind *kind = &rw_write_kinds[k];

		if (!rw_write_kind_wanted(k, at[1], at[2] == &whos[0]))
			continue;
		f = start(ring, op, op->shared ? RW_SHARED : kind->state);
		rw_gate_shut();
		held(ring, f, op, at[2], kind);
		rw_verify(f);
	}
	rw_for_ms(15) {
		f = start(ring, op, op->shared ? RW_SHARED : RW_WRITTEN);
		submit(ring, f, &rw_write_kinds[RW_OVERWRITE], false);
		racing(ring, f, op, at[2], done);
		rw_verify(f);
		done = false;
	}
	rw_ring_close(ring);
}

static bool has(const void *const *at)
{
	const struct op *op = at[0];
	const struct rw_ring_kind *kind = at[1];
	const struct who *who = at[2];

	if (op->plain)
		return kind == &rw_ring_kinds[0] && who == &whos[1];
	return who->task || !kind->aio; /* libaio knows no fallocate */
}

static const char *const guards[] = {
	"838b35bb6a89 io_uring/rw: disable IOCB_DIO_CALLER_COMP",
	"249bd9087a52 xfs: properly serialise fallocate against AIO+DIO",
	"0d306dcf86e8 ext4: wait for existing dio workers in ext4_alloc_file_blocks()",
	NULL,
};

static const char *const groups[] = { "falloc", NULL };

const struct rw_test rw_test = {
	.name = "falloc-dio",
	.summary = "fallocate waits for direct writes in flight and neither loses nor moves them",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(ops), RW_AXIS(rw_ring_kinds), RW_AXIS(whos) },
	.has = has,
	.run = run,
};
