/* SPDX-License-Identifier: MIT */
/*
 * A part of a chain of direct writes fails.
 *
 * What is linked to it is not done (req_set_fail(), io_disarm_next()): it ends with -ECANCELED and none of
 * its bytes may be in the file. What is hard-linked, drained behind it or beside it is done. A chain that
 * goes on writes what nobody wants, one that is dropped never ends. One that is told of only if it fails
 * (IOSQE_CQE_SKIP_SUCCESS), or is short, must still be told of: who counts on that takes it for done. What
 * is linked to it is not told of then.
 */
#include "ringwedge.h"

#include <linux/falloc.h>

#define SIZE (256 * RW_KIB)
#define END (SIZE - 512) /* of the file, within its last block */
#define AT (64 * RW_KIB)
#define LEN (16 * RW_KIB)
#define LAST (128 * RW_KIB)
#define SILENT IOSQE_CQE_SKIP_SUCCESS

static void bad_write(struct io_uring_sqe *sqe, int fd)
{
	io_uring_prep_write(sqe, fd, NULL, 4096, 0);
}

static void bad_fallocate(struct io_uring_sqe *sqe, int fd)
{
	io_uring_prep_fallocate(sqe, fd, 0, 0, 0);
}

/* Of one extent: of two, it may end otherwise (docs/found/xfs-read-eagain.md). */
static void short_read(struct io_uring_sqe *sqe, int fd)
{
	static char buf[LEN] __attribute__((aligned(4096)));

	io_uring_prep_read(sqe, fd, buf, sizeof(buf), SIZE - LEN);
}

static const struct part {
	const char *name;
	void (*prepare)(struct io_uring_sqe *sqe, int fd);
	const char *what;
	long res;
	unsigned int flags; /* IOSQE_* */
} parts[] = {
	{ "failed-write", bad_write, "write of no memory", -EFAULT },
	{ "failed-fallocate", bad_fallocate, "fallocate of nothing", -EINVAL },
	{ "silent-write", bad_write, "silent write of no memory", -EFAULT, SILENT },
	{ "silent-short-read", short_read, "silent read across the end", LEN - (SIZE - END),
	  SILENT },
};

static const struct link {
	const char *name;
	unsigned int flags;
} links[] = {
	{ "linked", IOSQE_IO_LINK },
	{ "beside", 0 },
	{ "hard-linked", IOSQE_IO_HARDLINK },
	{ "drained", IOSQE_IO_DRAIN },
};

/* A write, the part that fails, and a write that is linked to it, and so is not to be done, or is done. */
static void queue(struct rw_ring *ring, struct rw_file *f, const struct part *part,
		  unsigned int link)
{
	static char nobody[4096] __attribute__((aligned(4096)));
	struct io_uring_sqe fails = { 0 }, write = { 0 };

	rw_queue_write(ring, f, AT, LEN, link);
	part->prepare(&fails, f->fd);
	fails.flags = (__u8)(link | part->flags);
	rw_queue(ring, &fails, &(struct rw_op){ part->what, f, part->res });
	if (link != IOSQE_IO_LINK) {
		rw_queue_write(ring, f, LAST, LEN, 0);
		return;
	}
	memset(nobody, 0x55, sizeof(nobody));
	io_uring_prep_write(&write, f->fd, nobody, sizeof(nobody), LAST);
	rw_queue(ring, &write,
		 &(struct rw_op){ "write linked to it", f, -ECANCELED,
				  .silent = part->flags & SILENT });
}

static void submit_and_wait(const void *p)
{
	struct rw_ring *ring = *(struct rw_ring *const *)p;

	rw_submit_queued(ring, rw_unreaped(ring));
	rw_reap(ring);
}

static void step(struct rw_ring *ring, const struct part *part, unsigned int link, bool gate)
{
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);

	rw_ok(ftruncate(f->fd, END));
	rw_then(f, (struct rw_change){ RW_RESIZE, END });
	if (gate)
		rw_gate_shut();
	queue(ring, f, part, link);
	if (gate)
		rw_held_by(&rw_whos[0], submit_and_wait, &ring, false);
	else
		submit_and_wait(&ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
}

static void run(const void *const *at)
{
	const struct link *link = at[1];
	struct rw_ring *ring = rw_ring(&rw_ring_kinds[0], 4);

	if (rw_has_gate())
		step(ring, at[0], link->flags, true);
	step(ring, at[0], link->flags, false);
	rw_ring_close(ring);
}

/* A ring that has been silent once takes no drains any more. */
static bool has(const void *const *at)
{
	const struct part *part = at[0];
	const struct link *link = at[1];

	return !(part->flags & SILENT) || link->flags != IOSQE_IO_DRAIN;
}

static const char *const guards[] = {
	"9e645e1105ca io_uring: add support for sqe links (what breaks a chain)",
	NULL,
};

static const char *const groups[] = { "link", NULL };

const struct rw_test rw_test = {
	.name = "link-fail-dio",
	.summary =
		"when a part of a chain of direct writes fails, what is linked to it is not done",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(parts), RW_AXIS(links) },
	.has = has,
	.run = run,
};
