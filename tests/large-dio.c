/* SPDX-License-Identifier: MIT */
/*
 * Direct I/O too large for one bio.
 *
 * iomap_dio_bio_iter() takes a bio for each 256 pieces of memory (BIO_MAX_VECS), and the block layer
 * splits one that the device cannot take at once, within a bio_vec if need be (bi_bvec_done, which
 * the loop driver must look at). The end is the last bio's (iomap_dio->ref), the length that of all,
 * and where each goes on is for the kernel to count. What is true of small writes - who completes
 * them, who waits for them - must be true of these.
 */
#include "ringwedge.h"

#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/uio.h>

#define PIECE (4 * RW_KIB)
#define PIECES 640
#define LEN (PIECES * PIECE)
#define AT (64 * RW_KIB)
#define SIZE (LEN + 2 * AT)
#define PUNCH (AT + LEN / 2)

static const struct memory {
	const char *name;
	int advice;
	bool whole;
} memories[] = {
	{ "pieces", MADV_NOHUGEPAGE }, /* pages, and of each two one is left out */
	{ "whole", MADV_HUGEPAGE, true },
};

struct job {
	struct rw_ring *ring;
	const struct rw_ring_kind *kind;
	struct iovec iov[PIECES];
	unsigned int n;
};

static void allocate(struct job *j, const struct memory *m)
{
	const size_t huge = 2048 * RW_KIB;
	char *at = aligned_alloc(huge, 3 * huge);

	if (!at || (size_t)LEN * 2 > 3 * huge)
		rw_broken("out of memory");
	madvise(at, 3 * huge, m->advice);
	memset(at, 0,
	       3 * huge); /* all of it, or what is used would be next to each other after all */
	j->n = m->whole ? 1 : PIECES;
	for (unsigned int i = 0; i < j->n; i++)
		j->iov[i] = (struct iovec){ at + i * PIECE * 2, LEN / j->n };
}

static void submit(struct job *j, struct rw_file *f, int opcode, off_t off, long want)
{
	const struct rw_op op = { opcode == IORING_OP_READV ? "large read" : "large write", f,
				  want };
	struct io_uring_sqe sqe = { 0 };

	io_uring_prep_rw(opcode, &sqe, f->fd, j->iov, j->n, (uint64_t)off);
	sqe.flags = j->kind->async ? IOSQE_ASYNC : 0;
	rw_queue(j->ring, &sqe, &op);
	rw_submit_queued(j->ring, 0);
}

static void write_large(struct job *j, struct rw_file *f, off_t off)
{
	unsigned int promise = rw_promise(f, off, LEN);

	for (unsigned int i = 0; i < j->n; i++)
		rw_fill(f, j->iov[i].iov_base, off + i * PIECE, j->iov[i].iov_len, promise);
	submit(j, f, IORING_OP_WRITEV, off, LEN);
}

static void read_large(struct job *j, struct rw_file *f, off_t off, off_t size)
{
	long left = size - off < LEN ? size - off : LEN;

	for (unsigned int i = 0; i < j->n; i++)
		memset(j->iov[i].iov_base, 0xee, j->iov[i].iov_len);
	submit(j, f, IORING_OP_READV, off, left);
	rw_reap(j->ring);
	for (unsigned int i = 0; i < j->n && left > 0; i++) {
		long len = left < (long)j->iov[i].iov_len ? left : (long)j->iov[i].iov_len;

		rw_check(f, "large read", j->iov[i].iov_base, off + i * PIECE, (size_t)len);
		left -= len;
	}
}

static void contents(struct job *j)
{
	static const struct {
		enum rw_state state;
		off_t size;
	} files[] = { { RW_WRITTEN, SIZE }, { RW_UNWRITTEN, SIZE }, { RW_HOLE, AT } };

	for (size_t i = 0; i < RW_ARRAY_SIZE(files); i++) {
		off_t size = files[i].size < AT + LEN ? AT + LEN : files[i].size;
		struct rw_file *f;

		if (!rw_can_make(files[i].state))
			continue;
		f = rw_file("file", files[i].state, (size_t)files[i].size);
		rw_cache(f, files[i].size - 2 * AT > 0 ? files[i].size - 2 * AT : 0, AT);
		write_large(j, f, AT);
		rw_reap(j->ring);
		rw_then(f, (struct rw_change){ RW_KEEP });
		read_large(j, f, AT / 2, size);
		read_large(j, f, size - LEN / 2 - PIECE, size);
		rw_verify(f);
	}
}

static void punch(const void *p)
{
	const struct rw_file *f = p;

	rw_ok(fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, PUNCH, AT));
}

/* The last part of it is in flight when a hole is punched into its middle. */
static void held(struct job *j)
{
	static const enum rw_state states[] = { RW_WRITTEN, RW_UNWRITTEN };

	if (!rw_has_gate())
		rw_skip("needs a gate");
	for (size_t i = 0; i < RW_ARRAY_SIZE(states); i++) {
		struct rw_file *f = rw_file("file", states[i], SIZE);

		/* Is it supported? And the metadata that it needs is in memory from here on. */
		rw_supported(
			"fallocate",
			fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, PUNCH, AT));
		f = rw_file("file", states[i], SIZE);
		rw_gate_shut();
		write_large(j, f, AT);
		rw_held_by(&rw_whos[0], punch, f, rw_in_flight(1) > 0);
		rw_reap(j->ring);
		rw_then(f, (struct rw_change){ RW_ZERO, PUNCH, AT });
		rw_verify(f);
	}
}

static const struct scene {
	const char *name;
	void (*play)(struct job *j);
} scenes[] = { { "contents", contents }, { "held", held } };

static void run(const void *const *at)
{
	const struct scene *scene = at[0];
	struct job j = { .kind = at[2] };

	j.ring = rw_ring(j.kind, 1);
	allocate(&j, at[1]);
	scene->play(&j);
	rw_ring_close(j.ring);
}

static const struct rw_ring_kind kinds[] = { { .name = "plain" },
					     { .name = "async", .async = true } };

static bool has(const void *const *at)
{
	const struct scene *scene = at[0];
	const struct memory *memory = at[1];
	const struct rw_ring_kind *kind = at[2];

	return !kind->async || (!memory->whole && scene->play == contents);
}

static const char *const guards[] = {
	"4d9cb92ca41d io_uring/rw: fix short rw error handling",
	"838b35bb6a89 io_uring/rw: disable IOCB_DIO_CALLER_COMP",
	NULL,
};

static const char *const groups[] = { "large", NULL };

const struct rw_test rw_test = {
	.name = "large-dio",
	.summary = "direct I/O of several bios is whole, in its place, and waited for to its end",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(scenes), RW_AXIS(memories), RW_AXIS(kinds) },
	.has = has,
	.run = run,
};
