/* SPDX-License-Identifier: MIT */
/*
 * Hangs of every sort, on a sound kernel: calls behind a gate that nobody opens (asleep in D, by
 * the test's own task and by another one), waits for a completion that never comes, and CPU burnt
 * without progress. "none", the last one, passes only if all of that was cleared away.
 */
#include "internal.h"

#define LEN 4096

static struct rw_file *behind_the_gate(void)
{
	struct rw_file *f;

	if (!rw_has_gate())
		rw_skip("needs a gate (--gate)");
	f = rw_file("file", RW_WRITTEN, 64 * RW_KIB);
	rw_gate_shut();
	return f;
}

static void direct_write(const void *p)
{
	const struct rw_file *f = p;
	void *buf = aligned_alloc(LEN, LEN);

	if (!buf)
		rw_broken("out of memory");
	memset(buf, 0, LEN);
	rw_ok(pwrite(f->fd, buf, LEN, 0));
	free(buf);
}

static void hang_in_pwrite(void)
{
	direct_write(behind_the_gate());
}

static void hang_other_task(void)
{
	rw_by(&rw_whos[1], direct_write, behind_the_gate());
}

static void hang_in_fsync(void)
{
	struct rw_file *f = behind_the_gate();

	/* A new size: fsync must write the log, or the journal. */
	rw_ok(ftruncate(f->fd, 128 * RW_KIB));
	rw_ok(fsync(f->fd));
}

static void hang_in_reap(void)
{
	struct rw_file *f = behind_the_gate();
	struct rw_ring *ring = rw_ring(&rw_ring_kinds[0], 2);

	rw_write(ring, f, 0, LEN, 0);
	rw_reap(ring);
}

/* Wait for a second completion, of a ring that was given one request. */
static void wait_in_vain(unsigned int setup)
{
	struct io_uring_params p = { .flags = setup, .sq_thread_idle = 600 * 1000 };
	struct io_uring ring;
	struct io_uring_cqe *cqe;
	int ret = io_uring_queue_init_params(4, &ring, &p);

	if (ret < 0)
		rw_skip("needs io_uring: %s", strerror(-ret));
	io_uring_prep_nop(io_uring_get_sqe(&ring));
	io_uring_submit(&ring);
	for (int done = 0; done < 2; done += ret == 0) {
		rw_enter("wait for a completion");
		ret = io_uring_wait_cqe(&ring, &cqe);
		if (!ret)
			io_uring_cqe_seen(&ring, cqe);
		else if (ret != -EINTR)
			rw_broken("io_uring_wait_cqe: %s", strerror(-ret));
	}
	rw_fail("a completion out of nothing");
}

static void lose_wake_up(void)
{
	wait_in_vain(0);
}

/* The poller of the ring burns CPU in the kernel, for the ten minutes that it was told to. */
static void spin_in_kernel(void)
{
	wait_in_vain(IORING_SETUP_SQPOLL);
}

static void spin(void)
{
	for (volatile unsigned int i = 0;; i++)
		;
}

static void none(void)
{
	struct rw_file *f = rw_file("file", RW_WRITTEN, 64 * RW_KIB);
	pid_t left[8];
	unsigned int n = rw_descendants(getppid(), left, 8);

	rw_verify(f);
	if (rw_gate_is_shut())
		rw_fail("the gate is still shut");
	if (n != 1)
		rw_fail("%u processes are left of the variants before", n - 1);
}

static const struct {
	const char *name;
	void (*hang)(void);
} hangs[] = {
	{ "pwrite", hang_in_pwrite },	      { "fsync", hang_in_fsync },
	{ "other-task", hang_other_task },    { "reap", hang_in_reap },
	{ "lost-wake-up", lose_wake_up },     { "spin", spin },
	{ "spin-in-kernel", spin_in_kernel }, { "none", none },
};

static void run(const void *const *at)
{
	((__typeof__(&hangs[0]))at[0])->hang();
}

const struct rw_test rw_test = {
	.name = "hangs",
	.summary = "each sort of hang is found, named and cleared away",
	.axes = { RW_AXIS(hangs) },
	.run = run,
};
