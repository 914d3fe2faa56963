/* SPDX-License-Identifier: MIT */
/*
 * Clone, dedupe and copy against direct writes in flight.
 *
 * generic_remap_file_range_prep() must wait for the direct writes to both files. Without that a
 * write that was on its way goes, in place, to a block that the clone shares by now, so that the
 * clone changes after it was made; or it goes to a block of the destination that was freed. When
 * the write's completion needs the task that waits, the call sleeps for ever in D.
 */
#include "ringwedge.h"

#include <linux/fs.h>

#define SIZE (512 * RW_KIB)
#define AT (64 * RW_KIB)
#define LEN (256 * RW_KIB)

struct files {
	struct rw_file *src, *dst;
};

static void clone_all(const void *p)
{
	const struct files *f = p;

	rw_ok(ioctl(f->dst->fd, FICLONE, f->src->fd));
}

static void clone_range(const void *p)
{
	const struct files *f = p;
	const struct file_clone_range r = { f->src->fd, AT, LEN, AT };

	rw_ok(ioctl(f->dst->fd, FICLONERANGE, &r));
}

static void copy(const void *p)
{
	const struct files *f = p;
	off_t in = AT, out = AT;

	rw_eq(rw_ok(copy_file_range(f->src->fd, &in, f->dst->fd, &out, LEN, 0)), LEN);
}

/* Two files of different contents: to be waited for, and then refused. */
static void dedupe(const void *p)
{
	const struct files *f = p;
	union {
		struct file_dedupe_range range;
		char room[sizeof(struct file_dedupe_range) + sizeof(struct file_dedupe_range_info)];
	} u = { .range = { .src_offset = AT, .src_length = LEN, .dest_count = 1 } };

	u.range.info[0].dest_fd = f->dst->fd;
	u.range.info[0].dest_offset = AT;
	rw_ok(ioctl(f->src->fd, FIDEDUPERANGE, &u.range));
	rw_eq(u.range.info[0].status, FILE_DEDUPE_RANGE_DIFFERS);
}

static const struct op {
	const char *name;
	void (*call)(const void *);
	off_t off, len; /* of both files; len 0: nothing is to change */
} ops[] = {
	{ "clone", clone_all, 0, SIZE },
	{ "clone-range", clone_range, AT, LEN },
	{ "copy-file-range", copy, AT, LEN },
	{ "dedupe", dedupe, 0, 0 },
};

/* Which file the writes in flight go to. */
static const struct side {
	const char *name;
	bool src, dst;
} sides[] = {
	{ "source", true, false },
	{ "destination", false, true },
	{ "both", true, true },
};

static struct files start(struct rw_ring *ring, enum rw_state state)
{
	struct files f = { rw_file("source", state, SIZE), rw_file("destination", state, SIZE) };
	const struct rw_file *probe = rw_file("probe", RW_HOLE, SIZE);

	/* Is it supported? And the metadata that the call needs is in memory from here on. */
	rw_supported("reflink", ioctl(probe->fd, FICLONE, f.src->fd));
	f.src = rw_file("source", state, SIZE);
	/* Where no direct write goes. */
	rw_cache_dirty(f.src, AT + 96 * RW_KIB, 16 * RW_KIB);
	rw_cache(f.dst, AT + 96 * RW_KIB, 16 * RW_KIB);
	rw_use(ring, f.src);
	rw_use(ring, f.dst);
	return f;
}

static void submit(struct rw_ring *ring, const struct files *f, const struct side *side)
{
	struct rw_file *to[] = { side->src ? f->src : NULL, side->dst ? f->dst : NULL };

	for (unsigned int i = 0; i < RW_ARRAY_SIZE(to); i++) {
		if (!to[i])
			continue;
		rw_write(ring, to[i], AT, 64 * RW_KIB, 0);
		rw_write(ring, to[i], AT + 192 * RW_KIB, 32 * RW_KIB, 0);
	}
}

static void check(const struct files *f, const struct op *op, bool raced)
{
	struct rw_change change = { op->len ? RW_COPY : RW_KEEP, op->off, op->len, f->src,
				    op->off };

	rw_then(f->src, (struct rw_change){ RW_KEEP });
	(raced ? rw_race : rw_then)(f->dst, change);
	rw_verify(f->dst);
	rw_verify(f->src);
}

static void held(struct rw_ring *ring, const struct op *op, const struct side *side,
		 const struct rw_who *who, enum rw_state state)
{
	struct files f = start(ring, state);
	unsigned int n, in_flight;

	rw_gate_shut();
	submit(ring, &f, side);
	n = rw_unreaped(ring);
	in_flight = rw_in_flight(n);
	rw_held_by(who, op->call, &f, in_flight > 0);
	rw_reap(ring);
	if (in_flight < n)
		return; /* the copy may be of either time, and its source has moved on */
	check(&f, op, false);
	/* A clone is immutable: later writes to the one may not show in the other. */
	rw_write(ring, f.src, AT, 64 * RW_KIB, 0);
	rw_reap(ring);
	rw_then(f.src, (struct rw_change){ RW_KEEP });
	rw_verify(f.dst);
	rw_verify(f.src);
}

static void run(const void *const *at)
{
	const struct op *op = at[0];
	const struct side *side = at[1];
	struct rw_ring *ring = rw_ring(at[2], 8);
	bool done = rw_has_gate();

	if (done) {
		held(ring, op, side, at[3], RW_WRITTEN);
		held(ring, op, side, at[3], RW_UNWRITTEN);
	}
	/* Without the gate a source may be cloned before or after its write: that is for both. */
	rw_for_ms(10) {
		struct files f = start(ring, RW_WRITTEN);
		const struct side destination = sides[1];

		submit(ring, &f, &destination);
		/* First when the writes are done at the device and not reaped, then soon after. */
		if (done)
			rw_done();
		else
			rw_jitter(200);
		done = false;
		rw_by(at[3], op->call, &f);
		rw_reap(ring);
		check(&f, op, true);
	}
	rw_ring_close(ring);
}

static const char *const guards[] = {
	"838b35bb6a89 io_uring/rw: disable IOCB_DIO_CALLER_COMP",
	"876bec6f9bbf vfs: refactor clone/dedupe_file_range common functions",
	NULL,
};

static const char *const groups[] = { "clone", NULL };
static const char *const needs[] = { "reflink", NULL };

const struct rw_test rw_test = {
	.name = "clone-dio",
	.summary =
		"clone, dedupe and copy wait for direct writes to both files, and the copy stays",
	.guards = guards,
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(ops), RW_AXIS(sides), RW_AXIS(rw_ring_kinds), RW_AXIS(rw_whos) },
	.run = run,
};
