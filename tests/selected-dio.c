/* SPDX-License-Identifier: MIT */
/*
 * Direct reads into buffers that the kernel selects (IORING_REGISTER_PBUF_RING, or as before it
 * IORING_OP_PROVIDE_BUFFERS).
 *
 * A read takes a buffer when it is issued first and keeps it however often it is issued again: what
 * is dirty in the page cache goes out in a worker of io-wq, after -EAGAIN. A read that takes another
 * one then loses the first, and the application, that counts them, runs out of buffers; one that
 * starts again in the wrong place puts data where the completion does not say. A buffer of
 * IOU_PBUF_RING_INC (Linux 6.12) is consumed by several reads, one piece after another, and each but the
 * last must say that the kernel goes on with it (IORING_CQE_F_BUF_MORE): who gives back such a buffer has
 * two reads in one place.
 */
#include "ringwedge.h"

#define N 8
#define CHUNK (16 * RW_KIB)
#define SIZE (N * CHUNK - 4096) /* the last read is short */
#define GROUP 7
#define PIECES 4 /* of a buffer for several reads */

#ifndef IOU_PBUF_RING_INC
#define IOU_PBUF_RING_INC 2
#define IORING_CQE_F_BUF_MORE (1U << 4)
#endif

struct pool {
	struct io_uring_buf_ring *ring; /* NULL: provided by requests */
	char *memory;			/* N buffers */
	bool pieces;			/* or fewer, for PIECES reads each, none of them short */
};

static void wait_for_one(struct rw_ring *ring, struct io_uring_cqe *copy)
{
	struct io_uring_cqe *cqe;

	rw_enter("io_uring_enter (wait for a completion)");
	rw_eq(io_uring_wait_cqe(rw_uring(ring), &cqe), 0);
	*copy = *cqe;
	io_uring_cqe_seen(rw_uring(ring), cqe);
}

static void give_all(struct rw_ring *ring, const struct pool *pool)
{
	struct io_uring_cqe cqe;
	const unsigned short n = pool->pieces ? N / PIECES : N;

	for (unsigned short i = 0; pool->ring && i < n; i++)
		io_uring_buf_ring_add(pool->ring, pool->memory + i * (N / n) * CHUNK,
				      (N / n) * CHUNK, i, io_uring_buf_ring_mask(N), i);
	if (pool->ring) {
		io_uring_buf_ring_advance(pool->ring, n);
		return;
	}
	io_uring_prep_provide_buffers(io_uring_get_sqe(rw_uring(ring)), pool->memory, CHUNK, N,
				      GROUP, 0);
	rw_ok(io_uring_submit(rw_uring(ring)) < 0 ? -1 : 0);
	wait_for_one(ring, &cqe);
	rw_eq(cqe.res < 0 ? cqe.res : 0, 0);
}

static struct pool make_pool(struct rw_ring *ring, bool requests, bool pieces)
{
	struct pool pool = { requests ? NULL : rw_map(-1, 0, 4096), rw_map(-1, 0, N * CHUNK),
			     pieces };
	/* The fourth is its flags, whatever they are called (liburing 2.3: pad). */
	struct io_uring_buf_reg reg = { (uintptr_t)pool.ring, N, GROUP,
					pieces ? IOU_PBUF_RING_INC : 0 };
	int ret;

	if (requests)
		return pool;
	ret = io_uring_register_buf_ring(rw_uring(ring), &reg, 0);
	if (ret == -EINVAL)
		rw_skip("needs IORING_REGISTER_PBUF_RING%s: %s",
			pieces ? " with IOU_PBUF_RING_INC, Linux 6.12" : "", strerror(-ret));
	rw_eq(ret, 0);
	io_uring_buf_ring_init(pool.ring);
	return pool;
}

static void queue(struct rw_ring *ring, const struct rw_file *f, unsigned int i, bool async)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(rw_uring(ring));

	io_uring_prep_read(sqe, f->fd, NULL, CHUNK, (uint64_t)i * CHUNK);
	sqe->flags |= (__u8)(IOSQE_BUFFER_SELECT | (async ? IOSQE_ASYNC : 0));
	sqe->buf_group = GROUP;
	sqe->user_data = i;
}

/* Reads take what there is in the order of their submission. Returns which it has of N. */
static unsigned int piece(const struct io_uring_cqe *cqe)
{
	const unsigned int at = (unsigned int)cqe->user_data;

	rw_eq(cqe->flags >> IORING_CQE_BUFFER_SHIFT, at / PIECES);
	rw_eq(cqe->flags & IORING_CQE_F_BUF_MORE,
	      at % PIECES < PIECES - 1 ? IORING_CQE_F_BUF_MORE : 0);
	return at;
}

