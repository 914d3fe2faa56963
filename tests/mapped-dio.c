/* SPDX-License-Identifier: MIT */
/*
 * Direct writes whose memory is a mapping of a file: of another one, or of the very file.
 *
 * The pages must be read first, and those of the very file be written back, while the write's own
 * range is dropped from the page cache. While a submission waits for its memory others may read
 * the range, with the old data, into the page cache: the write drops it once more when it has ended
 * (kiocb_invalidate_post_direct_write()). Otherwise read(2) and mappings go on with old data for ever.
 */
#include "ringwedge.h"

#include <sys/mman.h>

#define SIZE (512 * RW_KIB)
#define AT (128 * RW_KIB)
#define LEN (128 * RW_KIB)
#define PART (32 * RW_KIB)

static char *map(struct rw_file *f, off_t off, size_t len)
{
	int fd = (int)rw_set_up(open(rw_path(f), O_RDWR | O_CLOEXEC));
	char *p = rw_map(fd, off, len);

	close(fd);
	return p;
}

static void finish(struct rw_file *f, char *mapped)
{
	rw_check(f, "read through a mapping", mapped, 0, SIZE);
	rw_verify(f);
	/* Whatever is dirty yet, by mistake, comes down now. */
	rw_ok(fsync(f->fd));
	rw_verify(f);
	munmap(mapped, SIZE);
}

/* Of the pages of the very file a part is dirty. */
static void from_itself(struct rw_ring *ring, struct rw_file *f)
{
	const off_t from = AT + LEN;
	char *mapped = map(f, 0, SIZE);

	rw_use(ring, f);
	rw_fill(f, mapped + from, from, PART, rw_promise(f, from, PART));
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_write_from(ring, f, AT, LEN, mapped + from);
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_COPY, AT, LEN, f, from });
	finish(f, mapped);
}

struct look {
	const struct rw_file *file;
	const char *mapped;
};

/* One half by read(2), the other through the mapping. */
static void look(const void *p)
{
	const struct look *l = p;

	rw_cache(l->file, AT, LEN / 2);
	for (off_t at = AT + LEN / 2; at < AT + LEN; at += 4 * RW_KIB)
		(void)*(const volatile char *)(l->mapped + at);
}

/*
 * The device serves its queue in order, so how can a read that comes after a write's submission be
 * served before it? The write's memory is to be read first, behind a write that is held. Then come
 * the reads of old data, and last the write.
 */
static void overtaken(struct rw_ring *ring, struct rw_file *f)
{
	struct rw_file *other = rw_file("other", RW_WRITTEN, 2 * SIZE);
	char *mapped = map(f, 0, SIZE), *buf = map(other, AT, LEN);
	const struct look l = { f, mapped };

	rw_use(ring, f);
	rw_use(ring, other);
	if (rw_has_gate())
		rw_gate_shut();
	rw_write(ring, other, SIZE, 16 * RW_KIB, 0);
	if (rw_has_gate())
		rw_in_flight(1);
	rw_write_from(ring, f, AT, LEN, buf);
	if (rw_has_gate()) {
		rw_in_flight(1);
		rw_held_by(&rw_whos[1], look, &l, false);
	} else {
		rw_by(&rw_whos[1], look, &l);
	}
	rw_reap(ring);
	rw_then(other, (struct rw_change){ RW_KEEP });
	rw_then(f, (struct rw_change){ RW_COPY, AT, LEN, other, AT });
	finish(f, mapped);
	munmap(buf, LEN);
}

static const struct scene {
	const char *name;
	void (*play)(struct rw_ring *ring, struct rw_file *f);
} scenes[] = {
	{ "read-overtakes", overtaken },
	{ "from-itself", from_itself },
};

static void run(const void *const *at)
{
	static const enum rw_state states[] = { RW_WRITTEN, RW_UNWRITTEN, RW_MIXED, RW_HOLE };
	struct rw_ring *ring = rw_ring(at[1], 4);

	for (size_t i = 0; i < RW_ARRAY_SIZE(states); i++)
		if (rw_can_make(states[i]))
			((const struct scene *)at[0])->play(ring, rw_file("file", states[i], SIZE));
	rw_ring_close(ring);
}

/* What is overtaken sleeps for its memory: not in a submission of the task that is to go on. */
static bool has(const void *const *at)
{
	const struct rw_ring_kind *kind = at[1];

	return ((const struct scene *)at[0])->play != overtaken || kind->async ||
	       kind->setup & IORING_SETUP_SQPOLL;
}

static const char *const guards[] = {
	"332391a9935d fs: Fix page cache inconsistency when mixing buffered and AIO DIO",
	NULL,
};

static const char *const groups[] = { "cache", NULL };

const struct rw_test rw_test = {
	.name = "mapped-dio",
	.summary =
		"direct writes of a file's mapping have its data, and nobody old data after them",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(scenes), RW_AXIS(rw_ring_kinds) },
	.has = has,
	.run = run,
};
