/* SPDX-License-Identifier: MIT */
/*
 * FIFREEZE of the filesystem under direct writes, and direct writes to a frozen one.
 *
 * A write holds the filesystem against a freeze (sb_start_write()) from its submission to its end.
 * freeze_super() must wait for it, and may not need the task that froze to end it: where the hold
 * is let go only by that task's task_work, FIFREEZE sleeps for ever. A submission to a frozen
 * filesystem may not sleep (io_kiocb_start_write()), because the task may be the one to thaw it: the
 * request waits instead, or ends with -EAGAIN if it is RWF_NOWAIT; and it may not be carried out.
 */
#include "ringwedge.h"

#include <sys/mman.h>

#define SIZE (256 * RW_KIB)
#define LEN (32 * RW_KIB)

static void freeze(const void *unused)
{
	(void)unused;
	rw_freeze();
}

static void freeze_and_thaw(const void *times)
{
	for (int i = 0; i < *(const int *)times; i++) {
		rw_freeze();
		rw_thaw();
	}
}

static struct rw_file *start(struct rw_ring *ring, const struct rw_write_kind *kind)
{
	struct rw_file *f = rw_file("file", kind->state, SIZE);

	rw_use(ring, f);
	return f;
}

static void submit(struct rw_ring *ring, struct rw_file *f, const struct rw_write_kind *kind)
{
	rw_write(ring, f, 0, LEN, kind->rwf);
	rw_write(ring, f, kind->extend ? SIZE : SIZE - LEN, LEN, kind->rwf);
}

static void end(struct rw_ring *ring, struct rw_file *f)
{
	rw_thaw();
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
}

/* The writes have come to their end at the device, and nobody has looked. */
static void unreaped(struct rw_ring *ring, const struct rw_who *who,
		     const struct rw_write_kind *kind)
{
	struct rw_file *f = start(ring, kind);

	submit(ring, f, kind);
	rw_done();
	rw_by(who, freeze, NULL);
	end(ring, f);
}

static void in_flight(struct rw_ring *ring, const struct rw_who *who,
		      const struct rw_write_kind *kind)
{
	struct rw_file *f = start(ring, kind);

	if (!rw_has_gate())
		return;
	rw_gate_shut();
	submit(ring, f, kind);
	rw_held_by(who, freeze, NULL, rw_in_flight(2) > 0);
	end(ring, f);
}

static void while_frozen(struct rw_ring *ring, const struct rw_who *who,
			 const struct rw_write_kind *kind)
{
	struct rw_file *f = start(ring, kind);
	struct rw_io read = { .read = true, .off = SIZE / 2, .len = LEN };

	rw_by(who, freeze, NULL);
	rw_submit(ring, f, &read); /* a frozen filesystem can be read */
	rw_reap(ring);
	rw_eq(read.res, LEN);
	submit(ring, f, kind);
	rw_in_flight(0);
	if (rw_is_frozen())
		rw_eq(rw_reap_ready(ring), 0);
	end(ring, f);
}

static void nowait(struct rw_ring *ring, const struct rw_who *who, const struct rw_write_kind *kind)
{
	struct rw_file *f = start(ring, kind);
	struct rw_io write = { .off = SIZE / 2, .len = LEN, .rwf = kind->rwf | RWF_NOWAIT };

	rw_by(who, freeze, NULL);
	rw_submit(ring, f, &write);
	rw_reap(ring);
	rw_not_written(f, &write);
	rw_eq(write.res, -EAGAIN);
	rw_thaw();
	rw_verify(f);
}

static void shrink(const void *p)
{
	rw_ok(ftruncate(((const struct rw_file *)p)->fd, SIZE / 2));
}

/* Who truncates waits for the thaw with nothing done, and nothing held that a read needs. */
static void truncate_frozen(struct rw_ring *ring, const struct rw_who *who,
			    const struct rw_write_kind *kind)
{
	struct rw_file *f = start(ring, kind);
	struct rw_io read = { .read = true, .off = SIZE - LEN, .len = LEN };
	struct rw_helper other;
	struct stat st;

	rw_by(who, freeze, NULL);
	other = rw_start(shrink, f);
	rw_in_flight(0); /* it has come as far as it can */
	rw_ok(fstat(f->fd, &st));
	rw_eq(st.st_size, SIZE);
	rw_submit(ring, f, &read);
	rw_reap(ring);
	rw_eq(read.res, LEN);
	rw_thaw();
	rw_join(other);
	rw_then(f, (struct rw_change){ RW_RESIZE, SIZE / 2 });
	rw_verify(f);
}

