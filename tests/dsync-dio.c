/* SPDX-License-Identifier: MIT */
/*
 * Direct writes that are to be on stable storage when they have completed.
 *
 * A write with O_DSYNC, O_SYNC or their RWF_* flags is followed by generic_write_sync() when it
 * needed more than its blocks (IOMAP_DIO_NEED_SYNC): the conversion of unwritten blocks, new blocks,
 * blocks that are shared no more, the size, or what an earlier write left in the log. Without that
 * these are in memory only; when the filesystem is shut down without a flush of its log, as by a
 * loss of power, and mounted again, the write is gone although it had completed.
 */
#include "ringwedge.h"

#include <dirent.h>

#define SIZE (256 * RW_KIB)
#define AT (64 * RW_KIB)
#define LEN (48 * RW_KIB) /* three turns of RW_MIXED */

static void sync_filesystem(const struct rw_file *f)
{
	rw_ok(syncfs(f->fd));
}

/* How many filesystems of that kind does the machine have, in whatever namespace? */
static unsigned int mounted(const char *sysfs)
{
	struct dirent *e;
	unsigned int n = 0;
	DIR *d = opendir(sysfs);
	char path[300];

	while (d && (e = readdir(d))) {
		snprintf(path, sizeof(path), "/sys/class/block/%s", e->d_name);
		n += e->d_name[0] != '.' && !access(path, F_OK);
	}
	if (d)
		closedir(d);
	return n;
}

/* It goes on into the filesystems of others, which nobody can answer for. */
static void sync_machine(const struct rw_file *f)
{
	(void)f;
	/* The outer one, that under test, and the test's own. */
	if (mounted("/sys/fs/ext4") + mounted("/sys/fs/xfs") + mounted("/sys/fs/f2fs") > 3)
		rw_skip("needs a machine without other filesystems, which sync(2) would wait for");
	rw_enter("sync");
	sync();
	rw_leave("sync", 0, RW_FAIL, __FILE__, __LINE__);
}

/* How the write is told that it is to be synchronous. */
static const struct how {
	const char *name;
	int rwf, open;
	bool through; /* to a device without a cache: if the blocks were all, nothing more is done */
	bool later;   /* by fsync(2) or fdatasync(2) through the ring, when it has completed */
	void (*all)(const struct rw_file *f); /* by syncfs(2), or sync(2) */
} hows[] = {
	{ "rwf-dsync", RWF_DSYNC, 0 },	   { "write-through", RWF_DSYNC, 0, true },
	{ "o-dsync", 0, O_DSYNC },	   { "o-sync", 0, O_SYNC },
	{ "synced-later", .later = true }, { "syncfs", .all = sync_filesystem },
	{ "sync", .all = sync_machine },
};

static const struct to {
	enum rw_state state;
	off_t off;
	bool again; /* over a write that was not synchronous, and left work to do */
	bool tail;  /* fills up the last block, of which the file had a sector */
	bool ahead; /* before the end that the page cache has, and behind that of the inode on disk */
	bool dirty; /* over what the page cache has there, whose writeback moves the end on disk, too */
} tos[] = {
	{ RW_WRITTEN, AT },
	{ RW_UNWRITTEN, AT },
	{ RW_HOLE, AT },
	{ RW_SHARED, AT },
	{ RW_MIXED, AT },
	{ RW_SHARED_MIXED, 96 * RW_KIB }, /* blocks to be shared no more, then a hole */
	{ RW_WRITTEN, SIZE },
	{ RW_PAST_EOF, SIZE },
	{ RW_UNWRITTEN, AT, .again = true },
	{ RW_WRITTEN, SIZE, .tail = true },
	{ RW_WRITTEN, SIZE + AT, .ahead = true },
	{ RW_WRITTEN, SIZE, .dirty = true },
};

static struct rw_file *make(const struct to *to)
{
	const size_t block = rw_block_size(), sector = rw_sector_size();

	return rw_file("file", to->state, to->tail ? SIZE - block + sector : SIZE);
}

/* Not synced: after a loss of power it may be there, or not. */
static void write_ahead(const struct rw_file *f)
{
	int fd = (int)rw_set_up(open(rw_path(f), O_WRONLY | O_CLOEXEC));

	rw_set_up(pwrite(fd, "", 1, 4 * SIZE));
	close(fd);
}

static void write_one(struct rw_ring *ring, struct rw_file *f, const struct to *to, int rwf)
{
	const size_t len = to->tail ? rw_block_size() - rw_sector_size() : LEN;

	rw_write(ring, f, to->tail ? SIZE - (off_t)len : to->off, len, rwf);
	rw_reap(ring);
}

static void run(const void *const *at)
{
	const struct how *how = at[0];
	struct rw_own own = { .through = how->through, .dies = true };

	rw_own_make(&own, NULL);
	rw_eq(rw_own_mount(&own, NULL), 0);
	for (size_t i = 0; i < RW_ARRAY_SIZE(tos); i++) {
		struct rw_ring *ring = rw_ring(at[1], 1);
		struct rw_file *f;

		if (!rw_can_make(tos[i].state) || (tos[i].dirty && how != hows) ||
		    (tos[i].tail && rw_block_size() == rw_sector_size()))
			continue;
		f = make(&tos[i]);
		if (how->open) {
			close(f->fd);
			f->fd = (int)rw_ok(
				open(rw_path(f), O_RDWR | O_DIRECT | O_CLOEXEC | how->open));
		}
		rw_use(ring, f);
		if (tos[i].ahead)
			write_ahead(f);
		if (tos[i].dirty)
			rw_cache_dirty(f, tos[i].off, LEN);
		if (tos[i].again)
			write_one(ring, f, &tos[i], 0);
		write_one(ring, f, &tos[i], how->rwf);
		if (how->later)
			rw_ring_fsync(ring, f, i % 2);
		rw_reap(ring);
		if (how->all)
			how->all(f);
		rw_ring_close(ring);
		rw_own_lose_power(&own, f);
		if (tos[i].ahead)
			rw_ok(ftruncate(f->fd, tos[i].off + LEN));
		rw_then(f, (struct rw_change){ RW_KEEP });
		rw_verify(f);
	}
}

static bool has(const void *const *at)
{
	const struct how *how = at[0];
	const struct rw_ring_kind *kind = at[1];

	return !kind->aio || ((how->rwf || how->later) && !how->through);
}

static const char *const guards[] = {
	"3460cac1ca76 iomap: Use FUA for pure data O_DSYNC DIO writes",
	"7684e2c4384d iomap: iomap that extends beyond EOF should be marked dirty",
	NULL,
};

static const char *const groups[] = { "dsync", NULL };
static const char *const needs[] = { "root, for a filesystem of its own", NULL };

const struct rw_test rw_test = {
	.name = "dsync-dio",
	.summary = "synchronous direct writes that completed outlive a shutdown of the filesystem",
	.guards = guards,
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(hows), RW_AXIS(rw_two_kinds) },
	.has = has,
	.run = run,
};
