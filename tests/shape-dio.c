/* SPDX-License-Identifier: MIT */
/*
 * Whatever the request for a direct write looks like, it is held, ended and submitted as any other.
 *
 * io_write() and iomap_dio_rw() take ways of their own for registered memory and files, vectors,
 * several extents or bios, links, drains, appends. One that leaves the end of the write to the task
 * that owns the ring (IOCB_DIO_CALLER_COMP), or begins it uncounted, is a fallocate that sleeps for
 * ever, or comes too early. One that forgets IOCB_NOWAIT is a submission asleep behind a fallocate
 * that has the inode locked.
 */
#include "ringwedge.h"

#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/uio.h>

#define SIZE (512 * RW_KIB)
#define AT (64 * RW_KIB)
#define LEN (64 * RW_KIB)
#define LARGE (256 * RW_KIB)
#define TAIL (64 * RW_KIB)
#define SEGMENTS 300 /* more than a bio has room for */

static const struct rw_ring_kind fixed_buffer = { .name = "", .fixed = true, .by_fd = true };
static const struct rw_ring_kind fixed_file = { .name = "", .fixed = true };
static const struct rw_ring_kind plain = { .name = "" };

static const struct shape {
	const char *name;
	const struct rw_ring_kind *kind;
	size_t len;	       /* 0: a sector, the second of its block */
	unsigned int segments; /* of a vector, each a sector or more */
	int rwf;
	unsigned int before, flags; /* IOSQE_*: of a nop before it, and of the write itself */
	bool position;		    /* the file's own */
	bool append, extents;	    /* it goes to two of them */
} shapes[] = {
	{ "sector", &plain, 0 },
	{ "large", &plain, LARGE },
	{ "extents", &plain, LEN, .extents = true },
	{ "vector", &plain, LEN, .segments = 16 },
	{ "segments", &plain, LARGE, .segments = SEGMENTS },
	{ "fixed-buffer", &fixed_buffer, LEN },
	{ "fixed-file", &fixed_file, LEN },
	{ "dsync", &plain, LEN, .rwf = RWF_DSYNC },
	{ "append", &plain, LEN, .rwf = RWF_APPEND, .append = true },
	{ "position", &plain, LEN, .position = true },
	{ "linked", &plain, LEN, .before = IOSQE_IO_LINK },
	{ "link-head", &plain, LEN, .flags = IOSQE_IO_LINK },
	{ "drained", &plain, LEN, .flags = IOSQE_IO_DRAIN },
	{ "silent", &plain, LEN, .flags = IOSQE_CQE_SKIP_SUCCESS },
};

struct write {
	const struct shape *shape;
	off_t off;
	size_t len;
	size_t part; /* of the vector */
	char *memory;
	struct iovec iov[SEGMENTS];
};

static void *map(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		rw_broken("out of memory");
	rw_set_up(madvise(p, size, MADV_DONTFORK)); /* no copies of pages under a write */
	return p;
}

static struct write describe(const struct shape *shape)
{
	const size_t sector = rw_sector_size();
	struct write w = { shape,
			   shape->append    ? SIZE
			   : shape->extents ? AT + LEN / 2
					    : AT,
			   shape->len };

	w.part = shape->segments == SEGMENTS ? sector : LEN / 16;
	if (!w.len) {
		w.off += (off_t)sector;
		w.len = sector;
	}
	if (shape->segments == SEGMENTS) {
		w.len = SEGMENTS * sector;
		w.len = w.len > (size_t)LARGE ? (size_t)LARGE : w.len;
	}
	return w;
}

/* Each segment is before the one before it, and in a page of its own: none can be merged. */
static unsigned int scatter(struct write *w)
{
	const unsigned int n = (unsigned int)(w->len / w->part);
	const size_t apart = w->part + 4096;
	char *to = map(n * apart);

	for (unsigned int i = 0; i < n; i++) {
		w->iov[i] = (struct iovec){ to + (n - 1 - i) * apart, w->part };
		memcpy(w->iov[i].iov_base, w->memory + i * w->part, w->part);
	}
	return n;
}

static void queue_nop(struct rw_ring *ring, unsigned int flags)
{
	struct io_uring_sqe sqe = { .opcode = IORING_OP_NOP, .flags = (__u8)flags };

	rw_queue(ring, &sqe, &(struct rw_op){ "nop", NULL, 0 });
}

static void queue_own(struct rw_ring *ring, struct rw_file *f, struct write *w)
{
	const struct shape *shape = w->shape;
	uint64_t off = shape->position ? (uint64_t)-1 : (uint64_t)w->off;
	struct io_uring_sqe sqe = { 0 };

	if (shape->segments)
		io_uring_prep_rw(IORING_OP_WRITEV, &sqe, f->fd, w->iov, scatter(w), off);
	else
		io_uring_prep_rw(IORING_OP_WRITE, &sqe, f->fd, w->memory, (unsigned int)w->len,
				 off);
	sqe.rw_flags = shape->rwf;
	sqe.flags = (__u8)shape->flags;
	rw_set_up(lseek(f->fd, w->off, SEEK_SET));
	if (shape->flags & IOSQE_CQE_SKIP_SUCCESS) { /* nobody hears of it */
		*io_uring_get_sqe(rw_uring(ring)) = sqe;
		rw_ok(io_uring_submit(rw_uring(ring)) == 1 ? 0 : -1);
		return;
	}
	rw_queue(ring, &sqe, &(struct rw_op){ "write", f, (long)w->len });
	if (shape->flags & IOSQE_IO_LINK)
		queue_nop(ring, 0);
	rw_submit_queued(ring, 0);
}

