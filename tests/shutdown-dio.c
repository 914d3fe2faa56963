/* SPDX-License-Identifier: MIT */
/*
 * The filesystem is shut down with direct writes in flight.
 *
 * Frozen first (FSOP_GOING_FLAGS_DEFAULT of xfs and ext4; bdev_freeze()), it waits for them as FIFREEZE
 * does, which may not need the task that called to end them, and has them on disk: each is there, whole.
 * In the other two ways it waits for no write, but with its log written it has what was done before, synced
 * or not (ext4_force_commit(), xlog_force_shutdown()). What ends after it ends with -EIO, or with its length
 * (xfs_dio_write_end_io(), ext4_dio_write_end_io()), but always; and who was told that a synchronous
 * write, or one over blocks that it had, is done has it on disk. Then what needs the writes to be over
 * returns at once, with EIO, and the filesystem can be unmounted and used again.
 */
#include "ringwedge.h"

#define SIZE (256 * RW_KIB)
#define LEN (32 * RW_KIB)
#define WRITES 2

static const struct how {
	const char *name;
	enum rw_shutdown how;
} hows[] = {
	{ "frozen", RW_LOG_FROZEN },
	{ "log-written", RW_LOG_WRITTEN },
	{ "log-lost", RW_LOG_LOST },
};

struct scene {
	const struct how *how;
	const struct rw_write_kind *kind;
	struct rw_own own;
	struct rw_file *file;
	struct rw_io io[WRITES];
};

static void shut_down(const void *p)
{
	const struct scene *s = p;

	rw_own_shut_down(&s->own, s->how->how);
}

static bool behind_the_end(const struct rw_io *io)
{
	return io->off >= SIZE;
}

/* Must it be on disk when its completion says that it is done? */
static bool stays(const struct scene *s, const struct rw_io *io)
{
	return s->how->how == RW_LOG_FROZEN || s->kind->rwf ||
	       (s->kind->state == RW_WRITTEN && !behind_the_end(io));
}

/* EROFS: ext4's journal was aborted (ext4_journal_check_start()). */
static bool went_down(long error)
{
	return error == EIO || (error == EROFS && rw_fs() == RW_EXT4);
}

static void refused(const char *what, long ret)
{
	if (ret >= 0 || !went_down(errno))
		rw_fail("%s on a filesystem that was shut down: %s, expected EIO", what,
			ret >= 0 ? "done" : strerror(errno));
}

static void submit(struct scene *s, struct rw_ring *ring)
{
	for (int i = 0; i < WRITES; i++) {
		s->io[i] = (struct rw_io){ .len = LEN, .rwf = s->kind->rwf };
		if (i)
			s->io[i].off = s->kind->extend ? SIZE : SIZE - LEN;
		rw_submit(ring, s->file, &s->io[i]);
	}
}

static void judge(const struct scene *s, bool waited)
{
	for (int i = 0; i < WRITES; i++)
		if (waited || !went_down(-s->io[i].res))
			rw_eq(s->io[i].res, LEN);
}

/* What is there, of what need not be. */
static void tell(struct scene *s)
{
	struct stat st;

	rw_ok(fstat(s->file->fd, &st));
	for (int i = 0; i < WRITES; i++) {
		struct rw_io *io = &s->io[i];

		if (io->res < 0 || !stays(s, io))
			io->res = behind_the_end(io) ? st.st_size - SIZE : -EIO;
		rw_ended(s->file, io);
	}
}

/*
 * A file that was written before, and of which nobody has asked whether it is on disk. What the last
 * block holds behind the end must be there as zeros when the log is written.
 */
static struct rw_file *write_before(const struct scene *s, struct rw_ring *ring)
{
	const off_t end = (s->kind->extend ? SIZE + LEN : SIZE) - 1000;
	struct rw_file *f = rw_file("before", s->kind->state, SIZE);

	rw_use(ring, f);
	rw_write(ring, f, 0, LEN, 0);
	rw_write(ring, f, s->kind->extend ? SIZE : SIZE - LEN, LEN, 0);
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_ok(ftruncate(f->fd, end));
	rw_then(f, (struct rw_change){ RW_RESIZE, end });
	close(f->fd);
	f->fd = -1;
	return f;
}

static void step(struct scene *s, const struct rw_ring_kind *kind, const struct rw_who *who)
{
	struct rw_ring *ring = rw_ring(kind, WRITES);
	struct rw_io late = { .off = SIZE / 2, .len = LEN };
	struct rw_file *before;
	unsigned int held;

	s->file = rw_file("file", s->kind->state, SIZE);
	rw_use(ring, s->file);
	before = write_before(s, ring); /* to make a file is to sync */
	rw_gate_shut();
	submit(s, ring);
	held = rw_in_flight(WRITES);
	rw_held_by(who, shut_down, s, s->how->how == RW_LOG_FROZEN && held);
	rw_reap(ring);
	judge(s, s->how->how == RW_LOG_FROZEN && held == WRITES);
	rw_submit(ring, s->file, &late);
	rw_reap(ring);
	if (!went_down(-late.res))
		rw_eq(late.res, -EIO);
	rw_not_written(s->file, &late);
	refused("ftruncate", ftruncate(s->file->fd, 0));
	refused("fallocate", fallocate(s->file->fd, 0, 0, 2 * SIZE));
	rw_ring_close(ring);
	rw_own_come_back(&s->own, s->file);
	tell(s);
	rw_verify(s->file);
	before->fd = (int)rw_ok(open(rw_path(before), O_RDWR | O_DIRECT | O_CLOEXEC));
	if (s->how->how != RW_LOG_LOST)
		rw_verify(before);
}

static void run(const void *const *at)
{
	static const int kinds[] = { RW_OVERWRITE, RW_CONVERT, RW_SYNCED, RW_EXTEND };
	struct scene s = { .how = at[0], .own.dies = true };

	if (!(rw_fs() & (RW_XFS | RW_EXT4)))
		rw_skip("only xfs and ext4 promise that");
	if (!rw_has_gate())
		rw_skip("needs a gate, and direct I/O");
	rw_own_make(&s.own, NULL);
	rw_eq(rw_own_mount(&s.own, NULL), 0);
	for (size_t i = 0; i < RW_ARRAY_SIZE(kinds); i++) {
		s.kind = &rw_write_kinds[kinds[i]];
		if (rw_can_make(s.kind->state))
			step(&s, at[1], at[2]);
	}
}

static bool has(const void *const *at)
{
	const struct how *how = at[0];
	const struct rw_who *who = at[2];

	/* What waits for nothing does not differ by who calls, and a ring not by what becomes of the log. */
	return how->how == RW_LOG_FROZEN ||
	       (!who->other && (how->how == RW_LOG_LOST || at[1] == &rw_ring_kinds[0]));
}

static const char *const guards[] = {
	"b000145e9907 io_uring/rw: defer fsnotify calls to task context (kept the freeze hold, "
	"too)",
	NULL,
};

static const char *const groups[] = { "freeze", "error", NULL };
static const char *const needs[] = { "root", "a gate", NULL };

const struct rw_test rw_test = {
	.name = "shutdown-dio",
	.summary = "direct writes in flight end when the filesystem is shut down, and what was "
		   "promised is kept",
	.guards = guards,
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(hows), RW_AXIS(rw_ring_kinds), RW_AXIS(rw_whos) },
	.has = has,
	.run = run,
};
