/* SPDX-License-Identifier: MIT */
/*
 * The page cache, read before direct writes and beside them.
 *
 * A direct write drops the cached pages of its range twice: when it is submitted
 * (kiocb_invalidate_pages()), and when it has ended, for pages that were read meanwhile with the old
 * data (kiocb_invalidate_post_direct_write()). Without, read(2), mappings, sendfile(2) and
 * readahead go on with old data for ever, while direct reads have the new.
 */
#include "ringwedge.h"

#include <sys/mman.h>
#include <sys/sendfile.h>

#define SIZE (512 * RW_KIB)
#define AT (128 * RW_KIB)
#define SLICE (32 * RW_KIB) /* of the write, one for each way to the page cache */
#define MORE (64 * RW_KIB)  /* by which a file grows */

/* A file as the page cache has it. */
struct cached {
	struct rw_file *file;
	int fd;
	char *map;
};

static void by_read(const struct cached *c, off_t off, size_t len, char *buf)
{
	rw_eq(rw_ok(pread(c->fd, buf, len, off)), (long long)len);
}

static void by_mapping(const struct cached *c, off_t off, size_t len, char *buf)
{
	memcpy(buf, c->map + off, len);
}

static void by_sendfile(const struct cached *c, off_t off, size_t len, char *buf)
{
	int ends[2];

	rw_set_up(pipe2(ends, O_CLOEXEC));
	for (size_t done = 0; done < len;) {
		size_t ask = len - done < 4096 ? len - done : 4096;
		long n = rw_ok(sendfile(ends[1], c->fd, &off, ask));

		rw_eq(n > 0, 1);
		rw_eq(rw_ok(read(ends[0], buf + done, (size_t)n)), n);
		done += (size_t)n;
	}
	close(ends[0]);
	close(ends[1]);
}

static void by_readahead(const struct cached *c, off_t off, size_t len, char *buf)
{
	rw_ok(readahead(c->fd, off, len));
	by_read(c, off, len, buf);
}

static const struct way {
	const char *how;
	void (*look)(const struct cached *c, off_t off, size_t len, char *buf);
} ways[] = {
	{ "cached read", by_read },
	{ "read through a mapping", by_mapping },
	{ "sendfile", by_sendfile },
	{ "cached read after readahead", by_readahead },
};
#define LEN ((off_t)RW_ARRAY_SIZE(ways) * SLICE)

/* Look at the range of the write, each slice in another way, and at what is behind 512 KiB. */
static void look(const struct cached *c, bool check)
{
	static char buf[MORE * 2];
	struct stat st;

	rw_set_up(fstat(c->fd, &st));
	for (size_t i = 0; i < RW_ARRAY_SIZE(ways); i++) {
		off_t off = AT + (off_t)i * SLICE;
		size_t tail = (size_t)(st.st_size - SIZE);

		ways[i].look(c, off, SLICE, buf);
		if (check)
			rw_check(c->file, ways[i].how, buf, off, SLICE);
		ways[i].look(c, SIZE, tail, buf);
		if (check)
			rw_check(c->file, ways[i].how, buf, SIZE, tail);
	}
}

static void look_only(const void *p)
{
	look(p, false);
}

static struct cached start(struct rw_ring *ring, enum rw_state state)
{
	/* With blocks smaller than a page, the last page is not full. */
	size_t size = SIZE + rw_block_size();
	struct cached c = { rw_file("file", state, size) };

	c.fd = (int)rw_set_up(open(rw_path(c.file), O_RDWR | O_CLOEXEC));
	c.map = rw_map(c.fd, 0, SIZE + MORE * 2);
	rw_use(ring, c.file);
	return c;
}

static void submit(struct rw_ring *ring, const struct cached *c, const struct rw_write_kind *kind)
{
	rw_write(ring, c->file, AT, LEN, kind->rwf);
	if (kind->extend)
		rw_write(ring, c->file, SIZE + (off_t)rw_block_size(), MORE, kind->rwf);
}

static void finish(struct cached *c)
{
	look(c, true);
	rw_verify(c->file);
	/* Whatever is dirty yet, by mistake, comes down now. */
	rw_ok(fsync(c->fd));
	rw_verify(c->file);
	munmap(c->map, SIZE + MORE * 2);
	close(c->fd);
}

static void before(struct rw_ring *ring, const struct rw_write_kind *kind)
{
	struct cached c = start(ring, kind->state);

	look(&c, true);
	submit(ring, &c, kind);
	rw_reap(ring);
	rw_then(c.file, (struct rw_change){ RW_KEEP });
	finish(&c);
}

/*
 * Another task looks, at blocks without data: those are read as zeros although the gate is shut, the
 * others would wait behind it (see mapped-dio).
 */
static void meanwhile(struct rw_ring *ring, const struct rw_write_kind *kind)
{
	struct cached c = start(ring, kind->state);

	if (rw_has_gate())
		rw_gate_shut();
	submit(ring, &c, kind);
	if (rw_has_gate()) {
		rw_in_flight(1);
		rw_held_by(&rw_whos[1], look_only, &c, false);
	} else {
		rw_by(&rw_whos[1], look_only, &c);
	}
	rw_reap(ring);
	rw_then(c.file, (struct rw_change){ RW_KEEP });
	finish(&c);
}

static const struct scene {
	const char *name;
	void (*play)(struct rw_ring *ring, const struct rw_write_kind *kind);
} scenes[] = {
	{ "read-meanwhile", meanwhile },
	{ "read-before", before },
};

static void run(const void *const *at)
{
	const struct scene *scene = at[0];
	struct rw_ring *ring = rw_ring(at[1], 4);
	static const struct rw_write_kind hole = { RW_HOLE };

	for (size_t k = 0; k <= RW_WRITE_KINDS; k++) {
		const struct rw_write_kind *kind = k < RW_WRITE_KINDS ? &rw_write_kinds[k] : &hole;
		bool data = kind->state != RW_UNWRITTEN && kind->state != RW_HOLE;

		if (data && scene->play == meanwhile)
			continue;
		if (rw_can_make(kind->state))
			scene->play(ring, kind);
	}
	rw_ring_close(ring);
}

static const char *const guards[] = {
	"332391a9935d fs: Fix page cache inconsistency when mixing buffered and AIO DIO",
	NULL,
};

static const char *const groups[] = { "cache", NULL };

const struct rw_test rw_test = {
	.name = "cache-dio",
	.summary = "cached reads and mappings have what direct writes have written",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(scenes), RW_AXIS(rw_ring_kinds) },
	.run = run,
};
