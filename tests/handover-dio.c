/* SPDX-License-Identifier: MIT */
/*
 * What one ring hands to another, with direct writes in flight.
 *
 * A completion: a message linked or drained behind the write (IORING_OP_MSG_RING) may not tell of it
 * before it has ended, nor may one that came before count for it (cq_extra in req_need_defer()). Memory:
 * buffers of one ring that another has registered, too (IORING_REGISTER_CLONE_BUFFERS), and that both let
 * go of while they are written from. Pages: of a pipe that are spliced to the same inode, as a direct
 * write that io-wq waits for, or into the page cache next to it (IORING_OP_SPLICE). What is let go of too
 * early is foreign data in the file.
 */
#include "ringwedge.h"

#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define SIZE (512 * RW_KIB)
#define LEN (16 * RW_KIB)

#define MESSAGE 4711

/* Linux 6.12: IORING_REGISTER_CLONE_BUFFERS */
#define REGISTER_CLONE_BUFFERS 30
struct clone_buffers {
	uint32_t src_fd, flags, src_off, dst_off, nr, pad[3];
};

static void shut(void)
{
	if (rw_has_gate())
		rw_gate_shut();
}

static void reap_message(const void *p)
{
	struct rw_ring *const *ring = p; /* from, to */
	struct io_uring_cqe *cqe;
	int ret;

	rw_submit_queued(ring[0], 0);
	/* Who defers to the task must ask the very ring. */
	if (rw_uring(ring[0])->flags & IORING_SETUP_DEFER_TASKRUN)
		rw_reap(ring[0]);
	rw_enter("io_uring_enter (wait for a message)");
	ret = io_uring_wait_cqe(rw_uring(ring[1]), &cqe);
	rw_eq(ret, 0);
	rw_eq(cqe->user_data, MESSAGE);
	rw_eq(cqe->res, LEN);
	io_uring_cqe_seen(rw_uring(ring[1]), cqe);
	rw_reap(ring[0]);
}

/* A completion without a request: it may not count as one of those before a drain. */
static void say_hello(struct rw_ring *from, struct rw_ring *to)
{
	struct io_uring_sqe sqe = { 0 };
	struct io_uring_cqe *cqe;

	io_uring_prep_msg_ring(&sqe, rw_uring(to)->ring_fd, 0, MESSAGE, 0);
	rw_queue(from, &sqe, &(struct rw_op){ "message", NULL, 0 });
	rw_submit_queued(from, 0);
	rw_reap(from);
	rw_enter("io_uring_enter (wait for a message)");
	rw_eq(io_uring_wait_cqe(rw_uring(to), &cqe), 0);
	io_uring_cqe_seen(rw_uring(to), cqe);
}

/* The message is linked, or drained, behind the write: it tells that the data is there. */
static void message(const struct rw_ring_kind *kind, bool drained)
{
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);
	struct rw_ring *ring[] = { rw_ring(kind, 2), rw_ring(kind, 2) };
	struct io_uring_sqe sqe = { 0 };

	if (!rw_has_opcode(ring[0], IORING_OP_MSG_RING))
		rw_skip("needs IORING_OP_MSG_RING");
	if (drained)
		say_hello(ring[1], ring[0]);
	io_uring_prep_msg_ring(&sqe, rw_uring(ring[1])->ring_fd, LEN, MESSAGE, 0);
	sqe.flags = drained ? IOSQE_IO_DRAIN : 0;
	shut();
	rw_queue_write(ring[0], f, 0, LEN, drained ? 0 : IOSQE_IO_LINK);
	rw_queue(ring[0], &sqe, &(struct rw_op){ "message", NULL, 0, .must_wait = rw_has_gate() });
	if (rw_has_gate())
		rw_held_by(&rw_whos[0], reap_message, ring, false);
	else
		reap_message(ring);
	rw_ring_close(ring[1]);
	rw_ring_close(ring[0]);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
}

static void messages(void)
{
	message(&rw_ring_kinds[0], false);
	message(&rw_ring_kinds[2], false);
}

static void drained_message(void)
{
	message(&rw_ring_kinds[0], true);
}

static void unregister_and_reap(const void *p)
{
	struct rw_ring *const *ring = p;

	rw_enter("io_uring_register (unregister cloned buffers)");
	rw_eq(io_uring_unregister_buffers(rw_uring(ring[1])), 0);
	rw_reap(ring[1]);
}

