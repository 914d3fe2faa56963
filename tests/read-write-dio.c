/* SPDX-License-Identifier: MIT */
/*
 * Reads, and writes that came before or are on their way.
 *
 * A direct read writes back what is dirty in its range before it starts (kiocb_write_and_wait()), and
 * finds blocks that are being written for the first time as zeros or with the data, never as they
 * were on the disk. What a cached read has found of them is dropped only after they are converted
 * (iomap_dio_complete(), in this order), or it goes on with zeros for ever.
 */
#include "ringwedge.h"

#include <sys/mman.h>

#define SIZE (512 * RW_KIB)
#define AT (128 * RW_KIB)
#define LEN (128 * RW_KIB)
#define PAGE (4 * RW_KIB)
#define READS 4
#define READ (96 * RW_KIB)

/* By several direct reads, beside the writes that are on their way. */
static void read_all(struct rw_ring *ring, struct rw_file *f)
{
	struct rw_io io[READS];

	for (int i = 0; i < READS; i++) {
		io[i] = (struct rw_io){ .read = true, .off = i * READ, .len = READ };
		rw_submit(ring, f, &io[i]);
	}
	rw_reap_either(ring, f, (struct rw_change){ RW_KEEP });
	for (int i = 0; i < READS; i++)
		rw_check_read(&io[i], SIZE);
	rw_verify(f);
}

/* Dirty pages in the range, by turns by a store and by write(2), the last page of a read among them. */
static void dirty(struct rw_ring *ring)
{
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);
	int fd = (int)rw_set_up(open(rw_path(f), O_RDWR | O_CLOEXEC));
	char *map = rw_map(fd, 0, SIZE);

	rw_use(ring, f);
	for (off_t at = AT; at < AT + LEN; at += 3 * PAGE) {
		if (at / PAGE % 2)
			rw_fill(f, map + at, at, PAGE, rw_promise(f, at, PAGE));
		else
			rw_cache_dirty(f, at, PAGE);
	}
	rw_then(f, (struct rw_change){ RW_KEEP });
	read_all(ring, f);
	munmap(map, SIZE);
	close(fd);
}

/* Reads that begin, or end, within a page that is dirty, beside pages that are not. */
static void dirty_part(struct rw_ring *ring)
{
	static const struct {
		int off, len; /* in sectors, from the dirty page on */
	} parts[READS] = { { 3, 21 }, { -24, 29 }, { 5, 2 }, { -3, 6 } };
	const off_t sector = (off_t)rw_sector_size();
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);
	struct rw_io io[READS];

	rw_use(ring, f);
	for (int i = 0; i < READS; i++) {
		const off_t page = (i + 1) * READ;

		rw_cache_dirty(f, page, PAGE);
		io[i] = (struct rw_io){ .read = true,
					.off = page + parts[i].off * sector,
					.len = (size_t)(parts[i].len * sector) };
	}
	for (int i = 0; i < READS; i++)
		rw_submit(ring, f, &io[i]);
	rw_reap(ring);
	for (int i = 0; i < READS; i++)
		rw_check_read(&io[i], SIZE);
	rw_verify(f);
}

/* Writes to blocks of every state: reads find what was there before, or the data. */
static void over_writes(struct rw_ring *ring)
{
	static const enum rw_state states[] = { RW_WRITTEN, RW_UNWRITTEN, RW_HOLE,
						RW_SHARED,  RW_MIXED,	  RW_SHARED_MIXED };

	rw_for_ms(20) {
		for (size_t i = 0; i < RW_ARRAY_SIZE(states); i++) {
			struct rw_file *f;

			if (!rw_can_make(states[i]))
				continue;
			f = rw_file("file", states[i], SIZE);
			rw_use(ring, f);
			rw_write(ring, f, AT, LEN, 0);
			rw_jitter(50);
			read_all(ring, f);
		}
	}
}

static void read_cached(const void *p)
{
	static char buf[LEN];
	int fd = (int)rw_set_up(open(rw_path(p), O_RDONLY | O_CLOEXEC));

	for (;;)
		rw_eq(rw_ok(pread(fd, buf, sizeof(buf), AT)), LEN);
}

/* Another task reads, over and over, blocks whose conversion takes many transactions. */
static void cached_beside(struct rw_ring *ring)
{
	rw_for_ms(40) {
		struct rw_file *f = rw_file("file", RW_UNWRITTEN, SIZE);
		struct rw_helper reader;

		rw_use(ring, f);
		for (off_t at = AT; at < AT + LEN; at += 2 * PAGE) {
			rw_write(ring, f, at, PAGE, 0);
			rw_reap(ring);
		}
		reader = rw_start(read_cached, f);
		for (int i = 0; i < 4; i++) {
			rw_write(ring, f, AT + i * LEN / 4, LEN / 4, 0);
			rw_reap(ring);
		}
		rw_kill(&reader);
		rw_join(reader);
		rw_then(f, (struct rw_change){ RW_KEEP });
		rw_verify(f);
	}
}

static const struct scene {
	const char *name;
	void (*play)(struct rw_ring *ring);
} scenes[] = {
	{ "dirty", dirty },
	{ "dirty-part", dirty_part },
	{ "over-writes", over_writes },
	{ "cached-beside", cached_beside },
};

static void run(const void *const *at)
{
	struct rw_ring *ring = rw_ring(at[1], READS + 1);

	((const struct scene *)at[0])->play(ring);
	rw_ring_close(ring);
}

static bool has(const void *const *at)
{
	const struct scene *scene = at[0];
	const struct rw_ring_kind *kind = at[1];

	return (scene->play != cached_beside && scene->play != dirty_part) ||
	       kind == &rw_ring_kinds[0] || kind->aio;
}

static const char *const guards[] = {
	"332391a9935d fs: Fix page cache inconsistency when mixing buffered and AIO DIO",
	NULL,
};

static const char *const groups[] = { "read", NULL };

const struct rw_test rw_test = {
	.name = "read-write-dio",
	.summary = "reads find what was written before, and of writes beside them the data or what "
		   "was there",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(scenes), RW_AXIS(rw_ring_kinds) },
	.has = has,
	.run = run,
};
