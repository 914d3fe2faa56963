/* SPDX-License-Identifier: MIT */
/*
 * Whatever the request for direct I/O looks like, its submission does not sleep for the inode's lock.
 *
 * A fallocate(2) has it and waits for a write. What is submitted now must end with -EAGAIN, and be
 * done by io-wq. io_write() and io_read() take ways of their own for registered memory and files,
 * vectors, links, drains, appends: one that forgets IOCB_NOWAIT is a submission asleep behind the
 * fallocate.
 */
#include "ringwedge.h"

#include <linux/falloc.h>

#define AT (RW_SHAPE_SIZE - LEN)
#define LEN (64 * RW_KIB)

static void punch(const void *p)
{
	const struct rw_file *f = p;

	rw_ok(fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, AT, LEN));
}

/* What has the inode locked. */
static const struct op {
	const char *name;
	void (*call)(const void *);
	struct rw_change change;
} ops[] = {
	{ "punch-hole", punch, { RW_ZERO, AT, LEN } },
};

static void locked(struct rw_ring *ring, const struct op *op, const struct rw_shape *shape)
{
	struct rw_ring *first = rw_ring(&rw_ring_kinds[0], 1);
	struct rw_file *f = rw_shape_file(ring, shape);
	struct rw_io read[2] = { { .read = true, .off = AT - 2 * LEN, .len = LEN },
				 { .read = true, .off = AT - 2 * LEN, .len = LEN } };
	struct rw_helper helper;

	rw_gate_shut();
	rw_write(first, f, 0, LEN / 2, 0);
	rw_in_flight(1);
	helper = rw_start(op->call, f);
	rw_in_drain_now(helper.pid);
	rw_write_shaped(ring, f, shape);
	/* One of them by a vector. What is behind a drained request passes it (docs/found/). */
	for (int i = 0; i < 2 && !(shape->flags & IOSQE_IO_DRAIN); i++)
		rw_submit(ring, f, &read[i]);
	rw_submitted();
	rw_gate_open();
	rw_join(helper);
	rw_reap(ring);
	rw_reap(first);
	rw_done();
	rw_reap_ready(ring); /* nothing: all are reaped, or not to be told of */
	for (int i = 0; i < 2; i++)
		rw_eq(read[i].res, read[i].done ? LEN : 0);
	rw_then(f, op->change);
	rw_verify(f);
	rw_ring_close(first);
}

static void run(const void *const *at)
{
	const struct op *op = at[0];
	const struct rw_shape *shape = at[1];
	struct rw_ring *ring = rw_ring(shape->kind, 4);
	struct rw_file *f = rw_file("file", RW_WRITTEN, RW_SHAPE_SIZE);

	if (!rw_has_gate())
		rw_skip("needs a gate, and direct I/O");
	rw_supported("fallocate", fallocate(f->fd, 0, 0, RW_SHAPE_SIZE));
	op->call(f); /* reads the metadata that it needs */
	locked(ring, op, shape);
	rw_ring_close(ring);
}

static const char *const groups[] = { "nowait", NULL };
static const char *const needs[] = { "a gate", NULL };

const struct rw_test rw_test = {
	.name = "shape-locked-dio",
	.summary =
		"the submission of direct I/O of every shape does not sleep for the inode's lock",
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(ops), RW_AXIS(rw_shapes) },
	.run = run,
};
