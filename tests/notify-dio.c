/* SPDX-License-Identifier: MIT */
/*
 * Who watches a file hears of asynchronous direct I/O (inotify(7)).
 *
 * The event comes when the request has ended, not before: who was told looks for what is new. And it comes
 * before the completion (io_req_io_notify() of io_uring/rw.c, from kiocb_done() or in task_work;
 * io_fallocate()), so that what a program has heard of, its watchers have, too. libaio tells nobody
 * (fs/aio.c), nor does a ring that polls.
 */
#include "ringwedge.h"

#include <sys/inotify.h>

#define SIZE (256 * RW_KIB)
#define LEN (32 * RW_KIB)

/* All events that are there, as one mask. */
static uint32_t events(int watch)
{
	struct inotify_event event;
	uint32_t mask = 0;

	while (read(watch, &event, sizeof(event)) == sizeof(event))
		mask |= event.mask;
	return mask;
}

static void expect(int watch, const char *what, uint32_t want)
{
	const uint32_t got = events(watch);

	if (got != want)
		rw_fail("%s: inotify has events 0x%x, expected 0x%x (IN_ACCESS 1, IN_MODIFY 2)",
			what, got, want);
}

static void write_at(struct rw_ring *ring, struct rw_file *f, int watch, off_t off, int rwf)
{
	if (rw_has_gate())
		rw_gate_shut();
	rw_write(ring, f, off, LEN, rwf);
	if (rw_has_gate()) {
		rw_in_flight(1);
		expect(watch, "a direct write in flight", 0);
		rw_gate_open();
	}
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	expect(watch, "a direct write that completed", IN_MODIFY);
}

static void reads(struct rw_ring *ring, struct rw_file *f, int watch)
{
	struct rw_io read = { .read = true, .len = LEN };

	rw_submit(ring, f, &read);
	rw_reap(ring);
	rw_eq(read.res, LEN);
	expect(watch, "a direct read that completed", IN_ACCESS);
}

static void allocation(struct rw_ring *ring, struct rw_file *f, int watch)
{
	rw_ring_fsync(ring, f, false);
	rw_reap(ring);
	expect(watch, "an fsync", 0);
	rw_ring_fallocate(ring, f, 0, 0, 4 * SIZE, false);
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_GROW, 0, 4 * SIZE });
	expect(watch, "a fallocate that completed", IN_MODIFY);
}

static void run(const void *const *at)
{
	static const int kinds[] = { RW_OVERWRITE, RW_CONVERT, RW_SYNCED, RW_EXTEND };

	for (size_t i = 0; i < RW_ARRAY_SIZE(kinds); i++) {
		const struct rw_write_kind *kind = &rw_write_kinds[kinds[i]];
		struct rw_ring *ring;
		struct rw_file *f;
		int watch;

		if (!rw_can_make(kind->state))
			continue;
		ring = rw_ring(at[0], 1);
		watch = (int)rw_set_up(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
		f = rw_file("file", kind->state, SIZE);
		rw_use(ring, f);
		rw_set_up(inotify_add_watch(watch, rw_path(f), IN_MODIFY | IN_ACCESS));
		write_at(ring, f, watch, 0, kind->rwf);
		write_at(ring, f, watch, kind->extend ? SIZE : SIZE - LEN, kind->rwf);
		reads(ring, f, watch);
		if (rw_can_make(RW_UNWRITTEN))
			allocation(ring, f, watch);
		rw_set_up(close(watch)); /* before its own cached reads */
		rw_verify(f);
		rw_ring_close(ring);
	}
}

static bool has(const void *const *at)
{
	return !((const struct rw_ring_kind *)at[0])->aio;
}

static const char *const guards[] = {
	"f63cf5192fe3 io_uring: ensure that fsnotify is always called",
	"b000145e9907 io_uring/rw: defer fsnotify calls to task context",
	NULL,
};

static const char *const groups[] = { NULL };

const struct rw_test rw_test = {
	.name = "notify-dio",
	.summary = "who watches a file hears of direct I/O when it ends, before who submitted it",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(rw_ring_kinds) },
	.has = has,
	.run = run,
};
