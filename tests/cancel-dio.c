/* SPDX-License-Identifier: MIT */
/*
 * A cancellation finds the direct writes that it names, and no other.
 *
 * Writes are queued in io-wq behind workers, one of each kind, that sleep for the lock of another
 * inode: a punch has it, and waits for a write that the gate holds. A cancellation
 * (io_uring/cancel.c, io_wq_cancel_cb()) that matches the wrong one leaves out a write that the
 * application counts on, and does one that it has given up. What runs already cannot be cancelled,
 * and ends as if nothing had been asked.
 */
#include "ringwedge.h"

#include <linux/falloc.h>

#define SIZE (256 * RW_KIB)
#define LEN (8 * RW_KIB)
#define N 6
#define SOME INT_MAX	    /* one or more, as the kernel counts */
#define CANCEL_OP (1U << 5) /* IORING_ASYNC_CANCEL_OP, Linux 6.6 */
/* user_data: writes have their index */
#define CANCEL N
#define BLOCKED (N + 1) /* in a worker, and the next one */
#define REQUESTS (N + 3)

static struct rw_file *file_of(struct rw_file *const *files, int i)
{
	return files[i % 2];
}

/* Each names what it cancels: writes by number, by file, by kind; one that is not there; what runs. */
static const struct target {
	const char *name;
	uint64_t user_data;
	unsigned int flags;  /* IORING_ASYNC_CANCEL_* */
	unsigned int writes; /* a bit for each that is cancelled */
	int res;
} targets[] = {
	{ "user-data", 3, 0, 1U << 3, 0 },
	{ "first", 0, 0, 1U << 0, 0 },
	{ "last", N - 1, 0, 1U << (N - 1), 0 },
	{ "file", 0, IORING_ASYNC_CANCEL_FD | IORING_ASYNC_CANCEL_ALL, 0x2a, SOME },
	{ "one-of-file", 0, IORING_ASYNC_CANCEL_FD, 1U << 1, 0 },
	{ "registered-file", 0,
	  IORING_ASYNC_CANCEL_FD | IORING_ASYNC_CANCEL_FD_FIXED | IORING_ASYNC_CANCEL_ALL, 0x2a,
	  SOME },
	{ "opcode", 0, CANCEL_OP | IORING_ASYNC_CANCEL_ALL, 0x2a, SOME },
	{ "unknown", 77, 0, 0, -ENOENT },
	{ "running", BLOCKED, 0, 0, -EALREADY },
};

static const struct rw_ring_kind kinds[] = {
	{ .name = "plain" },
	{ .name = "defer-taskrun",
	  .setup = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN },
};

static struct io_uring_sqe *get(struct rw_ring *ring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(rw_uring(ring));

	memset(sqe, 0, sizeof(*sqe));
	return sqe;
}

static void submit(struct rw_ring *ring, struct io_uring_sqe *sqe, uint64_t user_data)
{
	sqe->user_data = user_data;
	rw_ok(io_uring_submit(rw_uring(ring)) == 1 ? 0 : -1);
}

static void punch(const void *p)
{
	const struct rw_file *f = p;

	rw_ok(fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, SIZE / 2));
}

/* What is known to be for a regular file at once, and what is not, has workers of its own. */
static void block_workers(struct rw_ring *ring, struct rw_file *f, char *buf)
{
	const off_t off = SIZE / 4 * 3;
	struct io_uring_sqe *sqe = get(ring);

	io_uring_prep_fallocate(sqe, f->fd, FALLOC_FL_KEEP_SIZE, off, LEN);
	submit(ring, sqe, BLOCKED);
	rw_fill(f, buf, off, LEN, rw_promise(f, off, LEN));
	sqe = get(ring);
	io_uring_prep_write(sqe, f->fd, buf, LEN, (uint64_t)off);
	sqe->flags = IOSQE_ASYNC;
	submit(ring, sqe, BLOCKED + 1);
	rw_submitted();
}

static void cancel(struct rw_ring *ring, const struct target *target, int fd)
{
	struct io_uring_sqe *sqe = get(ring);

	sqe->opcode = IORING_OP_ASYNC_CANCEL;
	if (target->flags & IORING_ASYNC_CANCEL_FD)
		sqe->fd = target->flags & IORING_ASYNC_CANCEL_FD_FIXED ? 0 : fd;
	sqe->addr = target->user_data;
	sqe->cancel_flags = target->flags;
	if (target->flags & CANCEL_OP)
		sqe->len = IORING_OP_WRITEV;
	submit(ring, sqe, CANCEL);
}

/* With nothing there to be cancelled. */
static void try_cancel(struct rw_ring *ring, const struct target *target, int fd)
{
	struct io_uring_cqe *cqe;

	cancel(ring, target, fd);
	rw_eq(io_uring_wait_cqe(rw_uring(ring), &cqe), 0);
	if (cqe->res == -EINVAL)
		rw_skip("needs to cancel by %s", target->name);
	rw_eq(cqe->res, target->flags & IORING_ASYNC_CANCEL_ALL ? 0 : -ENOENT);
	io_uring_cqe_seen(rw_uring(ring), cqe);
}

