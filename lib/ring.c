/* SPDX-License-Identifier: MIT */
/*
 * ring.c - one way to submit direct writes, whatever the kind of ring, and to check that each ends
 * with exactly the result it must have.
 */
#include "internal.h"

#include <libaio.h>
#include <linux/fs.h>
#include <sys/mman.h>
#include <sys/uio.h>

#ifndef IORING_SETUP_SINGLE_ISSUER
#define IORING_SETUP_SINGLE_ISSUER (1U << 12)
#endif
#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_DEFER_TASKRUN (1U << 13)
#endif

const struct rw_ring_kind rw_ring_kinds[7] = {
	{ .name = "plain" },
	{ .name = "coop-taskrun", .setup = IORING_SETUP_COOP_TASKRUN },
	{ .name = "defer-taskrun",
	  .setup = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN },
	{ .name = "sqpoll", .setup = IORING_SETUP_SQPOLL },
	{ .name = "async", .async = true },
	{ .name = "fixed", .fixed = true },
	{ .name = "aio", .aio = true },
};

const struct rw_write_kind rw_write_kinds[RW_WRITE_KINDS] = {
	[RW_OVERWRITE] = { RW_WRITTEN, 0, false },	[RW_CONVERT] = { RW_UNWRITTEN, 0, false },
	[RW_SYNCED] = { RW_WRITTEN, RWF_DSYNC, false }, [RW_EXTEND] = { RW_WRITTEN, 0, true },
	[RW_EXTEND_INTO] = { RW_PAST_EOF, 0, true },	[RW_ACROSS] = { RW_MIXED, 0, false },
};

#define MAX_FILES 8

struct request {
	bool busy, must_wait;
	const char *what; /* "write" or the name of the call */
	struct rw_file *file;
	off_t off;
	size_t len;
	long want;
	void *buf;
	struct iocb iocb;
};

struct rw_ring {
	const struct rw_ring_kind *kind;
	unsigned int depth, busy;
	struct request *requests;
	char *arena;
	struct io_uring uring;
	io_context_t aio;
	struct rw_file *files[MAX_FILES];
	unsigned int n_files;
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

	if (p.flags & IORING_SETUP_SQPOLL)
		p.sq_thread_idle = 10; /* ms; a thread that polls for long starves the others */
	ret = io_uring_queue_init_params(r->depth * 2, &r->uring, &p);
	if (ret < 0)
		no_ring(r->kind, -ret);
	if (r->kind->fixed) {
		struct iovec iov[64];
		int none[MAX_FILES];

		for (unsigned int i = 0; i < r->depth; i++)
			iov[i] = (struct iovec){ r->requests[i].buf, RW_MAX_WRITE };
		for (unsigned int i = 0; i < MAX_FILES; i++)
			none[i] = -1;
		ret = io_uring_register_buffers(&r->uring, iov, r->depth);
		if (ret < 0)
			rw_broken("io_uring_register_buffers: %s", strerror(-ret));
		ret = io_uring_register_files(&r->uring, none, MAX_FILES);
		if (ret < 0)
			rw_broken("io_uring_register_files: %s", strerror(-ret));
	}
}

struct rw_ring *rw_ring(const struct rw_ring_kind *kind, unsigned int depth)
{
	struct rw_ring *r = calloc(1, sizeof(*r));
	int ret;

	if (!r || depth < 1 || depth > 64)
		rw_broken("rw_ring: depth %u", depth);
	r->kind = kind;
	r->depth = depth;
	r->requests = calloc(depth, sizeof(*r->requests));
	r->arena = mmap(NULL, depth * RW_MAX_WRITE, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!r->requests || r->arena == MAP_FAILED)
		rw_broken("out of memory");
	/* A forked helper would turn the pages under a write into copies. */
	rw_set_up(madvise(r->arena, depth * RW_MAX_WRITE, MADV_DONTFORK));
	for (unsigned int i = 0; i < depth; i++)
		r->requests[i].buf = r->arena + i * RW_MAX_WRITE;
	rw_enter("ring set-up");
	if (kind->aio) {
		ret = io_setup((int)depth, &r->aio);
		if (ret < 0)
			rw_skip("needs Linux AIO (io_setup): %s", strerror(-ret));
	} else {
		set_up_uring(r);
	}
	rw_returned();
	return r;
}

void rw_use(struct rw_ring *r, struct rw_file *f)
{
	unsigned int i;
	int ret;

	if (!r->kind->fixed)
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

static struct request *take(struct rw_ring *r, const char *what, struct rw_file *f, off_t off,
			    size_t len)
{
	for (unsigned int i = 0; i < r->depth; i++) {
		struct request *q = &r->requests[i];

		if (q->busy)
			continue;
		q->busy = true;
		q->must_wait = false;
		q->what = what;
		q->file = f;
		q->off = off;
		q->len = len;
		r->busy++;
		return q;
	}
	rw_broken("more than %u requests in flight", r->depth);
}

static void give_fd(const struct rw_ring *r, struct io_uring_sqe *sqe, struct rw_file *f)
{
	if (!r->kind->fixed)
		return;
	for (unsigned int i = 0; i < r->n_files; i++)
		if (r->files[i] == f) {
			sqe->fd = (int)i;
			sqe->flags |= IOSQE_FIXED_FILE;
			return;
		}
	rw_broken("\"%s\" was not given to the ring with rw_use()", f->name);
}

static void submit(struct rw_ring *r, const char *what)
{
	int ret;

	rw_enter(what);
	ret = io_uring_submit(&r->uring);
	atomic_store(&rw_shared->in_call, 0);
	if (ret != 1 && !(r->kind->setup & IORING_SETUP_SQPOLL && ret >= 0))
		rw_fail("io_uring_enter submitted %d of 1: %s", ret,
			ret < 0 ? strerror(-ret) : "too few");
	rw_progress();
}

static void write_uring(struct rw_ring *r, struct request *q, int rwf)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);

	if (!sqe)
		rw_broken("the submission queue is full");
	if (r->kind->fixed)
		io_uring_prep_write_fixed(sqe, q->file->fd, q->buf, (unsigned int)q->len,
					  (uint64_t)q->off, (int)(q - r->requests));
	else
		io_uring_prep_write(sqe, q->file->fd, q->buf, (unsigned int)q->len,
				    (uint64_t)q->off);
	sqe->rw_flags = rwf;
	if (r->kind->async)
		sqe->flags |= IOSQE_ASYNC;
	give_fd(r, sqe, q->file);
	io_uring_sqe_set_data(sqe, q);
	submit(r, "io_uring_enter (submit a direct write)");
}

