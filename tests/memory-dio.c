/* SPDX-License-Identifier: MIT */
/*
 * Direct I/O is to, and from, the memory that it was submitted with, whatever its owner does next.
 *
 * The pages are pinned (iov_iter_extract_pages(), FOLL_PIN). fork(2) copies such a page for the child at
 * once (folio_needs_cow_for_dma()): were it shared, the parent's next store to it, beside what a read is to
 * bring, would give the parent another page, and what the read brings would be the child's alone. And
 * memory that was unmapped is given to nobody as long as a write is made from it.
 */
#include "ringwedge.h"

#include <sys/mman.h>

#define SIZE (256 * RW_KIB)
#define AT (64 * RW_KIB)
#define LEN (32 * RW_KIB)
#define ROOM (LEN + 64 * RW_KIB) /* a page of any size more */

struct scene {
	struct rw_ring *ring;
	struct rw_file *file;
	char *memory; /* ROOM bytes, page by page */
	char *buf;    /* LEN bytes of it, from within a page to within another one */
};

static void child(const void *unused)
{
	(void)unused;
	rw_pause();
}

static void make_memory(struct scene *s)
{
	s->memory = rw_map(-1, 0, ROOM);
	memset(s->memory, 0, ROOM);
	s->buf = s->memory + sysconf(_SC_PAGESIZE) / 2;
}

static void submit(const struct scene *s, const struct rw_op *op, int opcode, unsigned int flags)
{
	struct io_uring_sqe sqe;

	io_uring_prep_rw(opcode, &sqe, -1, s->buf, LEN, AT);
	sqe.flags = (uint8_t)flags;
	rw_queue(s->ring, &sqe, op);
	rw_submit_queued(s->ring, 0);
}

static const struct way {
	const char *name;
	int read, write;
	unsigned int flags;
	bool registered;
} ways[] = {
	{ "plain", IORING_OP_READ, IORING_OP_WRITE },
	{ "async", IORING_OP_READ, IORING_OP_WRITE, IOSQE_ASYNC },
	{ "registered", IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED, .registered = true },
};

/* The read is held behind the write to another file. */
static void fork_and_store(struct scene *s, const struct way *way)
{
	const struct rw_op op = { .what = "direct read", .file = s->file, .want = LEN };
	struct rw_file *blocker = rw_file("blocker", RW_WRITTEN, SIZE);
	struct rw_helper h;

	rw_use(s->ring, blocker);
	rw_gate_shut();
	rw_write(s->ring, blocker, 0, LEN, 0);
	rw_in_flight(1);
	rw_queue_held();
	submit(s, &op, way->read, way->flags);
	rw_reads_in_flight(1);
	h = rw_start(child, NULL);
	rw_wait_paused(&h); /* it shares what fork(2) did not copy until it ends */
	s->memory[0] = s->buf[LEN] = 1;
	rw_gate_open();
	rw_reap(s->ring);
	rw_then(blocker, (struct rw_change){ RW_KEEP });
	rw_check(s->file, "direct read", s->buf, AT, LEN);
	rw_eq(s->memory[0] + s->buf[LEN], 2);
	rw_go_on(&h);
	rw_join(h);
}

static void unmap(struct scene *s, const struct way *way)
{
	const struct rw_op op = { .what = "direct write", .file = s->file, .want = LEN };

	rw_fill(s->file, s->buf, AT, LEN, rw_promise(s->file, AT, LEN));
	rw_gate_shut();
	submit(s, &op, way->write, way->flags);
	if (rw_in_flight(1) < 1)
		rw_broken("the device does not hold the write");
	rw_ok(munmap(s->memory, ROOM));
	rw_use_memory();
	rw_gate_open();
	rw_reap(s->ring);
	rw_then(s->file, (struct rw_change){ RW_KEEP });
}

static const struct event {
	const char *name;
	void (*run)(struct scene *s, const struct way *way);
} events[] = {
	{ "fork", fork_and_store },
	{ "unmap", unmap },
};

static void run(const void *const *at)
{
	static const struct rw_ring_kind kind = { .name = "" };
	const struct event *event = at[0];
	const struct way *way = at[1];
	struct scene s = { .ring = rw_ring(&kind, 3) };

	if (rw_fs() == RW_BTRFS)
		rw_skip("needs direct I/O from within a page, for which btrfs takes the page "
			"cache");
	if (!rw_has_gate())
		rw_skip("needs a gate, and direct I/O");
	s.file = rw_file("file", RW_WRITTEN, SIZE);
	rw_use(s.ring, s.file);
	make_memory(&s);
	if (way->registered)
		rw_set_up(io_uring_register_buffers(rw_uring(s.ring), &(struct iovec){ s.buf, LEN },
						    1)
				  ? -1
				  : 0);
	event->run(&s, way);
	rw_verify(s.file);
	rw_ring_close(s.ring);
}

static const char *const guards[] = {
	"008cfe4418b3 mm: Introduce mm_struct.has_pinned",
	"a7e689dd1c06 block: Convert bio_iov_iter_get_pages to use iov_iter_extract_pages",
	NULL,
};

static const char *const groups[] = { NULL };
static const char *const needs[] = { "a gate", NULL };

const struct rw_test rw_test = {
	.name = "memory-dio",
	.summary = "direct I/O is to and from the memory that it was submitted with, whatever "
		   "becomes of that",
	.guards = guards,
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(events), RW_AXIS(ways) },
	.run = run,
};
