/* SPDX-License-Identifier: MIT */
/*
 * The owner of a ring with IORING_SETUP_IOPOLL waits for its own polled direct reads, in fallocate(2)
 * or truncate(2).
 *
 * They have ended when somebody polls, which is the owner's to do (io_do_iopoll()), and it sleeps in
 * inode_dio_wait(): for ever, where the device has no time-out. The same deadlock as with
 * IOCB_DIO_CALLER_COMP. With SQPOLL the ring's thread polls, and nothing hangs.
 */
#include "ringwedge.h"

#include <linux/falloc.h>

#define SIZE (512 * RW_KIB)
#define LEN (32 * RW_KIB)
#define READS 4

static void punch(const void *p)
{
	rw_supported("fallocate",
		     fallocate(((const struct rw_file *)p)->fd,
			       FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, SIZE / 2));
}

static void shrink(const void *p)
{
	rw_ok(ftruncate(((const struct rw_file *)p)->fd, SIZE / 2));
}

static const struct op {
	void (*call)(const void *);
	struct rw_change change;
	off_t off; /* of the half that it takes away */
} ops[] = {
	{ punch, { RW_ZERO, 0, SIZE / 2 }, 0 },
	{ shrink, { RW_RESIZE, SIZE / 2 }, SIZE / 2 },
};

static struct rw_file *start(const struct op *op)
{
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);

	op->call(f); /* is it there? */
	return rw_file("file", RW_WRITTEN, SIZE);
}

/* Reads of what the call takes away. */
static void submit(struct rw_ring *ring, struct rw_file *f, const struct op *op, struct rw_io *io)
{
	rw_use(ring, f);
	for (unsigned int i = 0; i < READS; i++) {
		io[i] = (struct rw_io){ .read = true, .off = op->off + i * LEN, .len = LEN };
		rw_submit(ring, f, &io[i]);
	}
}

struct rescue {
	pid_t owner;
	struct rw_ring *ring;
};

/* Poll for the owner: any task that has the ring may. */
static void rescue(const void *p)
{
	const struct rescue *r = p;
	struct io_uring_cqe *cqe;

	if (!rw_in_drain_now(r->owner))
		return;
	for (unsigned int i = 0; i < READS; i++) {
		rw_eq(io_uring_wait_cqe(rw_uring(r->ring), &cqe), 0);
		io_uring_cqe_seen(rw_uring(r->ring), cqe);
	}
	rw_fail("the call slept for reads that only its own task would have polled for, until "
		"another did");
}

static void run(const void *const *at)
{
	struct rw_ring *ring;

	if (!rw_device_polls())
		rw_skip("needs a device that polls (null_blk, nvme, virtio_blk with poll_queues)");
	ring = rw_ring(at[0], READS);
	for (size_t i = 0; i < RW_ARRAY_SIZE(ops); i++) {
		struct rw_file *f = start(&ops[i]);
		struct rw_io io[READS];
		struct rw_helper other;
		bool held;

		submit(ring, f, &ops[i], io);
		held = rw_unpolled(READS) >= READS;
		if (held)
			other = rw_start(rescue, &(struct rescue){ getpid(), ring });
		ops[i].call(f);
		if (held) {
			rw_join(other);
			rw_reap(ring);
			rw_then(f, ops[i].change);
		} else {
			rw_reap_either(ring, f, ops[i].change);
		}
		rw_verify(f);
	}
	rw_ring_close(ring);
}

/* Nobody but the owner may poll on a ring of a single issuer: nobody could come to its help. */
static bool has(const void *const *at)
{
	return !(((const struct rw_ring_kind *)at[0])->setup & IORING_SETUP_SINGLE_ISSUER);
}

static const char *const guards[] = {
	"838b35bb6a89 io_uring/rw: disable IOCB_DIO_CALLER_COMP",
	NULL,
};

static const char *const groups[] = { "iopoll", NULL };

const struct rw_test rw_test = {
	.name = "iopoll-owner-dio",
	.summary = "a task's wait for its own polled direct reads ends",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(rw_iopoll_kinds) },
	.has = has,
	.run = run,
};
