/* SPDX-License-Identifier: MIT */
/*
 * Completions of direct writes that found no room in the ring.
 *
 * They wait in a list (IORING_FEAT_NODROP) until the owner has made room and asks, whoever delivered them:
 * each comes then, once, and in its order with those that come after it (io_cqe_cache_refill()).
 */
#include "ringwedge.h"

#include <linux/falloc.h>
#include <poll.h>
#include <sys/eventfd.h>

#define N 6
#define LEN (16 * RW_KIB)
#define APART (64 * RW_KIB)
#define SIZE (N * APART)

static const struct rw_change punched = { RW_ZERO, 0, SIZE / 2 };

static void punch(const void *p)
{
	rw_ok(fallocate(((const struct rw_file *)p)->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			punched.off, punched.len));
}

static struct rw_file *file(void)
{
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);

	rw_supported("fallocate", fallocate(f->fd, 0, 0, SIZE));
	punch(f); /* reads the metadata that it needs */
	return rw_file("file", RW_WRITTEN, SIZE);
}

/* All of them, by each sort of ring, and what waits for the writes waits for none of the completions. */
static void all(void)
{
	static const struct rw_ring_kind small[] = {
		{ .name = "plain", .overflows = 1 },
		{ .name = "defer-taskrun",
		  .overflows = 1,
		  .setup = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN },
		{ .name = "async", .overflows = 1, .async = true, .setup = IORING_SETUP_CQE32 },
	};

	for (size_t k = 0; k < RW_ARRAY_SIZE(small); k++) {
		struct rw_ring *ring = rw_ring(&small[k], N);
		struct rw_file *f = file();
		unsigned int held = 0;

		if (rw_has_gate())
			rw_gate_shut();
		for (unsigned int i = 0; i < N; i++)
			rw_write(ring, f, i * APART, LEN, 0);
		if (rw_has_gate()) {
			held = rw_in_flight(N);
			rw_held_by(&rw_whos[0], punch, f, held > 0);
		} else {
			punch(f);
		}
		rw_done();
		rw_reap(ring);
		(held == N ? rw_then : rw_race)(f, punched);
		rw_verify(f);
		rw_ring_close(ring);
	}
}

/*
 * What is linked behind a write comes after it, though there is room in the ring again when it completes,
 * and the write's completion is not in there yet.
 */
static void order(void)
{
	static const struct rw_ring_kind small = { .name = "plain", .overflows = 2 };
	struct rw_ring *ring = rw_ring(&small, 2);
	struct io_uring *uring = rw_uring(ring);
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);
	int fd = (int)rw_set_up(eventfd(0, EFD_CLOEXEC));
	struct io_uring_sqe sqe = { 0 };

	for (unsigned int i = 0; i < small.overflows; i++)
		io_uring_prep_nop(io_uring_get_sqe(uring));
	rw_eq(io_uring_submit(uring), small.overflows);
	rw_queue_write(ring, f, 0, LEN, IOSQE_IO_LINK);
	io_uring_prep_poll_add(&sqe, fd, POLLIN);
	rw_queue(ring, &sqe, &(struct rw_op){ .what = "poll", .want = POLLIN });
	rw_submit_queued(ring, 0);
	rw_for_ms(20000)
		if (io_uring_cq_has_overflow(uring))
			break;
	rw_eq(io_uring_cq_has_overflow(uring), true);
	io_uring_cq_advance(uring, small.overflows); /* the nops */
	rw_set_up(eventfd_write(fd, 1));
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
	rw_ring_close(ring);
	close(fd);
}

static const struct scene {
	const char *name;
	void (*play)(void);
} scenes[] = { { "all", all }, { "order", order } };

static void run(const void *const *at)
{
	((const struct scene *)at[0])->play();
}

static const char *const groups[] = { "multi", NULL };

const struct rw_test rw_test = {
	.name = "overflow-dio",
	.summary = "completions of direct writes that found no room in the ring come, once and in "
		   "order",
	.groups = groups,
	.axes = { RW_AXIS(scenes) },
	.run = run,
};
