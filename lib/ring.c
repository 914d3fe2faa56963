/* SPDX-License-Identifier: MIT */
/*
 * ring.c - one way to submit direct writes, whatever the kind of ring, and to check that each ends
 * with exactly the result it must have.
 */
#include "internal.h"

#include <libaio.h>
#include <linux/fs.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/uio.h>

#ifndef IORING_SETUP_SINGLE_ISSUER
#define IORING_SETUP_SINGLE_ISSUER (1U << 12)
#endif
#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_DEFER_TASKRUN (1U << 13)
#endif
#ifndef IORING_SETUP_HYBRID_IOPOLL /* Linux 6.13 */
#define IORING_SETUP_HYBRID_IOPOLL (1U << 17)
#endif

const struct rw_ring_kind rw_ring_kinds[7] = {
	{ .name = "plain" },
	{ .name = "coop-taskrun", .setup = IORING_SETUP_COOP_TASKRUN },
	{ .name = "defer-taskrun",
	  .setup = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN },
	{ .name = "sqpoll", .setup = IORING_SETUP_SQPOLL },
	{ .name = "async", .async = true, .eventfd = true },
	{ .name = "fixed", .fixed = true },
	{ .name = "aio", .aio = true },
};

static const struct rw_ring_kind sync_kind = { .name = "sync", .sync = true };

const struct rw_way rw_ways[8] = {
	{ "plain", &rw_ring_kinds[0] },		{ "coop-taskrun", &rw_ring_kinds[1] },
	{ "defer-taskrun", &rw_ring_kinds[2] }, { "sqpoll", &rw_ring_kinds[3] },
	{ "async", &rw_ring_kinds[4] },		{ "fixed", &rw_ring_kinds[5] },
	{ "aio", &rw_ring_kinds[6] },		{ "sync", &sync_kind },
};

const struct rw_ring_kind rw_two_kinds[2] = {
	{ .name = "plain" },
	{ .name = "aio", .aio = true },
};

const struct rw_ring_kind rw_aio_kinds[3] = {
	{ .name = "getevents", .aio = true },
	{ .name = "poll", .aio = true, .poll = true },
	{ .name = "eventfd", .aio = true, .eventfd = true },
};

#define IOPOLL IORING_SETUP_IOPOLL

const struct rw_ring_kind rw_iopoll_kinds[6] = {
	{ .name = "plain", .setup = IOPOLL },
	{ .name = "defer-taskrun",
	  .setup = IOPOLL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN },
	{ .name = "sqpoll", .setup = IOPOLL | IORING_SETUP_SQPOLL },
	{ .name = "async", .setup = IOPOLL, .async = true },
	{ .name = "fixed", .setup = IOPOLL, .fixed = true },
	{ .name = "hybrid", .setup = IOPOLL | IORING_SETUP_HYBRID_IOPOLL },
};

const struct rw_write_kind rw_write_kinds[RW_WRITE_KINDS] = {
	[RW_OVERWRITE] = { RW_WRITTEN, 0, false },	[RW_CONVERT] = { RW_UNWRITTEN, 0, false },
	[RW_SYNCED] = { RW_WRITTEN, RWF_DSYNC, false }, [RW_EXTEND] = { RW_WRITTEN, 0, true },
	[RW_EXTEND_INTO] = { RW_PAST_EOF, 0, true },	[RW_ACROSS] = { RW_MIXED, 0, false },
};

bool rw_write_kind_wanted(size_t k, const struct rw_ring_kind *ring, bool owner_calls)
{
	return rw_can_make(rw_write_kinds[k].state) &&
	       (k == RW_OVERWRITE || k == RW_EXTEND || owner_calls || ring == &rw_ring_kinds[0]);
}

#define MAX_FILES 8
#define PAGE 4096

struct request {
	bool busy, may_cancel;
	struct rw_op op;
	unsigned int serial;
	unsigned int sqe_flags;
	off_t off; /* of a write or read */
	size_t len;
	struct rw_io *io; /* NULL: not by rw_submit() */
	void *buf;	  /* of the ring's arena */
	void *data;	  /* what is written: buf, or memory of the test's own */
	struct iovec iov[2];
	struct iocb iocb;
};

struct rw_ring {
	const struct rw_ring_kind *kind;
	struct rw_ring *beside; /* shares its poller or workers; NULL: none */
	unsigned int depth, busy;
	unsigned int queued; /* not submitted */
	unsigned int serial;
	struct request *requests;
	char *arena;
	struct io_uring uring;
	io_context_t aio;
	int eventfd;
	uint64_t signalled; /* by it, not yet reaped */
	struct rw_file *files[MAX_FILES];
	unsigned int n_files;
	bool only_grows; /* sizes, too, are looked at */
};