/* The ring that registered the buffer is closed and its memory unmapped, the write in flight. */
static void cloned_buffers(void)
{
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);
	struct rw_ring *ring[] = { rw_ring(&rw_ring_kinds[0], 1), rw_ring(&rw_ring_kinds[0], 1) };
	struct clone_buffers clone = { .src_fd = (uint32_t)rw_uring(ring[0])->ring_fd };
	struct io_uring_sqe sqe = { 0 };
	char *buf = rw_map(-1, 0, LEN);
	struct iovec iov = { buf, LEN };

	rw_fill(f, buf, 0, LEN, rw_promise(f, 0, LEN));
	rw_set_up(io_uring_register_buffers(rw_uring(ring[0]), &iov, 1) ? -1 : 0);
	rw_supported("IORING_REGISTER_CLONE_BUFFERS",
		     syscall(SYS_io_uring_register, rw_uring(ring[1])->ring_fd,
			     REGISTER_CLONE_BUFFERS, &clone, 1));
	io_uring_prep_write_fixed(&sqe, f->fd, buf, LEN, 0, 0);
	shut();
	rw_queue(ring[1], &sqe, &(struct rw_op){ "write of a cloned buffer", f, LEN });
	rw_submit_queued(ring[1], 0);
	if (rw_has_gate())
		rw_in_flight(1);
	rw_ring_close(ring[0]);
	munmap(buf, LEN);
	rw_use_memory(); /* its pages, if they were free */
	if (rw_has_gate())
		rw_held_by(&rw_whos[0], unregister_and_reap, ring, false);
	else
		unregister_and_reap(ring);
	rw_unpinned();
	rw_ring_close(ring[1]);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
}

/* ---- pages of a pipe ------------------------------------------------------- */

#define SPLICED (256 * RW_KIB) /* behind what is punched */

static const struct rw_change punched = { RW_ZERO, 0, SPLICED };

static void punch(const void *p)
{
	rw_supported("fallocate",
		     fallocate(((const struct rw_file *)p)->fd,
			       FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, SPLICED));
}

/* What the file is to hold there, in a pipe, and nowhere else any more. */
static int in_pipe(struct rw_file *f, off_t off)
{
	char *buf = rw_map(-1, 0, LEN);
	int pipes[2];

	rw_fill(f, buf, off, LEN, rw_promise(f, off, LEN));
	rw_set_up(pipe2(pipes, O_CLOEXEC));
	rw_eq(write(pipes[1], buf, LEN), LEN);
	munmap(buf, LEN);
	close(pipes[1]);
	return pipes[0];
}

/* Two writes of one ring, and between them what another one splices, directly or not. */
static void splice_between(bool direct)
{
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);
	struct rw_ring *ring[] = { rw_ring(&rw_ring_kinds[0], 2), rw_ring(&rw_ring_kinds[0], 1) };
	const unsigned int writes = direct ? 3 : 2;
	struct io_uring_sqe sqe = { 0 };
	bool gate = rw_has_gate();
	unsigned int held = 0;
	int from, to;

	if (!rw_has_opcode(ring[1], IORING_OP_SPLICE))
		rw_skip("needs IORING_OP_SPLICE");
	punch(f); /* reads the metadata that it needs */
	f = rw_file("file", RW_WRITTEN, SIZE);
	to = (int)rw_set_up(open(rw_path(f), O_RDWR | O_CLOEXEC | (direct ? O_DIRECT : 0)));
	from = in_pipe(f, SPLICED);
	io_uring_prep_splice(&sqe, from, -1, to, SPLICED, LEN, 0);
	shut();
	rw_write(ring[0], f, SPLICED - LEN, LEN, 0);
	rw_queue(ring[1], &sqe,
		 &(struct rw_op){ "splice", NULL, LEN, .must_wait = gate && direct });
	rw_submit_queued(ring[1], 0);
	rw_write(ring[0], f, SPLICED + LEN, LEN, 0);
	if (gate)
		held = rw_in_flight(writes);
	rw_use_memory(); /* the pipe's pages, if they were free */
	if (gate)
		rw_held_by(&rw_whos[0], punch, f, held > 0);
	else
		punch(f);
	rw_reap(ring[0]);
	rw_reap(ring[1]);
	close(from);
	close(to);
	rw_ring_close(ring[1]);
	rw_ring_close(ring[0]);
	(held == writes ? rw_then : rw_race)(f, punched);
	rw_verify(f);
}

static void splice_direct(void)
{
	splice_between(true);
}

static void splice_cached(void)
{
	splice_between(false);
}

static const struct scene {
	const char *name;
	void (*play)(void);
} scenes[] = {
	{ "message", messages },
	{ "drained-message", drained_message },
	{ "cloned-buffers", cloned_buffers },
	{ "splice", splice_direct },
	{ "splice-cached", splice_cached },
};

static void run(const void *const *at)
{
	((const struct scene *)at[0])->play();
}

static const char *const guards[] = {
	"7cc2a6eadcd7 io_uring: add IORING_REGISTER_COPY_BUFFERS method",
	NULL,
};

static const char *const groups[] = { "multi", NULL };

const struct rw_test rw_test = {
	.name = "handover-dio",
	.summary = "what a ring hands to another beside direct writes arrives whole, and not early",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(scenes) },
	.run = run,
};
