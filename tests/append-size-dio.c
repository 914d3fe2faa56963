/* SPDX-License-Identifier: MIT */
/*
 * A file grows by a direct write when that has ended, and not before.
 *
 * Who sees the new size while the data are in flight reads what the blocks held before, another
 * file's, and after a crash has a file that ends with it. ext4 and xfs set i_size in their end_io
 * (ext4_dio_write_end_io(), xfs_dio_write_end_io()), when the blocks are converted.
 */
#include "ringwedge.h"

#include <sys/mman.h>

#define SIZE (256 * RW_KIB)
#define LEN (32 * RW_KIB)

static const struct write {
	const char *name;
	off_t off;
	bool read; /* by a direct read that races it, or held by the gate */
} writes[] = {
	{ "at-the-end", SIZE },
	{ "across-the-end", SIZE - LEN / 2 },
	{ "behind-a-gap", SIZE + LEN },
	{ "read-at-the-end", SIZE, true },
	{ "read-across-the-end", SIZE - LEN / 2, true },
	{ "read-behind-a-gap", SIZE + LEN, true },
};

/* Shared with who reads. */
struct look {
	int fd;
	off_t off; /* of what is behind the old end */
	bool stop;
	const char *found; /* instead of what was written */
	char want[4096];
};

/* Each time, read behind the end until there is something, which must be what was written. */
static void look(const void *p)
{
	struct look *l = *(struct look *const *)p;
	static char buf[sizeof(l->want)] __attribute__((aligned(4096)));
	static const char zeros[sizeof(buf)];
	ssize_t n;

	for (rw_pause(); !l->stop; rw_pause()) {
		do
			n = rw_ok(pread(l->fd, buf, sizeof(buf), l->off));
		while (!n);
		if (memcmp(buf, l->want, (size_t)n))
			l->found = memcmp(buf, zeros, (size_t)n) ? "old data" : "zeros";
	}
}

static void racing(struct rw_ring *ring, off_t off)
{
	struct rw_file *f = rw_file("file", RW_SHRUNK, SIZE);
	struct look *l =
		mmap(NULL, sizeof(*l), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct rw_helper looker;

	if (l == MAP_FAILED)
		rw_broken("mmap: %s", strerror(errno));
	l->fd = f->fd;
	l->off = off < SIZE ? SIZE : off;
	rw_use(ring, f);
	looker = rw_start(look, &l);
	rw_wait_paused(&looker);
	rw_for_ms(60) {
		const unsigned int promise = rw_promise(f, off, LEN);

		rw_fill(f, l->want, l->off, sizeof(l->want), promise);
		rw_go_on(&looker);
		rw_jitter(200);
		rw_write_promised(ring, f, off, LEN, promise, 0);
		rw_reap(ring);
		rw_wait_paused(&looker);
		if (l->found)
			rw_fail("a direct read behind the old end found %s, and not what the file "
				"had grown by",
				l->found);
		rw_then(f, (struct rw_change){ RW_KEEP });
		rw_set_up(ftruncate(f->fd, SIZE));
		rw_then(f, (struct rw_change){ RW_RESIZE, SIZE });
	}
	l->stop = true;
	rw_go_on(&looker);
	rw_join(looker);
	rw_verify(f);
}

static void held(struct rw_ring *ring, off_t off)
{
	struct rw_file *f = rw_file("file", RW_SHRUNK, SIZE);
	int fd = (int)rw_set_up(open(rw_path(f), O_RDONLY | O_CLOEXEC));
	char buf[4096];
	struct stat st;
	ssize_t n;

	rw_use(ring, f);
	rw_only_grows(ring);
	rw_gate_shut();
	rw_write(ring, f, off, LEN, 0);
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
}

static void run(const void *const *at)
{
	const struct write *write = at[0];
	struct rw_ring *ring = rw_ring(at[1], 1);

	if (!(rw_fs() & (RW_XFS | RW_EXT4)))
		rw_skip("only xfs and ext4 promise that");
	if (!rw_direct())
		rw_skip("needs direct I/O");
	if (!write->read) {
		if (!rw_has_gate())
			rw_skip("needs a gate");
		held(ring, write->off);
	} else {
		racing(ring, write->off);
	}
	rw_ring_close(ring);
}

static bool has(const void *const *at)
{
	const struct write *write = at[0];
	const struct rw_ring_kind *kind = at[1];

	/* Who is told of the end makes no difference to who reads. */
	return !write->read || kind == &rw_ring_kinds[0] || kind->async || kind->aio;
}

static const char *const groups[] = { "append", NULL };

const struct rw_test rw_test = {
	.name = "append-size-dio",
	.summary = "a file that grows by a direct write has its old size until that has ended",
	.groups = groups,
	.axes = { RW_AXIS(writes), RW_AXIS(rw_ring_kinds) },
	.has = has,
	.run = run,
};
