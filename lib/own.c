/* SPDX-License-Identifier: MIT */
/*
 * own.c - a filesystem of the test's own, for what would end the one under test.
 *
 * Its image has no name, and lies on the filesystem that the gate freezes, if there is one: the gate
 * holds this one's writes, too. It is mounted in a namespace of the test's own, which goes with its last
 * task, and on a loop device that goes with its last user: nothing stays, however the test dies.
 */
#include "internal.h"

#include <linux/loop.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>

#define IMAGE (320L << 20) /* sparse; mkfs.xfs wants 300 MiB */

static const struct type {
	unsigned int fs;
	const char *name, *mkfs[6]; /* before the device */
} types[] = {
	{ RW_XFS, "xfs", { "mkfs.xfs", "-q", "-f", "-K" } },
	{ RW_EXT4, "ext4", { "mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=1" } },
	{ RW_F2FS, "f2fs", { "mkfs.f2fs", "-q", "-f", "-t", "0" } },
	{ RW_BTRFS, "btrfs", { "mkfs.btrfs", "-q", "-f", "-K" } },
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
 * The descriptor that makes the device may not be open when it is mounted: where
 * CONFIG_BLK_DEV_WRITE_MOUNTED is off that would be refused.
 */
static int loop_device(int image, char *name, size_t len)
{
	struct loop_config config = { .fd = (unsigned int)image,
				      .info.lo_flags = LO_FLAGS_AUTOCLEAR };
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), fd, user, error = EBUSY;

	for (int i = 0; i < 20 && error == EBUSY; i++) { /* others may be quicker */
		snprintf(name, len, "/dev/loop%d", ioctl(control, LOOP_CTL_GET_FREE));
		fd = open(name, O_RDWR | O_CLOEXEC);
		error = fd < 0 || ioctl(fd, LOOP_CONFIGURE, &config) ? errno : 0;
		if (error)
			close(fd);
	}
	close(control);
	if (error)
		rw_skip("needs loop devices: %s: %s", name, strerror(error));
	user = (int)rw_set_up(open(name, O_RDONLY | O_CLOEXEC));
	close(fd);
	return user;
}

int rw_own_device(size_t size)
{
	int image = (int)rw_set_up(memfd_create("device", MFD_CLOEXEC)), user, fd;
	char name[32];

	rw_set_up(ftruncate(image, (off_t)size));
	user = loop_device(image, name, sizeof(name));
	fd = (int)rw_set_up(open(name, O_RDWR | O_CLOEXEC));
	close(user);
	close(image);
	return fd;
}

/* A device for the log alone. It is kept open, and goes with the test. */
static void make_log(struct rw_own *o)
{
	const char *argv[] = {
		"mke2fs", "-q", "-F", "-O", "journal_dev", "-b", "4096", o->log, NULL
	};
	int image = (int)rw_set_up(open(rw_opt.dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));

	rw_set_up(ftruncate(image, o->journal));
	loop_device(image, o->log, sizeof(o->log));
	if (rw_fs() == RW_EXT4 && !tool(argv))
		rw_skip("needs mke2fs -O journal_dev");
}

void rw_own_make(struct rw_own *o, const char *const *mkfs_options)
{
	const char *argv[16] = { NULL };
	const struct type *type = NULL;
	char path[64], where[48];
	size_t n = 0;

	for (size_t i = 0; i < RW_ARRAY_SIZE(types); i++)
		if (types[i].fs == rw_fs())
			type = &types[i];
	if (!type)
		rw_skip("needs a filesystem that there is a mkfs for");
	if (o->dies && type->fs == RW_BTRFS)
		rw_skip("needs a filesystem that can be shut down: xfs, ext4 or f2fs");
	o->type = type->name;
	o->image = (int)rw_set_up(
		open(rw_opt.gate ? rw_opt.gate : rw_opt.dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
	rw_set_up(ftruncate(o->image, IMAGE));
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", getpid(), o->image);
	for (; n < RW_ARRAY_SIZE(type->mkfs) && type->mkfs[n]; n++)
		argv[n] = type->mkfs[n];
	if (o->journal) {
		if (!(type->fs & (RW_XFS | RW_EXT4)))
			rw_skip("needs a filesystem with a log on a device of its own");
		make_log(o);
		if (type->fs == RW_XFS) {
			argv[n++] = "-l";
			snprintf(where, sizeof(where), "logdev=%s", o->log);
		} else {
			argv[n++] = "-b4096"; /* as the journal's */
			argv[n++] = "-J";
			snprintf(where, sizeof(where), "device=%s", o->log);
		}
		argv[n++] = where;
	}
	for (; mkfs_options && *mkfs_options && n < RW_ARRAY_SIZE(argv) - 2; n++)
		argv[n] = *mkfs_options++;
	argv[n] = path;
	if (!tool(argv))
		rw_skip("needs %s", argv[0]);
	snprintf(o->mnt, sizeof(o->mnt), "%s/own", rw_opt.dir);
	if (mkdir(o->mnt, 0700) && errno != EEXIST)
		rw_broken("mkdir %s: %s", o->mnt, strerror(errno));
	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL))
		rw_skip("needs root: unshare, mount: %s", strerror(errno));
	rw_move_to(o->mnt);
}

