/* SPDX-License-Identifier: MIT */
/*
 * Dirty pages of the page cache below and beside direct writes.
 *
 * A direct write writes back what is dirty in its range, and drops it, before it begins
 * (kiocb_invalidate_pages()): otherwise the old data come down on the write's. What is dirty beside
 * it must not be lost. A cached write of a part of a block that is being written directly fills its page
 * from what is there before, and would undo the direct write when it is written back: ext4 makes it wait
 * (ext4_buffered_write_iter()). You would see old data where the direct write was, at once or after
 * fsync(2).
 */
#include "ringwedge.h"

#include <sys/mman.h>

#define SIZE (512 * RW_KIB)
#define AT (128 * RW_KIB)
#define LEN (128 * RW_KIB)
#define MORE (64 * RW_KIB)  /* by which a file grows */
#define BESIDE (8 * RW_KIB) /* dirty on either side of the write, which must not be lost */

/* A file as the page cache has it. */
struct cached {
	struct rw_file *file;
	int fd;
	char *map;
};

static struct cached start(struct rw_ring *ring, enum rw_state state)
{
	/* With blocks smaller than a page, the last page is not full. */
	struct cached c = { rw_file("file", state, SIZE + rw_block_size()) };

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
	struct stat st;

	rw_set_up(fstat(c->fd, &st));
	rw_check(c->file, "read through a mapping", c->map, 0, (size_t)st.st_size);
	rw_verify(c->file);
	/* Whatever is dirty yet, by mistake, comes down now. */
	rw_ok(fsync(c->fd));
	rw_verify(c->file);
	munmap(c->map, SIZE + MORE * 2);
	close(c->fd);
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

static const struct scene {
	const char *name;
	void (*play)(struct rw_ring *ring, const struct rw_write_kind *kind);
} scenes[] = {
	{ "dirty-before", dirty },
	{ "write-meanwhile", patched },
};

static void run(const void *const *at)
{
	const struct scene *scene = at[0];
	struct rw_ring *ring = rw_ring(at[1], 4);
	static const struct rw_write_kind hole = { RW_HOLE };

	if (scene->play == patched && rw_fs() != RW_EXT4)
		rw_skip("needs ext4"); /* only it promises that */
	for (size_t k = 0; k <= RW_WRITE_KINDS; k++) {
		const struct rw_write_kind *kind = k < RW_WRITE_KINDS ? &rw_write_kinds[k] : &hole;

		if (scene->play == patched && (kind->rwf || kind->extend))
			continue;
		if (rw_can_make(kind->state))
			scene->play(ring, kind);
	}
	rw_ring_close(ring);
}

static bool has(const void *const *at)
{
	const struct rw_ring_kind *kind = at[1];

	return ((const struct scene *)at[0])->play != patched || kind == &rw_ring_kinds[0] ||
	       kind->aio;
}

static const char *const guards[] = {
	"332391a9935d fs: Fix page cache inconsistency when mixing buffered and AIO DIO",
	NULL,
};

static const char *const groups[] = { "cache", NULL };

const struct rw_test rw_test = {
	.name = "dirty-dio",
	.summary = "dirty pages below and beside direct writes neither undo them nor are lost",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(scenes), RW_AXIS(rw_ring_kinds) },
	.has = has,
	.run = run,
};
