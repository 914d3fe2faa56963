/* SPDX-License-Identifier: MIT */
/*
 * A direct write that crosses the end, or begins there, moves the end to its own, with its data.
 *
 * A write from unwritten blocks before the end to ones behind it has its extents to convert and its
 * file to extend: who does but one of it when it ends (ext4_handle_inode_extension()) leaves zeros.
 * With write(2) the position goes with it, be it at the end or, by O_APPEND, to be put there: iomap
 * moves ki_pos when it has written (iomap_dio_complete()). A ring does the same for offset -1, whoever
 * did the write (io_uring_enter(2); kiocb_done()): else a second write goes over the first.
 */
#include "ringwedge.h"

#define SIZE (256 * RW_KIB)
#define LEN (32 * RW_KIB)

static void across_the_end(const struct rw_ring_kind *kind)
{
	struct rw_ring *ring = rw_ring(kind, 1);
	struct rw_file *f;

	if (!rw_can_make(RW_UNWRITTEN))
		rw_skip("needs fallocate");
	f = rw_file("file", RW_UNWRITTEN, SIZE);
	rw_use(ring, f);
	rw_only_grows(ring);
	rw_set_up(fallocate(f->fd, FALLOC_FL_KEEP_SIZE, SIZE, SIZE));
	rw_write(ring, f, SIZE - LEN / 2, LEN, 0);
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
	rw_ring_close(ring);
}

/* By write(2), each where the last one ended, and with O_APPEND. */
static void by_position(const struct rw_ring_kind *kind)
{
	struct rw_file *f = rw_file("file", RW_SHRUNK, SIZE);
	char *buf = aligned_alloc(4096, LEN);

	(void)kind;
	if (!buf)
		rw_broken("out of memory");
	rw_set_up(lseek(f->fd, SIZE, SEEK_SET));
	for (int i = 0; i < 4; i++) {
		const off_t off = SIZE + i * LEN;

		if (i == 2) { /* at once, and the position is left out of it */
			rw_set_up(fcntl(f->fd, F_SETFL, O_DIRECT | O_APPEND));
			rw_set_up(lseek(f->fd, 0, SEEK_SET));
		}
		rw_fill(f, buf, off, LEN, rw_promise(f, off, LEN));
		rw_eq(rw_ok(write(f->fd, buf, LEN)), LEN);
		rw_eq(rw_ok(lseek(f->fd, 0, SEEK_CUR)), off + LEN);
	}
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
	free(buf);
}

/* By a ring, at offset -1: two in a chain, the second where the first one ended. */
static void chain(const struct rw_ring_kind *kind, off_t from, size_t len, bool held)
{
	struct rw_ring *ring = rw_ring(kind, 2);
	struct rw_file *f = rw_file("file", RW_SHRUNK, SIZE);
	char *buf = aligned_alloc(4096, 2 * LEN);

	if (!buf)
		rw_broken("out of memory");
	rw_set_up(lseek(f->fd, from, SEEK_SET));
	for (int i = 0; i < 2; i++) {
		const off_t off = from + i * (off_t)len;
		struct io_uring_sqe sqe = { 0 };

		rw_fill(f, buf + i * LEN, off, len, rw_promise(f, off, len));
		io_uring_prep_rw(IORING_OP_WRITE, &sqe, f->fd, buf + i * LEN, (unsigned int)len,
				 (uint64_t)-1);
		sqe.flags = i ? 0 : IOSQE_IO_LINK;
		rw_queue(ring, &sqe, &(struct rw_op){ "write", f, (long)len });
	}
	if (held)
		rw_gate_shut();
	rw_submit_queued(ring, 0);
	if (held) {
		rw_in_flight(1);
		rw_gate_open();
	}
	rw_reap(ring);
	rw_eq(rw_ok(lseek(f->fd, 0, SEEK_CUR)), from + 2 * (off_t)len);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
	rw_ring_close(ring);
	free(buf);
}

/* Parts of a block at the end: a worker of io-wq does them, and waits. */
static void chain_of_sectors(const struct rw_ring_kind *kind)
{
	chain(kind, SIZE, rw_sector_size(), false);
}

/* Overwrites: the first is in flight when the submission returns. */
static void chain_of_blocks(const struct rw_ring_kind *kind)
{
	if (!rw_has_gate())
		rw_skip("needs a gate, and direct I/O");
	chain(kind, 0, LEN, true);
}

/*
 * From written blocks into a hole, where the file has grown by ftruncate(2). Without extents the hole's
 * part is for the page cache, once the other one has ended (-ENOTBLK in __iomap_dio_rw()).
 */
static void into_hole(const struct rw_ring_kind *kind)
{
	struct rw_ring *ring = rw_ring(kind, 1);
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);

	rw_set_up(ftruncate(f->fd, 2 * SIZE));
	rw_then(f, (struct rw_change){ RW_RESIZE, 2 * SIZE });
	if (rw_has_gate())
		rw_gate_shut();
	rw_write(ring, f, SIZE - LEN / 2, LEN, 0);
	if (rw_has_gate()) {
		rw_in_flight(1);
		rw_gate_open();
	}
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
	rw_ring_close(ring);
}

static const struct scene {
	const char *name;
	void (*play)(const struct rw_ring_kind *kind);
	bool every_kind; /* of ring */
} scenes[] = {
	{ "across-the-end", across_the_end, true },
	{ "by-position", by_position },
	{ "chain-of-sectors", chain_of_sectors },
	{ "chain-of-blocks", chain_of_blocks },
	{ "into-hole", into_hole },
};

static void run(const void *const *at)
{
	const struct scene *scene = at[0];

	scene->play(at[1]);
}

static bool has(const void *const *at)
{
	const struct scene *scene = at[0];

	return scene->every_kind || at[1] == &rw_ring_kinds[0];
}

static const char *const groups[] = { "append", NULL };

const struct rw_test rw_test = {
	.name = "append-end-dio",
	.summary = "direct writes move the end of a file, and its position, to where they end",
	.groups = groups,
	.axes = { RW_AXIS(scenes), RW_AXIS(rw_ring_kinds) },
	.has = has,
	.run = run,
};
