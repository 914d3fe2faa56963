/* SPDX-License-Identifier: MIT */
/*
 * XFS: a check of a file's block map while direct writes to it are in flight.
 *
 * XFS_IOC_SCRUB_METADATA waits for them first (xchk_setup_inode_bmap() in fs/xfs/scrub/bmap.c), so
 * that nothing is converted or remapped under it. Without that it looks at a map that the writes
 * are about to change: it returns while they are in flight, or calls a sound file corrupt.
 */
#include "ringwedge.h"

#define SIZE (512 * RW_KIB)

/* As in fs/xfs/libxfs/xfs_fs.h. */
struct scrub {
	uint32_t type, flags;
	uint64_t ino; /* 0: of the descriptor */
	uint32_t gen, agno;
	uint64_t reserved[5];
};
#define XFS_IOC_SCRUB_METADATA _IOWR('X', 60, struct scrub)
#define BMBTD 12	   /* XFS_SCRUB_TYPE_BMBTD, the map of the data fork */
#define CORRUPT (1u << 1)  /* XFS_SCRUB_OFLAG_CORRUPT */
#define XCORRUPT (1u << 4) /* XFS_SCRUB_OFLAG_XCORRUPT: does not fit other metadata */

static int scrub(const struct rw_file *f, struct scrub *s)
{
	*s = (struct scrub){ BMBTD };
	return ioctl(f->fd, XFS_IOC_SCRUB_METADATA, s);
}

static void call(const void *f)
{
	struct scrub s;

	rw_ok(scrub(f, &s));
	rw_eq(s.flags & (CORRUPT | XCORRUPT), 0);
}

static void run(const void *const *at)
{
	static const enum rw_state states[] = { RW_WRITTEN, RW_UNWRITTEN, RW_SHARED };
	struct rw_ring *ring = rw_ring(at[0], 8);
	struct scrub s;

	if (rw_fs() != RW_XFS)
		rw_skip("needs xfs");
	if (!rw_has_gate())
		rw_skip("needs a gate");
	for (size_t i = 0; i < RW_ARRAY_SIZE(states); i++) {
		unsigned int in_flight;
		struct rw_file *f;

		if (!rw_can_make(states[i]))
			continue;
		f = rw_file("file", states[i], SIZE);
		rw_supported("XFS_IOC_SCRUB_METADATA", scrub(f, &s));
		rw_gate_shut();
		rw_use(ring, f);
		rw_write(ring, f, 64 * RW_KIB, 64 * RW_KIB, 0);
		rw_write(ring, f, SIZE, 64 * RW_KIB, 0);
		in_flight = rw_in_flight(rw_unreaped(ring));
		rw_held_by(at[1], call, f, in_flight > 0);
		rw_reap(ring);
		rw_then(f, (struct rw_change){ RW_KEEP });
		rw_verify(f);
	}
	rw_ring_close(ring);
}

static bool has(const void *const *at)
{
	const struct rw_ring_kind *kind = at[0];
	const struct rw_who *who = at[1];

	return !who->other || !kind->aio;
}

static const char *const guards[] = {
	"99d9d8d05da2 xfs: scrub inode block mappings",
	NULL,
};

static const char *const groups[] = { "ioctl", NULL };
static const char *const needs[] = { "xfs", NULL };

const struct rw_test rw_test = {
	.name = "scrub-dio",
	.summary = "a check of a file's block map on xfs waits for direct writes in flight",
	.guards = guards,
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(rw_two_kinds), RW_AXIS(rw_whos) },
	.has = has,
	.run = run,
};
