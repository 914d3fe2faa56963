/* SPDX-License-Identifier: MIT */
/*
 * f2fs: the garbage collection of a file's blocks with direct writes to them in flight.
 *
 * gc_data_segment() reads a block into the page cache and writes it elsewhere. It waits for direct
 * writes to the file first. Without that, what it moves is what the block held before, and the write
 * ends in a block that is the file's no more: lost, or in another file.
 */
#include "ringwedge.h"

#include <linux/fs.h>

#define SIZE (512 * RW_KIB)
#define AT (64 * RW_KIB)
#define LEN (64 * RW_KIB)
#define SEGMENT (2048 * RW_KIB)
#define TRIES 5

/* As in fs/f2fs/f2fs.h's uapi part, linux/f2fs.h. */
struct gc_range {
	uint32_t sync;
	uint64_t start, len; /* in blocks of the device */
};
#define F2FS_IOC_GARBAGE_COLLECT_RANGE _IOW(0xf5, 11, struct gc_range)

struct arg {
	struct rw_file *file;
	int block; /* of the device, in the segment to collect */
};

/* Where the file begins. */
static int block_of(const struct rw_file *f)
{
	int block = 0;

	if (ioctl(f->fd, FIBMAP, &block)) {
		if (errno == EPERM)
			rw_skip("needs CAP_SYS_RAWIO");
		rw_broken("FIBMAP: %s", strerror(errno));
	}
	return block;
}

static void collect(const void *p)
{
	const struct arg *a = p;
	struct gc_range r = { 1, (uint64_t)a->block, 1 };
	int ret;

	rw_enter("F2FS_IOC_GARBAGE_COLLECT_RANGE");
	ret = ioctl(a->file->fd, F2FS_IOC_GARBAGE_COLLECT_RANGE, &r);
	if (ret && errno == EAGAIN)
		ret = 0; /* not all of the segment is free now */
	rw_leave("F2FS_IOC_GARBAGE_COLLECT_RANGE", ret, RW_FAIL, __FILE__, __LINE__);
}

/* In a segment that is neither full nor the one that is being filled. */
static struct arg make(void)
{
	struct arg a = { rw_file("file", RW_WRITTEN, SIZE), 0 };
	struct rw_file *filler = rw_file("filler", RW_WRITTEN, 2 * SEGMENT);

	rw_set_up(ftruncate(filler->fd, 0));
	rw_set_up(syncfs(filler->fd));
	a.block = block_of(a.file);
	return a;
}

/* Were the blocks moved? */
static bool held(struct rw_ring *ring, const struct rw_who *who)
{
	struct arg a = make();
	struct rw_file *f = a.file;
	unsigned int n;

	rw_use(ring, f);
	rw_gate_shut();
	rw_write(ring, f, AT, LEN, 0);
	rw_write(ring, f, SIZE - LEN, LEN, 0);
	n = rw_unreaped(ring);
	/* With a submission on its way the file is passed over: its blocks cannot be moved. */
	rw_held_by(who, collect, &a, rw_in_flight(n) == n);
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
	return block_of(f) != a.block;
}

static void run(const void *const *at)
{
	struct rw_ring *ring = rw_ring(at[0], 2);
	bool moved = false;

	if (rw_fs() != RW_F2FS)
		rw_skip("needs f2fs");
	if (!rw_has_gate())
		rw_skip("needs a gate");
	for (int i = 0; i < TRIES && !moved; i++)
		moved = held(ring, at[1]);
	if (!moved)
		rw_broken("nothing was collected, %d times", TRIES);
	rw_ring_close(ring);
}

static bool has(const void *const *at)
{
	const struct rw_ring_kind *kind = at[0];
	const struct rw_who *who = at[1];

	return !who->other || !kind->aio;
}

static const char *const guards[] = {
	"82e0a5aa5ddf f2fs: fix to avoid data update racing between GC and DIO",
	NULL,
};

static const char *const groups[] = { "ioctl", NULL };
static const char *const needs[] = { "f2fs", NULL };

const struct rw_test rw_test = {
	.name = "gc-dio",
	.summary = "garbage collection on f2fs waits for direct writes in flight",
	.guards = guards,
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(rw_ring_kinds), RW_AXIS(rw_whos) },
	.has = has,
	.run = run,
};
