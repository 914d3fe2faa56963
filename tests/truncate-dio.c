/* SPDX-License-Identifier: MIT */
/*
 * truncate(2) against direct writes in flight.
 *
 * Before blocks are taken away the filesystem must wait in inode_dio_wait() (ext4_setattr() when it
 * shrinks, xfs_setattr_size() always). Without the wait a write lands in freed blocks, or its
 * completion brings back the old size; when the write's completion needs the task that waits, the
 * truncation sleeps for ever in D.
 */
#include "ringwedge.h"

#define SIZE (512 * RW_KIB)
#define SMALL (128 * RW_KIB)
#define LARGE (768 * RW_KIB)
#define LAST (SIZE - 1000)
#define ALL (RW_XFS | RW_EXT4 | RW_BTRFS | RW_F2FS)

static const struct op {
	const char *name;
	off_t to;	    /* the size to set */
	off_t back;	    /* and then, if not 0 */
	bool open;	    /* by open(2) with O_TRUNC */
	bool only_extend;   /* only with a write in flight that itself extends the file */
	unsigned int waits; /* which filesystems promise to wait */
} ops[] = {
	{ "shrink", SMALL, .waits = ALL },
	{ "extend", LARGE, .waits = RW_XFS },
	{ "extend-over-extending", LARGE, .only_extend = true, .waits = RW_XFS },
	{ "to-sub-block", SMALL + 1000, .waits = ALL },
	{ "zero-and-back", 0, SIZE, .waits = ALL },
	{ "open-trunc", 0, .open = true, .waits = ALL },
	{ "sub-block-and-back", SMALL + 1000, SIZE, .waits = ALL },
	{ "within-last-block", LAST, SIZE, .waits = ALL }, /* which stays */
};

struct arg {
	const struct rw_file *file;
	const struct op *op;
};

static void call(const void *p)
{
	const struct arg *a = p;

	if (a->op->open)
		close((int)rw_ok(open(rw_path(a->file), O_RDWR | O_TRUNC | O_CLOEXEC)));
	else
		rw_ok(ftruncate(a->file->fd, a->op->to));
}

static struct rw_file *start(struct rw_ring *ring, const struct op *op, enum rw_state state)
{
	struct rw_file *f = rw_file("file", state, SIZE);
	const struct arg a = { f, op };

	/* Once with nothing in flight, to read the metadata it needs. */
	call(&a);
	f = rw_file("file", state, SIZE);
	rw_cache(f, 2 * SMALL, 16 * RW_KIB); /* where none of the direct writes goes */
	rw_use(ring, f);
	return f;
}

static void submit(struct rw_ring *ring, struct rw_file *f, const struct rw_write_kind *kind)
{
	int rwf = kind->rwf;

	rw_write(ring, f, 48 * RW_KIB, 32 * RW_KIB, rwf);
	rw_write(ring, f, SMALL - 16 * RW_KIB, 32 * RW_KIB, rwf);
	rw_write(ring, f, SIZE - 64 * RW_KIB, 16 * RW_KIB, rwf);
	if (kind->extend)
		rw_write(ring, f, SIZE, 64 * RW_KIB, rwf);
}

static void check(struct rw_file *f, const struct op *op)
{
	rw_verify(f);
	if (!op->back)
		return;
	rw_ok(ftruncate(f->fd, op->back));
	rw_then(f, (struct rw_change){ RW_RESIZE, op->back });
	rw_verify(f);
}

static void held(struct rw_ring *ring, const struct op *op, const struct rw_who *who,
		 const struct rw_write_kind *kind)
{
	struct rw_file *f = start(ring, op, kind->state);
	const struct arg a = { f, op };
	unsigned int n, in_flight;

	rw_gate_shut();
	submit(ring, f, kind);
	n = rw_unreaped(ring);
	in_flight = rw_in_flight(n);
	rw_held_by(who, call, &a, in_flight > 0 && op->waits & rw_fs());
	rw_reap(ring);
	/* Of a write to several extents only a part may be in flight. */
	if (in_flight == n && kind->state != RW_MIXED) {
		rw_then(f, (struct rw_change){ RW_RESIZE, op->to });
		if (op->to < LAST)
			rw_layout(f, SIZE - 64 * RW_KIB, 128 * RW_KIB, RW_UNMAPPED);
	} else {
		rw_race(f, (struct rw_change){ RW_RESIZE, op->to });
	}
	check(f, op);
}

/* Soon after the writes, or when they are done at the device and not reaped. */
static void racing(struct rw_ring *ring, const struct op *op, const struct rw_who *who, bool done)
{
	struct rw_file *f = start(ring, op, RW_WRITTEN);
	const struct arg a = { f, op };

	submit(ring, f, &rw_write_kinds[op->only_extend ? RW_EXTEND : RW_OVERWRITE]);
	if (done)
		rw_done();
	else
		rw_jitter(200);
	rw_by(who, call, &a);
	rw_reap(ring);
	rw_race(f, (struct rw_change){ RW_RESIZE, op->to });
	rw_verify(f);
}

static void run(const void *const *at)
{
	const struct op *op = at[0];
	struct rw_ring *ring = rw_ring(at[1], 8);
	bool done = rw_has_gate();

	for (size_t k = 0; rw_has_gate() && k < RW_WRITE_KINDS; k++) {
		const struct rw_write_kind *kind = &rw_write_kinds[k];

		if (!rw_write_kind_wanted(k, at[1], at[2] == &rw_whos[0]) ||
		    (op->to > SIZE && op->only_extend != kind->extend))
			continue;
		held(ring, op, at[2], kind);
	}
	rw_for_ms(20) {
		racing(ring, op, at[2], done);
		done = false;
	}
	rw_ring_close(ring);
}

static const char *const guards[] = {
	"838b35bb6a89 io_uring/rw: disable IOCB_DIO_CALLER_COMP",
	"1c9114f9c0f1 ext4: serialize unlocked dio reads with truncate",
	NULL,
};

static const char *const groups[] = { "truncate", NULL };

const struct rw_test rw_test = {
	.name = "truncate-dio",
	.summary = "truncation waits for direct writes in flight and keeps what is inside the new "
		   "size",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(ops), RW_AXIS(rw_ring_kinds), RW_AXIS(rw_whos) },
	.run = run,
};