static void submit(struct rw_ring *ring, struct rw_file *f, struct write *w)
{
	if (w->shape->kind == &fixed_buffer) {
		rw_write(ring, f, w->off, w->len, 0);
		return;
	}
	w->memory = map(w->len);
	rw_fill(f, w->memory, w->off, w->len, rw_promise(f, w->off, w->len));
	if (w->shape->kind == &fixed_file) {
		rw_write_from(ring, f, w->off, w->len, w->memory);
		return;
	}
	if (w->shape->before)
		queue_nop(ring, w->shape->before);
	queue_own(ring, f, w);
}

static void punch(const void *p)
{
	const struct rw_file *f = p;

	rw_ok(fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, SIZE - TAIL, TAIL));
}

static const struct rw_change punched = { RW_ZERO, SIZE - TAIL, TAIL };

/* Without a move no write would meet two written extents that are not one at the device, too. */
static struct rw_file *start(struct rw_ring *ring, const struct shape *shape)
{
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE + (shape->extents ? LEN : 0));

	if (shape->extents) {
		rw_supported("collapse-range",
			     fallocate(f->fd, FALLOC_FL_COLLAPSE_RANGE, AT + LEN, LEN));
		rw_then(f, (struct rw_change){ RW_COLLAPSE, AT + LEN, LEN });
		rw_set_up(fsync(f->fd));
	}
	rw_use(ring, f);
	return f;
}

/* The owner punches, and does not look at its ring before. */
static void held(struct rw_ring *ring, const struct shape *shape)
{
	struct rw_file *f = start(ring, shape);
	struct write w = describe(shape);
	bool is_held;

	rw_gate_shut();
	submit(ring, f, &w);
	is_held = rw_in_flight(1) > 0;
	/* btrfs waits for the writes to the range alone. */
	rw_held_by(&rw_whos[0], punch, f, is_held && rw_fs() != RW_BTRFS);
	rw_reap(ring);
	rw_done();
	rw_reap_ready(ring); /* nothing: all are reaped, or not to be told of */
	rw_then(f, punched);
	rw_verify(f);
}

/* The inode is locked, by a punch that waits for a write: nothing is done, and nobody sleeps. */
static void locked(struct rw_ring *ring, const struct shape *shape)
{
	struct rw_ring *first = rw_ring(&plain, 1);
	struct rw_file *f = start(ring, shape);
	struct write w = describe(shape);
	struct rw_io read[2] = { { .read = true, .off = LARGE + AT, .len = LEN },
				 { .read = true, .off = LARGE + AT, .len = LEN } };
	struct rw_helper helper;

	rw_gate_shut();
	rw_write(first, f, 0, LEN / 2, 0);
	rw_in_flight(1);
	helper = rw_start(punch, f);
	rw_in_drain_now(helper.pid);
	submit(ring, f, &w);
	/* One of them by a vector. What is behind a drained request passes it (docs/found/). */
	for (int i = 0; i < 2 && !(shape->flags & IOSQE_IO_DRAIN); i++)
		rw_submit(ring, f, &read[i]);
	rw_submitted();
	rw_gate_open();
	rw_join(helper);
	rw_reap(ring);
	rw_reap(first);
	rw_done();
	rw_reap_ready(ring);
	for (int i = 0; i < 2; i++)
		rw_eq(read[i].res, read[i].done ? LEN : 0);
	rw_then(f, punched);
	rw_verify(f);
	rw_ring_close(first);
}

static const struct how {
	const char *name;
	void (*run)(struct rw_ring *ring, const struct shape *shape);
} hows[] = { { "held", held }, { "locked", locked } };

static void run(const void *const *at)
{
	const struct shape *shape = at[0];
	struct rw_ring *ring = rw_ring(shape->kind, 4);
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);

	if (!rw_has_gate())
		rw_skip("needs a gate, and direct I/O");
	rw_supported("fallocate", fallocate(f->fd, 0, 0, SIZE));
	punch(f); /* reads the metadata that it needs */
	((const struct how *)at[1])->run(ring, shape);
	rw_ring_close(ring);
}

static const char *const guards[] = {
	"838b35bb6a89 io_uring/rw: disable IOCB_DIO_CALLER_COMP",
	NULL,
};

static const char *const groups[] = { "nowait", NULL };
static const char *const needs[] = { "a gate", NULL };

const struct rw_test rw_test = {
	.name = "shape-dio",
	.summary = "fallocate and direct writes of every shape do not hold each other up",
	.guards = guards,
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(shapes), RW_AXIS(hows) },
	.run = run,
};
