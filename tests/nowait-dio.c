/* SPDX-License-Identifier: MIT */
/*
 * The submission of a direct write never sleeps.
 *
 * io_uring_enter issues with IOCB_NOWAIT: what would sleep for the inode's locks, for direct I/O in
 * flight (inode_dio_wait()), for dirty pages, timestamps or blocks to be allocated must end with
 * -EAGAIN, before any of it is done, and is done by io-wq. Where a check is missing the task that
 * submits sleeps, and with it all that it has to do; on a SQPOLL ring, all that share its thread.
 * With RWF_NOWAIT the request itself ends with -EAGAIN, or is carried out.
 */
#include "ringwedge.h"

#include <linux/falloc.h>

#define SIZE (512 * RW_KIB)
#define AT (128 * RW_KIB) /* of the write */
#define LEN (48 * RW_KIB) /* three turns of RW_MIXED */
#define TURN (LEN / 3)
#define TAIL (64 * RW_KIB) /* what is cut off the file */

static const struct target {
	enum rw_state state;
	off_t off;
	bool sector; /* one, the second of its block */
} targets[] = {
	{ RW_WRITTEN, AT },   { RW_WRITTEN, AT, true },	      { RW_WRITTEN, SIZE },
	{ RW_UNWRITTEN, AT }, { RW_HOLE, AT, true },	      { RW_HOLE, AT },
	{ RW_SHARED, AT },    { RW_MIXED, AT - 32 * RW_KIB }, /* from written blocks into a hole */
};

static void shrink(const void *p)
{
	const struct rw_file *f = p;

	rw_ok(ftruncate(f->fd, SIZE - TAIL));
}

static void punch(const void *p)
{
	const struct rw_file *f = p;

	rw_ok(fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, SIZE - TAIL, TAIL));
}

/* Sleeps for the log, with xfs's ILOCK shared. */
static void sync_mode(const void *p)
{
	const struct rw_file *f = p;

	rw_ok(fchmod(f->fd, 0640));
	rw_ok(fsync(f->fd));
}

/* Has the inode's lock shared until it has ended: who would have it exclusive gets no further. */
static void read_written(const void *p)
{
	const struct rw_file *f = p;
	char *buf = aligned_alloc(4096, TURN);

	if (!buf)
		rw_broken("out of memory");
	rw_eq(rw_ok(pread(f->fd, buf, TURN, AT + 7 * TURN)), TURN);
	free(buf);
}

/* What a submission could sleep for. */
static const struct obstacle {
	const char *name;
	void (*call)(const void *); /* of another task */
	struct rw_change change;
	bool drain; /* it sleeps in the drain, with the inode locked */
	bool dirty;
	bool few; /* kinds of rings: they make no difference to it */
	bool suid; /* the file, which a write would have to take off it, with the inode locked exclusively */
} obstacles[] = {
	{ "writes" }, /* to another place of the file */
	{ "truncation", shrink, { RW_RESIZE, SIZE - TAIL }, .drain = true },
	{ "punch-hole", punch, { RW_ZERO, SIZE - TAIL, TAIL }, .drain = true, .few = true },
	{ "fsync", sync_mode, { RW_KEEP }, .few = true },
	{ "dirty-pages", .dirty = true },
	{ "read", read_written, { RW_KEEP }, .few = true },
	{ "read-set-user-id", read_written, { RW_KEEP }, .few = true, .suid = true },
};

/*
 * With the inode locked, as xfs and ext4 have it then, there is no way in, not even for reads of
 * holes, which need no device.
 */
static void check_locked_out(struct rw_ring *ring, const struct rw_io *nowait)
{
	unsigned int ended = rw_reap_ready(ring);

	if (rw_gate_is_shut() && ended > nowait->done)
		rw_fail("a request came by a call that waits for direct I/O, with the inode "
			"locked");
}

