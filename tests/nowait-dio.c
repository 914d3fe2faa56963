/* SPDX-License-Identifier: MIT */
/*
 * The submission of a direct write never sleeps.
 *
 * io_uring_enter issues with IOCB_NOWAIT: what would sleep for the inode's lock, for direct I/O in
 * flight (inode_dio_wait()), for dirty pages or for blocks to be allocated must end with -EAGAIN,
 * and is done by io-wq. Where a check is missing the task that submits sleeps, and with it all
 * that it has to do; on a SQPOLL ring, all that share its thread. With RWF_NOWAIT the request
 * itself ends with -EAGAIN, or is carried out.
 */
#include "ringwedge.h"

#define SIZE (512 * RW_KIB)
#define AT (128 * RW_KIB) /* of the write */
#define LEN (32 * RW_KIB)
#define TAIL (64 * RW_KIB) /* what is cut off the file */

static const struct target {
	enum rw_state state;
	off_t off;
	bool sector; /* one, the second of its block */
} targets[] = {
	{ RW_WRITTEN, AT },    { RW_WRITTEN, AT, true }, { RW_WRITTEN, SIZE }, { RW_UNWRITTEN, AT },
	{ RW_HOLE, AT, true }, { RW_HOLE, AT },		 { RW_SHARED, AT },
};

static void shrink(const void *p)
{
	const struct rw_file *f = p;

	rw_ok(ftruncate(f->fd, SIZE - TAIL));
}

/* Dirty pages under the write, and to either side of it. */
static void dirty(struct rw_file *f, off_t off, size_t len)
{
	int fd = (int)rw_set_up(open(rw_path(f), O_RDWR | O_CLOEXEC));
	unsigned int promise = rw_promise(f, off, len);
	char *buf = malloc(len);

	if (!buf)
		rw_broken("out of memory");
	rw_fill(f, buf, off, len, promise);
	rw_set_up(pwrite(fd, buf, len, off) == (ssize_t)len ? 0 : -1);
	free(buf);
	close(fd);
	rw_then(f, (struct rw_change){ RW_KEEP });
}

/* What a submission could sleep for. */
static const struct obstacle {
	const char *name;
	bool drain, dirty;
} obstacles[] = {
	{ "writes", false, false },    /* to another place of the file */
	{ "truncation", true, false }, /* asleep in the drain, with the inode locked */
	{ "dirty-pages", false, true },
};

static void one(struct rw_ring *ring, bool aio, const struct obstacle *obstacle,
		const struct target *target)
{
	struct rw_file *f = rw_file("file", target->state, SIZE);
	const size_t sector = rw_sector_size(), len = target->sector ? sector : LEN;
	const off_t off = target->off + (target->sector ? (off_t)sector : 0);
	struct rw_io nowait = { .off = off + LEN, .len = len, .rwf = RWF_NOWAIT };
	struct rw_io read = { .read = true, .off = AT + 2 * LEN, .len = LEN };
	struct rw_change change = { RW_KEEP };
	struct rw_helper helper;

	rw_use(ring, f);
	rw_gate_shut();
	if (obstacle->dirty) {
		dirty(f, target->off == SIZE ? SIZE : AT - LEN, 4 * LEN);
	} else {
		rw_write(ring, f, 0, LEN, 0);
		rw_in_flight(1);
	}
	if (obstacle->drain) {
		helper = rw_start(shrink, f);
		rw_in_drain_now(helper.pid);
		change = (struct rw_change){ RW_RESIZE, SIZE - TAIL };
	}
	/* libaio has no such promise without the flag. */
	if (!aio) {
		rw_write(ring, f, off, len, 0);
		rw_submit(ring, f, &read);
	}
	rw_submit(ring, f, &nowait);
	rw_submitted();
	rw_gate_open();
	if (obstacle->drain)
		rw_join(helper);
	rw_reap(ring);
	if (!aio)
		rw_eq(read.res, LEN);
	if (nowait.res == -EAGAIN)
		rw_not_written(f, &nowait);
	else
		rw_eq(nowait.res, (long)len);
	(obstacle->drain ? rw_race : rw_then)(f, change);
	rw_verify(f);
}

static void run(const void *const *at)
{
	const struct rw_ring_kind *kind = at[1];
	struct rw_ring *ring = rw_ring(kind, 4);

	if (!rw_has_gate())
		rw_skip("needs a gate, and direct I/O");
	for (size_t i = 0; i < RW_ARRAY_SIZE(targets); i++)
		if (rw_can_make(targets[i].state))
			one(ring, kind->aio, at[0], &targets[i]);
	rw_ring_close(ring);
}

static bool has(const void *const *at)
{
	const struct rw_ring_kind *kind = at[1];

	/* With IOSQE_ASYNC the task that submits never issues; the other two do as a plain ring does. */
	return !kind->async && !kind->fixed && kind->setup != IORING_SETUP_COOP_TASKRUN;
}

static const char *const guards[] = {
	"942491c9e6d6 xfs: fix AIM7 regression (trylock only with IOCB_NOWAIT)",
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
