/* SPDX-License-Identifier: MIT */
/*
 * A direct read to a mapping, which msync(2) writes back while the read is in flight.
 *
 * The pages are made dirty when the read is submitted (bio_set_pages_dirty()), for what comes later.
 * Written back before that, they are clean and hold old data: when the read has ended they must be made
 * dirty once more (bio_check_pages_dirty()). Otherwise what was read is there only until the pages are
 * reclaimed, and then it is as if nobody had read.
 */
#include "ringwedge.h"

#include <sys/mman.h>

#define SIZE (256 * RW_KIB)
#define LEN (64 * RW_KIB)

static const struct state {
	const char *name;
	enum rw_state state;
} states[] = {
	{ "one-extent", RW_WRITTEN },
	{ "extents", RW_MIXED },
};

static void submit_read(struct rw_ring *ring, struct rw_file *f, void *to)
{
	struct io_uring_sqe sqe = { 0 };

	io_uring_prep_rw(IORING_OP_READ, &sqe, f->fd, to, LEN, 0);
	rw_queue(ring, &sqe, &(struct rw_op){ "read to a mapping", f, LEN });
	rw_submit_queued(ring, 0);
}

static void run(const void *const *at)
{
	static char buf[LEN];
	static const struct rw_ring_kind plain = { .name = "" };
	const struct state *s = at[0];
	struct rw_ring *ring = rw_ring(&plain, 2);
	struct rw_file *f = rw_file("file", rw_can_make(s->state) ? s->state : RW_WRITTEN, SIZE);
	struct rw_file *blocker = rw_file("blocker", RW_WRITTEN, SIZE);
	/* Of another filesystem: to write this one back would wait for the gate. */
	int device = rw_own_device(LEN);
	char *map = rw_map(device, 0, LEN);

	rw_use(ring, f);
	rw_use(ring, blocker);
	memset(map, 0x55, LEN);
	if (rw_has_gate()) { /* the read is held behind a write */
		rw_gate_shut();
		rw_write(ring, blocker, 0, 16 * RW_KIB, 0);
		if (rw_in_flight(1))
			rw_queue_held();
	}
	submit_read(ring, f, map);
	if (rw_has_gate())
		rw_reads_in_flight(1);
	rw_ok(msync(map, LEN, MS_SYNC));
	(rw_has_gate() ? rw_held_reap : rw_reap)(ring);
	rw_then(blocker, (struct rw_change){ RW_KEEP });
	rw_check(f, "direct read to a mapping", map, 0, LEN);
	munmap(map, LEN);
	/* Write back what is dirty, and read it again: what is not is lost. */
	rw_ok(fsync(device));
	rw_set_up(posix_fadvise(device, 0, 0, POSIX_FADV_DONTNEED) ? -1 : 0);
	rw_eq(rw_ok(pread(device, buf, LEN, 0)), LEN);
	rw_check(f, "direct read to a mapping, written back and read again,", buf, 0, LEN);
	rw_ring_close(ring);
}

static const char *const groups[] = { "read", NULL };

const struct rw_test rw_test = {
	.name = "mapped-read-dio",
	.summary = "what a direct read brings into a mapping is written back",
	.groups = groups,
	.axes = { RW_AXIS(states) },
	.run = run,
};
