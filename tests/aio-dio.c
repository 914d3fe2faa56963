/* SPDX-License-Identifier: MIT */
/*
 * Linux AIO's own ways: how the end of a direct write is learnt of, and what may be asked beside it.
 *
 * fs/aio.c must end a write - the inode's i_dio_count, the superblock's write count, the event, the
 * eventfd - from wherever the device's completion runs, whether or not its owner ever calls
 * io_getevents(). Otherwise who looks at the events in memory sees none, fallocate and freeze sleep
 * for ever, or the eventfd is signalled before there is an event.
 */
#include "ringwedge.h"

#include <linux/falloc.h>

#define SIZE (256 * RW_KIB)
#define AT (64 * RW_KIB)
#define LEN (32 * RW_KIB)

#define ROOM 128 /* more events than fit into the page of a small context */

struct arg {
	struct rw_ring *ring;
	struct rw_file *file;
	struct rw_ring *uring; /* a second ring on the same file, or NULL */
};

static void punch(const void *p)
{
	const struct arg *a = p;

	rw_ok(fallocate(a->file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, AT, LEN));
}

static void reap(const void *p)
{
	const struct arg *a = p;

	rw_reap(a->ring);
}

static void sync_file(const void *p)
{
	const struct arg *a = p;

	rw_ring_fsync(a->ring, a->file, false);
	rw_ring_fsync(a->ring, a->file, true);
	rw_reap(a->ring);
}

static void cancel(const void *p)
{
	const struct arg *a = p;

	rw_aio_cancel(a->ring);
	punch(p);
}

/* More than the context has room for: each event must have made room, and be told of, in its turn. */
static void many(const void *p)
{
	const struct arg *a = p;

	rw_reap(a->ring);
	for (unsigned int i = 0; i < 3 * ROOM; i++) {
		rw_write(a->ring, a->file, (off_t)(i % 8) * 4096, 4096, 0);
		if (i % 8 == 7)
			rw_reap(a->ring);
		if (i % 64 == 63)
			rw_then(a->file, (struct rw_change){ RW_KEEP });
	}
	rw_reap(a->ring);
}

/* Nobody is to poll for it: aio_prep_rw() takes the flag off. */
static void high_priority(const void *p)
{
	const struct arg *a = p;
	struct rw_io io = { .read = true, .len = LEN, .rwf = RWF_HIPRI };

	rw_reap(a->ring);
	rw_submit(a->ring, a->file, &io);
	rw_reap(a->ring);
	rw_eq(io.res, LEN);
}

static const struct op {
	const char *name;
	void (*call)(const void *);
	bool must_wait;
	bool uring; /* with writes of an io_uring ring, too */
	struct rw_change change;
} ops[] = {
	{ "reap", reap },
	{ "many", many },
	{ "punch-hole", punch, true, .change = { RW_ZERO, AT, LEN } },
	{ "punch-beside-uring", punch, true, .uring = true, .change = { RW_ZERO, AT, LEN } },
	{ "sync", sync_file },
	{ "cancel", cancel, true, .change = { RW_ZERO, AT, LEN } },
	{ "high-priority", high_priority },
};

static void submit(const struct arg *a)
{
	/* Two in one extent, one to unwritten blocks, and one behind the end: see RW_PAST_EOF. */
	rw_write(a->ring, a->file, AT - 8 * RW_KIB, 16 * RW_KIB, 0);
	rw_write(a->ring, a->file, SIZE - 32 * RW_KIB, 16 * RW_KIB, 0);
	if (a->uring)
		rw_write(a->uring, a->file, AT + 16 * RW_KIB, 32 * RW_KIB, 0);
	else
		rw_write(a->ring, a->file, SIZE, 16 * RW_KIB, 0);
}

/* The gate holds them when the call is made; or all are done, and nobody asked for the events. */
static void step(const struct arg *a, const struct op *op, const struct rw_who *who, bool gate)
{
	unsigned int n, held = 0;

	if (gate)
		rw_gate_shut();
	submit(a);
	n = rw_unreaped(a->ring) + (a->uring ? rw_unreaped(a->uring) : 0);
	if (gate)
		held = rw_in_flight(n);
	else if (rw_has_gate())
		rw_done();
	if (gate && !op->must_wait)
		rw_gate_open(); /* a task that looks for events does not sleep */
	if (gate && op->must_wait)
		rw_held_by(who, op->call, a, held > 0);
	else
		rw_by(who, op->call, a);
	if (!gate && rw_has_gate()) {
		rw_freeze();
		rw_thaw();
	}
	rw_reap(a->ring);
	if (a->uring)
		rw_reap(a->uring);
	(held == n ? rw_then : rw_race)(a->file, op->change);
	rw_verify(a->file);
}

static void run(const void *const *at)
{
	const struct op *op = at[1];
	enum rw_state state = rw_can_make(RW_PAST_EOF) ? RW_PAST_EOF : RW_WRITTEN;
	struct arg a = { rw_ring(at[0], 8),
			 .uring = op->uring ? rw_ring(&rw_ring_kinds[0], 2) : NULL };

	for (int gate = rw_has_gate(); gate >= 0; gate--) {
		a.file = rw_file("file", state, SIZE);
		if (op->change.kind == RW_ZERO) { /* reads the metadata that it needs, too */
			rw_supported("fallocate", fallocate(a.file->fd, 0, 0, SIZE));
			punch(&a);
		}
		a.file = rw_file("file", state, SIZE);
		step(&a, op, at[2], gate);
	}
	rw_ring_close(a.ring);
	if (a.uring)
		rw_ring_close(a.uring);
}

static bool has(const void *const *at)
{
	const struct rw_ring_kind *kind = at[0];
	const struct op *op = at[1];
	const struct rw_who *who = at[2];

	if (op->call == high_priority && (kind->poll || kind->eventfd))
		return false;
	/* Another task has another address space, where the events are not. */
	return !who->other || op->call == punch;
}

static const char *const guards[] = {
	"b820de741ae4 fs/aio: Restrict kiocb_set_cancel_fn() to I/O submitted via libaio",
	"838b35bb6a89 io_uring/rw: disable IOCB_DIO_CALLER_COMP",
	"154989e45fd8 aio: clear IOCB_HIPRI",
	NULL,
};

static const char *const groups[] = { "aio", NULL };

const struct rw_test rw_test = {
	.name = "aio-dio",
	.summary = "direct writes of libaio end by themselves, and are told of in each of its ways",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(rw_aio_kinds), RW_AXIS(ops), RW_AXIS(rw_whos) },
	.has = has,
	.run = run,
};
