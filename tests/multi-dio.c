/* SPDX-License-Identifier: MIT */
/*
 * Many rings, many tasks, one inode.
 *
 * An operation on the file must wait for the direct writes of all rings, whoever polls, works or
 * waits for them: each ring's own, or a poller or io-wq that several share (IORING_SETUP_ATTACH_WQ).
 * A completion that goes to the wrong ring or task, or that wakes nobody, is a hang.
 */
#include "ringwedge.h"

#include <linux/falloc.h>

#define SIZE (512 * RW_KIB)
#define LEN (16 * RW_KIB)
#define RINGS 6 /* and the tasks, and the files */
#define APART (64 * RW_KIB)

static void punch(const void *p)
{
	rw_ok(fallocate(((const struct rw_file *)p)->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			0, SIZE / 2));
}

static const struct rw_change punched = { RW_ZERO, 0, SIZE / 2 };

/* With `n` writes submitted behind a shut gate: punch, which waits for all of them. */
static unsigned int punch_held(struct rw_file *f, unsigned int n)
{
	unsigned int held = rw_has_gate() ? rw_in_flight(n) : 0;

	if (rw_has_gate())
		rw_held_by(&rw_whos[0], punch, f, held > 0);
	else
		punch(f);
	return held;
}

static struct rw_file *start(const char *name)
{
	struct rw_file *f = rw_file(name, RW_WRITTEN, SIZE);

	rw_supported("fallocate", fallocate(f->fd, 0, 0, SIZE));
	punch(f); /* reads the metadata that it needs */
	return rw_file(name, RW_WRITTEN, SIZE);
}

static void shut(void)
{
	if (rw_has_gate())
		rw_gate_shut();
}

static void check(struct rw_file *f, bool all_held)
{
	(all_held ? rw_then : rw_race)(f, punched);
	rw_verify(f);
}

static void reap_all(struct rw_ring **ring, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		rw_reap(ring[i]);
	for (unsigned int i = n; i-- > 0;)
		rw_ring_close(ring[i]);
}

/* A write by each of the rings, to the same file. */
static void write_and_punch(struct rw_ring **ring, unsigned int n, struct rw_file *f)
{
	unsigned int held;

	shut();
	for (unsigned int i = 0; i < n; i++)
		rw_write(ring[i], f, i * APART, LEN, 0);
	held = punch_held(f, n);
	reap_all(ring, n);
	check(f, held == n);
}

/* A ring of each kind, one task. */
static void rings(void)
{
	struct rw_file *f = start("file");
	struct rw_ring *ring[RW_ARRAY_SIZE(rw_ring_kinds)];

	for (unsigned int i = 0; i < RW_ARRAY_SIZE(ring); i++) {
		ring[i] = rw_ring(&rw_ring_kinds[i], 1);
		rw_use(ring[i], f);
	}
	write_and_punch(ring, RW_ARRAY_SIZE(ring), f);
}

/* Rings that have their poller, or their workers, from the first one. */
static void beside(const struct rw_ring_kind *kind)
{
	struct rw_file *f = start("file");
	struct rw_ring *ring[RINGS] = { rw_ring(kind, 2) };

	for (unsigned int i = 1; i < RINGS; i++)
		ring[i] = rw_ring_beside(ring[0], 2);
	write_and_punch(ring, RINGS, f);
}

static void poller(void)
{
	beside(&rw_ring_kinds[3]);
}

static void workers(void)
{
	beside(&rw_ring_kinds[4]);
}

struct writer {
	struct rw_file *file;
	const struct rw_ring_kind *kind;
	off_t off;
	unsigned int promise;
};

static void write_one(const void *p)
{
	const struct writer *w = p;
	struct rw_ring *ring = rw_ring(w->kind, 1);

	rw_use(ring, w->file);
	rw_write_promised(ring, w->file, w->off, LEN, w->promise, 0);
	rw_reap(ring);
	rw_ring_close(ring);
}

/* Tasks, each with a ring of its own, that wait for their writes while this one punches. */
static void tasks(void)
{
	struct rw_file *f = start("file");
	struct rw_helper helper[RINGS];
	struct writer w[RINGS];
	unsigned int held;

	shut();
	for (unsigned int i = 0; i < RINGS; i++) {
		w[i] = (struct writer){ f, &rw_ring_kinds[i], i * APART,
					rw_promise(f, i * APART, LEN) };
		helper[i] = rw_start(write_one, &w[i]);
	}
	held = punch_held(f, RINGS);
	for (unsigned int i = 0; i < RINGS; i++)
		rw_join(helper[i]);
	check(f, held == RINGS);
}

/* Writes to many files through one ring: each file waits for its own. */
static void files(void)
{
	static const char *const names[RINGS] = { "a", "b", "c", "d", "e", "f" };
	struct rw_ring *ring = rw_ring(&rw_ring_kinds[2], RINGS);
	struct rw_file *f[RINGS];
	unsigned int held;

	for (unsigned int i = 0; i < RINGS; i++)
		f[i] = start(names[i]);
	shut();
	for (unsigned int i = 0; i < RINGS; i++)
		rw_write(ring, f[i], i * APART, LEN, 0);
	held = punch_held(f[0], RINGS);
	rw_reap(ring);
	for (unsigned int i = 0; i < RINGS; i++) {
		(held == RINGS ? rw_then : rw_race)(f[i],
						    i ? (struct rw_change){ RW_KEEP } : punched);
		rw_verify(f[i]);
	}
	rw_ring_close(ring);
}

static const struct scene {
	const char *name;
	void (*play)(void);
} scenes[] = {
	{ "rings", rings }, { "shared-poller", poller }, { "shared-workers", workers },
	{ "tasks", tasks }, { "files", files },
};

static void run(const void *const *at)
{
	((const struct scene *)at[0])->play();
}

static const char *const guards[] = {
	"838b35bb6a89 io_uring/rw: disable IOCB_DIO_CALLER_COMP",
	NULL,
};

static const char *const groups[] = { "multi", NULL };

const struct rw_test rw_test = {
	.name = "multi-dio",
	.summary = "direct writes of many rings and tasks to one inode end for whoever waits",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(scenes) },
	.run = run,
};
