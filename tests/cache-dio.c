/* SPDX-License-Identifier: MIT */
/*
 * The page cache beside direct writes.
 *
 * A direct write drops the cached pages of its range twice: when it is submitted, dirty ones
 * written back first (kiocb_invalidate_pages()), and when it has ended, for pages that were read
 * meanwhile with the old data (kiocb_invalidate_post_direct_write()). Without the first, old dirty
 * data come down on the write's; without either, read(2), mappings, sendfile(2) and readahead go on
 * with old data for ever, while direct reads have the new.
 */
#include "ringwedge.h"

#include <sys/mman.h>
#include <sys/sendfile.h>

#define SIZE (512 * RW_KIB)
#define AT (128 * RW_KIB)
#define SLICE (32 * RW_KIB) /* of the write, one for each way to the page cache */
#define MORE (64 * RW_KIB)  /* by which a file grows */
#define BESIDE (8 * RW_KIB) /* dirty on either side of the write, which must not be lost */

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
	c.map = mmap(NULL, SIZE + MORE * 2, PROT_READ | PROT_WRITE, MAP_SHARED, c.fd, 0);
	if (c.map == MAP_FAILED)
		rw_broken("mmap: %s", strerror(errno));
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

/* In another task, with the gate shut: what it waits for may be behind the writes. */
static void look_meanwhile(const struct cached *c)
{
	if (!rw_has_gate()) {
		rw_by(&rw_whos[1], look_only, c);
		return;
	}
	rw_in_flight(1);
	rw_held_by(&rw_whos[1], look_only, c, false);
}

/* Blocks without data are read as zeros although the gate is shut; the others wait behind it. */
static void meanwhile(struct rw_ring *ring, const struct rw_write_kind *kind)
{
	struct cached c = start(ring, kind->state);

	if (rw_has_gate())
		rw_gate_shut();
	submit(ring, &c, kind);
	look_meanwhile(&c);
	rw_reap(ring);
	rw_then(c.file, (struct rw_change){ RW_KEEP });
	finish(&c);
}

struct patch {
	const struct cached *c;
	off_t off;
	unsigned int promise;
};

static void patch(const void *p)
{
	const struct patch *w = p;
	char buf[512];

	rw_fill(w->c->file, buf, w->off, sizeof(buf), w->promise);
	rw_eq(rw_ok(pwrite(w->c->fd, buf, sizeof(buf), w->off)), (long long)sizeof(buf));
}

/*
 * A cached write of a part of a block that is being written directly: the page would be filled from
 * what is there before, and its write-back undo the direct write. ext4_buffered_write_iter() waits.
 */
static void patched(struct rw_ring *ring, const struct rw_write_kind *kind)
{
	struct cached c = start(ring, kind->state);
	struct patch w = { &c, AT + 512 };
	unsigned int n;

	if (!rw_has_gate())
		rw_skip("needs a gate");
	patch(&(struct patch){ &c, SIZE, rw_promise(c.file, SIZE, 512) });
	rw_ok(fsync(c.fd));
	rw_gate_shut();
	submit(ring, &c, kind);
	n = rw_in_flight(rw_unreaped(ring));
	w.promise = rw_promise(c.file, w.off, 512);
	rw_held_by(&rw_whos[1], patch, &w, n > 0);
	rw_reap(ring);
	rw_then(c.file, (struct rw_change){ RW_KEEP });
	finish(&c);
}

/*
 * The device serves its queue in order, so how can a read that comes after a write's submission be
 * served before it? The write's buffer is the mapping of another file, which must be read first,
 * behind a write that is held. Then come the reads of old data, and last the write.
 */
static void overtaken(struct rw_ring *ring, const struct rw_write_kind *kind)
{
	struct rw_file *other = rw_file("other", RW_WRITTEN, 2 * SIZE);
	struct cached c = start(ring, kind->state);
	int fd = (int)rw_set_up(open(rw_path(other), O_RDONLY | O_CLOEXEC));
	void *buf = mmap(NULL, LEN, PROT_READ, MAP_SHARED, fd, AT);

	if (buf == MAP_FAILED)
		rw_broken("mmap: %s", strerror(errno));
	rw_use(ring, other);
	if (rw_has_gate())
		rw_gate_shut();
	rw_write(ring, other, SIZE, 16 * RW_KIB, 0);
	if (rw_has_gate())
		rw_in_flight(1);
	rw_write_from(ring, c.file, AT, LEN, buf);
	look_meanwhile(&c);
	rw_reap(ring);
	rw_then(other, (struct rw_change){ RW_KEEP });
	rw_then(c.file, (struct rw_change){ RW_COPY, AT, LEN, other, AT });
	finish(&c);
	munmap(buf, LEN);
	close(fd);
}

