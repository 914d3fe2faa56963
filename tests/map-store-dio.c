/* SPDX-License-Identifier: MIT */
/*
 * What is stored to a mapping after its blocks were changed under it is in the file.
 *
 * A page that is mapped writable has a block, or a reservation, for all of it (page_mkwrite()). A call or
 * a direct write that gives some of its blocks back, shares them or moves them must take the mapping away
 * or write-protect it, though other blocks of the page stay as they are
 * (ext4_truncate_page_cache_block_range()): else the next store meets no fault, and its data has no block
 * to go to when the page is written back, or goes to one that is not the file's, or not its alone.
 */
#include "ringwedge.h"

#include <linux/fs.h>
#include <sys/mman.h>

#define SIZE (256 * RW_KIB)
#define PAGE 4096L
#define AT (64 * RW_KIB)
#define ELSEWHERE (128 * RW_KIB)
#define LEN (2 * PAGE)

/* The mapping of [AT, AT + LEN), and what has happened to it before. */
static const struct before {
	const char *name;
	bool stored, written_back;
} befores[] = {
	{ "dirty", true, false },
	{ "clean", true, true },
	{ "read", false, false },
};

/* It has ended when this returns. */
static void write_it(struct rw_file *f, off_t off, off_t len)
{
	struct rw_ring *ring = rw_ring(&rw_ring_kinds[0], 1);

	rw_use(ring, f);
	rw_write(ring, f, off, (size_t)len, 0);
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_ring_close(ring);
}

static void shrink_and_grow(struct rw_file *f, off_t off, off_t len)
{
	(void)len;
	rw_ok(ftruncate(f->fd, off));
	rw_then(f, (struct rw_change){ RW_RESIZE, off });
	rw_ok(ftruncate(f->fd, SIZE));
	rw_then(f, (struct rw_change){ RW_RESIZE, SIZE });
}

static void clone_range(struct rw_file *f, off_t from, off_t to, off_t len)
{
	struct file_clone_range range = { .src_fd = f->fd,
					  .src_offset = (uint64_t)from,
					  .src_length = (uint64_t)len,
					  .dest_offset = (uint64_t)to };

	rw_supported("clone", ioctl(f->fd, FICLONERANGE, &range));
	rw_then(f, (struct rw_change){ RW_COPY, to, len, f, from });
}

static void clone_to(struct rw_file *f, off_t off, off_t len)
{
	clone_range(f, ELSEWHERE, off, len);
}

static void clone_from(struct rw_file *f, off_t off, off_t len)
{
	clone_range(f, off, ELSEWHERE, len);
}

static const struct op {
	const char *name;
	void (*call)(struct rw_file *f, off_t off, off_t len); /* NULL: fallocate(2) */
	int mode;
	enum rw_change_kind kind;
} ops[] = {
	{ "direct-write", write_it },
	{ "punch-hole", NULL, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, RW_ZERO },
	{ "zero-range", NULL, FALLOC_FL_ZERO_RANGE, RW_ZERO },
	{ "collapse-range", NULL, FALLOC_FL_COLLAPSE_RANGE, RW_COLLAPSE },
	{ "insert-range", NULL, FALLOC_FL_INSERT_RANGE, RW_INSERT },
	{ "shrink", shrink_and_grow },
	{ "clone-to", clone_to },
	{ "clone-from", clone_from },
};

static void store(struct rw_file *f, char *map, off_t off, off_t len)
{
	rw_fill(f, map + off, off, (size_t)len, rw_promise(f, off, (size_t)len));
	rw_then(f, (struct rw_change){ RW_KEEP });
}

/* The blocks are changed, and then stored to; the others of their pages are as they were. */
static void step(const struct before *before, const struct op *op, off_t off, off_t len)
{
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);
	char *map = rw_map(f->fd, 0, SIZE);

	for (off_t at = AT; at < AT + LEN; at += PAGE)
		(void)*(const volatile char *)(map + at);
	if (before->stored)
		store(f, map, AT, LEN);
	if (before->written_back)
		rw_ok(msync(map, SIZE, MS_SYNC));
	if (op->call) {
		op->call(f, off, len);
	} else {
		rw_supported("fallocate", fallocate(f->fd, op->mode, off, len));
		rw_then(f, (struct rw_change){ op->kind, off, len });
	}
	store(f, map, off, len);
	rw_check(f, "read through a mapping", map, 0, SIZE - len); /* as short as it may be now */
	rw_ok(msync(map, SIZE, MS_SYNC));
	rw_verify(f);
	munmap(map, SIZE);
}

static void run(const void *const *at)
{
	const struct op *op = at[1];
	const off_t block = (off_t)rw_block_size();

	if (block >= PAGE) { /* whole pages */
		step(at[0], op, AT, block);
		return;
	}
	step(at[0], op, AT, block);
	step(at[0], op, AT + PAGE - block, block);
	step(at[0], op, AT + PAGE - block, 2 * block);
}

static const char *const guards[] = {
	"17207d0bb209 ext4: remove writable userspace mappings before dropping page cache",
	NULL,
};

static const char *const groups[] = { "cache", NULL };

const struct rw_test rw_test = {
	.name = "map-store-dio",
	.summary = "what is stored to a mapping after its blocks were changed is in the file",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(befores), RW_AXIS(ops) },
	.run = run,
};
