/* SPDX-License-Identifier: MIT */
/*
 * XFS: blocks that change places under direct writes.
 *
 * XFS_IOC_EXCHANGE_RANGE, XFS_IOC_SWAPEXT and a clone within one file must wait for the direct
 * writes to the files first (xfs_exchange_range_prep(), __generic_remap_file_range_prep()). Without
 * that the completion of a write to unwritten blocks converts those that took their place, and its
 * own data read as zeros; or a size that was read before the wait leaves data behind.
 */
#include "ringwedge.h"

#include <linux/falloc.h>

#include <linux/fs.h>

#define SIZE (512 * RW_KIB)
#define AT (64 * RW_KIB)
#define TO (320 * RW_KIB) /* of calls within one file */
#define LEN (128 * RW_KIB)

/* As in fs/xfs/libxfs/xfs_fs.h, which older xfsprogs have without the first. */
struct exchange_range {
	int32_t file1_fd;
	uint32_t pad;
	uint64_t file1_offset, file2_offset, length, flags;
};
#define XFS_IOC_EXCHANGE_RANGE _IOW('X', 129, struct exchange_range)
#define XFS_EXCHANGE_RANGE_TO_EOF 1

struct bstime {
	long sec;
	int32_t nsec;
};
struct swapext {
	int64_t version, fdtarget, fdtmp, offset, length;
	char pad[16];
	struct { /* struct xfs_bstat: only these two times are looked at */
		char before[56];
		struct bstime mtime, ctime;
		char behind[48];
	} stat;
};
#define XFS_IOC_SWAPEXT _IOWR('X', 109, struct swapext)

struct files {
	struct rw_file *a, *b;
};

static long exchange_ioctl(const struct rw_file *a, struct exchange_range r)
{
	return ioctl(a->fd, XFS_IOC_EXCHANGE_RANGE, &r);
}

static long exchange(const struct files *f)
{
	return exchange_ioctl(f->a, (struct exchange_range){ f->b->fd, 0, AT, AT, LEN, 0 });
}

static long exchange_to_eof(const struct files *f)
{
	return exchange_ioctl(
		f->a, (struct exchange_range){ f->b->fd, 0, 0, 0, 0, XFS_EXCHANGE_RANGE_TO_EOF });
}

static long exchange_within(const struct files *f)
{
	return exchange_ioctl(f->a, (struct exchange_range){ f->a->fd, 0, TO, AT, LEN, 0 });
}

static long swapext(const struct files *f)
{
	struct swapext s = { 0, f->a->fd, f->b->fd, 0, SIZE };
	struct stat st;

	rw_set_up(fstat(f->a->fd, &st));
	s.stat.mtime = (struct bstime){ st.st_mtim.tv_sec, (int32_t)st.st_mtim.tv_nsec };
	s.stat.ctime = (struct bstime){ st.st_ctim.tv_sec, (int32_t)st.st_ctim.tv_nsec };
	return ioctl(f->a->fd, XFS_IOC_SWAPEXT, &s);
}

static long clone_within(const struct files *f)
{
	const struct file_clone_range r = { f->a->fd, AT, LEN, TO };

	return ioctl(f->a->fd, FICLONERANGE, &r);
}

static const struct op {
	const char *name;
	long (*call)(const struct files *f);
	bool two;    /* files */
	bool extend; /* one of the writes, so that the sizes differ */
	bool judge;  /* by contents alone: it is not known to wait */
	enum rw_change_kind kind;
	off_t off, len, from_off; /* of a, and of b if there are two */
} ops[] = {
	{ "exchange-range", exchange, true, false, false, RW_EXCHANGE, AT, LEN, AT },
	{ "exchange-to-eof", exchange_to_eof, true, true, false, RW_EXCHANGE, 0, 0, 0 },
	{ "exchange-within", exchange_within, false, false, false, RW_EXCHANGE, AT, LEN, TO },
	{ "swapext", swapext, true, false, true, RW_EXCHANGE, 0, SIZE, 0 },
	{ "clone-within", clone_within, false, false, false, RW_COPY, TO, LEN, AT },
};

