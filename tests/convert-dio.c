/* SPDX-License-Identifier: MIT */
/*
 * A direct write to unwritten blocks is in flight until they are converted, not just at the device.
 *
 * What waits for direct writes must wait for that, too: iomap_dio_complete() calls end_io, and only
 * then inode_dio_end(). Who comes between finds blocks that are still unwritten over data that are
 * there: to zero the rest of one wipes them out, to move or free them leaves the conversion none, or
 * another's. And what the page cache reads meanwhile is zeros, which must go when the write ends.
 *
 * Conversion takes a transaction. The journal is on the filesystem that the test may freeze: while it
 * is flushed, and that does not end, none begins. The data are where the gate is, which is opened.
 */
#include "ringwedge.h"

#include <linux/falloc.h>

#define SIZE (512 * RW_KIB)
#define AT (128 * RW_KIB)
#define LEN (64 * RW_KIB)
#define JOURNAL (4160 * RW_KIB) /* the smallest: 1024 blocks, and two before them */

struct arg;

struct op {
	const char *name;
	void (*call)(const struct arg *a); /* NULL: the range is read into the page cache */
	int mode;			   /* of fallocate(2) */
	struct rw_change change;
};

struct arg {
	const struct op *op;
	struct rw_file *file;
	off_t off; /* of an unaligned write */
	size_t len;
	unsigned int promise;
};

static void change(const struct arg *a)
{
	rw_ok(fallocate(a->file->fd, a->op->mode, AT, LEN));
}

static void shrink(const struct arg *a)
{
	rw_ok(ftruncate(a->file->fd, AT + LEN / 2));
}

static void write_part(const struct arg *a)
{
	static char buf[4096] __attribute__((aligned(4096)));

	rw_fill(a->file, buf, a->off, a->len, a->promise);
	rw_eq(rw_ok(pwrite(a->file->fd, buf, a->len, a->off)), (long long)a->len);
}

static const struct op ops[] = {
	{ "cached-read", NULL },
	{ "unaligned", write_part },
	{ "shrink", shrink, 0, { RW_RESIZE, AT + LEN / 2 } },
	{ "punch-hole", change, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, { RW_ZERO, AT, LEN } },
	{ "zero-range", change, FALLOC_FL_ZERO_RANGE, { RW_ZERO, AT, LEN } },
	{ "collapse-range", change, FALLOC_FL_COLLAPSE_RANGE, { RW_COLLAPSE, AT, LEN } },
	{ "insert-range", change, FALLOC_FL_INSERT_RANGE, { RW_INSERT, AT, LEN } },
};

static void call(const void *p)
{
	const struct arg *a = p;

	a->op->call(a);
}

/* No transaction begins (jbd2_journal_lock_updates()) until all is written that the journal has. */
static void flush(const void *p)
{
	const struct arg *a = p;
	uint32_t flags = 0;

	rw_ok(ioctl(a->file->fd, RW_EXT4_CHECKPOINT, &flags));
}

static void run(const void *const *at)
{
	struct rw_own own = { .journal = JOURNAL };
	struct rw_ring *ring = rw_ring(at[1], 1);
	struct arg a = { .op = at[0] };
	struct rw_helper caller, flusher;
	uint32_t flags = 0;
	bool completed, held, waits = false, waited = true;

	if (rw_fs() != RW_EXT4 || !rw_can_make(RW_UNWRITTEN))
		rw_skip("needs ext4, whose journal can be held, with extents");
	if (!rw_has_gate())
		rw_skip("needs a gate, and direct I/O");
	rw_own_make(&own, NULL);
	rw_eq(rw_own_mount(&own, NULL), 0);
	a.file = rw_file("file", RW_UNWRITTEN, SIZE);
	rw_supported("EXT4_IOC_CHECKPOINT", ioctl(a.file->fd, RW_EXT4_CHECKPOINT, &flags));
	a.len = rw_sector_size();
	a.off = AT + (off_t)a.len;

	rw_use(ring, a.file);
	rw_freeze();
	rw_gate_shut();
	rw_set_up(fchmod(a.file->fd, 0640)); /* that is there to be flushed */
	rw_write(ring, a.file, AT, LEN, 0);
	rw_in_flight(1);
	if (a.op->call == write_part)
		a.promise = rw_promise(a.file, a.off, a.len);
	if (a.op->call) {
		caller = rw_start(call, &a);
		waits = rw_in_drain_now(caller.pid); /* if it does not, others say so */
	}
	flusher = rw_start(flush, &a);
	held = rw_asleep_in(flusher.pid, "jbd2_journal_flush");
	rw_gate_open();
	rw_done();
	completed = rw_reap_ready(ring);
	if (waits)
		waited = rw_in_drain_now(caller.pid);
	else
		rw_cache(a.file, AT, LEN);
	rw_thaw();
	if (held && completed)
		rw_fail("a write has completed whose blocks could not be converted");
	if (held && !waited)
		rw_fail("it did not wait until the blocks of a direct write were converted");
	rw_join(flusher);
	if (a.op->call)
		rw_join(caller);
	rw_reap(ring);
	if (a.op->call == write_part)
		rw_unordered(a.file);
	else
		(!a.op->call || waits ? rw_then : rw_race)(a.file, a.op->change);
	rw_verify(a.file);
	rw_ring_close(ring);
}

static const char *const guards[] = {
	"5e25c269e17d fs: invalidate page cache after end_io() in dio completion",
	NULL,
};

static const char *const groups[] = { "falloc", "unaligned", NULL };
static const char *const needs[] = { "root", "a gate", "ext4", NULL };

const struct rw_test rw_test = {
	.name = "convert-dio",
	.summary = "what waits for direct writes waits until their blocks are converted, too",
	.guards = guards,
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(ops), RW_AXIS(rw_two_kinds) },
	.run = run,
};