static void no_ring(const struct rw_ring_kind *kind, int error)
{
	struct io_uring plain;
	int ret;

	if (error != EINVAL && error != ENOSYS && error != EPERM)
		rw_broken("io_uring_setup (%s): %s", kind->name, strerror(error));
	/* Only the flags may be the reason, else it is io_uring that is not there. */
	ret = io_uring_queue_init(4, &plain, 0);
	if (ret < 0)
		rw_skip("needs io_uring: %s (see kernel.io_uring_disabled, seccomp)",
			strerror(-ret));
	io_uring_queue_exit(&plain);
	rw_skip("needs io_uring set-up flags %#x (%s): %s", kind->setup, kind->name,
		strerror(error));
}

static void set_up_uring(struct rw_ring *r)
{
	struct io_uring_params p = { .flags = r->kind->setup };
	int ret;

	if (r->beside) {
		p.flags |= IORING_SETUP_ATTACH_WQ;
		p.wq_fd = (unsigned int)r->beside->uring.ring_fd;
	}
	if (r->kind->overflows) {
		p.flags |= IORING_SETUP_CQSIZE;
		p.cq_entries = r->kind->overflows;
	}
	if (p.flags & IORING_SETUP_SQPOLL)
		p.sq_thread_idle = 10; /* ms; a thread that polls for long starves the others */
	ret = io_uring_queue_init_params(r->kind->overflows ? r->kind->overflows : r->depth * 2,
					 &r->uring, &p);
	if (ret < 0)
		no_ring(r->kind, -ret);
	if (r->kind->fixed) {
		struct iovec iov[32];
		int none[MAX_FILES];
		unsigned int n;

		/* Two requests share a buffer, so that every other one begins inside of it. */
		for (n = 0; n * 2 < r->depth; n++)
			iov[n] = (struct iovec){ r->requests[n * 2].buf,
						 (n * 2 + 1 < r->depth ? 2 : 1) * RW_MAX_WRITE };
		for (unsigned int i = 0; i < MAX_FILES; i++)
			none[i] = -1;
		ret = io_uring_register_buffers(&r->uring, iov, n);
		if (ret < 0)
			rw_broken("io_uring_register_buffers: %s", strerror(-ret));
		ret = io_uring_register_files(&r->uring, none, MAX_FILES);
		if (ret < 0)
			rw_broken("io_uring_register_files: %s", strerror(-ret));
	}
}

/* Zeroed memory; `how`: MAP_PRIVATE, MAP_SHARED, MAP_FIXED. */
static void *memory(void *at, size_t size, int how)
{
	void *p = mmap(at, size, PROT_READ | PROT_WRITE, how | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		rw_broken("out of memory");
	return p;
}

static struct rw_ring *make_ring(const struct rw_ring_kind *kind, struct rw_ring *beside,
				 unsigned int depth)
{
	/* What is in flight is known to every task that has the ring. */
	struct rw_ring *r = memory(NULL, sizeof(*r), MAP_SHARED);
	int ret;

	if (depth < 1 || depth > 64)
		rw_broken("rw_ring: depth %u", depth);
	r->kind = kind;
	r->beside = beside;
	r->depth = depth;
	r->requests = memory(NULL, depth * sizeof(*r->requests), MAP_SHARED);
	r->arena = memory(NULL, depth * RW_MAX_WRITE, MAP_PRIVATE);
	/* A forked helper would turn the pages under a write into copies. */
	rw_set_up(madvise(r->arena, depth * RW_MAX_WRITE, MADV_DONTFORK));
	for (unsigned int i = 0; i < depth; i++)
		r->requests[i].buf = r->arena + i * RW_MAX_WRITE;
	rw_enter("ring set-up");
	if (kind->aio) {
		ret = io_setup((int)depth, &r->aio);
		if (ret < 0)
			rw_skip("needs Linux AIO (io_setup): %s", strerror(-ret));
	} else if (!kind->sync) {
		set_up_uring(r);
	}
	if (kind->eventfd)
		r->eventfd = (int)rw_set_up(eventfd(0, EFD_CLOEXEC));
	if (kind->eventfd && !kind->aio)
		rw_set_up(io_uring_register_eventfd(&r->uring, r->eventfd) ? -1 : 0);
	rw_returned();
	return r;
}

struct rw_ring *rw_ring(const struct rw_ring_kind *kind, unsigned int depth)
{
	return make_ring(kind, NULL, depth);
}

struct rw_ring *rw_ring_beside(struct rw_ring *other, unsigned int depth)
{
	return make_ring(other->kind, other, depth);
}

void rw_adopt(struct rw_ring *r)
{
	memory(r->arena, r->depth * RW_MAX_WRITE, MAP_PRIVATE | MAP_FIXED);
}

void *rw_map(int fd, off_t off, size_t len)
{
	void *p;

	if (fd < 0)
		return memory(NULL, len, MAP_PRIVATE);
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, off);
	if (p == MAP_FAILED)
		rw_broken("mmap: %s", strerror(errno));
	return p;
}

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