/* Dirty pages below the write and on both sides of it, by write(2) and by stores, by turns. */
static void dirty(struct rw_ring *ring, const struct rw_write_kind *kind)
{
	struct cached c = start(ring, kind->state);
	char buf[BESIDE];

	for (off_t at = AT - BESIDE; at < AT + LEN + BESIDE; at += BESIDE) {
		unsigned int promise = rw_promise(c.file, at, BESIDE);

		rw_fill(c.file, buf, at, BESIDE, promise);
		if (at / BESIDE % 2)
			memcpy(c.map + at, buf, BESIDE);
		else
			rw_eq(rw_ok(pwrite(c.fd, buf, BESIDE, at)), BESIDE);
	}
	submit(ring, &c, kind);
	rw_reap(ring);
	rw_then(c.file, (struct rw_change){ RW_KEEP });
	finish(&c);
}

/* The buffer is a mapping of the file itself, of which a part is dirty. */
static void from_itself(struct rw_ring *ring, const struct rw_write_kind *kind)
{
	const off_t from = AT + LEN;
	struct cached c = start(ring, kind->state);

	rw_fill(c.file, c.map + from, from, SLICE, rw_promise(c.file, from, SLICE));
	rw_then(c.file, (struct rw_change){ RW_KEEP });
	rw_write_from(ring, c.file, AT, LEN, c.map + from);
	rw_reap(ring);
	rw_then(c.file, (struct rw_change){ RW_COPY, AT, LEN, c.file, from });
	finish(&c);
}

static const struct scene {
	const char *name;
	void (*play)(struct rw_ring *ring, const struct rw_write_kind *kind);
	bool no_data; /* only where there are no data yet */
	bool plain;   /* no flags, no growth */
	bool punted;  /* only by rings whose owner does not submit itself */
	bool ext4;    /* only ext4 promises that */
} scenes[] = {
	{ "read-before", before },
	{ "read-meanwhile", meanwhile, .no_data = true },
	{ "read-overtakes", overtaken, .plain = true, .punted = true },
	{ "write-meanwhile", patched, .plain = true, .ext4 = true },
	{ "dirty-before", dirty },
	{ "from-itself", from_itself, .plain = true },
};

static void run(const void *const *at)
{
	const struct scene *scene = at[0];
	struct rw_ring *ring = rw_ring(at[1], 4);
	static const struct rw_write_kind hole = { RW_HOLE };

	if (scene->ext4 && rw_fs() != RW_EXT4)
		rw_skip("needs ext4");
	for (size_t k = 0; k <= RW_WRITE_KINDS; k++) {
		const struct rw_write_kind *kind = k < RW_WRITE_KINDS ? &rw_write_kinds[k] : &hole;
		bool data = kind->state != RW_UNWRITTEN && kind->state != RW_HOLE;

		if ((data && scene->no_data) || (scene->plain && (kind->rwf || kind->extend)))
			continue;
		if (rw_can_make(kind->state))
			scene->play(ring, kind);
	}
	rw_ring_close(ring);
}

static bool has(const void *const *at)
{
	const struct scene *scene = at[0];
	const struct rw_ring_kind *kind = at[1];

	if (scene->ext4)
		return kind == &rw_ring_kinds[0] || kind->aio;
	return !scene->punted || kind->async || kind->setup & IORING_SETUP_SQPOLL;
}

static const char *const guards[] = {
	"332391a9935d fs: Fix page cache inconsistency when mixing buffered and AIO DIO",
	NULL,
};

static const char *const groups[] = { "cache", NULL };

const struct rw_test rw_test = {
	.name = "cache-dio",
	.summary = "cached reads, mappings and dirty pages have what direct writes have written",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(scenes), RW_AXIS(rw_ring_kinds) },
	.has = has,
	.run = run,
};
