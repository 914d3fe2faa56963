/* SPDX-License-Identifier: MIT */
/*
 * What waits for polled direct I/O (IORING_SETUP_IOPOLL) in flight.
 *
 * Its device tells nobody that a request has ended: it has when somebody polls, who is the ring's
 * owner (io_do_iopoll()) or its poller. So what is in flight stays so for as long as the owner likes, and
 * no gate is needed. If a request is lost there, or if its end leaves i_dio_count behind
 * (iomap_dio_done()), the next fallocate or truncate sleeps for ever.
 *
 * (With iomap, up to 6.18 at least, only reads are polled for. A write on such a ring ends as ever.)
 */
#include "ringwedge.h"

#include <linux/falloc.h>
#include <stdatomic.h>
#include <sys/mman.h>

#define SIZE (512 * RW_KIB)
#define LEN (32 * RW_KIB)
#define READS 4

static void punch(const void *p)
{
	rw_supported("fallocate",
		     fallocate(((const struct rw_file *)p)->fd,
			       FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, SIZE / 2));
}

static void shrink(const void *p)
{
	rw_ok(ftruncate(((const struct rw_file *)p)->fd, SIZE / 2));
}

static const struct op {
	void (*call)(const void *);
	struct rw_change change;
	off_t other; /* the half of the file that it leaves alone, or that comes out the same */
} ops[] = {
	{ punch, { RW_ZERO, 0, SIZE / 2 }, SIZE / 2 },
	{ shrink, { RW_RESIZE, SIZE / 2 }, 0 },
};

static struct rw_file *start(const struct op *op)
{
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);

	op->call(f); /* is it there? */
	return rw_file("file", RW_WRITTEN, SIZE);
}

/* Reads of what the call takes away. */
static void submit(struct rw_ring *ring, struct rw_file *f, const struct op *op, struct rw_io *io)
{
	rw_use(ring, f);
	for (unsigned int i = 0; i < READS; i++) {
		io[i] = (struct rw_io){ .read = true,
					.off = SIZE / 2 - op->other + i * LEN,
					.len = LEN };
		rw_submit(ring, f, &io[i]);
	}
}

struct beside {
	const struct op *op;
	const struct rw_file *file;
	_Atomic bool *polling; /* shared */
	bool held;
};

static void call_beside(const void *p)
{
	const struct beside *b = p;

	b->op->call(b->file);
	if (b->held && !atomic_load(b->polling))
		rw_fail("the call returned while direct reads submitted before it were in flight");
}

/* Another task waits for them, and goes on when the owner has polled. */
static void run(const void *const *at)
{
	struct rw_ring *ring;
	_Atomic bool *polling = mmap(NULL, sizeof(*polling), PROT_READ | PROT_WRITE,
				     MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (!rw_device_polls())
		rw_skip("needs a device that polls (null_blk, nvme, virtio_blk with poll_queues)");
	ring = rw_ring(at[0], READS + 1);
	if (polling == MAP_FAILED)
		rw_broken("out of memory");
	for (size_t i = 0; i < RW_ARRAY_SIZE(ops); i++) {
		struct beside b = { &ops[i], start(&ops[i]), polling };
		struct rw_file *f = (struct rw_file *)b.file;
		struct rw_io io[READS];
		struct rw_helper other;

		atomic_store(polling, false);
		submit(ring, f, b.op, io);
		rw_write(ring, f, b.op->other, LEN, 0);
		b.held = rw_unpolled(READS) >= READS;
		other = rw_start(call_beside, &b);
		if (b.held) {
			rw_in_drain_now(other.pid);
			atomic_store(polling, true);
			rw_reap(ring);
			rw_then(f, b.op->change);
			for (size_t k = 0; k < READS; k++)
				rw_eq(io[k].res, LEN);
		} else {
			rw_reap_either(ring, f, b.op->change);
		}
		rw_join(other);
		rw_verify(f);
	}
	rw_ring_close(ring);
}

static const char *const guards[] = {
	"3c7d76d6128a io_uring: IOPOLL polling improvements",
	NULL,
};

static const char *const groups[] = { "iopoll", NULL };

const struct rw_test rw_test = {
	.name = "iopoll-wait-dio",
	.summary = "what waits for polled direct I/O in flight goes on when its owner has polled",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(rw_iopoll_kinds) },
	.run = run,
};
