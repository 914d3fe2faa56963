/* SPDX-License-Identifier: MIT */
/*
 * Direct writes of less than a filesystem block, two at a time.
 *
 * The first such write to an unwritten block or a hole zeroes the rest of the block. Two of them at
 * once (ext4_dio_write_checks(), xfs_file_dio_write_unaligned() must take turns), or one over an
 * aligned write that is in flight, and the zeros of the one come down on the data of the other.
 */
#include "ringwedge.h"

#define SIZE (256 * RW_KIB)
#define AT (128 * RW_KIB) /* the block that is written in parts */

static const struct where {
	const char *name;
	enum rw_state state;
	bool eof; /* the file ends one sector into the block */
} wheres[] = {
	{ "written", RW_WRITTEN },	    { "unwritten", RW_UNWRITTEN }, { "hole", RW_HOLE },
	{ "across-eof", RW_WRITTEN, true }, { "shared", RW_SHARED },
};

/* In blocks and sectors relative to AT: what is written before, or beside, the part. */
static const struct first {
	const char *name;
	int block, blocks; /* an aligned write; blocks == 0: the first sector of the block */
	bool alone;	   /* nothing but the first sector is written: see alone() */
} firsts[] = {
	{ "beside-part", 0, 0 },
	{ "beside-aligned", -4, 4 },
	{ "over-aligned", -2, 4 },
	{ "alone", .alone = true },
};

struct arg {
	const struct rw_ring_kind *kind;
	struct rw_ring *ring; /* NULL: another task, with a ring of its own */
	struct rw_file *file;
	off_t off;
	size_t len;
	unsigned int promise;
};

static void second(const void *p)
{
	const struct arg *a = p;
	struct rw_ring *ring = a->ring ? a->ring : rw_ring(a->kind, 1);

	rw_use(ring, a->file);
	rw_write_promised(ring, a->file, a->off, a->len, a->promise, 0);
	if (!a->ring)
		rw_reap(ring);
}

/* As far into the block as it goes with one iteration, and across its end with another. */
static size_t part(size_t sectors, bool held)
{
	return held ? sectors : 1 + rw_rand(2 * (unsigned int)sectors - 2);
}

/*
 * A write that zeroes the rest of its block has the inode for itself until it has ended
 * (IOMAP_DIO_FORCE_WAIT, with the lock exclusive): two that only drained each other could both
 * begin. Who may not wait for the lock does not get it, though to read a hole takes no device.
 */
static void alone(struct rw_ring *ring, const struct where *where, size_t size)
{
	const size_t sector = rw_sector_size();
	struct rw_io read = { .read = true, .len = 4096, .rwf = RWF_NOWAIT };
	struct rw_file *f = rw_file("file", where->state, size);
	int tries = 3; /* for what is in flight may be another's, and the write not there yet */

	if (!rw_has_gate() || !(rw_fs() & (RW_XFS | RW_EXT4)) || !rw_can_make(RW_UNWRITTEN))
		rw_skip("needs a gate, and one lock for all direct writes: xfs, ext4 with extents");
	rw_use(ring, f);
	rw_gate_shut();
	rw_write(ring, f, AT, sector, 0);
	do {
		if (!rw_in_flight(1))
			break;
		rw_submit(NULL, f, &read);
	} while (read.res != -EAGAIN && --tries && rw_gate_is_shut());
	if (!tries)
		rw_fail("a write of part of a block is in flight without the inode's lock: a "
			"direct read that may not wait for that had res %ld",
			read.res);
	rw_held_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
}

static void run(const void *const *at)
{
	const struct where *where = at[0];
	const struct first *first = at[1];
	const struct rw_who *who = at[3];
	const size_t sector = rw_sector_size(), block = rw_block_size();
	const size_t sectors = block / sector;
	struct rw_ring *ring = rw_ring(at[2], 4);
	bool gate = rw_has_gate();

	if (sectors < 2)
		rw_skip("needs device sectors (%zu) smaller than a filesystem block (%zu)", sector,
			block);
	if (first->alone) {
		alone(ring, where, SIZE);
		alone(ring, where, AT);
		rw_ring_close(ring);
		return;
	}
	rw_for_ms(15) {
		const size_t size = where->eof ? AT + sector : SIZE;
		struct rw_file *f = rw_file("file", where->state, size);
		/* The part begins with the second sector of the block. */
		struct arg a = { at[2], who->other ? NULL : ring, f, AT + (off_t)sector,
				 sector * part(sectors, gate) };

		rw_use(ring, f);
		if (gate)
			rw_gate_shut();
		if (first->blocks)
			rw_write(ring, f, AT + first->block * (off_t)block,
				 (size_t)first->blocks * block, 0);
		else
			rw_write(ring, f, AT, sector, 0);
		if (gate)
			rw_in_flight(1);
		else
			rw_jitter(100);
		a.promise = rw_promise(f, a.off, a.len);
		if (gate && who->other)
			rw_held_by(who, second, &a, false);
		else
			rw_by(who, second, &a);
		if (gate && !who->other)
			rw_held_reap(ring);
		rw_reap(ring);
		rw_unordered(f);
		rw_verify(f);
		gate = false; /* once held, then free-running */
	}
	rw_ring_close(ring);
}

static bool has(const void *const *at)
{
	const struct where *where = at[0];
	const struct first *first = at[1];
	const struct rw_ring_kind *kind = at[2];
	const struct rw_who *who = at[3];

	/* Only where there is something to zero; io_submit() sleeps until such a write has ended. */
	return !first->alone ||
	       (!who->other && (kind == &rw_ring_kinds[0] || kind->async || kind->fixed) &&
		(where->state == RW_UNWRITTEN || where->state == RW_HOLE));
}

static const char *const guards[] = {
	"eda77982729b xfs: serialise unaligned direct IOs",
	"57a0da28ced8 ext4: fix data corruption caused by overlapping unaligned and aligned IO",
	NULL,
};

static const char *const groups[] = { "unaligned", NULL };
static const char *const needs[] = { "device sectors smaller than a block", NULL };

const struct rw_test rw_test = {
	.name = "unaligned-dio",
	.summary = "direct writes of parts of a block leave the rest of it, and each other, alone",
	.guards = guards,
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(wheres), RW_AXIS(firsts), RW_AXIS(rw_ring_kinds), RW_AXIS(rw_whos) },
	.has = has,
	.run = run,
};
