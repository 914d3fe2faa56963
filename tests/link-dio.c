/* SPDX-License-Identifier: MIT */
/*
 * Chains and batches inside one ring: writes linked to, drained before, or beside what must wait for
 * them.
 *
 * A request that is linked or drained behind a direct write may not start before the write has
 * ended; one that is not waits in io-wq, in inode_dio_wait(), for a completion that may need the
 * task that waits for both. A completion that is queued without waking that task (lazily, because
 * it waits for more than one) is a lost wake-up; a link that is dropped never ends.
 */
#include "ringwedge.h"

#include <linux/falloc.h>

#define SIZE (256 * RW_KIB)
#define AT (64 * RW_KIB)
#define LEN (64 * RW_KIB)
#define SMALL (128 * RW_KIB)

#define DRAINED_CHAIN (IOSQE_IO_LINK | IOSQE_IO_DRAIN)

struct chain {
	struct rw_ring *ring;
	struct rw_file *file;
	unsigned int link; /* IOSQE_* of its parts: how each is tied to the next, or to all */
	bool held;	   /* by the gate, until all is asleep */
};

static struct __kernel_timespec hour = { .tv_sec = 3600 }, soon = { .tv_nsec = 1000000 };

static void queue(const struct chain *c, struct io_uring_sqe *sqe, unsigned int flags,
		  struct rw_op op)
{
	sqe->flags = (__u8)flags;
	op.file = c->file;
	op.must_wait &= c->held && c->link;
	rw_queue(c->ring, sqe, &op);
}

static void queue_writes(const struct chain *c, unsigned int last)
{
	/* A chain that is drained has something before it that it waits for. */
	const bool apart = c->link == DRAINED_CHAIN;

	rw_queue_write(c->ring, c->file, AT - 16 * RW_KIB, 32 * RW_KIB, apart ? 0 : c->link);
	rw_queue_write(c->ring, c->file, AT + 48 * RW_KIB, 32 * RW_KIB, c->link);
	rw_queue_write(c->ring, c->file, SMALL + 48 * RW_KIB, 16 * RW_KIB, last);
}

static void punch(const struct chain *c)
{
	struct io_uring_sqe sqe = { 0 };

	io_uring_prep_fallocate(&sqe, -1, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, AT, LEN);
	queue_writes(c, c->link);
	queue(c, &sqe, c->link & IOSQE_IO_DRAIN, (struct rw_op){ "fallocate", .must_wait = true });
}

static void truncate_in_ring(const struct chain *c)
{
	struct io_uring_sqe sqe = { .opcode = RW_OP_FTRUNCATE, .off = SMALL };

	if (!rw_has_opcode(c->ring, RW_OP_FTRUNCATE))
		rw_skip("needs IORING_OP_FTRUNCATE");
	queue_writes(c, c->link);
	queue(c, &sqe, c->link & IOSQE_IO_DRAIN, (struct rw_op){ "ftruncate", .must_wait = true });
}

static void sync_and_allocate(const struct chain *c)
{
	struct io_uring_sqe sync = { 0 }, range = { 0 }, allocate = { 0 };

	io_uring_prep_fsync(&sync, -1, IORING_FSYNC_DATASYNC);
	io_uring_prep_sync_file_range(&range, -1, SIZE, 0, SYNC_FILE_RANGE_WRITE);
	io_uring_prep_fallocate(&allocate, -1, 0, SIZE, LEN);
	queue_writes(c, c->link);
	queue(c, &sync, c->link, (struct rw_op){ "fsync", .must_wait = true });
	queue(c, &range, c->link, (struct rw_op){ "sync_file_range" });
	queue(c, &allocate, 0, (struct rw_op){ "fallocate", .must_wait = true });
}

/* Linked to the last write and far from over: it is cancelled when the write ends. */
static void timeout(const struct chain *c)
{
	struct io_uring_sqe sqe = { 0 };

	io_uring_prep_link_timeout(&sqe, &hour, 0);
	queue_writes(c, IOSQE_IO_LINK);
	rw_queue(c->ring, &sqe,
		 &(struct rw_op){ "link timeout", NULL, -ECANCELED, .any_order = true });
}

/* It fires: with the write at the device, or not yet begun, which is cancelled then. */
static void short_timeout(const struct chain *c)
{
	struct io_uring_sqe sqe = { 0 };

	io_uring_prep_link_timeout(&sqe, &soon, 0);
	queue_writes(c, IOSQE_IO_LINK);
	rw_may_cancel(c->ring);
	rw_queue(c->ring, &sqe, &(struct rw_op){ "link timeout", NULL, RW_ANY, .any_order = true });
}

/* What the device has cannot be cancelled; what is queued behind it may be, wholly. */
static void cancel(const struct chain *c)
{
	struct io_uring_sqe sqe = { 0 };

	io_uring_prep_cancel(&sqe, NULL, IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_ANY);
	queue_writes(c, 0);
	rw_may_cancel(c->ring);
	rw_queue(c->ring, &sqe, &(struct rw_op){ "cancel", NULL, RW_ANY, .any_order = true });
}