/*
 * Say whether the device has a cache (Documentation/ABI/stable/sysfs-block, write_cache). What was said of
 * a loop device stays said, whoever has it next.
 */
static bool set_cache(const char *name, bool through)
{
	const char *value = through ? "write through" : "write back";
	const ssize_t len = (ssize_t)strlen(value);
	char path[80], now[32];
	bool done;
	int fd;

	snprintf(path, sizeof(path), "/sys/block/%s/queue/write_cache", name + strlen("/dev/"));
	fd = open(path, O_RDWR | O_CLOEXEC);
	/* To say it anew would freeze the queue for nothing. */
	done = fd >= 0 &&
	       ((read(fd, now, sizeof(now)) > len && !strncmp(now, value, (size_t)len)) ||
		pwrite(fd, value, (size_t)len, 0) == len);
	if (fd >= 0)
		close(fd);
	return done;
}

/* For ./runtests.sh --clean, if this run is killed before it is put back. */
static void remember(const char *name)
{
	const char *run = getenv("RINGWEDGE_RUN");
	char path[PATH_MAX];
	FILE *file;

	snprintf(path, sizeof(path), "%s/without-cache", run ? run : "");
	file = run ? fopen(path, "ae") : NULL;
	if (!file)
		return;
	fprintf(file, "%s\n", name + strlen("/dev/"));
	fclose(file);
}

void rw_own_put_back(void)
{
	if (rw_shared->through_device[0])
		set_cache(rw_shared->through_device, false);
}

/* As runner/devices.sh does: no submission shall wait for a bitmap that ext4 has not read yet. */
static void read_bitmaps(const char *name)
{
	char path[80], buf[4096];
	int fd;

	snprintf(path, sizeof(path), "/proc/fs/ext4/%s/mb_groups", name + strlen("/dev/"));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	while (fd >= 0 && read(fd, buf, sizeof(buf)) > 0)
		;
	if (fd >= 0)
		close(fd);
}

int rw_own_mount(struct rw_own *o, const char *options)
{
	int user = loop_device(o->image, o->device, sizeof(o->device)), error;
	const bool log = o->journal && !strcmp(o->type, "xfs"); /* ext4 finds it itself */
	char all[128];

	if (o->through && strcmp(rw_shared->through_device, o->device)) {
		rw_own_put_back(); /* that of the mount before */
		remember(o->device);
		snprintf(rw_shared->through_device, sizeof(rw_shared->through_device), "%s",
			 o->device);
	}
	if (!set_cache(o->device, o->through) && o->through)
		rw_skip("needs to write to the write_cache of %s in sysfs", o->device);
	/* No thread of the kernel initialises tables behind the test's back. */
	snprintf(all, sizeof(all), "%s%s%s%s%s", options ? options : "", options ? "," : "",
		 strcmp(o->type, "ext4") ? "" : "noinit_itable", log ? "logdev=" : "",
		 log ? o->log : "");
	rw_enter("mount");
	/* When there is no room in the journal, time stamps shall not need any. */
	error = mount(o->device, o->mnt, o->type, MS_NOATIME | (o->journal ? MS_LAZYTIME : 0), all)
			? errno
			: 0;
	rw_returned();
	close(user);
	if (error)
		return error;
	read_bitmaps(o->device);
	rw_device_own(o->mnt, !o->dies);
	return 0;
}

void rw_own_gone(const struct rw_own *o)
{
	uint64_t end = rw_until(20000);
	char path[80];

	snprintf(path, sizeof(path), "/sys/block/%s/loop/backing_file",
		 o->device + strlen("/dev/"));
	rw_enter("wait until the filesystem is unmounted");
	while (!access(path, F_OK)) {
		if (rw_now_ns() > end)
			rw_fail("the filesystem on %s is still in use, though nobody is left to "
				"use it",
				o->device);
		poll(NULL, 0, 1); /* rings let go of their files in a worker of the kernel */
		rw_progress();
	}
	rw_returned();
}

/* The same on xfs (XFS_IOC_GOINGDOWN), ext4 (EXT4_IOC_SHUTDOWN) and f2fs (F2FS_IOC_SHUTDOWN). */
#define GOING_DOWN _IOR('X', 125, uint32_t)

void rw_own_shut_down(const struct rw_own *o, enum rw_shutdown how)
{
	const uint32_t flags = how;
	int fd = (int)rw_set_up(open(o->mnt, O_RDONLY | O_DIRECTORY | O_CLOEXEC));

	rw_ok(ioctl(fd, GOING_DOWN, &flags));
	close(fd);
}