void *rw_huge_pages(int fd, size_t n)
{
	const uint64_t end = rw_until(5000);
	const size_t len = n * RW_HUGE;
	char *p = memory(NULL, len + RW_HUGE, MAP_PRIVATE);

	p += -(uintptr_t)p % RW_HUGE;
	if (fd >= 0 &&
	    mmap(p, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
		rw_broken("mmap: %s", strerror(errno));
	rw_set_up(madvise(p, len, MADV_DONTFORK));
	if (madvise(p, len, MADV_HUGEPAGE))
		rw_skip("needs transparent huge pages: %s", strerror(errno));
	memset(p, 0, len);
	/* Most are by now; it fails if any of them is not (mm/khugepaged.c, madvise_collapse()). */
	while (madvise(p, len, MADV_COLLAPSE))
		if (errno != EAGAIN || !rw_more(end)) /* others look at the pages just now */
			rw_skip("needs transparent huge pages that are free: %s", strerror(errno));
	return p;
}

#define USED (8192 * RW_KIB) /* on each CPU */

void rw_use_memory(void)
{
	cpu_set_t all, one;

	rw_set_up(sched_getaffinity(0, sizeof(all), &all));
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		char *pages;

		if (!CPU_ISSET(cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		rw_set_up(sched_setaffinity(0, sizeof(one), &one));
		pages = memory(NULL, USED, MAP_PRIVATE);
		madvise(pages, 1024 * RW_KIB,
			MADV_NOHUGEPAGE); /* single ones, as they were freed */
		memset(pages, 0x55, USED);
	}
	rw_set_up(sched_setaffinity(0, sizeof(all), &all));
}

static unsigned long pinned_kib(void)
{
	char buf[4096];
	const char *at = NULL;

	if (rw_slurp("/proc/self/status", buf, sizeof(buf)) > 0)
		at = strstr(buf, "\nVmPin:");
	return at ? strtoul(at + strlen("\nVmPin:"), NULL, 10) : 0;
}

void rw_pinned(void)
{
	/* In this order: the gate was shut when the number was read. */
	if (!pinned_kib() && !atomic_load(&rw_shared->opening_at))
		rw_fail("registered memory was given back while direct writes from it were in "
			"flight");
}

void rw_unpinned(void)
{
	uint64_t end = rw_until(20000);
	unsigned long kib;

	rw_enter("wait until no memory is pinned");
	while ((kib = pinned_kib())) {
		if (rw_now_ns() > end)
			rw_fail("%lu KiB that were registered with a ring stay pinned", kib);
		poll(NULL, 0, 1); /* a ring gives them back in a worker of the kernel */
		rw_progress();
	}
	rw_returned();
}

struct io_uring *rw_uring(struct rw_ring *r)
{
	return &r->uring;
}

io_context_t rw_aio_context(struct rw_ring *r)
{
	return r->aio;
}

void rw_use(struct rw_ring *r, struct rw_file *f)
{
	unsigned int i;
	int ret;

	if (!r->kind->fixed || r->kind->by_fd)
		return;
	for (i = 0; i < r->n_files && r->files[i] != f; i++)
		;
	if (i == MAX_FILES)
		rw_broken("more than %d files in a ring", MAX_FILES);
	if (i == r->n_files)
		r->n_files++;
	r->files[i] = f;
	ret = io_uring_register_files_update(&r->uring, i, &f->fd, 1);
	if (ret != 1)
		rw_broken("io_uring_register_files_update: %s", strerror(-ret));
}

static struct request *take(struct rw_ring *r, const struct rw_op *op)
{
	for (unsigned int i = 0; i < r->depth; i++) {
		struct request *q = &r->requests[i];

		if (q->busy)
			continue;
		q->busy = true;
		q->may_cancel = false;
		q->op = *op;
		q->serial = ++r->serial;
		q->sqe_flags = 0;
		q->off = 0;
		q->len = 0;
		q->data = q->buf;
		q->io = NULL;
		r->busy++;
		return q;
	}
	rw_broken("more than %u requests in flight", r->depth);
}

static void give_fd(const struct rw_ring *r, struct io_uring_sqe *sqe, struct rw_file *f)
{
	sqe->fd = f->fd;
	if (!r->kind->fixed || r->kind->by_fd)
		return;
	for (unsigned int i = 0; i < r->n_files; i++)
		if (r->files[i] == f) {
			sqe->fd = (int)i;
			sqe->flags |= IOSQE_FIXED_FILE;
			return;
		}
	rw_broken("\"%s\" was not given to the ring with rw_use()", f->name);
}

/*
 * A vector may be used for something else once its request is submitted (IORING_FEAT_SUBMIT_STABLE): it
 * names other memory from then on, for a kernel that looks again. A SQPOLL thread may not have looked yet.
 */
static void reuse_vectors(struct rw_ring *r)
{
	static char elsewhere[RW_MAX_WRITE] __attribute__((aligned(PAGE)));

	for (unsigned int i = 0; i < r->depth && !(r->kind->setup & IORING_SETUP_SQPOLL); i++)
		if (r->requests[i].busy)
			r->requests[i].iov[0].iov_base = r->requests[i].iov[1].iov_base = elsewhere;
}

static void submit(struct rw_ring *r, const char *what, unsigned int wait_nr)
{
	int n = (int)r->queued, ret;

	r->queued = 0;
	rw_enter(what);
	atomic_store(&rw_shared->submitting, wait_nr ? 0 : gettid());
	/* liburing would poll with each submission, which is for who reaps. */
	r->uring.flags &= ~(unsigned int)IORING_SETUP_IOPOLL;
	do
		ret = wait_nr ? io_uring_submit_and_wait(&r->uring, wait_nr)
			      : io_uring_submit(&r->uring);
	while (ret == -EINTR);
	r->uring.flags |= r->kind->setup & IORING_SETUP_IOPOLL;
	atomic_store(&rw_shared->submitting, 0);
	atomic_store(&rw_shared->in_call, 0);
	rw_check_slept(what);
	if (ret != n && !(r->kind->setup & IORING_SETUP_SQPOLL && ret >= 0))
		rw_fail("io_uring_enter submitted %d of %d: %s", ret, n,
			ret < 0 ? strerror(-ret) : "too few");
	reuse_vectors(r);
	rw_progress();
}

void rw_submit_queued(struct rw_ring *r, unsigned int wait_nr)
{
	submit(r, wait_nr ? "io_uring_enter (submit, and wait)" : "io_uring_enter (submit)",
	       wait_nr);
}

static void queue(struct rw_ring *r, const struct io_uring_sqe *from, struct request *q)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);

	if (!sqe || r->kind->aio)
		rw_broken("the submission queue is full, or of another kind");
	*sqe = *from;
	if (q->op.file)
		give_fd(r, sqe, q->op.file);
	io_uring_sqe_set_data(sqe, q->op.silent ? NULL : q);
	q->sqe_flags = sqe->flags;
	r->queued++;
}

void rw_queue(struct rw_ring *r, const struct io_uring_sqe *sqe, const struct rw_op *op)
{
	struct request *q = take(r, op);

	queue(r, sqe, q);
	if (op->silent) {
		q->busy = false;
		r->busy--;
	}
}

#define VECTORED (8 * RW_KIB)

/* Every other request names its memory by a vector, if it is large enough for one. */
static bool by_vector(struct request *q)
{
	if (q->serial % 2 || q->len < VECTORED || (q->io && q->io->valid))
		return false;
	q->iov[0] = (struct iovec){ q->data, VECTORED / 2 };
	q->iov[1] = (struct iovec){ (char *)q->data + VECTORED / 2, q->len - VECTORED / 2 };
	return true;
}

static bool in_arena(const struct request *q)
{
	return q->data >= q->buf && (char *)q->data < (char *)q->buf + RW_MAX_WRITE;
}

static void queue_rw(struct rw_ring *r, struct request *q, int rwf, unsigned int sqe_flags)
{
	bool read = q->io && q->io->read, fixed = r->kind->fixed && in_arena(q);
	struct io_uring_sqe sqe = { 0 };

	if (!fixed && by_vector(q))
		io_uring_prep_rw(read ? IORING_OP_READV : IORING_OP_WRITEV, &sqe, q->op.file->fd,
				 q->iov, RW_ARRAY_SIZE(q->iov), (uint64_t)q->off);
	else
		io_uring_prep_rw(fixed	? read ? IORING_OP_READ_FIXED : IORING_OP_WRITE_FIXED
				 : read ? IORING_OP_READ
					: IORING_OP_WRITE,
				 &sqe, q->op.file->fd, q->data, (unsigned int)q->len,
				 (uint64_t)q->off);
	if (fixed)
		sqe.buf_index = (uint16_t)((q - r->requests) / 2);
	sqe.rw_flags = rwf;
	sqe.flags |= (__u8)(sqe_flags | (r->kind->async ? IOSQE_ASYNC : 0));
	queue(r, &sqe, q);
}

static void submit_aio(struct rw_ring *r, struct request *q, const char *what)
{
	struct iocb *p = &q->iocb;
	int ret;

	p->data = q;
	if (r->kind->eventfd)
		io_set_eventfd(p, r->eventfd);
	rw_enter(what);
	atomic_store(p->aio_rw_flags & RWF_NOWAIT ? &rw_shared->submitting : &rw_shared->may_block,
		     gettid());
	ret = io_submit(r->aio, 1, &p);
	atomic_store(&rw_shared->submitting, 0);
	atomic_store(&rw_shared->may_block, 0);
	atomic_store(&rw_shared->in_call, 0);
	rw_check_slept(what);
	if (ret != 1)
		rw_fail("io_submit: %s", ret < 0 ? strerror(-ret) : "took none");
	reuse_vectors(r);
	rw_progress();
}

static struct request *take_write(struct rw_ring *r, struct rw_file *f, off_t off, size_t len)
{
	struct request *q = take(r, &(struct rw_op){ "write", f, (long)len });

	if (len > (size_t)RW_MAX_WRITE || off % 512 || len % 512)
		rw_broken("rw_write: %zu bytes at %lld", len, (long long)off);
	q->off = off;
	q->len = len;
	/* What is less than a page begins within one. */
	if (len % PAGE)
		q->data = (char *)q->buf + 512;
	return q;
}

static void finish(struct rw_ring *r, struct request *q, long res);

static void do_at_once(struct rw_ring *r, struct request *q, int rwf)
{
	bool read = q->io && q->io->read;
	const struct iovec iov = { q->data, q->len };
	ssize_t n;

	rw_enter(read ? "preadv2" : "pwritev2");
	n = (read ? preadv2 : pwritev2)(q->op.file->fd, &iov, 1, q->off, rwf);
	n = n < 0 ? -errno : n;
	rw_returned();
	finish(r, q, n);
}

static void submit_rw(struct rw_ring *r, struct request *q, int rwf)
{
	if (r->kind->sync) {
		do_at_once(r, q, rwf);
		return;
	}
	if (r->kind->aio) {
		bool read = q->io && q->io->read;

		if (by_vector(q))
			(read ? io_prep_preadv : io_prep_pwritev)(&q->iocb, q->op.file->fd, q->iov,
								  RW_ARRAY_SIZE(q->iov), q->off);
		else
			(read ? io_prep_pread : io_prep_pwrite)(&q->iocb, q->op.file->fd, q->data,
								q->len, q->off);
		q->iocb.aio_rw_flags = rwf;
		submit_aio(r, q, "io_submit (direct I/O)");
		return;
	}
	queue_rw(r, q, rwf, 0);
	submit(r, "io_uring_enter (submit direct I/O)", 0);
}

void rw_write_promised(struct rw_ring *r, struct rw_file *f, off_t off, size_t len,
		       unsigned int promise, int rwf)
{
	struct request *q = take_write(r, f, off, len);

	rw_fill(f, q->data, off, len, promise);
	submit_rw(r, q, rwf);
}

void rw_write_from(struct rw_ring *r, struct rw_file *f, off_t off, size_t len, void *buf)
{
	struct request *q = take_write(r, f, off, len);

	q->data = buf;
	submit_rw(r, q, 0);
}

void rw_write(struct rw_ring *r, struct rw_file *f, off_t off, size_t len, int rwf)
{
	rw_write_promised(r, f, off, len, rw_promise(f, off, len), rwf);
}

void rw_queue_write(struct rw_ring *r, struct rw_file *f, off_t off, size_t len,
		    unsigned int sqe_flags)
{
	struct request *q = take_write(r, f, off, len);

	rw_fill(f, q->data, off, len, rw_promise(f, off, len));
	queue_rw(r, q, 0, sqe_flags);
}

static void io_prepare(struct rw_file *f, struct rw_io *io, char *buf)
{
	if (io->into + io->len > (size_t)RW_MAX_WRITE || io->off % 8 || io->len % 8)
		rw_broken("rw_submit: %zu bytes at %lld", io->len, (long long)io->off);
	io->done = false;
	if (io->read) {
		memset(buf, 0xee, io->len);
	} else {
		io->promise = rw_promise(f, io->off, io->len);
		rw_fill(f, buf, io->off, io->len, io->promise);
	}
	if (io->valid)
		rw_set_up(mprotect(buf + io->valid, (size_t)RW_MAX_WRITE - io->into - io->valid,
				   PROT_NONE));
}

static void io_done(struct rw_file *f, struct rw_io *io, char *buf, long res)
{
	if (io->valid)
		rw_set_up(mprotect(buf - io->into, RW_MAX_WRITE, PROT_READ | PROT_WRITE));
	if (io->read && res > 0)
		rw_check_asynchronous(f, buf, io->off, (size_t)res);
	io->res = res;
	io->done = true;
}

void rw_submit(struct rw_ring *r, struct rw_file *f, struct rw_io *io)
{
	struct rw_ring *own = r ? NULL : (r = rw_ring(&sync_kind, 1));
	struct request *q = take(r, &(struct rw_op){ io->read ? "read" : "write", f, RW_ANY });

	q->io = io;
	q->off = io->off;
	q->len = io->len;
	q->data = (char *)q->buf + io->into;
	io_prepare(f, io, q->data);
	submit_rw(r, q, io->rwf);
	if (own)
		rw_ring_close(own);
}

void rw_ring_fallocate(struct rw_ring *r, struct rw_file *f, int mode, off_t off, off_t len,
		       bool must_wait)
{
	struct io_uring_sqe sqe = { 0 };

	io_uring_prep_fallocate(&sqe, f->fd, mode, off, len);
	rw_queue(r, &sqe, &(struct rw_op){ "fallocate", f, 0, must_wait });
	submit(r, "io_uring_enter (submit a fallocate)", 0);
}

void rw_ring_ftruncate(struct rw_ring *r, struct rw_file *f, off_t size, bool must_wait)
{
	const struct io_uring_sqe sqe = { .opcode = RW_OP_FTRUNCATE, .off = (uint64_t)size };

	rw_queue(r, &sqe, &(struct rw_op){ "ftruncate", f, 0, must_wait });
	submit(r, "io_uring_enter (submit an ftruncate)", 0);
}

void rw_ring_fsync(struct rw_ring *r, struct rw_file *f, bool data_only)
{
	const struct rw_op op = { data_only ? "fdatasync" : "fsync", f, 0 };
	struct io_uring_sqe sqe = { 0 };
	struct request *q;

	if (!r->kind->aio) {
		io_uring_prep_fsync(&sqe, f->fd, data_only ? IORING_FSYNC_DATASYNC : 0);
		rw_queue(r, &sqe, &op);
		submit(r, "io_uring_enter (submit a sync)", 0);
		return;
	}
	q = take(r, &op);
	(data_only ? io_prep_fdsync : io_prep_fsync)(&q->iocb, f->fd);
	submit_aio(r, q, "io_submit (a sync)");
}

void rw_aio_cancel(struct rw_ring *r)
{
	struct io_event e;

	for (unsigned int i = 0; i < r->depth; i++) {
		int ret;

		if (!r->requests[i].busy)
			continue;
		rw_enter("io_cancel");
		ret = io_cancel(r->aio, &r->requests[i].iocb, &e);
		rw_returned();
		if (ret != -EINVAL) /* "not found": it is for requests that can be cancelled */
			rw_fail("io_cancel of a direct write: %d (%s)", ret, strerror(-ret));
	}
}

bool rw_has_opcode(const struct rw_ring *r, int opcode)
{
	struct io_uring_probe *p = io_uring_get_probe_ring((struct io_uring *)&r->uring);
	bool has = p && io_uring_opcode_supported(p, opcode);

	io_uring_free_probe(p);
	return has;
}

void rw_may_cancel(struct rw_ring *r)
{
	for (unsigned int i = 0; i < r->depth; i++)
		r->requests[i].may_cancel = r->requests[i].busy;
}

static void wrong_result(const struct request *q, long res)
{
	char where[160] = "", got[64];

	if (q->op.file)
		snprintf(where, sizeof(where), " of \"%.100s\"", q->op.file->name);
	if (q->len)
		snprintf(where, sizeof(where), " of %zu bytes at %lld of \"%.80s\"", q->len,
			 (long long)q->off, q->op.file->name);
	snprintf(got, sizeof(got), "%s", res < 0 ? strerror((int)-res) : "bytes");
	rw_fail("%s%s: res %ld (%s), expected %ld", q->op.what, where, res, got, q->op.want);
}

/* Links are done one after another, and nothing passes a drain (io_uring_enter(2)). */
static void check_order(const struct rw_ring *r, const struct request *q)
{
	for (unsigned int i = 0; i < r->depth && !q->op.any_order; i++) {
		const struct request *p = &r->requests[i];
		bool linked = p->serial + 1 == q->serial &&
			      p->sqe_flags & (IOSQE_IO_LINK | IOSQE_IO_HARDLINK);

		if (p->busy && p->serial < q->serial && !p->op.any_order &&
		    (linked || (p->sqe_flags | q->sqe_flags) & IOSQE_IO_DRAIN))
			rw_fail("%s completed before the %s that it was %s behind", q->op.what,
				p->op.what, linked ? "linked" : "drained");
	}
}

static void check_size(const struct request *q)
{
	struct stat st;

	rw_set_up(fstat(q->op.file->fd, &st));
	if (st.st_size < q->off + (off_t)q->len)
		rw_fail("a write of %zu bytes at %lld of \"%s\" completed, and st_size is %lld",
			q->len, (long long)q->off, q->op.file->name, (long long)st.st_size);
}

void rw_only_grows(struct rw_ring *r)
{
	r->only_grows = true;
}

/* A fatal signal cuts short what goes through the page cache. */
static bool cancelled(const struct request *q, long res)
{
	return res == -ECANCELED || res == -EINTR ||
	       (!rw_direct() && res >= 0 && res < (long)q->len);
}

static void finish(struct rw_ring *r, struct request *q, long res)
{
	rw_progress();
	if (!q || !q->busy)
		rw_fail("a completion for a request that is not in flight");
	if (res != q->op.want && q->op.want != RW_ANY && !(q->may_cancel && cancelled(q, res)))
		wrong_result(q, res);
	if (q->op.must_wait && !atomic_load(&rw_shared->opening_at))
		rw_fail("%s completed while a direct write submitted before it was in flight",
			q->op.what);
	check_order(r, q);
	if (r->only_grows && q->len && res > 0)
		check_size(q);
	if (q->io)
		io_done(q->op.file, q->io, q->data, res);
	q->busy = false;
	r->busy--;
}

static void reap_uring(struct rw_ring *r)
{
	bool told = r->kind->eventfd;
	struct io_uring_cqe *cqe;
	eventfd_t v;
	int ret;

	rw_enter(told ? "read of the ring's eventfd" : "io_uring_enter (wait for a completion)");
	/* One signal may be for several completions, or late for one that is reaped. */
	do
		ret = told ? io_uring_peek_cqe(&r->uring, &cqe)
			   : io_uring_wait_cqe(&r->uring, &cqe);
	while (ret == -EINTR ||
	       (told && ret == -EAGAIN && (!eventfd_read(r->eventfd, &v) || errno == EINTR)));
	atomic_store(&rw_shared->in_call, 0);
	if (ret < 0)
		rw_fail("io_uring_wait_cqe: %s", strerror(-ret));
	finish(r, io_uring_cqe_get_data(cqe), cqe->res);
	io_uring_cqe_seen(&r->uring, cqe);
}

/* What the kernel maps at an AIO context: fs/aio.c. Events follow. */
struct aio_memory {
	unsigned int id, nr, head, tail, magic, compat, incompat, header;
};

/* No system call: the kernel learns that there is room from `head` alone. */
static int take_from_memory(io_context_t ctx, struct io_event *e)
{
	struct aio_memory *m = (void *)ctx;
	unsigned int head = m->head;

	if (head == __atomic_load_n(&m->tail, __ATOMIC_ACQUIRE))
		return 0;
	*e = ((const struct io_event *)((const char *)m + m->header))[head];
	__atomic_store_n(&m->head, (head + 1) % m->nr, __ATOMIC_RELEASE);
	return 1;
}

static void finish_aio(struct rw_ring *r, const struct io_event *e)
{
	struct request *q = e->data;

	if (q && (e->obj != &q->iocb || e->res2))
		rw_fail("the event of an aio %s has res2 %ld and iocb %p, expected 0 and %p",
			q->op.what, (long)e->res2, (void *)e->obj, (void *)&q->iocb);
	finish(r, q, (long)e->res);
}

static void reap_aio(struct rw_ring *r)
{
	bool look = r->kind->poll, told = r->kind->eventfd;
	struct timespec now = { 0, 0 };
	struct io_event e;
	int ret;

	rw_enter(look	? "a look for a completion in memory"
		 : told ? "read of the eventfd"
			: "io_getevents (wait for a completion)");
	if (told && !r->signalled && read(r->eventfd, &r->signalled, sizeof(r->signalled)) < 0)
		rw_broken("read of an eventfd: %s", strerror(errno));
	do
		ret = look ? take_from_memory(r->aio, &e)
			   : io_getevents(r->aio, 1, 1, &e, told ? &now : NULL);
	while (ret == -EINTR || (look && !ret));
	atomic_store(&rw_shared->in_call, 0);
	if (ret != 1)
		rw_fail("io_getevents: %s",
			ret < 0 ? strerror(-ret) : "no event, though the eventfd told of one");
	r->signalled -= told;
	finish_aio(r, &e);
}

unsigned int rw_reap_ready(struct rw_ring *r)
{
	unsigned int before = r->busy;
	struct timespec now = { 0, 0 };
	struct io_uring_cqe *cqe;
	struct io_event e;

	while (r->kind->aio && io_getevents(r->aio, 0, 1, &e, &now) == 1)
		finish_aio(r, &e);
	if (r->kind->setup & IORING_SETUP_DEFER_TASKRUN)
		io_uring_get_events(&r->uring);
	while (!r->kind->aio && !io_uring_peek_cqe(&r->uring, &cqe)) {
		finish(r, io_uring_cqe_get_data(cqe), cqe->res);
		io_uring_cqe_seen(&r->uring, cqe);
	}
	return before - r->busy;
}

#define WAIT_MAX 64

/* `mask`: the wait's own; NULL: none, and no signal ends it. */
static int wait_aio(struct rw_ring *r, unsigned int n, unsigned int s, sigset_t *mask)
{
	struct timespec ts = { .tv_sec = s }, *timeout = s ? &ts : NULL;
	struct io_event e[WAIT_MAX];
	int ret;

	do
		ret = mask ? io_pgetevents(r->aio, n, WAIT_MAX, e, timeout, mask)
			   : io_getevents(r->aio, n, WAIT_MAX, e, timeout);
	while (ret == -EINTR && !mask);
	rw_returned();
	for (int i = 0; i < ret; i++)
		finish_aio(r, &e[i]);
	return ret;
}

static int wait_uring(struct rw_ring *r, unsigned int n, unsigned int s, sigset_t *mask)
{
	struct __kernel_timespec ts = { .tv_sec = s };
	struct io_uring_cqe *cqe;
	int ret;

	do
		ret = s || mask ? io_uring_wait_cqes(&r->uring, &cqe, n, s ? &ts : NULL, mask)
				: io_uring_wait_cqe_nr(&r->uring, &cqe, n);
	while (ret == -EINTR && !mask);
	rw_returned();
	if (ret < 0)
		return ret;
	ret = (int)io_uring_cq_ready(&r->uring);
	rw_reap_ready(r);
	return ret;
}

bool rw_wait_masked(struct rw_ring *r, unsigned int n, unsigned int s, sigset_t *mask)
{
	int ret;

	rw_enter(mask ? "wait for completions, with a signal mask"
		 : s  ? "wait for several completions, with a time-out"
		      : "wait for several completions");
	ret = (r->kind->aio ? wait_aio : wait_uring)(r, n, s, mask);
	if (mask && ret == -EINTR)
		return false;
	if (ret < (int)n)
		rw_fail("a wait for %u completions ended with %d%s%s", n, ret,
			ret < 0 ? ": " : " of them", ret < 0 ? strerror(-ret) : "");
	return true;
}

void rw_wait(struct rw_ring *r, unsigned int n, unsigned int s)
{
	rw_wait_masked(r, n, s, NULL);
}

void rw_reap(struct rw_ring *r)
{
	while (r->busy)
		(r->kind->aio ? reap_aio : reap_uring)(r);
}

void rw_reap_either(struct rw_ring *r, struct rw_file *f, struct rw_change c)
{
	struct rw_model *after = rw_either(f, c);

	rw_reap(r);
	rw_settle(f, after);
}

bool rw_gave_up(const struct rw_io *io)
{
	return io->res == -EAGAIN && rw_fs() == RW_XFS;
}

void rw_check_read(const struct rw_io *io, off_t size)
{
	off_t left = size < io->off ? 0 : size - io->off;
	long want = left < (off_t)io->len ? left : (long)io->len;

	if (io->res != want && !rw_gave_up(io))
		rw_fail("read of %zu bytes at %lld of a file of %lld: res %ld, expected %ld",
			io->len, (long long)io->off, (long long)size, io->res, want);
}

unsigned int rw_unreaped(const struct rw_ring *r)
{
	return r->busy;
}

void rw_ring_close(struct rw_ring *r)
{
	rw_enter("close the ring");
	if (r->kind->aio)
		rw_eq(io_destroy(r->aio), 0);
	else if (!r->kind->sync)
		io_uring_queue_exit(&r->uring);
	if (r->kind->eventfd)
		close(r->eventfd);
	rw_returned();
	/*
	 * The pages are free; the addresses stay ours. A request that io-wq had not begun with faults there,
	 * where otherwise it would write what this task maps next.
	 */
	if (mmap(r->arena, r->depth * RW_MAX_WRITE, PROT_NONE,
		 MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) == MAP_FAILED)
		rw_broken("mmap: %s", strerror(errno));
	munmap(r->requests, r->depth * sizeof(*r->requests));
	munmap(r, sizeof(*r));
}