static const struct op {
	const char *name;
	void (*queue)(const struct chain *);
	struct rw_change change;
	bool fallocate;
} ops[] = {
	{ "punch-hole", punch, { RW_ZERO, AT, LEN }, true },
	{ "ftruncate", truncate_in_ring, { RW_RESIZE, SMALL } },
	{ "sync-allocate", sync_and_allocate, { RW_GROW, SIZE, LEN }, true },
	{ "link-timeout", timeout },
	{ "link-timeout-fires", short_timeout },
	{ "cancel", cancel },
};

static const struct link {
	const char *name;
	unsigned int flags;
} links[] = {
	{ "beside", 0 },
	{ "linked", IOSQE_IO_LINK },
	{ "hard-linked", IOSQE_IO_HARDLINK },
	{ "drained", IOSQE_IO_DRAIN },
	{ "drained-chain", DRAINED_CHAIN },
};

/* How many completions are waited for in one call: some, all, and all with a time-out. */
enum wait { ALL, TWO, TIMED, ONE };

struct arg {
	struct rw_ring *ring;
	enum wait wait;
};

static void submit_and_wait(const void *p)
{
	const struct arg *a = p;
	unsigned int n = rw_unreaped(a->ring);
	struct io_uring_cqe *cqe;
	int ret;

	rw_submit_queued(a->ring, a->wait == ALL ? n : a->wait == TWO ? 2 : a->wait == ONE);
	if (a->wait == TIMED) {
		rw_enter("io_uring_enter (wait for all completions, at most an hour)");
		ret = io_uring_wait_cqes(rw_uring(a->ring), &cqe, n, &hour, NULL);
		rw_eq(ret, 0);
	}
	rw_reap(a->ring);
}

static void step(struct rw_ring *ring, const struct op *op, const struct link *link, enum wait wait,
		 bool gate)
{
	const struct arg a = { ring, wait };
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);
	const struct chain c = { ring, f, link->flags, gate };

	if (op->fallocate)
		rw_supported("fallocate", fallocate(f->fd, 0, 0, SIZE));
	rw_use(ring, f);
	if (gate)
		rw_gate_shut();
	op->queue(&c);
	if (gate)
		rw_held_by(&rw_whos[0], submit_and_wait, &a, false);
	else
		submit_and_wait(&a);
	if (op->queue == cancel || op->queue == short_timeout)
		rw_race_cancelled(f, op->change);
	else
		(link->flags ? rw_then : rw_race)(f, op->change);
	rw_verify(f);
	if (op->queue == short_timeout)
		rw_sole(f); /* not even a request that the timeout held on to */
}

static bool plain_or_deferred(const struct rw_ring_kind *kind)
{
	return kind == &rw_ring_kinds[0] || kind->setup & IORING_SETUP_SINGLE_ISSUER;
}

static void run(const void *const *at)
{
	const struct op *op = at[0];
	const struct link *link = at[1];
	const struct rw_ring_kind *kind = at[2];
	struct rw_ring *ring = rw_ring(kind, 8);
	/* Which waits there are matters most where the waiter itself must end the writes. */
	bool waiter_ends = kind->setup & IORING_SETUP_SINGLE_ISSUER;
	/* Behind a drain that is a known bug (docs/found/): once is enough. */
	bool known = waiter_ends && link->flags == IOSQE_IO_DRAIN && op->queue != punch;
	enum wait first = known ? ONE : ALL, last = waiter_ends ? ONE : ALL;

	for (enum wait wait = first; wait <= last; wait++)
		step(ring, op, link, wait, rw_has_gate());
	step(ring, op, link, first, false);
	rw_ring_close(ring);
}

static bool has(const void *const *at)
{
	const struct op *op = at[0];
	const struct link *link = at[1];
	const struct rw_ring_kind *kind = at[2];

	if (op->queue == timeout || op->queue == short_timeout || op->queue == cancel)
		return !link->flags && plain_or_deferred(kind);
	if (kind->async) /* all of a chain but the first is in io-wq anyhow */
		return !link->flags;
	if (kind->setup & IORING_SETUP_SQPOLL)
		return link->flags == IOSQE_IO_LINK;
	if (link->flags == DRAINED_CHAIN) /* the other two meet known bugs (docs/found/) */
		return kind == &rw_ring_kinds[0] && op->queue != sync_and_allocate;
	return plain_or_deferred(kind);
}

static const char *const guards[] = {
	"838b35bb6a89 io_uring/rw: disable IOCB_DIO_CALLER_COMP",
	"23c021817fec io_uring: run normal task_work AFTER local work",
	NULL,
};

static const char *const groups[] = { "link", NULL };

const struct rw_test rw_test = {
	.name = "link-dio",
	.summary =
		"chains and batches of direct writes and what waits for them end, in their order",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(ops), RW_AXIS(links), RW_AXIS(rw_ring_kinds) },
	.has = has,
	.run = run,
};