static void write_aio(struct rw_ring *r, struct request *q, int rwf)
{
	struct iocb *p = &q->iocb;
	int ret;

	io_prep_pwrite(p, q->file->fd, q->buf, q->len, q->off);
	p->aio_rw_flags = rwf;
	p->data = q;
	rw_enter("io_submit (a direct write)");
	atomic_store(&rw_shared->may_block, 1);
	ret = io_submit(r->aio, 1, &p);
	atomic_store(&rw_shared->may_block, 0);
	atomic_store(&rw_shared->in_call, 0);
	if (ret != 1)
		rw_fail("io_submit: %s", ret < 0 ? strerror(-ret) : "took none");
	rw_progress();
}

void rw_write_promised(struct rw_ring *r, struct rw_file *f, off_t off, size_t len,
		       unsigned int promise, int rwf)
{
	struct request *q = take(r, "write", f, off, len);

	if (len > (size_t)RW_MAX_WRITE || off % 512 || len % 512)
		rw_broken("rw_write: %zu bytes at %lld", len, (long long)off);
	rw_fill(f, q->buf, off, len, promise);
	q->want = (long)len;
	(r->kind->aio ? write_aio : write_uring)(r, q, rwf);
}

void rw_write(struct rw_ring *r, struct rw_file *f, off_t off, size_t len, int rwf)
{
	rw_write_promised(r, f, off, len, rw_promise(f, off, len), rwf);
}

void rw_ring_fallocate(struct rw_ring *r, struct rw_file *f, int mode, off_t off, off_t len,
		       bool must_wait)
{
	struct request *q = take(r, "fallocate", f, off, (size_t)len);
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);

	if (!sqe)
		rw_broken("the submission queue is full");
	io_uring_prep_fallocate(sqe, f->fd, mode, off, len);
	give_fd(r, sqe, f);
	io_uring_sqe_set_data(sqe, q);
	q->want = 0;
	q->must_wait = must_wait;
	submit(r, "io_uring_enter (submit a fallocate)");
}

static void finish(struct rw_ring *r, struct request *q, long res)
{
	char got[64];

	rw_progress();
	if (!q || !q->busy)
		rw_fail("a completion for a request that is not in flight");
	if (res != q->want) {
		snprintf(got, sizeof(got), "%s", res < 0 ? strerror((int)-res) : "bytes");
		rw_fail("%s of %zu bytes at %lld of \"%s\": res %ld (%s), expected %ld", q->what,
			q->len, (long long)q->off, q->file->name, res, got, q->want);
	}
	if (q->must_wait && !atomic_load(&rw_shared->opening_at))
		rw_fail("%s completed while a direct write submitted before it was in flight",
			q->what);
	q->busy = false;
	r->busy--;
}

static void reap_uring(struct rw_ring *r)
{
	struct io_uring_cqe *cqe;
	int ret;

	rw_enter("io_uring_enter (wait for a completion)");
	do
		ret = io_uring_wait_cqe(&r->uring, &cqe);
	while (ret == -EINTR);
	atomic_store(&rw_shared->in_call, 0);
	if (ret < 0)
		rw_fail("io_uring_wait_cqe: %s", strerror(-ret));
	finish(r, io_uring_cqe_get_data(cqe), cqe->res);
	io_uring_cqe_seen(&r->uring, cqe);
}

static void reap_aio(struct rw_ring *r)
{
	struct io_event e;
	int ret;

	rw_enter("io_getevents (wait for a completion)");
	do
		ret = io_getevents(r->aio, 1, 1, &e, NULL);
	while (ret == -EINTR);
	atomic_store(&rw_shared->in_call, 0);
	if (ret != 1)
		rw_fail("io_getevents: %s", ret < 0 ? strerror(-ret) : "no event");
	finish(r, e.data, (long)e.res);
}

void rw_reap(struct rw_ring *r)
{
	while (r->busy)
		(r->kind->aio ? reap_aio : reap_uring)(r);
}

unsigned int rw_unreaped(const struct rw_ring *r)
{
	return r->busy;
}

void rw_ring_close(struct rw_ring *r)
{
	rw_enter("close the ring");
	if (r->kind->aio)
		io_destroy(r->aio);
	else
		io_uring_queue_exit(&r->uring);
	rw_returned();
	munmap(r->arena, r->depth * RW_MAX_WRITE);
	free(r->requests);
	free(r);
}
