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

#include <linux/fs.h>
#include <linux/loop.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>

#define SIZE (256 * RW_KIB)
#define AT (64 * RW_KIB)
#define LEN (48 * RW_KIB) /* three turns of RW_MIXED */

/* The same on xfs (XFS_IOC_GOINGDOWN), ext4 (EXT4_IOC_SHUTDOWN) and f2fs (F2FS_IOC_SHUTDOWN). */
#define GOING_DOWN _IOR('X', 125, uint32_t)
#define NO_LOG_FLUSH 2

/* How the write is told that it is to be synchronous. */
static const struct how {
	const char *name;
	int rwf, open;
	bool through; /* to a device without a cache: if the blocks were all, nothing more is done */
	bool later;   /* by fsync(2) or fdatasync(2) through the ring, when it has completed */
	bool all;     /* by syncfs(2) */
} hows[] = {
	{ "rwf-dsync", RWF_DSYNC, 0 },	   { "write-through", RWF_DSYNC, 0, true },
	{ "o-dsync", 0, O_DSYNC },	   { "o-sync", 0, O_SYNC },
	{ "synced-later", .later = true }, { "syncfs", .all = true },
};

static const struct to {
	enum rw_state state;
	off_t off;
	bool again; /* over a write that was not synchronous, and left work to do */
	bool tail;  /* fills up the last block, of which the file had a sector */
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
};

static const struct type {
	unsigned int fs;
	const char *name, *mkfs[6]; /* before the image */
} types[] = {
	{ RW_XFS, "xfs", { "mkfs.xfs", "-q", "-f", "-K" } },
	{ RW_EXT4, "ext4", { "mkfs.ext4", "-q", "-F", "-E", "nodiscard" } },
	{ RW_F2FS, "f2fs", { "mkfs.f2fs", "-q", "-f", "-t", "0" } },
};

/* A filesystem of the test's own: shutting down the one under test would end the run. */
struct own {
	const struct type *type;
	bool through;
	char image[4300], mnt[4310];
};

/* Run a program. Its sleep is not the test's: as long as it is at work there is progress. */
static bool tool(const char *const *argv)
{
	uint64_t end = rw_until(60000);
	pid_t pid = fork();
	int status = 0;

	if (!pid) {
		int null = open("/dev/null", O_RDWR);

		dup2(null, 1);
		dup2(null, 2);
		execvp(argv[0], (char *const *)argv);
		_exit(127);
	}
	while (waitpid(pid, &status, WNOHANG) == 0 && rw_more(end))
		poll(NULL, 0, 2);
	return pid > 0 && status == 0;
}

/*
 * A loop device that goes with its last user. The descriptor that makes it may not be open when it is
 * mounted: where CONFIG_BLK_DEV_WRITE_MOUNTED is off that would be refused.
 */
static int loop_device(const struct own *o, char *name, size_t len)
{
	struct loop_config config = { .info.lo_flags = LO_FLAGS_AUTOCLEAR };
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), fd, user, error = EBUSY;

	config.fd = (unsigned int)rw_set_up(open(o->image, O_RDWR | O_CLOEXEC));
	for (int i = 0; i < 20 && error == EBUSY; i++) { /* others may be quicker */
		snprintf(name, len, "/dev/loop%d", ioctl(control, LOOP_CTL_GET_FREE));
		fd = open(name, O_RDWR | O_CLOEXEC);
		error = fd < 0 || ioctl(fd, LOOP_CONFIGURE, &config) ? errno : 0;
		if (error)
			close(fd);
	}
	close(control);
	close((int)config.fd);
	if (error)
		rw_skip("needs loop devices: %s: %s", name, strerror(error));
	user = (int)rw_set_up(open(name, O_RDONLY | O_CLOEXEC));
	close(fd);
	return user;
}

/* Say that the device has no cache (Documentation/ABI/stable/sysfs-block, write_cache). */
static void without_cache(const char *name)
{
	char path[80];
	int fd;

	snprintf(path, sizeof(path), "/sys/block/%s/queue/write_cache", name + strlen("/dev/"));
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "write through", 13) != 13)
		rw_skip("needs to write to %s: %s", path, strerror(errno));
	close(fd);
}

static void mount_own(const struct own *o)
{
	char name[32];
	int user = loop_device(o, name, sizeof(name));

	if (o->through)
		without_cache(name);
	rw_ok(mount(name, o->mnt, o->type->name, 0, NULL));
	close(user);
}

static void make_own(struct own *o)
{
	const char *mkfs[7] = { NULL };
	size_t n = 0;
	const struct rw_file *image = rw_file("image", RW_HOLE, 320 * RW_KIB * RW_KIB);

	snprintf(o->image, sizeof(o->image), "%s", rw_path(image));
	snprintf(o->mnt, sizeof(o->mnt), "%s.mnt", o->image);
	for (; n < RW_ARRAY_SIZE(o->type->mkfs) && o->type->mkfs[n]; n++)
		mkfs[n] = o->type->mkfs[n];
	mkfs[n] = o->image;
	/* What is mounted in a namespace of its own goes with its last task, however that dies. */
	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL))
		rw_skip("needs root: unshare, mount: %s", strerror(errno));
	mkdir(o->mnt, 0700);
	if (!tool(mkfs))
		rw_skip("needs mkfs.%s", o->type->name);
	mount_own(o);
	rw_move_to(o->mnt);
}

/* Lose all that is not on stable storage, and come back. */
static void lose_power(const struct own *o, struct rw_file *f)
{
	uint64_t end = rw_until(20000);
	uint32_t how = NO_LOG_FLUSH;
	int fd = (int)rw_set_up(open(o->mnt, O_RDONLY | O_DIRECTORY));

	rw_ok(ioctl(fd, GOING_DOWN, &how));
	close(fd);
	close(f->fd);
	while (umount(o->mnt)) { /* rings let go of their files a little later */
		if (errno != EBUSY || !rw_more(end))
			rw_broken("umount: %s", strerror(errno));
		poll(NULL, 0, 1);
	}
	mount_own(o);
	f->fd = (int)rw_ok(open(rw_path(f), O_RDWR | O_DIRECT | O_CLOEXEC));
}

static struct rw_file *make(const struct to *to)
{
	const size_t block = rw_block_size(), sector = rw_sector_size();

	return rw_file("file", to->state, to->tail ? SIZE - block + sector : SIZE);
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
	struct own own = { .through = how->through };

	for (size_t i = 0; i < RW_ARRAY_SIZE(types); i++)
		if (types[i].fs == rw_fs())
			own.type = &types[i];
	if (!own.type)
		rw_skip("needs a filesystem that can be shut down: xfs, ext4 or f2fs");
	make_own(&own);
	for (size_t i = 0; i < RW_ARRAY_SIZE(tos); i++) {
		struct rw_ring *ring = rw_ring(at[1], 1);
		struct rw_file *f;

		if (!rw_can_make(tos[i].state) ||
		    (tos[i].tail && rw_block_size() == rw_sector_size()))
			continue;
		f = make(&tos[i]);
		if (how->open) {
			close(f->fd);
			f->fd = (int)rw_ok(
				open(rw_path(f), O_RDWR | O_DIRECT | O_CLOEXEC | how->open));
		}
		rw_use(ring, f);
		if (tos[i].again)
			write_one(ring, f, &tos[i], 0);
		write_one(ring, f, &tos[i], how->rwf);
		if (how->later)
			rw_ring_fsync(ring, f, i % 2);
		rw_reap(ring);
		if (how->all)
			rw_ok(syncfs(f->fd));
		rw_ring_close(ring);
		lose_power(&own, f);
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
