/* SPDX-License-Identifier: MIT */
/*
 * Many rings, many tasks, one inode; and what rings share.
 *
 * An operation on the file must wait for the direct writes of all rings, whoever polls, works or
 * waits for them: a poller or io-wq of several rings (IORING_SETUP_ATTACH_WQ), a message that one
 * ring sends another behind its write (IORING_OP_MSG_RING), buffers of one ring registered by another
 * (IORING_REGISTER_CLONE_BUFFERS) and taken from both while the write is in flight. A completion that
 * goes to the wrong task, or memory that is let go of too early, is a hang or foreign data.
 */
#include "ringwedge.h"

#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define SIZE (512 * RW_KIB)
#define LEN (16 * RW_KIB)
#define RINGS 6 /* and the tasks, and the files */
#define APART (64 * RW_KIB)

#define MESSAGE 4711

/* Linux 6.12: IORING_REGISTER_CLONE_BUFFERS */
#define REGISTER_CLONE_BUFFERS 30
struct clone_buffers {
	uint32_t src_fd, flags, src_off, dst_off, nr, pad[3];
};

static void punch(const void *p)
{
	rw_ok(fallocate(((const struct rw_file *)p)->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			0, SIZE / 2));
}

static const struct rw_change punched = { RW_ZERO, 0, SIZE / 2 };

/* With `n` writes submitted behind a shut gate: punch, which waits for all of them. */
static unsigned int punch_held(struct rw_file *f, unsigned int n)
{
	unsigned int held = rw_has_gate() ? rw_in_flight(n) : 0;

	if (rw_has_gate())
		rw_held_by(&rw_whos[0], punch, f, held > 0);
	else
		punch(f);
	return held;
}

static struct rw_file *start(const char *name)
{
	struct rw_file *f = rw_file(name, RW_WRITTEN, SIZE);

	rw_supported("fallocate", fallocate(f->fd, 0, 0, SIZE));
	punch(f); /* reads the metadata that it needs */
	return rw_file(name, RW_WRITTEN, SIZE);
}

static void shut(void)
{
	if (rw_has_gate())
		rw_gate_shut();
}

static void check(struct rw_file *f, bool all_held)
{
	(all_held ? rw_then : rw_race)(f, punched);
	rw_verify(f);
}

static void reap_all(struct rw_ring **ring, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		rw_reap(ring[i]);
	for (unsigned int i = n; i-- > 0;)
		rw_ring_close(ring[i]);
}

/* A write by each of the rings, to the same file. */
static void write_and_punch(struct rw_ring **ring, unsigned int n, struct rw_file *f)
{
	unsigned int held;

	shut();
	for (unsigned int i = 0; i < n; i++)
		rw_write(ring[i], f, i * APART, LEN, 0);
	held = punch_held(f, n);
	reap_all(ring, n);
	check(f, held == n);
}

/* A ring of each kind, one task. */
static void rings(void)
{
	struct rw_file *f = start("file");
	struct rw_ring *ring[RW_ARRAY_SIZE(rw_ring_kinds)];

	for (unsigned int i = 0; i < RW_ARRAY_SIZE(ring); i++) {
		ring[i] = rw_ring(&rw_ring_kinds[i], 1);
		rw_use(ring[i], f);
	}
	write_and_punch(ring, RW_ARRAY_SIZE(ring), f);
}

/* Rings that have their poller, or their workers, from the first one. */
static void beside(const struct rw_ring_kind *kind)
{
	struct rw_file *f = start("file");
	struct rw_ring *ring[RINGS] = { rw_ring(kind, 2) };

	for (unsigned int i = 1; i < RINGS; i++)
		ring[i] = rw_ring_beside(ring[0], 2);
	write_and_punch(ring, RINGS, f);
}

static void poller(void)
{
	beside(&rw_ring_kinds[3]);
}

static void workers(void)
{
	beside(&rw_ring_kinds[4]);
}

struct writer {
	struct rw_file *file;
	const struct rw_ring_kind *kind;
	off_t off;
	unsigned int promise;
};

static void write_one(const void *p)
{
	const struct writer *w = p;
	struct rw_ring *ring = rw_ring(w->kind, 1);

	rw_use(ring, w->file);
	rw_write_promised(ring, w->file, w->off, LEN, w->promise, 0);
	rw_reap(ring);
	rw_ring_close(ring);
}

