/* SPDX-License-Identifier: MIT */
/*
 * broken.c - a device that fails the writes to one file, or becomes larger.
 *
 * To break it, the file's blocks are punched out of the image, all others are allocated in it, and
 * the outer filesystem is filled up. So a write to the file's blocks is accepted by the loop device
 * and fails later, in its worker, with ENOSPC (lo_rw_aio_complete()), as on a device that breaks; and
 * no write of the filesystem's own can fail. What fills it has no name: it goes with the test.
 */
#include "internal.h"

#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/loop.h>

#define LARGEST (64L << 20)

static int filler = -1; /* of the outer filesystem */

static int fill_up(const char *dir)
{
	int fd = (int)rw_set_up(open(dir, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600));
	off_t at = 0, before;

	/* Blocks that were freed may be had only when the journal's transaction has been committed. */
	do {
		before = at;
		rw_set_up(syncfs(fd));
		rw_enter("fill a filesystem");
		for (off_t chunk = LARGEST; chunk >= 512; chunk /= 2)
			while (!fallocate(fd, 0, at, chunk))
				at += chunk;
		if (errno == EOPNOTSUPP)
			rw_skip("needs fallocate");
		if (errno != ENOSPC)
			rw_broken("fallocate, to fill a filesystem: %s", strerror(errno));
		rw_returned();
	} while (at > before);
	return fd;
}

int rw_fill_up(void)
{
	return fill_up(rw_opt.dir);
}

static void punch_out(struct rw_file *f, int image)
{
	struct rw_extents x;

	rw_extents(f, &x);
	if (!x.n)
		rw_broken("\"%s\" has no extents", f->name);
	for (unsigned int i = 0; i < x.n; i++) {
		const struct fiemap_extent *e = &x.e[i];

		rw_set_up(fallocate(image, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				    (off_t)e->fe_physical, (off_t)e->fe_length));
	}
}

static int open_image(struct stat *st)
{
	char path[160], backing[4096];
	int image;

	if (!rw_has_gate())
		rw_skip("needs a gate: the image of the device");
	snprintf(path, sizeof(path), "/sys/block/%.60s/loop/backing_file", rw_device_name());
	if (rw_slurp(path, backing, sizeof(backing)) < 0)
		rw_broken("%s: %s", path, strerror(errno));
	image = (int)rw_set_up(open(backing, O_RDWR | O_CLOEXEC));
	rw_set_up(fstat(image, st));
	return image;
}

off_t rw_device_grow(off_t by)
{
	struct stat st;
	int image = open_image(&st), loop;
	char name[80];

	rw_set_up(ftruncate(image, st.st_size + by));
	close(image);
	snprintf(name, sizeof(name), "/dev/%.60s", rw_device_name());
	loop = (int)rw_set_up(open(name, O_RDONLY | O_CLOEXEC));
	rw_set_up(ioctl(loop, LOOP_SET_CAPACITY, 0));
	close(loop);
	return st.st_size + by;
}

void rw_device_break(struct rw_file *f)
{
	struct stat st;
	int image;

	if (rw_fs() & (RW_BTRFS | RW_F2FS))
		rw_skip("needs to know where on the device a write goes: xfs, ext4");
	image = open_image(&st);
	rw_set_up(fallocate(image, 0, 0, st.st_size));
	punch_out(f, image);
	close(image);
	filler = fill_up(rw_opt.gate);
	atomic_store(&rw_shared->device_broken, 1);
}

void rw_device_mend(void)
{
	close(filler);
	filler = -1;
}