/* As many reads as there are buffers, or pieces: each has its own. Then there is none. */
static void read_all(struct rw_ring *ring, struct rw_file *f, const struct pool *pool, bool async)
{
	const off_t size = pool->pieces ? N * CHUNK : SIZE;
	struct io_uring_cqe cqe;
	unsigned int taken = 0;

	for (unsigned int i = 0; i < N; i++)
		queue(ring, f, i, async);
	rw_ok(io_uring_submit(rw_uring(ring)) < 0 ? -1 : 0);
	for (unsigned int i = 0; i < N; i++) {
		unsigned int id;
		off_t off;

		wait_for_one(ring, &cqe);
		off = (off_t)cqe.user_data * CHUNK;
		rw_eq(cqe.res, off + CHUNK > size ? size - off : CHUNK);
		rw_eq(cqe.flags & IORING_CQE_F_BUFFER, IORING_CQE_F_BUFFER);
		id = pool->pieces ? piece(&cqe) : cqe.flags >> IORING_CQE_BUFFER_SHIFT;
		if (id >= N || taken & 1U << id)
			rw_fail("a read was given buffer %u, which another one has", id);
		taken |= 1U << id;
		rw_check(f, "read into a selected buffer", pool->memory + id * CHUNK, off,
			 (size_t)cqe.res);
	}
	queue(ring, f, 0, async);
	rw_ok(io_uring_submit(rw_uring(ring)) < 0 ? -1 : 0);
	wait_for_one(ring, &cqe);
	rw_eq(cqe.res, -ENOBUFS);
}

static void make_dirty(struct rw_file *f)
{
	int fd = (int)rw_set_up(open(rw_path(f), O_RDWR | O_CLOEXEC));
	char buf[4096];

	for (off_t at = 0; at < SIZE; at += CHUNK) {
		rw_fill(f, buf, at, sizeof(buf), rw_promise(f, at, sizeof(buf)));
		rw_eq(rw_ok(pwrite(fd, buf, sizeof(buf), at)), sizeof(buf));
	}
	rw_then(f, (struct rw_change){ RW_KEEP });
	close(fd);
}

static const struct pages {
	const char *name;
	bool dirty;
	bool requests; /* that provide the buffers */
	bool polled;   /* IORING_SETUP_IOPOLL */
	bool pieces;   /* IOU_PBUF_RING_INC */
} pages[] = {
	{ "clean", false },
	{ "dirty", true },
	{ "dirty-requests", true, .requests = true },
	{ "polled", .polled = true },
	{ "pieces", .pieces = true },
	{ "dirty-pieces", true, .pieces = true },
};

static void run(const void *const *at)
{
	const struct pages *p = at[0];
	struct rw_ring_kind kind = *(const struct rw_ring_kind *)at[1];
	struct rw_ring *ring;
	struct rw_file *f;
	struct pool pool;

	if (p->polled && !rw_device_polls())
		rw_skip("needs a device that polls");
	kind.setup |= p->polled ? IORING_SETUP_IOPOLL : 0;
	f = rw_file("file", RW_WRITTEN, p->pieces ? N * CHUNK : SIZE);
	ring = rw_ring(&kind, N);
	pool = make_pool(ring, p->requests, p->pieces);
	for (int i = 0; i < 3; i++) {
		if (p->dirty)
			make_dirty(f);
		memset(pool.memory, 0xee, N * CHUNK);
		give_all(ring, &pool);
		read_all(ring, f, &pool, kind.async);
	}
	rw_ring_close(ring);
	rw_verify(f);
}

static bool has(const void *const *at)
{
	const struct rw_ring_kind *kind = at[1];
	const struct pages *p = at[0];

	if (p->pieces) /* in order: not by io-wq from the first */
		return kind == &rw_ring_kinds[0];
	if ((p->requests || p->polled) && kind->setup == IORING_SETUP_COOP_TASKRUN)
		return false;
	return !kind->aio && !kind->fixed;
}

static const char *const guards[] = {
	"https://github.com/axboe/liburing/issues/1553 Missing IORING_CQE_F_BUF_MORE flag in CQE",
	NULL,
};

static const char *const groups[] = { "read", NULL };

const struct rw_test rw_test = {
	.name = "selected-dio",
	.summary = "a direct read takes one buffer of those provided, and fills it",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(pages), RW_AXIS(rw_ring_kinds) },
	.has = has,
	.run = run,
};
