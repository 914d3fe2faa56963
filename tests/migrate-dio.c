/* SPDX-License-Identifier: MIT */
/*
 * ext4: a file that goes over from extents to indirect blocks and back under direct writes to it.
 *
 * chattr -e (ext4_ind_migrate()) and +e, or EXT4_IOC_MIGRATE (ext4_ext_migrate()), keep the blocks and
 * do not wait for what is in flight to them. Indirect blocks cannot be unwritten: a file that has such
 * blocks, be it that a write in flight is to convert them, must be refused, or what was in them is
 * seen. Nor may the end of a write bring back the map that it has begun with.
 */
#include "ringwedge.h"

#include <linux/fs.h>

#define BLOCKS 12 /* more do not fit into the inode, and are refused */

/* As in fs/ext4/ext4.h, which is no header of Debian 12's kernel. */
#define EXT4_IOC_MIGRATE _IO('f', 9)
#define EXT4_IOC_CLEAR_ES_CACHE _IO('f', 40) /* Linux 5.4 */

static int flags_of(const struct rw_file *f)
{
	int flags;

	rw_ok(ioctl(f->fd, FS_IOC_GETFLAGS, &flags));
	return flags;
}

static int set(const struct rw_file *f, int flags)
{
	return ioctl(f->fd, FS_IOC_SETFLAGS, &flags);
}

static int to_indirect(const struct rw_file *f)
{
	return set(f, flags_of(f) & ~FS_EXTENT_FL);
}

static int to_extents(const struct rw_file *f)
{
	return set(f, flags_of(f) | FS_EXTENT_FL);
}

static int migrate(const struct rw_file *f)
{
	return ioctl(f->fd, EXT4_IOC_MIGRATE);
}

static const struct op {
	const char *name;
	int (*call)(const struct rw_file *f);
	enum rw_state state;
	bool indirect; /* it is, before */
	int error;
} ops[] = {
	{ "to-indirect", to_indirect, RW_WRITTEN },
	{ "unwritten-to-indirect", to_indirect, RW_UNWRITTEN, false, EOPNOTSUPP },
	{ "hole-to-indirect", to_indirect, RW_HOLE, false, EOPNOTSUPP },
	{ "to-extents", to_extents, RW_WRITTEN, true },
	{ "migrate", migrate, RW_WRITTEN, true },
};

struct arg {
	const struct op *op;
	struct rw_file *file;
	bool known; /* what must come of it */
};

static void call(const void *p)
{
	const struct arg *a = p;
	const bool extents = a->op->indirect == !a->op->error;
	int ret;

	rw_enter(a->op->name);
	ret = a->op->call(a->file);
	if (!a->known || (a->op->error && !rw_gate_is_shut()))
		return; /* the writes may have ended before, or after */
	if (a->op->error && !ret)
		rw_fail("chattr -e succeeded, with direct writes to unwritten blocks in flight");
	rw_eq(ret ? errno : 0, a->op->error);
	rw_eq(!!(flags_of(a->file) & FS_EXTENT_FL), extents);
}

static void held(struct rw_ring *ring, const struct op *op)
{
	const size_t block = rw_block_size();
	struct rw_file *f = rw_file("file", RW_WRITTEN, BLOCKS * block);
	struct arg arg = { op, f };

	/* Is it supported, by this very file? And what it reads is in memory from here on. */
	rw_supported("chattr -e", to_indirect(f));
	rw_supported("EXT4_IOC_MIGRATE", migrate(f));
	if (op->state != RW_WRITTEN)
		rw_file("file", op->state, BLOCKS * block);
	if (op->indirect)
		rw_set_up(to_indirect(f));
	rw_use(ring, f);
	rw_gate_shut();
	/* Of unwritten blocks all, or there are two extents, which do not fit in any case. */
	rw_write(ring, f, 0, (op->error ? BLOCKS : 2) * block, 0);
	if (!op->error)
		rw_write(ring, f, 8 * (off_t)block, 2 * block, 0);
	arg.known = rw_in_flight(rw_unreaped(ring)) == rw_unreaped(ring);
	rw_held_by(&rw_whos[0], call, &arg, false);
	rw_reap(ring);
	/* Or what is read is found by the map as it was, which is remembered. What was used goes at the second time. */
	for (int i = 0; i < 2; i++)
		ioctl(f->fd, EXT4_IOC_CLEAR_ES_CACHE);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
	rw_write(ring, f, 4 * (off_t)block, block, 0); /* as it is now */
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
}

static void run(const void *const *at)
{
	struct rw_ring *ring = rw_ring(at[1], 2);

	if (rw_fs() != RW_EXT4)
		rw_skip("needs ext4");
	if (!rw_has_gate())
		rw_skip("needs a gate, and direct I/O");
	held(ring, at[0]);
	rw_ring_close(ring);
}

static const char *const guards[] = {
	"cb85f4d23f79 ext4: fix race between writepages and enabling EXT4_EXTENTS_FL",
	NULL,
};

static const char *const groups[] = { "ioctl", NULL };
static const char *const needs[] = { "ext4", "a gate", NULL };

const struct rw_test rw_test = {
	.name = "migrate-dio",
	.summary =
		"a file changes between extents and indirect blocks under direct writes, unharmed",
	.guards = guards,
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(ops), RW_AXIS(rw_two_kinds) },
	.run = run,
};
