/* SPDX-License-Identifier: MIT */
/*
 * A cancellation finds what a worker of io-wq has taken with other work of the same file, and not begun.
 *
 * Work that is serialised by its inode is taken off the list a chain at a time (io_get_next_work()). The
 * first sleeps in a fallocate, in the drain, for a direct write that the gate holds; what is behind it is
 * in no list any more and is not what the worker does (io_wq_worker_cancel()). Who is told -ENOENT takes
 * a request to be over that will change the file later.
 */
#include "ringwedge.h"

#include <sys/stat.h>

#define SIZE (256 * RW_KIB)
#define LEN (16 * RW_KIB)

/* user_data */
enum { OPENED, FIRST, SECOND, CANCEL, REQUESTS };

static const struct target {
	const char *name;
	unsigned int flags; /* IORING_ASYNC_CANCEL_* */
} targets[] = {
	{ "user-data", 0 },
	{ "all", IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL },
};

static const struct rw_ring_kind kind = { .name = "" };

/* The ring's only worker sleeps in an open(2) until somebody opens the other end. */
static void occupy(struct io_uring *ring, const char *fifo)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	unsigned int one[2] = { 1, 1 };

	rw_set_up(io_uring_register_iowq_max_workers(ring, one) ? -1 : 0);
	rw_set_up(mkfifo(fifo, 0600));
	io_uring_prep_openat(sqe, AT_FDCWD, fifo, O_RDONLY | O_CLOEXEC, 0);
	sqe->flags = IOSQE_ASYNC;
	sqe->user_data = OPENED;
	rw_ok(io_uring_submit(ring) == 1 ? 0 : -1);
	rw_worker_in("fifo_open");
}

/* Each of them makes the file grow. */
static void queue(struct io_uring *ring, int fd, uint64_t user_data)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	io_uring_prep_fallocate(sqe, fd, 0, 0, SIZE + (off_t)user_data * LEN);
	sqe->user_data = user_data;
	rw_ok(io_uring_submit(ring) == 1 ? 0 : -1);
}

static void cancel(struct io_uring *ring, const struct target *target)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	io_uring_prep_cancel64(sqe, SECOND, (int)target->flags);
	sqe->user_data = CANCEL;
	rw_ok(io_uring_submit(ring) == 1 ? 0 : -1);
}

static void reap(struct io_uring *ring, int *res)
{
	struct io_uring_cqe *cqe;

	for (int i = 0; i < REQUESTS; i++) {
		rw_enter("io_uring_enter (wait for a completion)");
		rw_eq(io_uring_wait_cqe(ring, &cqe), 0);
		res[cqe->user_data] = cqe->res;
		io_uring_cqe_seen(ring, cqe);
	}
}

static void run(const void *const *at)
{
	const struct target *target = at[0];
	struct rw_ring *holder = rw_ring(&kind, 1), *ring = rw_ring(&kind, REQUESTS);
	struct io_uring *uring = rw_uring(ring);
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);
	int res[REQUESTS], opener, fd; /* without O_DIRECT: see io_prep_async_work() */
	char fifo[PATH_MAX + 8];

	if (!rw_has_gate())
		rw_skip("needs a gate, and direct I/O");
	rw_supported("fallocate", fallocate(f->fd, 0, 0, SIZE));
	fd = (int)rw_set_up(open(rw_path(f), O_RDWR | O_CLOEXEC));
	snprintf(fifo, sizeof(fifo), "%s.fifo", rw_path(f));
	rw_set_up(syncfs(f->fd)); /* a commit behind the gate would hold the write back */
	rw_gate_shut();
	rw_write(holder, f, 0, LEN, 0);
	if (!rw_in_flight(1))
		rw_broken("the gate holds no write");
	occupy(uring, fifo);
	queue(uring, fd, FIRST);
	queue(uring, fd, SECOND);
	opener = (int)rw_ok(open(fifo, O_WRONLY | O_CLOEXEC));
	rw_worker_in("vfs_fallocate");
	cancel(uring, target);
	rw_submitted();
	rw_gate_open();
	reap(uring, res);
	close(opener);
	close(fd);
	close((int)rw_ok(res[OPENED]));
	/* -EALREADY: as far as the kernel knows it may run. Whether that counts as one of all is open. */
	if (!target->flags && res[CANCEL] != -EALREADY)
		rw_eq(res[CANCEL], 0);
	rw_eq(res[SECOND], -ECANCELED);
	if (res[FIRST] != -EINTR) /* the cancellation may have ended its sleep */
		rw_eq(res[FIRST], 0);
	rw_reap(holder);
	rw_then(f, (struct rw_change){ res[FIRST] ? RW_KEEP : RW_GROW, 0, SIZE + FIRST * LEN });
	rw_verify(f);
	rw_set_up(unlink(fifo));
	rw_ring_close(ring);
	rw_ring_close(holder);
}

static const char *const guards[] = {
	"io_uring/io-wq: let cancel find picked up hashed work",
	NULL,
};

static const char *const groups[] = { "iowq", NULL };
static const char *const needs[] = { "a gate", NULL };

const struct rw_test rw_test = {
	.name = "cancel-picked-dio",
	.summary = "a cancellation finds what a worker has taken and not begun",
	.guards = guards,
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(targets) },
	.run = run,
};
