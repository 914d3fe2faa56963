/* SPDX-License-Identifier: MIT */
/*
 * What a direct write, or a call that changes a file, leaves in its inode: the time, and no
 * set-user-ID bit.
 *
 * file_modified() does both, called by ext4_dio_write_checks(), xfs_file_write_checks(), each
 * fallocate and generic_remap_file_range_prep(), before the data move. Forgotten on one of the ways -
 * no cached pages, no new blocks, the second try of a sub-block write - backups and make(1) miss the
 * change, and a program with the bit set has the contents of whoever may write to it.
 */
#include "ringwedge.h"

#include <linux/capability.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/syscall.h>

#define SIZE (256 * RW_KIB)
#define AT (64 * RW_KIB)
#define LEN (64 * RW_KIB)
#define BITS (S_ISUID | S_ISGID)

static const struct timespec long_ago = { 1000000000, 0 };

/* Who has CAP_FSETID keeps the bits; and so does a ring that was made while one had it. */
static void be_ordinary(void)
{
	struct __user_cap_header_struct who = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3];

	rw_set_up(syscall(SYS_capget, &who, caps));
	caps[CAP_TO_INDEX(CAP_FSETID)].effective &= ~CAP_TO_MASK(CAP_FSETID);
	rw_set_up(syscall(SYS_capset, &who, caps));
}

static struct rw_file *old_file(const char *name, enum rw_state state)
{
	const struct timespec times[2] = { long_ago, long_ago };
	struct rw_file *f = rw_file(name, state, SIZE);

	rw_set_up(fchmod(f->fd, BITS | 0777));
	rw_set_up(futimens(f->fd, times));
	return f;
}

static void check(const struct rw_file *f, const char *what)
{
	struct stat st;

	rw_set_up(fstat(f->fd, &st));
	if (st.st_mtim.tv_sec == long_ago.tv_sec)
		rw_fail("%s did not change st_mtime of \"%s\"", what, f->name);
	if (st.st_mode & BITS)
		rw_fail("%s left st_mode of \"%s\" %#o: with set-user-ID, set-group-ID", what,
			f->name, st.st_mode);
}

static const struct write {
	const char *what;
	enum rw_state state;
	off_t off;
	bool part; /* of a block: its second sector */
} writes[] = {
	{ "a direct write to written blocks", RW_WRITTEN, AT },
	{ "a direct write to unwritten blocks", RW_UNWRITTEN, AT },
	{ "a direct write to a hole", RW_HOLE, AT },
	{ "a direct write to shared blocks", RW_SHARED, AT },
	{ "a direct write behind the end", RW_WRITTEN, SIZE },
	{ "a direct write behind a gap", RW_WRITTEN, SIZE + LEN },
	{ "a direct write of part of a written block", RW_WRITTEN, AT, true },
	{ "a direct write of part of an unwritten block", RW_UNWRITTEN, AT, true },
};

static void by_writes(struct rw_ring *ring)
{
	const size_t sector = rw_sector_size();

	for (size_t i = 0; i < RW_ARRAY_SIZE(writes); i++) {
		const struct write *w = &writes[i];
		struct rw_file *f;

		if (!rw_can_make(w->state) || (w->part && sector == rw_block_size()))
			continue;
		f = old_file("file", w->state);
		rw_use(ring, f);
		rw_write(ring, f, w->off + (w->part ? (off_t)sector : 0), w->part ? sector : LEN,
			 0);
		rw_reap(ring);
		rw_then(f, (struct rw_change){ RW_KEEP });
		check(f, w->what);
	}
}

static const struct falloc {
	const char *what;
	int mode;
	off_t off;
} fallocs[] = {
	{ "fallocate", 0, SIZE },
	{ "fallocate (keep size)", FALLOC_FL_KEEP_SIZE, SIZE },
	{ "fallocate (punch hole)", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, AT },
	{ "fallocate (zero range)", FALLOC_FL_ZERO_RANGE, AT },
	{ "fallocate (collapse range)", FALLOC_FL_COLLAPSE_RANGE, AT },
	{ "fallocate (insert range)", FALLOC_FL_INSERT_RANGE, AT },
};

static void by_calls(void)
{
	struct file_clone_range range = { .src_offset = AT, .src_length = LEN, .dest_offset = AT };
	struct rw_file *f, *from = rw_file("from", RW_WRITTEN, SIZE);
	off_t in = AT, out = AT;

	for (size_t i = 0; i < RW_ARRAY_SIZE(fallocs); i++) {
		f = old_file("file", RW_WRITTEN);
		if (!fallocate(f->fd, fallocs[i].mode, fallocs[i].off, LEN))
			check(f, fallocs[i].what);
		else if (errno != EOPNOTSUPP)
			rw_fail("%s: %s", fallocs[i].what, strerror(errno));
	}
	f = old_file("file", RW_WRITTEN);
	rw_ok(ftruncate(f->fd, AT));
	check(f, "ftruncate");
	f = old_file("file", RW_WRITTEN);
	rw_eq(rw_ok(copy_file_range(from->fd, &in, f->fd, &out, LEN, 0)), LEN);
	check(f, "copy_file_range");
	if (!rw_can_make(RW_SHARED))
		return;
	f = old_file("file", RW_WRITTEN);
	range.src_fd = from->fd;
	rw_ok(ioctl(f->fd, FICLONERANGE, &range));
	check(f, "ioctl(FICLONERANGE)");
}

static const struct way {
	const char *name;
	const struct rw_ring_kind *kind; /* NULL: not by writes */
} ways[] = {
	{ "plain", &rw_ring_kinds[0] }, { "sqpoll", &rw_ring_kinds[3] },
	{ "async", &rw_ring_kinds[4] }, { "fixed", &rw_ring_kinds[5] },
	{ "aio", &rw_ring_kinds[6] },	{ "calls", NULL },
};

static void run(const void *const *at)
{
	const struct way *way = at[0];
	struct rw_ring *ring;

	be_ordinary();
	if (!way->kind) {
		by_calls();
		return;
	}
	ring = rw_ring(way->kind, 1);
	by_writes(ring);
	rw_ring_close(ring);
}

static const char *const guards[] = {
	"fbe7e5200365 xfs: fallocate() should call file_modified()",
	"ad5cd4f4ee4d ext4: fix fallocate to use file_modified to update permissions consistently",
	NULL,
};

static const char *const groups[] = { "modified", NULL };

const struct rw_test rw_test = {
	.name = "modified-dio",
	.summary = "direct writes and fallocate set the time and take away set-user-ID",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(ways) },
	.run = run,
};
