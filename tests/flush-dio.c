/* SPDX-License-Identifier: MIT */
/*
 * What says that a direct write is on stable storage has had the cache of the device flushed.
 *
 * A direct overwrite that has completed may be in the device's cache only. When there is nothing else to
 * be written - no size, no blocks to convert - whose commit would flush it, fsync(2) and its kin must do
 * that themselves (xfs_file_fsync(), by blkdev_issue_flush(); ext4_sync_file(), by what
 * ext4_fsync_journal() tells it; ext4_sync_fs()). Where the log is on another device no commit flushes the
 * one with the data, unless that is asked for (xlog_write_iclog(), jbd2_journal_commit_transaction()).
 * Else the write is gone after a loss of power, though every call succeeded. The device counts: nobody but
 * the test uses it.
 */
#include "ringwedge.h"

#define SIZE (256 * RW_KIB)
#define LEN (16 * RW_KIB)
#define LOG (128L << 20) /* sparse */

static const struct how {
	const char *name;
	int rwf, open;
	bool call, data_only; /* fsync(2), fdatasync(2); else through the ring */
	bool all;	      /* syncfs(2) */
} hows[] = {
	{ "fsync", .call = true },
	{ "fdatasync", .call = true, .data_only = true },
	{ "ring's fsync" },
	{ "ring's fdatasync", .data_only = true },
	{ "RWF_DSYNC", .rwf = RWF_DSYNC },
	{ "O_DSYNC", .open = O_DSYNC },
	{ "syncfs", .call = true, .all = true },
};

static const struct kind {
	const char *name;
	const struct rw_write_kind *kind;
} kinds[] = {
	{ "an overwrite", &rw_write_kinds[RW_OVERWRITE] },
	{ "a write to unwritten blocks", &rw_write_kinds[RW_CONVERT] },
	{ "a write behind the end", &rw_write_kinds[RW_EXTEND] },
};

static const struct set_up {
	const char *name;
	const struct rw_ring_kind *kind;
	bool apart; /* the log, on a device of its own */
	bool all;   /* by syncfs(2) alone */
} set_ups[] = {
	{ "plain", &rw_two_kinds[0] },
	{ "aio", &rw_two_kinds[1] },
	{ "log-apart", &rw_two_kinds[0], .apart = true },
	{ "syncfs", &rw_two_kinds[0], .all = true },
};

/* A line of the device's attribute in sysfs, or "". */
static const char *attribute(const struct rw_own *own, const char *name)
{
	static char line[256];
	char path[80];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/sys/block/%s/%s", own->device + strlen("/dev/"), name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? 0 : read(fd, line, sizeof(line) - 1);
	if (fd >= 0)
		close(fd);
	line[n > 0 ? n : 0] = '\0';
	return line;
}

/* Flush requests that the device has ended: the 16th field (Documentation/block/stat.rst). */
static unsigned long flushes(const struct rw_own *own)
{
	unsigned long n;

	if (sscanf(attribute(own, "stat"),
		   "%*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %lu", &n) != 1)
		rw_skip("needs a kernel that counts flushes: Linux 5.5");
	return n;
}

static void one(struct rw_own *own, struct rw_ring *ring, struct rw_file *f, off_t off,
		const struct how *how, const struct kind *kind)
{
	const bool synced = how->rwf || how->open;
	unsigned long before = flushes(own);

	rw_write(ring, f, off, LEN, how->rwf);
	rw_reap(ring);
	if (!synced)
		before = flushes(own);
	if (how->call)
		rw_ok(how->all ? syncfs(f->fd) : how->data_only ? fdatasync(f->fd) : fsync(f->fd));
	else if (!synced)
		rw_ring_fsync(ring, f, how->data_only);
	rw_reap(ring);
	if (flushes(own) == before)
		rw_fail("after %s, %s has ended without a flush of the device", kind->name,
			how->name);
	rw_then(f, (struct rw_change){ RW_KEEP });
}

static void write_all(struct rw_own *own, const struct set_up *set_up, const struct how *how,
		      const struct kind *kind)
{
	struct rw_file *f = rw_file("file", kind->kind->state, SIZE);
	struct rw_ring *ring = rw_ring(set_up->kind, 1);

	if (how->open) {
		close(f->fd);
		f->fd = (int)rw_ok(open(rw_path(f), O_RDWR | O_DIRECT | O_CLOEXEC | how->open));
	}
	rw_use(ring, f);
	/* Those have nothing to log whose time is that of the one before: of the clock's tick. */
	for (int n = 0; n < (how->all ? SIZE / LEN : 2); n++)
		one(own, ring, f, (kind->kind->extend ? SIZE : 0) + n * LEN, how, kind);
	rw_ring_close(ring);
	rw_verify(f);
}

static void run(const void *const *at)
{
	const struct set_up *set_up = at[0];
	/* The commit of what is more than an overwrite flushes the device that it is on. */
	const size_t n_kinds = set_up->apart ? RW_ARRAY_SIZE(kinds) : 1;
	struct rw_own own = { .journal = set_up->apart ? LOG : 0 };

	rw_own_make(&own, NULL);
	rw_eq(rw_own_mount(&own, NULL), 0);
	if (strncmp(attribute(&own, "queue/write_cache"), "write back", 10))
		rw_skip("needs a loop device that has a cache");
	if (atoi(attribute(&own, "queue/fua")))
		rw_skip("needs a device without FUA, which writes without a flush");
	for (size_t k = 0; k < n_kinds; k++)
		for (size_t i = 0; i < RW_ARRAY_SIZE(hows); i++)
			/* fsync(2) does not differ by who wrote. */
			if (rw_can_make(kinds[k].kind->state) && hows[i].all == set_up->all &&
			    !(hows[i].call && set_up->kind->aio))
				write_all(&own, set_up, &hows[i], &kinds[k]);
}

static const char *const guards[] = {
	"47c7d0b19502 xfs: fix incorrect log_flushed on fsync",
	"aac45075f6d7 jbd2: add a missing data flush during file and fs synchronization",
	NULL,
};

static const char *const groups[] = { "dsync", NULL };
static const char *const needs[] = { "root, for a filesystem of its own", NULL };

const struct rw_test rw_test = {
	.name = "flush-dio",
	.summary = "fsync and its kin flush the device's cache behind a direct write",
	.guards = guards,
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(set_ups) },
	.run = run,
};
