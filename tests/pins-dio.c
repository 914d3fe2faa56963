/* SPDX-License-Identifier: MIT */
/*
 * Direct I/O lets go of the memory that it was from, or to, whatever that looks like.
 *
 * Each page is pinned once for each piece of the memory that is in it (iov_iter_extract_pages()). One
 * that is added to the bio's last segment, in the same page, gives its pin back at once
 * (bio_iov_add_folio()), and of a huge page what is in one segment is counted; the others go by the
 * segments when the bio has ended (__bio_release_pages()), and by hand when a part faults. A pin too many
 * is memory that is never free again; one too few is a page that is given to others while it is in use. Who
 * sees it: a memfd that nobody has mapped can be sealed against writes, which is refused as long as
 * something else holds a page of it (memfd_wait_for_pins()).
 */
#include "ringwedge.h"

#include <sys/mman.h>
#include <sys/uio.h>

#define SIZE (256 * RW_KIB)
#define AT (64 * RW_KIB)
#define PIECES 4
#define ROOM 32 /* sectors of memory */
#define REST 16 /* from there on it faults, if it is to */

/* In sectors from the begin of a page on, as they are in the file one behind the other. */
static const struct shape {
	const char *name;
	int valid; /* so many are there, and the next one faults; 0: all of them are there */
	struct {
		int off, len;
	} piece[PIECES];
} shapes[] = {
	{ "pages", .piece = { { 0, 16 } } },
	{ "in-page", .piece = { { 1, 8 } } },
	{ "end-of-page", .piece = { { 7, 17 } } },
	{ "neighbours", .piece = { { 1, 1 }, { 2, 1 }, { 3, 2 } } },
	{ "neighbours-across", .piece = { { 5, 2 }, { 7, 2 }, { 9, 11 }, { 20, 1 } } },
	{ "apart", .piece = { { 0, 1 }, { 2, 1 }, { 4, 2 } } },
	{ "all-but-one", .piece = { { 0, ROOM - 1 } } },
	{ "backwards", .piece = { { 6, 10 }, { 5, 1 }, { 4, 1 }, { 0, 4 } } },
	{ "faults", REST - 7, { { 7, 17 } } },
	{ "faults-behind-neighbours", REST - 9, { { 9, 1 }, { 10, 1 }, { 11, 13 } } },
};

struct io {
	struct rw_file *file;
	struct rw_io io; /* for the model */
	char *memory;
	struct iovec iov[PIECES];
	int n;
};

static long wait_result(struct io_uring *ring)
{
	struct io_uring_cqe *cqe;
	long res;

	rw_ok(io_uring_submit_and_wait(ring, 1) == 1 ? 0 : -1);
	rw_ok(io_uring_wait_cqe(ring, &cqe) ? -1 : 0);
	res = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return res;
}

static long by_ring(const struct io *io, struct io_uring *ring)
{
	io_uring_prep_rw(io->io.read ? IORING_OP_READV : IORING_OP_WRITEV, io_uring_get_sqe(ring),
			 io->file->fd, io->iov, (unsigned int)io->n, (uint64_t)io->io.off);
	return wait_result(ring);
}

static long registered(const struct io *io, struct io_uring *ring)
{
	const struct iovec *iov = io->iov;
	long res;

	rw_set_up(io_uring_register_buffers(ring, iov, 1) ? -1 : 0);
	io_uring_prep_rw(io->io.read ? IORING_OP_READ_FIXED : IORING_OP_WRITE_FIXED,
			 io_uring_get_sqe(ring), io->file->fd, iov->iov_base,
			 (unsigned int)iov->iov_len, (uint64_t)io->io.off);
	res = wait_result(ring);
	rw_ok(io_uring_unregister_buffers(ring) ? -1 : 0);
	return res;
}

static long at_once(const struct io *io, struct io_uring *ring)
{
	ssize_t n;

	(void)ring;
	rw_enter("preadv or pwritev");
	n = (io->io.read ? preadv : pwritev)(io->file->fd, io->iov, io->n, io->io.off);
	return n < 0 ? -errno : n;
}

static const struct way {
	const char *name;
	long (*transfer)(const struct io *io, struct io_uring *ring);
	bool huge; /* the pages, and the memory is of two */
} ways[] = {
	{ "vector", by_ring },
	{ "registered", registered },
	{ "sync", at_once },
	{ "vector-huge", by_ring, true },
	{ "registered-huge", registered, true },
	{ "sync-huge", at_once, true },
};

