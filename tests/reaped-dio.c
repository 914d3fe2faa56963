/* SPDX-License-Identifier: MIT */
/*
 * Calls that wait for direct I/O, made when the writes have ended and were reaped.
 *
 * An end that leaves out its inode_dio_end() makes the next inode_dio_wait() sleep for ever in D.
 * Otherwise nothing can hang here, not even when a write's end needs the task that waits
 * (IOCB_DIO_CALLER_COMP in 6.6-rc): but on a kernel with mutants/debug/lockdep-inode-dio.patch the
 * log then says that it is possible (docs/lockdep.md).
 */
#include "ringwedge.h"

#include <linux/falloc.h>

#define SIZE (512 * RW_KIB)
#define AT (128 * RW_KIB) /* whole clusters, even with bigalloc */
#define LEN (128 * RW_KIB)

static const struct op {
	const char *name;
	int mode; /* of fallocate(2); 0: ftruncate(2) instead */
	struct rw_change change;
} ops[] = {
	{ "punch-hole", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, { RW_ZERO, AT, LEN } },
	{ "shrink", 0, { RW_RESIZE, AT + LEN / 2 } },
};

struct arg {
	const struct rw_file *file;
	const struct op *op;
};

static void call(const void *p)
{
	const struct arg *a = p;

	if (a->op->mode)
		rw_ok(fallocate(a->file->fd, a->op->mode, AT, LEN));
	else
		rw_ok(ftruncate(a->file->fd, a->op->change.off));
}

static void write_and_reap(struct rw_ring *ring, struct rw_file *f,
			   const struct rw_write_kind *kind)
{
	rw_use(ring, f);
	rw_write(ring, f, 48 * RW_KIB, 64 * RW_KIB, kind->rwf);
	rw_write(ring, f, AT + 64 * RW_KIB, 32 * RW_KIB, kind->rwf);
	rw_write(ring, f, kind->extend ? SIZE : SIZE - 64 * RW_KIB, 64 * RW_KIB, kind->rwf);
	rw_reap(ring);
}

static void run(const void *const *at)
{
	const struct op *op = at[0];
	struct rw_ring *ring = rw_ring(at[1], 4);

	for (size_t k = 0; k < RW_WRITE_KINDS; k++) {
		const struct rw_write_kind *kind = &rw_write_kinds[k];
		struct rw_file *f;

		if (!rw_can_make(kind->state))
			continue;
		f = rw_file("file", kind->state, SIZE);
		if (op->mode)
			rw_supported(op->name, fallocate(f->fd, op->mode, 2 * SIZE, LEN));
		write_and_reap(ring, f, kind);
		rw_by(at[2], call, &(struct arg){ f, op });
		rw_then(f, op->change);
		rw_verify(f);
	}
	rw_ring_close(ring);
}

static const char *const guards[] = {
	"838b35bb6a89 io_uring/rw: disable IOCB_DIO_CALLER_COMP",
	NULL,
};

static const char *const groups[] = { "falloc", "truncate", NULL };

const struct rw_test rw_test = {
	.name = "reaped-dio",
	.summary = "what waits for direct writes waits no more when they were reaped",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(ops), RW_AXIS(rw_ring_kinds), RW_AXIS(rw_whos) },
	.run = run,
};
