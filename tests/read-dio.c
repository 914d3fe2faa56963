/* SPDX-License-Identifier: MIT */
/*
 * Calls that must wait for direct reads in flight.
 *
 * Reads count in i_dio_count like writes (inode_dio_begin()): who takes blocks away, moves or replaces
 * them waits for the reads first (inode_dio_wait()), or these find what the blocks were given to next,
 * of whatever file.
 */
#include "ringwedge.h"

#include <linux/falloc.h>
#include <linux/fs.h>

#define SIZE (512 * RW_KIB)
#define AT (128 * RW_KIB)
#define LEN (128 * RW_KIB)
#define READS 4
#define FROM (80 * RW_KIB)
#define READ (96 * RW_KIB)

static const struct op {
	const char *name;
	struct rw_change change;
	int mode; /* of fallocate(2) */
} ops[] = {
	{ "punch-hole", { RW_ZERO, AT, LEN }, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE },
	{ "zero-range", { RW_ZERO, AT, LEN }, FALLOC_FL_ZERO_RANGE },
	{ "collapse-range", { RW_COLLAPSE, AT, LEN }, FALLOC_FL_COLLAPSE_RANGE },
	{ "insert-range", { RW_INSERT, AT, LEN }, FALLOC_FL_INSERT_RANGE },
	{ "truncate", { RW_RESIZE, AT } },
	{ "clone-over", { RW_COPY, AT, LEN, NULL, AT } },
};

/* A call, and reads of the same file, which must stay in place until they are reaped. */
struct scene {
	const struct op *op;
	struct rw_ring *ring;
	struct rw_file *file, *other; /* the other one is cloned over it */
	struct rw_io io[READS];
};

static void call(const void *p)
{
	const struct scene *s = p;
	const struct file_clone_range range = { s->other->fd, AT, LEN, AT };

	if (s->op->change.kind == RW_RESIZE)
		rw_supported("ftruncate", ftruncate(s->file->fd, AT));
	else if (s->op->change.kind == RW_COPY)
		rw_supported("reflink", ioctl(s->file->fd, FICLONERANGE, &range));
	else
		rw_supported(s->op->name, fallocate(s->file->fd, s->op->mode, AT, LEN));
}

static void start(struct scene *s)
{
	s->other = rw_file("other", RW_WRITTEN, SIZE);
	s->file = rw_file("file", RW_WRITTEN, SIZE);
	/* Is it supported? And the metadata that it needs is in memory from here on. */
	call(s);
	s->file = rw_file("file", RW_WRITTEN, SIZE);
	rw_use(s->ring, s->file);
}

/* Beside each other, from before the range of the call to behind it. */
static void submit(struct scene *s)
{
	for (int i = 0; i < READS; i++) {
		s->io[i] = (struct rw_io){ .read = true, .off = FROM + i * READ, .len = READ };
		rw_submit(s->ring, s->file, &s->io[i]);
	}
}

static void finish(struct scene *s, bool held)
{
	struct rw_change change = s->op->change;

	change.from = s->other;
	if (held) {
		rw_reap(s->ring); /* the file as it was before the call */
		for (int i = 0; i < READS; i++)
			rw_check_read(&s->io[i], SIZE);
		rw_then(s->file, change);
	} else {
		rw_reap_either(s->ring, s->file, change);
	}
	rw_verify(s->file);
}

/* The reads are held behind a write to a file that the call has nothing to do with. */
static void gated(struct scene *s, const struct rw_who *who)
{
	struct rw_file *blocker;
	bool held;

	start(s);
	blocker = rw_file("blocker", RW_WRITTEN, SIZE);
	rw_use(s->ring, blocker);
	rw_gate_shut();
	rw_write(s->ring, blocker, 0, 16 * RW_KIB, 0);
	held = rw_in_flight(1) > 0 && rw_queue_held();
	submit(s);
	/* Of one thread (SQPOLL) several reads may be one to the device. */
	held &= rw_reads_in_flight(READS) > 0;
	/* btrfs reads on from blocks that are taken out: they stay as they are for now. */
	held &= rw_fs() != RW_BTRFS || s->op->change.kind == RW_RESIZE;
	rw_held_by(who, call, s, held);
	finish(s, held);
	rw_then(blocker, (struct rw_change){ RW_KEEP });
}

static void run(const void *const *at)
{
	struct scene s = { .op = at[0], .ring = rw_ring(at[1], READS + 1) };
	enum rw_change_kind change = s.op->change.kind;

	if (rw_fs() == RW_F2FS && (change == RW_COLLAPSE || change == RW_INSERT))
		rw_skip("needs a shift that is whole: f2fs moves block by block, unlocked in "
			"between");
	if (rw_has_gate())
		gated(&s, at[2]);
	rw_for_ms(10) {
		start(&s);
		submit(&s);
		rw_jitter(100);
		rw_by(at[2], call, &s);
		finish(&s, false);
	}
	rw_ring_close(s.ring);
}

static bool has(const void *const *at)
{
	const struct rw_ring_kind *kind = at[1];
	const struct rw_who *who = at[2];

	/* The same to a call that waits are reads by a plain ring, with task_work or without. */
	if (kind->fixed || kind->setup == IORING_SETUP_COOP_TASKRUN)
		return false;
	return !who->other || kind == &rw_ring_kinds[0];
}

static const char *const guards[] = {
	"17335dcc4711 ext4: serialize dio nonlocked reads with defrag workers",
	"1c9114f9c0f1 ext4: serialize unlocked dio reads with truncate",
	NULL,
};

static const char *const groups[] = { "read", NULL };

const struct rw_test rw_test = {
	.name = "read-dio",
	.summary = "calls that take blocks away, move or replace them wait for direct reads",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(ops), RW_AXIS(rw_ring_kinds), RW_AXIS(rw_whos) },
	.has = has,
	.run = run,
};
