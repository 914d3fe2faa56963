/* SPDX-License-Identifier: MIT */
/*
 * The results of direct I/O on a ring that polls (IORING_SETUP_IOPOLL).
 *
 * Its completions come another way: io_complete_rw_iopoll() marks the request, io_do_iopoll() finds
 * it in a list, whole batches at once, and it is the owner who looks. A result that is not corrected
 * there, a request that the list loses, or one whose error leaves i_dio_count behind, is a wrong
 * result, an owner that polls for ever, a hang in the next truncate. What cannot be polled for is
 * refused by its own error: other opcodes and files, and reads of a device that cannot poll.
 */
#include "ringwedge.h"

#include <poll.h>
#include <signal.h>
#include <sys/resource.h>

#define SIZE (512 * RW_KIB)
#define LEN (32 * RW_KIB)
#define PAGE (4 * RW_KIB)
#define DEPTH 16

/*
 * What is polled for at a device that cannot is refused (since Linux 5.19). -EAGAIN: of a try that
 * may not sleep, whose end came in a workqueue; nothing is issued again there (io_uring/rw.c,
 * io_rw_should_reissue()).
 */
static bool refused(struct rw_file *f, const struct rw_io *io)
{
	if ((io->res != -EOPNOTSUPP && io->res != -EAGAIN) || rw_device_polls())
		return false;
	if (!io->read)
		rw_not_written(f, io);
	return true;
}

static void ends_with(struct rw_file *f, const struct rw_io *io, long want)
{
	if (refused(f, io))
		return;
	rw_eq(io->res, want);
	if (!io->read)
		rw_ended(f, io);
}

/* Reads and writes of several files in one list, the next ones submitted before the list is empty. */
static void contents(const struct rw_ring_kind *kind)
{
	static const enum rw_state states[] = { RW_WRITTEN, RW_UNWRITTEN, RW_HOLE, RW_SHARED };
	static const char *const names[] = { "written", "unwritten", "hole", "shared" };
	struct rw_ring *ring = rw_ring(kind, 2 * DEPTH);
	struct rw_io io[RW_ARRAY_SIZE(states)][2][DEPTH / 4];
	struct rw_file *f[RW_ARRAY_SIZE(states)];
	size_t n = 0;

	for (size_t i = 0; i < RW_ARRAY_SIZE(states); i++)
		if (rw_can_make(states[i])) {
			f[n] = rw_file(names[i], states[i], SIZE);
			rw_use(ring, f[n++]);
		}
	memset(io, 0, sizeof(io));
	for (size_t k = 0; k < DEPTH / 4; k++)
		for (size_t i = 0; i < n; i++) {
			struct rw_io *write = &io[i][0][k], *read = &io[i][1][k];

			*write = (struct rw_io){ .off = (off_t)k * LEN, .len = LEN };
			*read = (struct rw_io){ .read = true,
						.off = SIZE - (off_t)(k + 1) * LEN,
						.len = LEN };
			rw_submit(ring, f[i], write);
			rw_submit(ring, f[i], read);
			rw_reap_ready(ring);
		}
	rw_reap(ring);
	for (size_t i = 0; i < n; i++) {
		for (size_t k = 0; k < DEPTH / 4; k++) {
			ends_with(f[i], &io[i][0][k], LEN);
			ends_with(f[i], &io[i][1][k], LEN);
		}
		rw_verify(f[i]);
	}
	rw_ring_close(ring);
}

static void one(struct rw_ring *ring, struct rw_file *f, struct rw_io io, long want)
{
	rw_submit(ring, f, &io);
	rw_reap(ring);
	ends_with(f, &io, want);
}

static void limit(long bytes)
{
	const struct rlimit r = { bytes < 0 ? RLIM_INFINITY : (rlim_t)bytes, RLIM_INFINITY };

	signal(SIGXFSZ, SIG_IGN);
	rw_set_up(setrlimit(RLIMIT_FSIZE, &r));
}

/* Cut short by the end of the file or by RLIMIT_FSIZE, and across the end. */
static void ends(const struct rw_ring_kind *kind)
{
	struct rw_ring *ring = rw_ring(kind, 1);
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);

	rw_use(ring, f);
	one(ring, f, (struct rw_io){ .read = true, .off = SIZE - PAGE, .len = LEN }, PAGE);
	one(ring, f, (struct rw_io){ .read = true, .off = SIZE, .len = LEN }, 0);
	limit(SIZE / 2);
	one(ring, f, (struct rw_io){ .off = SIZE / 2 - PAGE, .len = LEN }, PAGE);
	one(ring, f, (struct rw_io){ .off = SIZE / 2, .len = LEN }, -EFBIG);
	limit(-1);
	one(ring, f, (struct rw_io){ .off = SIZE - PAGE, .len = LEN }, LEN);
	one(ring, f, (struct rw_io){ .read = true, .off = SIZE - PAGE, .len = LEN }, LEN);
	rw_verify(f);
	rw_ring_close(ring);
}