/* Tasks, each with a ring of its own, that wait for their writes while this one punches. */
static void tasks(void)
{
	struct rw_file *f = start("file");
	struct rw_helper helper[RINGS];
	struct writer w[RINGS];
	unsigned int held;

	shut();
	for (unsigned int i = 0; i < RINGS; i++) {
		w[i] = (struct writer){ f, &rw_ring_kinds[i], i * APART,
					rw_promise(f, i * APART, LEN) };
		helper[i] = rw_start(write_one, &w[i]);
	}
	held = punch_held(f, RINGS);
	for (unsigned int i = 0; i < RINGS; i++)
		rw_join(helper[i]);
	check(f, held == RINGS);
}

/* Writes to many files through one ring: each file waits for its own. */
static void files(void)
{
	static const char *const names[RINGS] = { "a", "b", "c", "d", "e", "f" };
	struct rw_ring *ring = rw_ring(&rw_ring_kinds[2], RINGS);
	struct rw_file *f[RINGS];
	unsigned int held;

	for (unsigned int i = 0; i < RINGS; i++)
		f[i] = start(names[i]);
	shut();
	for (unsigned int i = 0; i < RINGS; i++)
		rw_write(ring, f[i], i * APART, LEN, 0);
	held = punch_held(f[0], RINGS);
	rw_reap(ring);
	for (unsigned int i = 0; i < RINGS; i++) {
		(held == RINGS ? rw_then : rw_race)(f[i],
						    i ? (struct rw_change){ RW_KEEP } : punched);
		rw_verify(f[i]);
	}
	rw_ring_close(ring);
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

/* The message is linked behind the write: it tells that the data is there. */
static void message(const struct rw_ring_kind *kind)
{
	struct rw_file *f = start("file");
	struct rw_ring *ring[] = { rw_ring(kind, 2), rw_ring(kind, 2) };
	struct io_uring_sqe sqe = { 0 };

	if (!rw_has_opcode(ring[0], IORING_OP_MSG_RING))
		rw_skip("needs IORING_OP_MSG_RING");
	io_uring_prep_msg_ring(&sqe, rw_uring(ring[1])->ring_fd, LEN, MESSAGE, 0);
	shut();
	rw_queue_write(ring[0], f, 0, LEN, IOSQE_IO_LINK);
	rw_queue(ring[0], &sqe, &(struct rw_op){ "message", NULL, 0, .must_wait = rw_has_gate() });
	if (rw_has_gate())
		rw_held_by(&rw_whos[0], reap_message, ring, false);
	else
		reap_message(ring);
	reap_all(ring, 2);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
}

static void messages(void)
{
	message(&rw_ring_kinds[0]);
	message(&rw_ring_kinds[2]);
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
	struct rw_file *f = start("file");
	struct rw_ring *ring[] = { rw_ring(&rw_ring_kinds[0], 1), rw_ring(&rw_ring_kinds[0], 1) };
	struct clone_buffers clone = { .src_fd = (uint32_t)rw_uring(ring[0])->ring_fd };
	struct io_uring_sqe sqe = { 0 };
	char *buf = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct iovec iov = { buf, LEN };

	if (buf == MAP_FAILED)
		rw_broken("out of memory");
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

static const struct scene {
	const char *name;
	void (*play)(void);
} scenes[] = {
	{ "rings", rings },
	{ "shared-poller", poller },
	{ "shared-workers", workers },
	{ "tasks", tasks },
	{ "files", files },
	{ "message", messages },
	{ "cloned-buffers", cloned_buffers },
};

static void run(const void *const *at)
{
	((const struct scene *)at[0])->play();
}

static const char *const guards[] = {
	"838b35bb6a89 io_uring/rw: disable IOCB_DIO_CALLER_COMP",
	"7cc2a6eadcd7 io_uring: add IORING_REGISTER_COPY_BUFFERS method",
	NULL,
};

static const char *const groups[] = { "multi", NULL };

const struct rw_test rw_test = {
	.name = "multi-dio",
	.summary =
		"direct writes of many rings and tasks to one inode, and of what rings share, end",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(scenes) },
	.run = run,
};