/* Which file the writes in flight go to. */
static const struct side {
	const char *name;
	bool a, b;
} sides[] = {
	{ "first", true, false },
	{ "second", false, true },
	{ "both", true, true },
};

struct arg {
	const struct op *op;
	struct files f;
};

static void call(const void *p)
{
	const struct arg *a = p;

	rw_ok(a->op->call(&a->f));
}

static struct files make(const struct op *op, enum rw_state state)
{
	/* One with blocks to convert, the other with data in their place. */
	struct files f = { rw_file("first", state, SIZE), rw_file("second", RW_WRITTEN, SIZE) };

	/* -EINVAL if the first has fewer extents: some behind its end, apart from each other. */
	for (int i = 1; op->call == swapext && i <= 8; i++)
		rw_set_up(fallocate(f.a->fd, FALLOC_FL_KEEP_SIZE, SIZE + i * 128 * RW_KIB, 4096));
	return f;
}

static void submit(struct rw_ring *ring, struct rw_file *f, const struct op *op)
{
	rw_use(ring, f);
	rw_write(ring, f, AT, 64 * RW_KIB, 0);
	rw_write(ring, f, TO + 32 * RW_KIB, 32 * RW_KIB, 0);
	if (op->extend)
		rw_write(ring, f, SIZE, 64 * RW_KIB, 0);
}

static void held(struct rw_ring *ring, const struct op *op, const struct side *side,
		 const struct rw_who *who)
{
	static const enum rw_state states[] = { RW_WRITTEN, RW_UNWRITTEN };

	for (size_t i = 0; i < RW_ARRAY_SIZE(states); i++) {
		struct arg arg = { op, make(op, states[i]) };
		struct rw_file *a, *b;
		unsigned int n, in_flight;

		/* Is it supported? And the metadata that it needs is in memory from here on. */
		rw_supported(op->name, op->call(&arg.f));
		arg.f = make(op, states[i]);
		a = arg.f.a;
		b = arg.f.b;
		rw_cache(a, AT + 64 * RW_KIB, 16 * RW_KIB); /* where no direct write goes */
		rw_cache_dirty(b, AT + 96 * RW_KIB, 16 * RW_KIB);
		rw_gate_shut();
		if (side->a)
			submit(ring, a, op);
		if (side->b)
			submit(ring, b, op);
		n = rw_unreaped(ring);
		in_flight = rw_in_flight(n);
		rw_held_by(who, call, &arg, in_flight > 0 && !op->judge);
		rw_reap(ring);
		rw_then(b, (struct rw_change){ RW_KEEP });
		rw_then(a, (struct rw_change){ op->kind, op->off, op->len, op->two ? b : a,
					       op->from_off });
		if (in_flight < n)
			continue; /* which of them came before the call is not known */
		rw_verify(a);
		rw_verify(b);
	}
}

static void run(const void *const *at)
{
	struct rw_ring *ring = rw_ring(at[2], 8);

	if (rw_fs() != RW_XFS)
		rw_skip("needs xfs");
	if (!rw_has_gate())
		rw_skip("needs a gate");
	held(ring, at[0], at[1], at[3]);
	rw_ring_close(ring);
}

static bool has(const void *const *at)
{
	const struct op *op = at[0];
	const struct side *side = at[1];
	const struct rw_ring_kind *kind = at[2];
	const struct rw_who *who = at[3];

	return (op->two || !side->b) && (!who->other || (!kind->aio && side->a != side->b));
}

static const char *const guards[] = {
	"9a64d9b3109d xfs: introduce new file range exchange ioctl",
	"876bec6f9bbf vfs: refactor clone/dedupe_file_range common functions",
	NULL,
};

static const char *const groups[] = { "exchange", NULL };
static const char *const needs[] = { "xfs", NULL };

const struct rw_test rw_test = {
	.name = "exchange-dio",
	.summary = "blocks that change places on xfs take the data of direct writes with them",
	.guards = guards,
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(ops), RW_AXIS(sides), RW_AXIS(rw_two_kinds), RW_AXIS(rw_whos) },
	.has = has,
	.run = run,
};
