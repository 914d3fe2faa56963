/* SPDX-License-Identifier: MIT */
/*
 * A database that writes through io_uring and extends its files, with a checkpointer beside it.
 *
 * The workload that met the hang of 6.6-rc: a backend submits a batch of direct writes and, before it
 * asks for one completion, extends the relation with fallocate(2). inode_dio_wait() then waits for
 * writes that may need that very backend (IOCB_DIO_CALLER_COMP). It also truncates, syncs and reads
 * back; the checkpointer syncs and preallocates all the relations at the same time. A hang, or a
 * page that is not what was last written to it.
 */
#include "ringwedge.h"

#include <linux/falloc.h>

#define PAGE (8 * RW_KIB)
#define BATCH 12
#define BACKENDS 3
#define START (64 * PAGE)    /* the size of a relation at first */
#define CHUNK (16 * PAGE)    /* by which it is extended */
#define LARGEST (256 * PAGE) /* then it is truncated to START */
#define RUN 120		     /* ms */

static const char *const names[BACKENDS] = { "relation-1", "relation-2", "relation-3" };

struct database {
	const struct rw_ring_kind *kind;
	struct rw_file *relation[BACKENDS];
};

struct backend {
	const struct rw_ring_kind *kind;
	struct rw_file *relation;
};

/* Different pages of [from, to), so that which one is written last is known. */
static void write_batch(struct rw_ring *ring, struct rw_file *f, off_t from, off_t to)
{
	unsigned int pages = (unsigned int)((to - from) / PAGE);
	unsigned int first = rw_rand(pages), step = pages / BATCH;

	for (unsigned int i = 0; i < BATCH; i++)
		rw_write(ring, f, from + (off_t)((first + i * step) % pages) * PAGE, PAGE, 0);
}

static void backend(const void *p)
{
	const struct backend *b = p;
	struct rw_file *f = b->relation;
	struct rw_ring *ring = rw_ring(b->kind, 2 * BATCH);
	off_t size = START;

	rw_use(ring, f);
	rw_for_ms(RUN) {
		write_batch(ring, f, 0, START); /* overwrites */
		rw_ok(fallocate(f->fd, 0, size, CHUNK));
		rw_then(f, (struct rw_change){ RW_GROW, size, CHUNK }); /* elsewhere */
		write_batch(ring, f, size, size + CHUNK);		/* unwritten */
		size += CHUNK;
		if (rw_rand(4) == 0)
			rw_ok(fdatasync(f->fd));
		rw_reap(ring);
		rw_then(f, (struct rw_change){ RW_KEEP });
		if (size < LARGEST)
			continue;
		write_batch(ring, f, 0, START);
		rw_ok(ftruncate(f->fd, START));
		size = START;
		rw_reap(ring);
		rw_then(f, (struct rw_change){ RW_RESIZE, START });
	}
	rw_verify(f);
	rw_ring_close(ring);
}

static void checkpointer(const void *p)
{
	const struct database *db = p;

	rw_for_ms(RUN)
		for (int i = 0; i < BACKENDS; i++) {
			int fd = db->relation[i]->fd;

			rw_ok(fsync(fd));
			rw_ok(sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE));
			/* Blocks behind the end, which the next extension or truncation meets. */
			rw_ok(fallocate(fd, FALLOC_FL_KEEP_SIZE, LARGEST, CHUNK));
		}
}

static void run(const void *const *at)
{
	struct database db = { at[0] };
	struct backend b[BACKENDS];
	struct rw_helper helpers[BACKENDS + 1];

	for (int i = 0; i < BACKENDS; i++) {
		db.relation[i] = rw_file(names[i], RW_WRITTEN, START);
		b[i] = (struct backend){ at[0], db.relation[i] };
	}
	rw_supported("fallocate", fallocate(db.relation[0]->fd, FALLOC_FL_KEEP_SIZE, 0, START));
	for (int i = 0; i < BACKENDS; i++)
		helpers[i] = rw_start(backend, &b[i]);
	helpers[BACKENDS] = rw_start(checkpointer, &db);
	for (int i = 0; i <= BACKENDS; i++)
		rw_join(helpers[i]);
	for (int i = 0; i < BACKENDS; i++)
		rw_sole(db.relation[i]);
}

static const char *const guards[] = {
	"838b35bb6a89 io_uring/rw: disable IOCB_DIO_CALLER_COMP",
	NULL,
};

static const char *const groups[] = { "workload", NULL };

const struct rw_test rw_test = {
	.name = "postgres-extend",
	.summary = "a database can write through its rings, extend, truncate and sync at once",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(rw_ring_kinds) },
	.run = run,
};