/* The writes to the second file are vectored. */
static void queue_all(struct rw_ring *ring, struct rw_file *const *files,
		      const struct target *target, char (*buf)[LEN])
{
	static struct iovec iov[N];
	struct io_uring_sqe *sqe;

	for (int i = 0; i < N; i++) {
		struct rw_file *f = file_of(files, i);
		off_t off = i * 2 * LEN;

		memset(buf[i], 0x55, LEN);
		if (!(target->writes & 1U << i)) /* the others may not be found in a file */
			rw_fill(f, buf[i], off, LEN, rw_promise(f, off, LEN));
		sqe = get(ring);
		iov[i] = (struct iovec){ buf[i], LEN };
		if (f == files[1])
			io_uring_prep_writev(sqe, f->fd, &iov[i], 1, (uint64_t)off);
		else
			io_uring_prep_write(sqe, f->fd, buf[i], LEN, (uint64_t)off);
		sqe->flags = IOSQE_ASYNC;
		submit(ring, sqe, (uint64_t)i);
	}
	cancel(ring, target, files[1]->fd);
}

static bool as_wanted(const struct io_uring_cqe *cqe, long want)
{
	return want == SOME ? cqe->res > 0 : cqe->res == want;
}

static long want(const struct target *target, uint64_t user_data)
{
	if (user_data == BLOCKED)
		return 0;
	if (user_data == CANCEL)
		return target->res;
	return user_data < N && target->writes & 1U << user_data ? -ECANCELED : LEN;
}

static void reap(struct rw_ring *ring, const struct target *target)
{
	struct io_uring_cqe *cqe;

	for (int i = 0; i < REQUESTS; i++) {
		rw_enter("io_uring_enter (wait for a completion)");
		rw_eq(io_uring_wait_cqe(rw_uring(ring), &cqe), 0);
		if (!as_wanted(cqe, want(target, cqe->user_data)))
			rw_fail("request %llu ended with %d, expected %ld (writes have the numbers "
				"to %d, then comes the cancellation)",
				cqe->user_data, cqe->res, want(target, cqe->user_data), N - 1);
		io_uring_cqe_seen(rw_uring(ring), cqe);
	}
}

static void run(const void *const *at)
{
	static char buf[N + 1][LEN] __attribute__((aligned(4096)));
	const struct target *target = at[0];
	struct rw_ring *holder = rw_ring(&kinds[0], 1), *ring = rw_ring(at[1], REQUESTS);
	struct rw_file *blocked = rw_file("blocked", RW_WRITTEN, SIZE);
	struct rw_file *files[2] = { rw_file("a", RW_WRITTEN, SIZE),
				     rw_file("b", RW_WRITTEN, SIZE) };
	unsigned int one[2] = { 1, 1 };
	struct rw_helper helper;
	bool blocks;

	if (!rw_has_gate())
		rw_skip("needs a gate, and direct I/O");
	rw_supported("fallocate", fallocate(blocked->fd, 0, 0, SIZE));
	punch(blocked); /* reads the metadata that it needs */
	blocked = rw_file("blocked", RW_WRITTEN, SIZE);
	rw_set_up(io_uring_register_iowq_max_workers(rw_uring(ring), one) ? -1 : 0);
	rw_set_up(io_uring_register_files(rw_uring(ring), &files[1]->fd, 1) ? -1 : 0);
	try_cancel(ring, target, files[1]->fd);
	rw_set_up(syncfs(blocked->fd)); /* a commit behind the gate would hold the write back */
	rw_gate_shut();
	rw_write(holder, blocked, SIZE / 4, LEN, 0);
	if (!rw_in_flight(1))
		rw_broken("the gate holds no write");
	helper = rw_start(punch, blocked);
	blocks = rw_in_drain_now(helper.pid); /* for others to judge */
	if (blocks) {
		block_workers(ring, blocked, buf[N]);
		queue_all(ring, files, target, buf);
	}
	rw_gate_open();
	rw_join(helper);
	if (blocks)
		reap(ring, target);
	rw_reap(holder);
	rw_then(blocked, (struct rw_change){ RW_ZERO, 0, SIZE / 2 });
	rw_verify(blocked);
	for (int i = 0; i < 2; i++) {
		rw_then(files[i], (struct rw_change){ RW_KEEP });
		rw_verify(files[i]);
	}
	rw_ring_close(ring);
	rw_ring_close(holder);
}

static bool has(const void *const *at)
{
	return at[0] == &targets[0] || at[1] == &kinds[0];
}

static const char *const groups[] = { "iowq", NULL };
static const char *const needs[] = { "a gate", NULL };

const struct rw_test rw_test = {
	.name = "cancel-dio",
	.summary = "a cancellation ends the direct writes that it names, unwritten, and no other",
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(targets), RW_AXIS(kinds) },
	.has = has,
	.run = run,
};