/* 1: a page of it is in use. */
static int seal(int fd)
{
	return !fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) ? 0 : errno == EBUSY ? 1 : -1;
}

/* What was read into may be made dirty, and let go of, by a worker of the kernel after that. */
static void let_go(const char *what, const struct shape *shape, int fd)
{
	uint64_t end = rw_until(20000);

	while (rw_set_up(seal(fd)))
		if (rw_now_ns() > end)
			rw_fail("memory of a direct %s (%s) is still in use, though it has ended "
				"and nobody has it mapped",
				what, shape->name);
}

static void prepare(struct io *io, const struct shape *shape)
{
	const long sector = (long)rw_sector_size();

	for (; io->n < PIECES && shape->piece[io->n].len; io->n++) {
		struct iovec *iov = &io->iov[io->n];

		iov->iov_base = io->memory + shape->piece[io->n].off * sector;
		iov->iov_len = (size_t)(shape->piece[io->n].len * sector);
		io->io.len += iov->iov_len;
	}
	if (io->io.read)
		return;
	io->io.promise = rw_promise(io->file, AT, io->io.len);
	for (off_t at = AT, i = 0; i < io->n; at += (off_t)io->iov[i++].iov_len)
		rw_fill(io->file, io->iov[i].iov_base, at, io->iov[i].iov_len, io->io.promise);
}

static void check(struct io *io, const struct shape *shape)
{
	off_t at = AT, end = AT + io->io.res;

	if (!shape->valid)
		rw_eq(io->io.res, (long)io->io.len);
	else if ((io->io.res <= 0 || io->io.res > shape->valid * (long)rw_sector_size()) &&
		 !rw_gave_up(&io->io))
		rw_eq(io->io.res, -EFAULT);
	if (!io->io.read)
		rw_ended(io->file, &io->io);
	for (int i = 0; io->io.read && at < end; at += (off_t)io->iov[i++].iov_len)
		rw_check(io->file, "direct read", io->iov[i].iov_base, at,
			 at + (off_t)io->iov[i].iov_len < end ? io->iov[i].iov_len
							      : (size_t)(end - at));
}

static void one(const struct way *way, struct rw_ring *ring, struct io *io,
		const struct shape *shape)
{
	const size_t sector = rw_sector_size(), len = way->huge ? 2 * RW_HUGE : ROOM * sector;
	int fd = memfd_create("memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	char *all;

	rw_supported("memfd_create", fd);
	rw_set_up(ftruncate(fd, (off_t)len));
	all = way->huge ? rw_huge_pages(fd, 2) : rw_map(fd, 0, len);
	io->memory = way->huge ? all + RW_HUGE - REST * sector : all;
	prepare(io, shape);
	if (shape->valid)
		rw_set_up(mprotect(io->memory + REST * sector, REST * sector, PROT_NONE));
	io->io.res = way->transfer(io, way->transfer == at_once ? NULL : rw_uring(ring));
	io->io.done = true;
	check(io, shape);
	munmap(all, len);
	let_go(io->io.read ? "read" : "write", shape, fd);
	close(fd);
}

static void run(const void *const *at)
{
	static const struct rw_ring_kind kind = { .name = "" };
	const struct way *way = at[0];
	struct rw_ring *ring = rw_ring(&kind, 1);
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);

	for (size_t i = 0; i < RW_ARRAY_SIZE(shapes); i++) {
		/* What is registered is one piece, all of which is there. */
		if (way->transfer == registered && (shapes[i].valid || shapes[i].piece[1].len))
			continue;
		for (int read = 0; read < 2; read++)
			one(way, ring, &(struct io){ f, { .read = read, .off = AT } }, &shapes[i]);
	}
	rw_verify(f);
	rw_ring_close(ring);
}

static const char *const guards[] = {
	"5905afc2c7bb block: fix pin count management when merging same-page segments",
	NULL,
};

static const char *const groups[] = { "error", NULL };

const struct rw_test rw_test = {
	.name = "pins-dio",
	.summary = "direct I/O lets go of every page of its memory",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(ways) },
	.run = run,
};