static void store(const void *p)
{
	*(volatile char *)p = *(const char *)p;
}

/* A store to a mapping makes a clean page dirty: the fault waits for the thaw. */
static void store_frozen(struct rw_ring *ring, const struct rw_who *who,
			 const struct rw_write_kind *kind)
{
	struct rw_file *f = start(ring, kind);
	char *map = rw_map(f->fd, 0, SIZE);
	struct rw_helper other;

	rw_by(who, freeze, NULL);
	other = rw_start(store, map + SIZE / 2);
	rw_in_flight(0); /* it has come as far as it can */
	if (!rw_asleep_in(other.pid, "handle_mm_fault"))
		rw_fail("a store to a mapping of a file did not wait, with the filesystem frozen");
	submit(ring, f, kind);
	end(ring, f);
	rw_join(other);
	munmap(map, SIZE);
}

/* Frozen and thawed again and again, while the ring's owner writes. */
static void loop(struct rw_ring *ring, const struct rw_who *who, const struct rw_write_kind *kind)
{
	struct rw_file *f = start(ring, kind);
	const int times = 3, once = 1;
	struct rw_helper other;

	if (who->other)
		other = rw_start(freeze_and_thaw, &times);
	for (int i = 0; i < 4; i++) {
		submit(ring, f, kind);
		if (!who->other)
			rw_by(who, freeze_and_thaw, &once);
		rw_reap(ring);
		rw_then(f, (struct rw_change){ RW_KEEP });
	}
	if (who->other)
		rw_join(other);
	rw_verify(f);
}

static const struct when {
	const char *name;
	void (*run)(struct rw_ring *ring, const struct rw_who *who,
		    const struct rw_write_kind *kind);
	bool submits, nowait; /* with the filesystem frozen */
	bool few;	      /* kinds of rings and writes: they make no difference to it */
} whens[] = {
	{ "unreaped", unreaped },
	{ "in-flight", in_flight },
	{ "while-frozen", while_frozen, true },
	{ "nowait", nowait, true, true },
	{ "truncate", truncate_frozen, true, .few = true },
	{ "store", store_frozen, true, .few = true },
	{ "loop", loop },
};

static void run(const void *const *at)
{
	static const int kinds[] = { RW_OVERWRITE, RW_CONVERT, RW_EXTEND };
	const struct when *when = at[0];
	struct rw_ring *ring = rw_ring(at[1], 4);

	for (size_t i = 0; i < RW_ARRAY_SIZE(kinds); i++)
		if (rw_can_make(rw_write_kinds[kinds[i]].state) && !(when->few && i))
			when->run(ring, at[2], &rw_write_kinds[kinds[i]]);
	rw_ring_close(ring);
}

static bool has(const void *const *at)
{
	const struct when *when = at[0];
	const struct rw_ring_kind *kind = at[1];
	const struct rw_who *who = at[2];

	if (when->few && kind != &rw_ring_kinds[0])
		return false;
	if (when->nowait && (kind->aio || kind->async))
		return false; /* io_submit waits for the thaw in any case, and io-wq may */
	return !(when->submits && who->other); /* frozen is frozen, whoever did it */
}

static const char *const guards[] = {
	"1d60d74e8526 io_uring/rw: fix missing NOWAIT check for O_DIRECT start write",
	"b000145e9907 io_uring/rw: defer fsnotify calls to task context (kept the hold, too)",
	NULL,
};

static const char *const groups[] = { "freeze", NULL };
static const char *const needs[] = { "a gate, for whoever thaws", NULL };

const struct rw_test rw_test = {
	.name = "freeze-dio",
	.summary = "a freeze waits for direct writes in flight, and they for the thaw, never for "
		   "each other",
	.guards = guards,
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(whens), RW_AXIS(rw_ring_kinds), RW_AXIS(rw_whos) },
	.has = has,
	.run = run,
};
