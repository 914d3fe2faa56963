/* SPDX-License-Identifier: MIT */
/*
 * umount -l with direct writes in flight: the filesystem goes when the last of them has ended.
 *
 * MNT_DETACH takes the mount away and waits for nothing. The open files keep the filesystem, and a
 * request keeps its file until it has ended: whoever lets go of the last one - the ring's owner in
 * task_work, a worker of the ring, the end of the ring - unmounts (cleanup_mnt(), deactivate_super()).
 * What lets go earlier has the writes end in a filesystem that is none any more; what forgets to
 * let go has it mounted for ever. On the device there is all that had completed.
 */
#include "ringwedge.h"

#include <sys/mount.h>

#define SIZE (256 * RW_KIB)
#define LEN (32 * RW_KIB)

/* Who lets go of the file as the last one. */
static const struct last {
	const char *name;
	bool closed; /* its descriptor, before */
	bool ring;   /* goes first, with all that it has in flight */
} lasts[] = {
	{ "request", true, false },
	{ "descriptor", false, false },
	{ "ring", true, true },
};

static void run(const void *const *at)
{
	const struct last *last = at[0];
	struct rw_ring *ring = rw_ring(at[1], 2);
	struct rw_own own = { 0 };
	struct rw_file *f;

	if (!rw_has_gate())
		rw_skip("needs a gate, and direct I/O");
	rw_own_make(&own, NULL);
	rw_eq(rw_own_mount(&own, NULL), 0);
	f = rw_file("file", rw_can_make(RW_MIXED) ? RW_MIXED : RW_WRITTEN, SIZE);

	rw_use(ring, f);
	rw_gate_shut();
	rw_write(ring, f, 0, LEN, 0);
	rw_write(ring, f, SIZE - LEN, LEN, 0);
	rw_in_flight(2);
	if (last->closed) {
		close(f->fd);
		f->fd = -1;
	}
	rw_ok(umount2(own.mnt, MNT_DETACH));
	rw_submitted();
	if (!access(rw_path(f), F_OK))
		rw_fail("after umount -l \"%s\" is still there", rw_path(f));
	if (last->ring) {
		rw_gate_open();
		rw_ring_close(ring);
	} else {
		rw_held_reap(ring);
		rw_ring_close(ring);
	}
	if (!last->closed)
		close(f->fd);
	rw_own_gone(&own);
	rw_eq(rw_own_mount(&own, NULL), 0);
	f->fd = (int)rw_ok(open(rw_path(f), O_RDWR | O_DIRECT | O_CLOEXEC));
	/* What a worker had not begun with is cancelled with its ring. */
	(last->ring ? rw_race_cancelled : rw_then)(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
}

static bool has(const void *const *at)
{
	const struct last *last = at[0];
	const struct rw_ring_kind *kind = at[1];

	/* Another task ends a request of each; io_destroy(2) waits. */
	return kind == &rw_ring_kinds[0] ||
	       (last->ring ? kind->fixed : last->closed && (kind->async || kind->aio));
}

static const char *const groups[] = { "remount", NULL };
static const char *const needs[] = { "root", "a gate", NULL };

const struct rw_test rw_test = {
	.name = "umount-dio",
	.summary =
		"a filesystem that was unmounted lazily goes with the last direct write, unharmed",
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(lasts), RW_AXIS(rw_ring_kinds) },
	.has = has,
	.run = run,
};
