/* SPDX-License-Identifier: MIT */
/*
 * A file grows by a direct write when that has ended, and not before.
 *
 * Who sees the new size while the data are in flight reads what the blocks held before, another
 * file's, and after a crash has a file that ends with it. ext4 and xfs set i_size in their end_io
 * (ext4_dio_write_end_io(), xfs_dio_write_end_io()).
 */
#include "ringwedge.h"

#define SIZE (256 * RW_KIB)
#define LEN (32 * RW_KIB)

static const struct write {
	const char *name;
	off_t off;
} writes[] = {
	{ "at-the-end", SIZE },
	{ "across-the-end", SIZE - LEN / 2 },
	{ "behind-a-gap", SIZE + LEN },
};

static void run(const void *const *at)
{
	const struct write *write = at[0];
	struct rw_ring *ring = rw_ring(at[1], 1);
	struct rw_file *f = rw_file("file", RW_SHRUNK, SIZE);
	int fd = (int)rw_set_up(open(rw_path(f), O_RDONLY | O_CLOEXEC));
	char buf[4096];
	struct stat st;
	ssize_t n;

	if (!(rw_fs() & (RW_XFS | RW_EXT4)))
		rw_skip("only xfs and ext4 promise that");
	if (!rw_has_gate())
		rw_skip("needs a gate");
	rw_use(ring, f);
	rw_only_grows(ring);
	rw_gate_shut();
	rw_write(ring, f, write->off, LEN, 0);
	rw_in_flight(1);
	rw_ok(fstat(fd, &st));
	n = rw_ok(pread(fd, buf, sizeof(buf), SIZE));
	if (rw_gate_is_shut()) { /* or the submission slept, and it was opened for that */
		rw_eq(st.st_size, SIZE);
		rw_eq(n, 0);
	}
	rw_held_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
	close(fd);
	rw_ring_close(ring);
}

static const char *const groups[] = { "append", NULL };

const struct rw_test rw_test = {
	.name = "append-size-dio",
	.summary = "a file that grows by a direct write has its old size until that has ended",
	.groups = groups,
	.axes = { RW_AXIS(writes), RW_AXIS(rw_ring_kinds) },
	.run = run,
};
