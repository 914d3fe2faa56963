/* SPDX-License-Identifier: MIT */
/*
 * The room of an AIO context: what io_submit(2) takes from it comes back, whatever becomes of it.
 *
 * Each request has a slot (aio_get_req()), which is given back when its event was taken out of the
 * ring, by io_getevents(2) or in memory, and at once when the request is refused. Events taken in
 * memory are seen no sooner than by the io_submit() that finds no slot
 * (user_refill_reqs_available()). A slot that is lost is an io_submit() that fails with EAGAIN and
 * nothing in flight. A batch is submitted up to the first request that is refused, and each of its
 * events has its own result.
 */
#include "ringwedge.h"

#include <libaio.h>

#define ROOM 8
#define MANY 4096 /* more than any context here has room for */
#define LEN 4096
#define SIZE (64 * RW_KIB)

static int submit(io_context_t ctx, long n, struct iocb **iocb)
{
	int ret;

	rw_enter("io_submit");
	ret = io_submit(ctx, n, iocb);
	rw_leave("io_submit", 0, RW_FAIL, __FILE__, __LINE__);
	return ret;
}

struct aio_memory { /* fs/aio.c: what is mapped at a context */
	unsigned int id, nr, head, tail;
};

/* All events, by one call; or none of them by a call: the memory says that they are taken. */
static void take(io_context_t ctx, long n, bool in_memory)
{
	struct aio_memory *m = (void *)ctx;
	struct io_event e[64];

	rw_enter("wait for events");
	while (n > 0 && in_memory) {
		unsigned int tail = __atomic_load_n(&m->tail, __ATOMIC_ACQUIRE);

		n -= (tail + m->nr - m->head) % m->nr;
		__atomic_store_n(&m->head, tail, __ATOMIC_RELEASE);
	}
	while (n > 0) {
		long want = n < 64 ? n : 64;

		rw_eq(io_getevents(ctx, want, want, e, NULL), want);
		for (long i = 0; i < want; i++) {
			rw_eq((long)e[i].res, LEN);
			rw_eq((long)e[i].res2, 0);
		}
		n -= want;
	}
	rw_leave("wait for events", 0, RW_FAIL, __FILE__, __LINE__);
}

/* As many reads as there are slots; all end, then all are taken: there is room again. */
static void fill(io_context_t ctx, struct rw_file *f, bool in_memory)
{
	static char buf[LEN] __attribute__((aligned(4096)));
	struct iocb iocb, *p = &iocb;

	for (int round = 0; round < 3; round++) {
		long n = 0;
		int ret;

		io_prep_pread(&iocb, f->fd, buf, LEN, 0);
		while ((ret = submit(ctx, 1, &p)) == 1 && n < MANY)
			n++;
		rw_eq(ret, -EAGAIN);
		if (n < ROOM)
			rw_fail("a context for %d requests took %ld, with none in flight", ROOM, n);
		take(ctx, n, in_memory);
	}
}

static void in_memory(io_context_t ctx, struct rw_file *f)
{
	fill(ctx, f, true);
}

static void getevents(io_context_t ctx, struct rw_file *f)
{
	fill(ctx, f, false);
}

static void refused(io_context_t ctx, struct rw_file *f)
{
	static char buf[LEN] __attribute__((aligned(4096)));
	int readable = (int)rw_set_up(open(rw_path(f), O_RDONLY | O_DIRECT | O_CLOEXEC));
	struct iocb iocb[3], *p;

	io_prep_pwrite(&iocb[0], -1, buf, LEN, 0);	 /* no file */
	io_prep_pwrite(&iocb[1], readable, buf, LEN, 0); /* not for writing */
	io_prep_pwrite(&iocb[2], f->fd, buf, LEN, 0);
	iocb[2].aio_rw_flags = 1 << 30; /* no such flag */
	for (int i = 0; i < 3 * 256; i++) {
		p = &iocb[i % 3];
		rw_eq(submit(ctx, 1, &p), i % 3 < 2 ? -EBADF : -EOPNOTSUPP);
	}
	close(readable);
	fill(ctx, f, false);
}

static void batch(io_context_t ctx, struct rw_file *f)
{
	enum { N = ROOM, BAD = 5 };
	static char buf[N][LEN] __attribute__((aligned(4096)));
	struct iocb iocb[N], *p[N];

	for (int i = 0; i < N; i++) {
		off_t off = i * 2 * LEN;

		if (i != BAD)
			rw_fill(f, buf[i], off, LEN, rw_promise(f, off, LEN));
		io_prep_pwrite(&iocb[i], i == BAD ? -1 : f->fd, buf[i], LEN, off);
		p[i] = &iocb[i];
	}
	rw_eq(submit(ctx, N, p), BAD);
	rw_eq(submit(ctx, N - BAD, p + BAD), -EBADF);
	rw_eq(submit(ctx, N - BAD - 1, p + BAD + 1), N - BAD - 1);
	take(ctx, N - 1, false);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
}

static const struct scene {
	const char *name;
	void (*play)(io_context_t ctx, struct rw_file *f);
} scenes[] = {
	{ "in-memory", in_memory },
	{ "getevents", getevents },
	{ "refused", refused },
	{ "batch", batch },
};

static void run(const void *const *at)
{
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);
	io_context_t ctx = NULL;
	int ret = io_setup(ROOM, &ctx);

	if (ret < 0)
		rw_skip("needs Linux AIO (io_setup): %s", strerror(-ret));
	((const struct scene *)at[0])->play(ctx, f);
	rw_eq(io_destroy(ctx), 0);
	rw_verify(f);
}

static const char *const guards[] = {
	"f8567a3845ac aio: fix aio request leak when events are reaped by userspace",
	NULL,
};

static const char *const groups[] = { "aio", NULL };

const struct rw_test rw_test = {
	.name = "aio-room-dio",
	.summary = "an AIO context has room again for each request that ended or was refused",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(scenes) },
	.run = run,
};
