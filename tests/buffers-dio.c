/* SPDX-License-Identifier: MIT */
/*
 * Direct I/O from and to any part of registered memory.
 *
 * io_import_fixed() (io_uring/rsrc.c) finds the part by arithmetic: the first page may be a piece
 * of one, what comes behind it is skipped in whole pages. An offset that is wrong by the first
 * piece, or a part that begins exactly at its end, is data from beside the part, or a read that
 * puts it there.
 */
#include "ringwedge.h"

#include <sys/mman.h>

#define SIZE (256 * RW_KIB)
#define PAGE 4096L
#define ROOM (32 * PAGE)

/* Memory is registered from `base` bytes behind the begin of a page. */
static const struct base {
	const char *name;
	size_t base;
} bases[] = { { "page", 0 }, { "in-page", 1536 }, { "end-of-page", PAGE - 512 } };

/* A part of it: the begin, from the start of the registered memory or, `pages`, of its first page. */
static const struct part {
	const char *name;
	bool pages;
	size_t off, len;
} parts[] = {
	{ "all", false, 0, 0 },
	{ "first-sector", false, 0, 512 },
	{ "second-sector", false, 512, 8 * 512 },
	{ "second-page", true, PAGE, 2 * PAGE },
	{ "before-second-page", true, PAGE - 512, PAGE },
	{ "within", true, 5 * PAGE + 1024, 3 * PAGE + 512 },
	{ "last-sector", true, ROOM - 512, 512 },
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
static void check_around(const char *memory, const struct iovec *part)
{
	const char *from = part->iov_base, *to = from + part->iov_len;

	for (const char *at = memory; at < memory + ROOM; at++)
		if ((at < from || at >= to) && *at != 0x55)
			rw_fail("a read to %zu bytes at %td of registered memory changed the byte "
				"at "
				"%td",
				part->iov_len, from - memory, at - memory);
}

static void one(struct rw_ring *ring, struct rw_file *f, char *memory, const struct iovec *part)
{
	/* Neither the data that is to be written, nor zeros. */
	memset(memory, 0x55, ROOM);
	rw_fill(f, part->iov_base, PAGE, part->iov_len, rw_promise(f, PAGE, part->iov_len));
	transfer(ring, f, IORING_OP_WRITE_FIXED, part, (long)part->iov_len);
	rw_then(f, (struct rw_change){ RW_KEEP });
	memset(memory, 0x55, ROOM);
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

static void run(const void *const *at)
{
	const size_t base = ((const struct base *)at[0])->base, sector = rw_sector_size();
	char *memory = mmap(NULL, ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct rw_ring *ring = rw_ring(&kind, 1);
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);
	struct iovec iov;

	if (memory == MAP_FAILED)
		rw_broken("out of memory");
	iov = (struct iovec){ memory + base, ROOM - base };
	rw_set_up(io_uring_register_buffers(rw_uring(ring), &iov, 1) ? -1 : 0);
	for (size_t i = 0; i < RW_ARRAY_SIZE(parts); i++) {
		const struct part *p = &parts[i];
		struct iovec part = { memory + p->off + (p->pages ? 0 : base), p->len };

		if (!part.iov_len)
			part.iov_len = (ROOM - base) / sector * sector;
		/* Of each page of registered memory the device wants whole sectors (iov_iter_is_aligned()). */
		if (part.iov_len % sector || (uintptr_t)part.iov_base % sector ||
		    part.iov_base < iov.iov_base)
			continue;
		one(ring, f, memory, &part);
	}
	memset(memory, 0x55, ROOM);
	outside(ring, f, &iov);
	check_around(memory, &(struct iovec){ memory, 0 });
	rw_verify(f);
	rw_ring_close(ring);
	munmap(memory, ROOM);
}

static const char *const groups[] = { "fixed", NULL };

const struct rw_test rw_test = {
	.name = "buffers-dio",
	.summary = "direct I/O takes exactly the part of registered memory that it is given",
	.groups = groups,
	.axes = { RW_AXIS(bases) },
	.run = run,
};
