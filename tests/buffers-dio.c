/* SPDX-License-Identifier: MIT */
/*
 * Direct I/O from and to any part of registered memory.
 *
 * io_import_fixed() (io_uring/rsrc.c) finds the part by arithmetic: the first page may be a piece
 * of one, what comes behind it is skipped in whole pages. Of huge pages (io_coalesce_buffer()) one piece
 * is a huge page. An offset that is wrong by the first piece, or a part that begins exactly at its end, is
 * data from beside the part, or a read that puts it there.
 */
#include "ringwedge.h"

#define SIZE (256 * RW_KIB)
#define PAGE 4096L
#define ROOM (32 * PAGE)
#define HUGE_ROOM (2 * RW_HUGE)

/* Memory is registered from `base` bytes behind the begin of a page, or of a huge one. */
static const struct base {
	const char *name;
	size_t base;
	bool huge;
} bases[] = {
	{ "page", 0 },
	{ "in-page", 1536 },
	{ "end-of-page", PAGE - 512 },
	{ "huge-page", 0, true },
	{ "in-huge-page", 5 * PAGE + 1536, true },
	{ "end-of-huge-page", RW_HUGE - 512, true },
};

/* A part of it: the begin, from the start of the registered memory or, `pages`, of its first page. */
static const struct part {
	const char *name;
	bool pages;
	size_t off, len;
	enum { EITHER, SMALL, HUGE } memory; /* whose pages it is a part of */
} parts[] = {
	{ "first-sector", false, 0, 512 },
	{ "second-sector", false, 512, 8 * 512 },
	{ "most", false, 0, ROOM - 2 * PAGE },
	{ "all", false, 0, 0, SMALL },
	{ "second-page", true, PAGE, 2 * PAGE, SMALL },
	{ "before-second-page", true, PAGE - 512, PAGE, SMALL },
	{ "within", true, 5 * PAGE + 1024, 3 * PAGE + 512, SMALL },
	{ "last-sector", true, ROOM - 512, 512, SMALL },
	{ "before-second-huge-page", true, RW_HUGE - 512, PAGE, HUGE },
	{ "second-huge-page", true, RW_HUGE, ROOM, HUGE },
	{ "within-second-huge-page", true, RW_HUGE + 7 * PAGE + 1024, 3 * PAGE + 512, HUGE },
	{ "last-sector-of-huge-page", true, HUGE_ROOM - 512, 512, HUGE },
};

static const struct rw_ring_kind kind = { .name = "" };

static void transfer(struct rw_ring *ring, struct rw_file *f, int opcode, const struct iovec *part,
		     long want)
{
	struct io_uring_sqe sqe = { 0 };

	io_uring_prep_rw(opcode, &sqe, f->fd, part->iov_base, (unsigned int)part->iov_len, PAGE);
	rw_queue(ring, &sqe, &(struct rw_op){ "I/O of registered memory", f, want });
	rw_submit_queued(ring, 0);
	rw_reap(ring);
}

/* Around the part nothing may have changed. */
static void check_around(const struct iovec *memory, const struct iovec *part)
{
	const char *from = part->iov_base, *to = from + part->iov_len, *begin = memory->iov_base;

	for (const char *at = begin; at < begin + memory->iov_len; at++)
		if ((at < from || at >= to) && *at != 0x55)
			rw_fail("a read to %zu bytes at %td of registered memory changed the byte "
				"at "
				"%td",
				part->iov_len, from - begin, at - begin);
}

static void one(struct rw_ring *ring, struct rw_file *f, const struct iovec *memory,
		const struct iovec *part)
{
	/* Neither the data that is to be written, nor zeros. */
	memset(memory->iov_base, 0x55, memory->iov_len);
	rw_fill(f, part->iov_base, PAGE, part->iov_len, rw_promise(f, PAGE, part->iov_len));
	transfer(ring, f, IORING_OP_WRITE_FIXED, part, (long)part->iov_len);
	rw_then(f, (struct rw_change){ RW_KEEP });
	memset(memory->iov_base, 0x55, memory->iov_len);
	transfer(ring, f, IORING_OP_READ_FIXED, part, (long)part->iov_len);
	rw_check(f, "read to registered memory", part->iov_base, PAGE, part->iov_len);
	check_around(memory, part);
}

/* What begins before it, or ends behind it, is refused: nothing of it is written, or read. */
static void outside(struct rw_ring *ring, struct rw_file *f, const struct iovec *registered)
{
	const size_t sector = rw_sector_size();
	char *from = registered->iov_base, *to = from + registered->iov_len;
	const struct iovec beyond[] = { { from - sector, 2 * sector },
					{ to - sector, 2 * sector },
					{ to, sector } };

	for (size_t i = 0; i < RW_ARRAY_SIZE(beyond); i++) {
		transfer(ring, f, IORING_OP_WRITE_FIXED, &beyond[i], -EFAULT);
		transfer(ring, f, IORING_OP_READ_FIXED, &beyond[i], -EFAULT);
	}
}

/* Of each page of registered memory the device wants whole sectors (iov_iter_is_aligned()). */
static bool is_part(const struct iovec *part, const struct iovec *registered)
{
	const size_t sector = rw_sector_size();
	const char *from = part->iov_base, *begin = registered->iov_base;

	return part->iov_len % sector == 0 && (uintptr_t)from % sector == 0 && from >= begin;
}

static void run(const void *const *at)
{
	const struct base *b = at[0];
	const size_t sector = rw_sector_size();
	const struct iovec memory = { b->huge ? rw_huge_pages(-1, 2) : rw_map(-1, 0, ROOM),
				      b->huge ? HUGE_ROOM : ROOM };
	const struct iovec registered = { (char *)memory.iov_base + b->base,
					  memory.iov_len - b->base };
	struct rw_ring *ring = rw_ring(&kind, 1);
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);

	rw_set_up(io_uring_register_buffers(rw_uring(ring), &registered, 1) ? -1 : 0);
	for (size_t i = 0; i < RW_ARRAY_SIZE(parts); i++) {
		const struct part *p = &parts[i];
		const struct iovec *from = p->pages ? &memory : &registered;
		struct iovec part = { (char *)from->iov_base + p->off, p->len };

		if (!part.iov_len)
			part.iov_len = registered.iov_len / sector * sector;
		if (p->memory != (b->huge ? SMALL : HUGE) && is_part(&part, &registered))
			one(ring, f, &memory, &part);
	}
	memset(memory.iov_base, 0x55, memory.iov_len);
	outside(ring, f, &registered);
	check_around(&memory, &(struct iovec){ memory.iov_base, 0 });
	rw_verify(f);
	rw_ring_close(ring);
}

static const char *const groups[] = { "fixed", NULL };

const struct rw_test rw_test = {
	.name = "buffers-dio",
	.summary = "direct I/O takes exactly the part of registered memory that it is given",
	.groups = groups,
	.axes = { RW_AXIS(bases) },
	.run = run,
};