void rw_own_come_back(struct rw_own *o, struct rw_file *f)
{
	uint64_t end = rw_until(20000);

	close(f->fd);
	while (umount(o->mnt)) { /* rings let go of their files a little later */
		if (errno != EBUSY)
			rw_broken("umount: %s", strerror(errno));
		if (!rw_more(end))
			rw_fail("the filesystem is still in use, though nobody is left to use it");
		poll(NULL, 0, 1);
	}
	rw_eq(rw_own_mount(o, NULL), 0);
	f->fd = (int)rw_ok(open(rw_path(f), O_RDWR | O_DIRECT | O_CLOEXEC));
}

void rw_own_lose_power(struct rw_own *o, struct rw_file *f)
{
	rw_own_shut_down(o, RW_LOG_LOST);
	rw_own_come_back(o, f);
}

/* From `at` on, what is data. */
static void copy(int from, int to, off_t at)
{
	while ((at = lseek(from, at, SEEK_DATA)) >= 0) {
		const off_t end = (off_t)rw_set_up(lseek(from, at, SEEK_HOLE));
		off_t out = at;

		while (at < end)
			if (!rw_set_up(copy_file_range(from, &at, to, &out, (size_t)(end - at), 0)))
				rw_broken("the image of the filesystem became shorter");
	}
}

/* Nobody may have the file open for writing when the filesystem becomes read-only. */
static void remount(const struct rw_own *o, struct rw_file *f, bool ro)
{
	close(f->fd);
	rw_set_up(
		mount("none", o->mnt, NULL, MS_REMOUNT | MS_NOATIME | (ro ? MS_RDONLY : 0), NULL));
	f->fd = (int)rw_set_up(open(rw_path(f), (ro ? O_RDONLY : O_RDWR) | O_DIRECT | O_CLOEXEC));
}

static bool is_written(const struct fiemap_extent *e)
{
	return !(e->fe_flags & FIEMAP_EXTENT_UNWRITTEN);
}

/*
 * Up to 6.1, and in stable releases of later ones, a loop device without direct I/O reads zeros there
 * (drivers/block/loop.c, lo_read_simple()).
 */
static bool fails_behind_the_end(const struct rw_own *o)
{
	int fd = (int)rw_set_up(open(o->device, O_RDONLY | O_DIRECT | O_CLOEXEC));
	char buf[4096] __attribute__((aligned(4096)));
	ssize_t n = pread(fd, buf, sizeof(buf), o->cut);

	close(fd);
	return n < 0;
}

void rw_own_cut(struct rw_own *o, struct rw_file *f)
{
	char above[sizeof(o->mnt) + 3];
	struct rw_extents x;

	if (!(rw_fs() & (RW_XFS | RW_EXT4)))
		rw_skip("needs to know where on the device a file is: xfs, ext4");
	rw_extents(f, &x);
	o->cut = 0;
	for (unsigned int i = 0; i < x.n; i++) {
		const off_t middle = (off_t)(x.e[i].fe_physical + x.e[i].fe_length / 2);

		if (is_written(&x.e[i]) && middle > o->cut)
			o->cut = middle / 4096 * 4096;
	}
	if (!o->cut)
		rw_broken("\"%s\" has no written extents", f->name);
	remount(o, f, true);
	/* Where the image is: without a gate, on the filesystem that this one is mounted in. */
	snprintf(above, sizeof(above), "%s/..", o->mnt);
	o->rest = (int)rw_set_up(
		open(rw_opt.gate ? rw_opt.gate : above, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
	rw_set_up(ftruncate(o->rest, IMAGE));
	copy(o->image, o->rest, o->cut);
	rw_set_up(ftruncate(o->image, o->cut));
	if (!fails_behind_the_end(o))
		rw_skip("needs a loop driver that fails reads behind the end of its file");
}

bool rw_own_is_cut(const struct rw_own *o, const struct rw_file *f, off_t off, size_t len)
{
	struct rw_extents x;
	bool is = false;

	rw_extents(f, &x);
	for (unsigned int i = 0; i < x.n; i++) {
		const struct fiemap_extent *e = &x.e[i];
		const off_t start = (off_t)e->fe_logical, stop = start + (off_t)e->fe_length;
		const off_t to = stop < off + (off_t)len ? stop : off + (off_t)len;

		if (is_written(e) && to > off && to > start)
			is |= (off_t)e->fe_physical + to - start > o->cut;
	}
	return is;
}

void rw_own_mend(struct rw_own *o, struct rw_file *f)
{
	struct stat st;

	rw_set_up(fstat(o->image, &st));
	if (st.st_size != o->cut)
		rw_broken("a filesystem that is read-only wrote to its device");
	rw_set_up(ftruncate(o->image, IMAGE));
	copy(o->rest, o->image, o->cut);
	close(o->rest);
	remount(o, f, false);
}
