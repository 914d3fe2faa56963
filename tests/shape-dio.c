/* SPDX-License-Identifier: MIT */
/*
 * Whatever the request for a direct write looks like, fallocate(2) of the ring's owner waits for it.
 *
 * io_write() and iomap_dio_rw() take ways of their own for registered memory and files, vectors,
 * several extents or bios, links, drains, appends. One that leaves the end of the write to the task
 * that owns the ring (IOCB_DIO_CALLER_COMP), or begins it uncounted, is a fallocate that sleeps for
 * ever, or comes too early.
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

static void run(const void *const *at)
{
	const struct rw_shape *shape = at[0];
	struct rw_ring *ring = rw_ring(shape->kind, 2);
	struct rw_file *f = rw_file("file", RW_WRITTEN, RW_SHAPE_SIZE);
	bool in_flight;

	if (!rw_has_gate())
		rw_skip("needs a gate, and direct I/O");
	rw_supported("fallocate", fallocate(f->fd, 0, 0, RW_SHAPE_SIZE));
	punch(f); /* reads the metadata that it needs */
	f = rw_shape_file(ring, shape);
	rw_gate_shut();
	rw_write_shaped(ring, f, shape);
	in_flight = rw_in_flight(1) > 0;
	/* btrfs waits for the writes to the range alone. */
	rw_held_by(&rw_whos[0], punch, f, in_flight && rw_fs() != RW_BTRFS);
	rw_reap(ring);
	rw_done();
	rw_reap_ready(ring); /* nothing: all are reaped, or not to be told of */
	rw_then(f, (struct rw_change){ RW_ZERO, AT, LEN });
	rw_verify(f);
	rw_ring_close(ring);
}

static const char *const guards[] = {
	"838b35bb6a89 io_uring/rw: disable IOCB_DIO_CALLER_COMP",
	NULL,
};

static const char *const groups[] = { "nowait", NULL };
static const char *const needs[] = { "a gate", NULL };

const struct rw_test rw_test = {
	.name = "shape-dio",
	.summary =
		"fallocate waits for direct writes of every shape, and they do not need who waits",
	.guards = guards,
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(rw_shapes) },
	.run = run,
};