static void one(struct rw_ring *ring, bool aio, const struct obstacle *obstacle,
		const struct target *target)
{
	struct rw_file *f = rw_file("file", target->state, SIZE);
	const size_t sector = rw_sector_size(), len = target->sector ? sector : LEN;
	const off_t off = target->off + (target->sector ? (off_t)sector : 0);
	struct rw_io nowait = { .off = off + LEN, .len = len, .rwf = RWF_NOWAIT };
	struct rw_io read = { .read = true, .off = AT + 2 * LEN, .len = LEN };
	/* btrfs waits for the writes to the range of a punch alone. */
	bool drain = obstacle->drain && (rw_fs() != RW_BTRFS || obstacle->call != punch);
	struct rw_helper helper;
	bool locked = false;

	if (obstacle->suid)
		rw_set_up(fchmod(f->fd, S_ISUID | 0755));
	rw_use(ring, f);
	rw_gate_shut();
	if (obstacle->dirty) {
		/* under the write, and to either side of it */
		rw_cache_dirty(f, target->off == SIZE ? SIZE : AT - LEN, 4 * LEN);
	} else {
		rw_write(ring, f, 0, LEN, 0);
		rw_in_flight(1);
	}
	if (obstacle->call)
		helper = rw_start(obstacle->call, f);
	if (drain)
		locked = rw_in_drain_now(helper.pid);
	else if (obstacle->call == read_written)
		rw_reads_in_flight(1); /* behind the write, where there are blocks to read */
	else if (obstacle->call)
		rw_in_flight(2);
	/* libaio has no such promise without the flag. */
	if (!aio) {
		rw_write(ring, f, off, len, 0);
		rw_submit(ring, f, &read);
	}
	rw_submit(ring, f, &nowait);
	rw_submitted();
	if (locked && rw_fs() & (RW_XFS | RW_EXT4))
		check_locked_out(ring, &nowait);
	rw_gate_open();
	if (obstacle->call)
		rw_join(helper);
	rw_reap(ring);
	if (!aio)
		rw_check_read(&read, SIZE);
	if (nowait.res == -EAGAIN)
		rw_not_written(f, &nowait);
	else
		rw_eq(nowait.res, (long)len);
	(obstacle->drain ? rw_race : rw_then)(f, obstacle->change);
	rw_verify(f);
	rw_ok(ftruncate(f->fd, 0)); /* what was refused is not waited for */
}

static void run(const void *const *at)
{
	const struct obstacle *obstacle = at[0];
	const struct rw_ring_kind *kind = at[1];
	struct rw_ring *ring = rw_ring(kind, 4);

	if (!rw_has_gate())
		rw_skip("needs a gate, and direct I/O");
	if (obstacle->call == punch && !rw_can_make(RW_UNWRITTEN))
		rw_skip("needs fallocate");
	for (size_t i = 0; i < (obstacle->suid ? 1 : RW_ARRAY_SIZE(targets)); i++)
		if (rw_can_make(targets[i].state))
			one(ring, kind->aio, obstacle, &targets[i]);
	rw_ring_close(ring);
}

static bool has(const void *const *at)
{
	const struct obstacle *obstacle = at[0];
	const struct rw_ring_kind *kind = at[1];

	/* With IOSQE_ASYNC the task that submits never issues; the other two do as a plain ring does. */
	if (kind->async || kind->fixed || kind->setup == IORING_SETUP_COOP_TASKRUN)
		return false;
	return !obstacle->few || kind == &rw_ring_kinds[0] || kind->setup & IORING_SETUP_SQPOLL;
}

static const char *const guards[] = {
	"942491c9e6d6 xfs: fix AIM7 regression (trylock only with IOCB_NOWAIT)",
	"883a790a8440 xfs: don't allow NOWAIT DIO across extent boundaries",
	"66fa3cedf16a fs: Add async write file modification handling.",
	"548feebec7e9 ext4: update direct I/O read lock pattern for IOCB_NOWAIT",
	NULL,
};

static const char *const groups[] = { "nowait", NULL };
static const char *const needs[] = { "a gate", NULL };

const struct rw_test rw_test = {
	.name = "nowait-dio",
	.summary = "the submission of a direct write does not sleep, whatever is in its way",
	.guards = guards,
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(obstacles), RW_AXIS(rw_ring_kinds) },
	.has = has,
	.run = run,
};
