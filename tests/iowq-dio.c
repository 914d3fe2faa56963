/* SPDX-License-Identifier: MIT */
/*
 * Many workers of io-wq write to one inode, and what waits for them is in io-wq as well.
 *
 * Workers write directly in parallel, or one after another: for the inode's lock, for pages that must
 * go first; beside them others fallocate, truncate and sync. Each request must end once the device
 * lets it, with no worker of a kind left over, and none may spin meanwhile (io_wq_submit_work() tries
 * again on -EAGAIN): a retry without a wait is a burnt CPU.
 */
#include "ringwedge.h"

#include <linux/falloc.h>

#define SIZE (512 * RW_KIB)
#define N 12
#define AT (128 * RW_KIB)
#define LEN (128 * RW_KIB)
#define SMALL (384 * RW_KIB)

static const struct mix {
	const char *name;
	enum rw_state state;
	off_t step;  /* from one write to the next */
	size_t len;  /* 0: one sector, in the next block each */
	off_t from;  /* where the first one is */
	bool cached; /* the pages are in the cache */
} mixes[] = {
	{ "written", RW_WRITTEN, 32 * RW_KIB, 16 * RW_KIB },
	{ "unwritten", RW_UNWRITTEN, 32 * RW_KIB, 16 * RW_KIB },
	{ "hole", RW_HOLE, 32 * RW_KIB, 16 * RW_KIB },
	{ "across", RW_MIXED, 40 * RW_KIB, 32 * RW_KIB },
	{ "shared", RW_SHARED, 32 * RW_KIB, 16 * RW_KIB },
	{ "sub-block", RW_HOLE, 4096, 0 },
	{ "cached", RW_WRITTEN, 32 * RW_KIB, 16 * RW_KIB, .cached = true },
	{ "extending", RW_WRITTEN, 16 * RW_KIB, 16 * RW_KIB, .from = SIZE },
};

/* In io-wq because the submission may not block, or by request. */
static const struct rw_ring_kind kinds[] = { { .name = "natural" },
					     { .name = "forced", .async = true, .eventfd = true } };

/* A request of the same ring, behind the writes. */
enum beside { NOTHING, PUNCH, TRUNCATE, SYNC, BESIDES };

static const struct rw_change changes[BESIDES] = {
	[PUNCH] = { RW_ZERO, AT, LEN },
	[TRUNCATE] = { RW_RESIZE, SMALL },
};

/* A punch waits for all writes, on btrfs for those to its range alone. */
static bool waits(const struct mix *mix, enum beside beside, unsigned int held)
{
	if (!mix->len && rw_fs() & (RW_BTRFS | RW_F2FS))
		return false; /* parts of a block go through the page cache */
	if (rw_fs() == RW_BTRFS && beside == PUNCH)
		return held == N && !mix->from;
	return held > 0;
}

static void step(struct rw_ring *ring, const struct mix *mix, enum beside beside)
{
	const size_t len = mix->len ? mix->len : rw_sector_size();
	const off_t apart = mix->len ? mix->step : mix->step + (off_t)len;
	struct rw_file *f = rw_file("file", mix->state, SIZE);
	unsigned int held = 0;
	bool must_wait;

	if (mix->cached)
		rw_cache(f, 0, SIZE);
	if (rw_has_gate())
		rw_gate_shut();
	for (int i = 0; i < N; i++)
		rw_write(ring, f, mix->from + i * apart, len, 0);
	if (rw_has_gate())
		held = rw_in_flight(N);
	must_wait = waits(mix, beside, held);
	if (beside == PUNCH)
		rw_ring_fallocate(ring, f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, AT, LEN,
				  must_wait);
	else if (beside == TRUNCATE)
		rw_ring_ftruncate(ring, f, SMALL, must_wait);
	else if (beside == SYNC)
		rw_ring_fsync(ring, f, false);
	if (held)
		rw_workers_asleep();
	if (rw_has_gate())
		rw_held_reap(ring);
	rw_reap(ring);
	/* What goes behind the end has no part in what is punched. */
	((held == N && mix->state != RW_MIXED) || mix->from ? rw_then : rw_race)(f,
										 changes[beside]);
	rw_verify(f);
}

static void run(const void *const *at)
{
	const struct mix *mix = at[0];
	const struct rw_ring_kind *kind = at[1];
	struct rw_ring *ring = rw_ring(kind, N + 1);
	const bool punches = rw_can_make(RW_UNWRITTEN);
	/* All of them with one mix; what the others need is somebody who waits for them. */
	const bool wanted[BESIDES] = {
		[NOTHING] = mix == mixes || !punches,
		[PUNCH] = punches,
		[TRUNCATE] = kind->async && !mix->from && rw_has_opcode(ring, RW_OP_FTRUNCATE),
		[SYNC] = kind->async && mix == mixes,
	};

	if (!rw_can_make(mix->state))
		rw_skip("needs a filesystem with %s blocks", mix->name);
	if (mix->state == RW_HOLE && !punches)
		rw_skip("needs extents: without, writes to holes go through the page cache");
	for (enum beside beside = NOTHING; beside < BESIDES; beside++)
		if (wanted[beside])
			step(ring, mix, beside);
	rw_ring_close(ring);
}

static const char *const guards[] = {
	"838b35bb6a89 io_uring/rw: disable IOCB_DIO_CALLER_COMP",
	NULL,
};

static const char *const groups[] = { "iowq", NULL };

const struct rw_test rw_test = {
	.name = "iowq-dio",
	.summary = "writes in many workers of io-wq, and what waits for them there, end without "
		   "spinning",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(mixes), RW_AXIS(kinds) },
	.run = run,
};
