/* SPDX-License-Identifier: MIT */
/* What a request for a direct write may look like, for tests of who must wait, or must not. */
#include "ringwedge.h"

#include <sys/mman.h>
#include <sys/uio.h>

#define AT (64 * RW_KIB)
#define LEN (64 * RW_KIB)
#define SEGMENTS 304 /* more than a bio has room for */

static const struct rw_ring_kind fixed_buffer = { .name = "", .fixed = true, .by_fd = true };
static const struct rw_ring_kind fixed_file = { .name = "", .fixed = true };
static const struct rw_ring_kind plain = { .name = "" };

const struct rw_shape rw_shapes[] = {
	{ "sector", &plain, AT, 0 },
	{ "large", &plain, AT, 4 * LEN },
	{ "extents", &plain, AT + LEN / 2, LEN, .extents = true },
	{ "vector", &plain, AT, LEN, .piece = 4096 },
	{ "segments", &plain, AT, SEGMENTS * 512, .piece = 512 },
	{ "fixed-buffer", &fixed_buffer, AT, LEN },
	{ "fixed-file", &fixed_file, AT, LEN },
	{ "dsync", &plain, AT, LEN, .rwf = RWF_DSYNC },
	{ "append", &plain, RW_SHAPE_SIZE, LEN, .rwf = RWF_APPEND },
	{ "position", &plain, AT, LEN, .position = true },
	{ "linked", &plain, AT, LEN, .before = IOSQE_IO_LINK },
	{ "link-head", &plain, AT, LEN, .flags = IOSQE_IO_LINK },
	{ "drained", &plain, AT, LEN, .flags = IOSQE_IO_DRAIN },
	{ "silent", &plain, AT, LEN, .flags = IOSQE_CQE_SKIP_SUCCESS },
};

/* Without a move no write would meet two written extents that are not one at the device, too. */
struct rw_file *rw_shape_file(struct rw_ring *ring, const struct rw_shape *shape)
{
	struct rw_file *f = rw_file("file", RW_WRITTEN, RW_SHAPE_SIZE + (shape->extents ? LEN : 0));

	if (shape->extents) {
		rw_supported("collapse-range",
			     fallocate(f->fd, FALLOC_FL_COLLAPSE_RANGE, AT + LEN, LEN));
		rw_then(f, (struct rw_change){ RW_COLLAPSE, AT + LEN, LEN });
		rw_set_up(fsync(f->fd));
	}
	rw_use(ring, f);
	return f;
}

/* Each piece is before the one before it, and in a page of its own: none can be merged. */
static unsigned int scatter(struct rw_file *f, off_t off, size_t len, size_t piece,
			    struct iovec *iov)
{
	const unsigned int n = (unsigned int)(len / piece), promise = rw_promise(f, off, len);
	const size_t apart = piece + 4096;
	char *p = rw_map(-1, 0, n * apart);

	rw_set_up(madvise(p, n * apart, MADV_DONTFORK)); /* no copies of pages under a write */
	for (unsigned int i = 0; i < n; i++) {
		iov[i] = (struct iovec){ p + (n - 1 - i) * apart, piece };
		rw_fill(f, iov[i].iov_base, off + (off_t)(i * piece), piece, promise);
	}
	return n;
}

static void queue_nop(struct rw_ring *ring, unsigned int flags)
{
	const struct io_uring_sqe sqe = { .opcode = IORING_OP_NOP, .flags = (__u8)flags };

	rw_queue(ring, &sqe, &(struct rw_op){ "nop", NULL, 0 });
}

void rw_write_shaped(struct rw_ring *ring, struct rw_file *f, const struct rw_shape *shape)
{
	const size_t sector = rw_sector_size();
	const size_t len = shape->len ? shape->len : sector;
	const off_t off = shape->off + (shape->len ? 0 : (off_t)sector);
	struct io_uring_sqe sqe = { 0 };
	static char elsewhere[4096] __attribute__((aligned(4096)));
	static struct iovec iov[SEGMENTS];
	unsigned int n = 0;

	if (shape->kind == &fixed_buffer) {
		rw_write(ring, f, off, len, 0);
		return;
	}
	if (shape->piece) {
		n = scatter(f, off, len, shape->piece < sector ? sector : shape->piece, iov);
		io_uring_prep_rw(IORING_OP_WRITEV, &sqe, f->fd, iov, n, (uint64_t)off);
	} else {
		scatter(f, off, len, len, iov);
		io_uring_prep_rw(IORING_OP_WRITE, &sqe, f->fd, iov->iov_base, (unsigned int)len,
				 (uint64_t)off);
	}
	if (shape->position) {
		rw_set_up(lseek(f->fd, off, SEEK_SET));
		sqe.off = (uint64_t)-1;
	}
	sqe.rw_flags = shape->rwf;
	sqe.flags = (__u8)shape->flags;
	if (shape->before)
		queue_nop(ring, shape->before);
	rw_queue(ring, &sqe,
		 &(struct rw_op){ "write", f, (long)len,
				  .silent = shape->flags & IOSQE_CQE_SKIP_SUCCESS });
	if (shape->flags & IOSQE_IO_LINK)
		queue_nop(ring, 0);
	rw_submit_queued(ring, 0);
	/* A vector may be used for something else from here on (IORING_FEAT_SUBMIT_STABLE). */
	for (unsigned int i = 0; i < n; i++)
		iov[i].iov_base = elsewhere;
}