/* The memory ends within the buffer: an error of polled I/O, too, lets go of what it took. */
static void fault(const struct rw_ring_kind *kind)
{
	struct rw_ring *ring = rw_ring(kind, 4);
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);
	struct rw_io io[] = {
		{ .off = 0, .len = LEN, .valid = PAGE },
		{ .read = true, .off = LEN, .len = LEN, .valid = PAGE },
		{ .read = true, .off = 2 * LEN, .len = LEN },
		{ .off = 3 * LEN, .len = LEN },
	};

	for (size_t i = 0; i < RW_ARRAY_SIZE(io); i++)
		rw_submit(ring, f, &io[i]);
	rw_reap(ring);
	for (size_t i = 0; i < RW_ARRAY_SIZE(io); i++) {
		if (!io[i].valid) {
			ends_with(f, &io[i], LEN);
			continue;
		}
		if (refused(f, &io[i]))
			continue;
		if (io[i].res != PAGE)
			rw_eq(io[i].res, -EFAULT);
		if (!io[i].read)
			rw_ended(f, &io[i]);
	}
	rw_verify(f);
	rw_ok(ftruncate(f->fd, SIZE / 2));
	rw_then(f, (struct rw_change){ RW_RESIZE, SIZE / 2 });
	rw_verify(f);
	rw_ring_close(ring);
}

static void one_op(struct rw_ring *ring, struct io_uring_sqe sqe, const char *what, long want)
{
	rw_queue(ring, &sqe, &(struct rw_op){ what, NULL, want });
	rw_submit_queued(ring, 0);
	rw_reap(ring);
}

/* What cannot be polled for is refused, each with its own error, and the ring goes on. */
static void refusals(const struct rw_ring_kind *kind)
{
	struct __kernel_timespec soon = { .tv_nsec = 1000000 };
	struct rw_ring *ring = rw_ring(kind, 4);
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);
	struct rw_io io = { .off = 0, .len = LEN };
	struct io_uring_sqe sqe = { 0 };
	char *buf = rw_map(-1, 0, PAGE);
	int cached = (int)rw_set_up(open(rw_path(f), O_RDWR | O_CLOEXEC)), pipes[2];

	rw_set_up(pipe2(pipes, O_CLOEXEC));
	io_uring_prep_write(&sqe, cached, buf, PAGE, 0);
	one_op(ring, sqe, "write through the page cache", -EOPNOTSUPP);
	io_uring_prep_read(&sqe, cached, buf, PAGE, 0);
	one_op(ring, sqe, "read through the page cache", -EOPNOTSUPP);
	io_uring_prep_write(&sqe, pipes[1], buf, PAGE, 0);
	one_op(ring, sqe, "write to a pipe", -EOPNOTSUPP);
	io_uring_prep_fsync(&sqe, f->fd, 0);
	one_op(ring, sqe, "fsync", -EINVAL);
	io_uring_prep_fallocate(&sqe, f->fd, 0, 0, PAGE);
	one_op(ring, sqe, "fallocate", -EINVAL);
	io_uring_prep_timeout(&sqe, &soon, 0, 0);
	one_op(ring, sqe, "timeout", -EINVAL);
	io_uring_prep_cancel(&sqe, NULL, 0);
	one_op(ring, sqe, "cancel", -EINVAL);
	io_uring_prep_poll_add(&sqe, pipes[0], POLLIN);
	one_op(ring, sqe, "poll", -EINVAL);
	io_uring_prep_nop(&sqe);
	one_op(ring, sqe, "nop", 0);
	rw_submit(ring, f, &io);
	rw_reap(ring);
	ends_with(f, &io, LEN);
	rw_verify(f);
	close(cached);
	rw_ring_close(ring);
}

static const struct scene {
	const char *name;
	void (*play)(const struct rw_ring_kind *kind);
} scenes[] = {
	{ "contents", contents },
	{ "ends", ends },
	{ "fault", fault },
	{ "refusals", refusals },
};

static bool has(const void *const *at)
{
	const struct scene *scene = at[0];
	const struct rw_ring_kind *kind = at[1];

	/* Memory and files that are not registered. */
	return !kind->fixed || (scene->play != fault && scene->play != refusals);
}

static void run(const void *const *at)
{
	if (!rw_direct())
		rw_skip("needs direct I/O");
	((const struct scene *)at[0])->play(at[1]);
}

static const char *const guards[] = {
	"4d9cb92ca41d io_uring/rw: fix short rw error handling",
	"3c7d76d6128a io_uring: IOPOLL polling improvements",
	NULL,
};

static const char *const groups[] = { "iopoll", NULL };

const struct rw_test rw_test = {
	.name = "iopoll-dio",
	.summary = "direct I/O on a ring that polls has the exact result, and what cannot be is "
		   "refused",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(scenes), RW_AXIS(rw_iopoll_kinds) },
	.has = has,
	.run = run,
};
