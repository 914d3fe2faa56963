/* SPDX-License-Identifier: MIT */
/*
 * Many workers of io-wq on one inode, and what waits for them in io-wq as well.
 *
 * Workers write directly in parallel, or one after another: for the inode's lock, by io-wq's hash
 * (buffered writes of one file), for pages that must go first; beside them others fallocate,
 * truncate and sync. Each request must end once the device lets it, with no worker of a kind left
 * over, and none may spin meanwhile (io_wq_submit_work() tries again on -EAGAIN). A hash that is not
 * given on, or a retry without a wait, is a ring that never ends, or a burnt CPU.
 */
#include "ringwedge.h"

#include <linux/falloc.h>
#include <pthread.h>
#include <sys/eventfd.h>

#define SIZE (512 * RW_KIB)
#define N 12
#define AT (128 * RW_KIB)
#define LEN (128 * RW_KIB)
#define SMALL (384 * RW_KIB)

#define OP_FTRUNCATE 55 /* IORING_OP_FTRUNCATE, Linux 6.9 */

static const struct mix {
	const char *name;
	enum rw_state state;
	off_t step;    /* from one write to the next */
	size_t len;    /* 0: one sector, in the next block each */
	off_t from;    /* where the first one is */
	bool cached;   /* the pages are in the cache */
	bool buffered; /* every other write goes through it */
} mixes[] = {
	{ "written", RW_WRITTEN, 32 * RW_KIB, 16 * RW_KIB },
	{ "unwritten", RW_UNWRITTEN, 32 * RW_KIB, 16 * RW_KIB },
	{ "hole", RW_HOLE, 32 * RW_KIB, 16 * RW_KIB },
	{ "across", RW_MIXED, 40 * RW_KIB, 32 * RW_KIB },
	{ "shared", RW_SHARED, 32 * RW_KIB, 16 * RW_KIB },
	{ "sub-block", RW_HOLE, 4096, 0 },
	{ "cached", RW_WRITTEN, 32 * RW_KIB, 16 * RW_KIB, .cached = true },
	{ "buffered-too", RW_WRITTEN, 32 * RW_KIB, 16 * RW_KIB, .buffered = true },
	{ "extending", RW_WRITTEN, 16 * RW_KIB, 16 * RW_KIB, .from = SIZE },
};

/* A request of the same ring, behind the writes. */
enum beside { NOTHING, PUNCH, TRUNCATE, SYNC, BESIDES };

/* By request, or because the submission may not block. */
static const struct punt {
	const char *name;
	const struct rw_ring_kind *kind;
	enum beside most;     /* the last of them */
	unsigned int workers; /* at most; 0: as many as the kernel likes */
	bool tasks;	      /* a second thread, with an io-wq of its own, submits half of them */
} punts[] = {
	{ "natural", &rw_ring_kinds[0], PUNCH },
	{ "forced", &rw_ring_kinds[4], SYNC },
	{ "one-worker", &rw_ring_kinds[4], PUNCH, 1 },
	{ "two-tasks", &rw_ring_kinds[4], PUNCH, .tasks = true },
};

static const struct rw_change changes[BESIDES] = {
	[PUNCH] = { RW_ZERO, AT, LEN },
	[TRUNCATE] = { RW_RESIZE, SMALL },
};

/* A punch waits for all writes, on btrfs for those to its range alone. */
static bool waits(const struct mix *mix, enum beside beside, unsigned int held)
{
	if (!mix->len && rw_fs() & (RW_BTRFS | RW_F2FS))
		return false; /* parts of a block go through the page cache */
	if (rw_fs() == RW_BTRFS && beside == PUNCH)
		return held == N && !mix->from;
	return held > 0;
}

static void submit_beside(struct rw_ring *ring, struct rw_file *f, enum beside beside, bool held)
{
	struct io_uring_sqe sqe = { .opcode = OP_FTRUNCATE, .off = SMALL };

	if (beside == PUNCH) {
		rw_ring_fallocate(ring, f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, AT, LEN,
				  held);
	} else if (beside == TRUNCATE) {
		rw_queue(ring, &sqe, &(struct rw_op){ "ftruncate", f, 0, held });
		rw_submit_queued(ring, 0);
	} else if (beside == SYNC) {
		rw_ring_fsync(ring, f, false);
	}
}

struct files {
	struct rw_file *direct, buffered; /* the same file */
};

static struct files start(struct rw_ring *ring, const struct mix *mix)
{
	struct files f = { rw_file("file", mix->state, SIZE) };
	char byte;

	f.buffered = *f.direct;
	f.buffered.fd = (int)rw_set_up(open(rw_path(f.direct), O_RDWR | O_CLOEXEC));
	for (off_t at = 0; mix->cached && at < SIZE; at += 4096)
		rw_set_up(pread(f.buffered.fd, &byte, 1, at));
	rw_use(ring, f.direct);
	return f;
}

/* Some of the writes of a step: every `every`-th from `first` on. */
struct share {
	struct rw_ring *ring;
	struct files *files;
	const struct mix *mix;
	size_t len;
	int first, every;
	int submitted, reaped; /* eventfds, of a second thread */
};

static void submit_share(const struct share *s)
{
	off_t apart = s->mix->len ? s->mix->step : s->mix->step + (off_t)s->len;

	for (int i = s->first; i < N; i += s->every) {
		bool buffered = s->mix->buffered && i % 4 > 1;

		/* The synced one holds the hash until the gate opens: the others wait for it. */
		rw_write(s->ring, buffered ? &s->files->buffered : s->files->direct,
			 s->mix->from + i * apart, s->len, buffered ? RWF_DSYNC : 0);
	}
}

/* The thread stays: with it would go its workers. */
static void *second(void *p)
{
	const struct share *s = p;
	eventfd_t v;

	submit_share(s);
	eventfd_write(s->submitted, 1);
	eventfd_read(s->reaped, &v);
	return NULL;
}

static void submit(struct share *s, bool tasks, pthread_t *thread)
{
	eventfd_t v;

	s->every = 1 + tasks;
	submit_share(s);
	if (!tasks)
		return;
	s->first = 1;
	rw_set_up(pthread_create(thread, NULL, second, s) ? -1 : 0);
	eventfd_read(s->submitted, &v);
}

static void step(struct rw_ring *ring, const struct mix *mix, size_t len, bool tasks,
		 enum beside beside)
{
	struct files f = start(ring, mix);
	struct share share = { ring, &f, mix, len };
	unsigned int held = 0;
	pthread_t thread;

	share.submitted = (int)rw_set_up(eventfd(0, EFD_CLOEXEC));
	share.reaped = (int)rw_set_up(eventfd(0, EFD_CLOEXEC));
	if (rw_has_gate())
		rw_gate_shut();
	submit(&share, tasks, &thread);
	if (rw_has_gate())
		held = rw_in_flight(N);
	submit_beside(ring, f.direct, beside, waits(mix, beside, held));
	if (held)
		rw_workers_asleep();
	if (rw_has_gate())
		rw_held_reap(ring);
	rw_reap(ring);
	eventfd_write(share.reaped, 1);
	if (tasks)
		pthread_join(thread, NULL);
	/* What goes behind the end has no part in what is punched. */
	((held == N && mix->state != RW_MIXED) || mix->from ? rw_then : rw_race)(f.direct,
										 changes[beside]);
	rw_verify(f.direct);
	close(f.buffered.fd);
	close(share.submitted);
	close(share.reaped);
}

static void run(const void *const *at)
{
	const struct mix *mix = at[0];
	const struct punt *punt = at[1];
	struct rw_ring *ring = rw_ring(punt->kind, N + 1);
	unsigned int most[2] = { punt->workers, punt->workers };
	size_t len = mix->len ? mix->len : rw_sector_size();
	bool punches = rw_can_make(RW_UNWRITTEN);
	bool truncates = rw_has_opcode(ring, OP_FTRUNCATE) && !mix->from;

	if (!rw_can_make(mix->state))
		rw_skip("needs a filesystem with %s blocks", mix->name);
	if (mix->state == RW_HOLE && !rw_can_make(RW_UNWRITTEN))
		rw_skip("needs extents: without, writes to holes go through the page cache");
	if (punt->workers)
		rw_set_up(io_uring_register_iowq_max_workers(rw_uring(ring), most) ? -1 : 0);
	/* All of them with one mix; what the others need is somebody who waits for them. */
	for (enum beside beside = mix == mixes || !punches ? NOTHING : PUNCH; beside <= punt->most;
	     beside++)
		if ((beside != TRUNCATE || truncates) && (beside != SYNC || mix == mixes) &&
		    (beside != PUNCH || punches))
			step(ring, mix, len, punt->tasks, beside);
	rw_ring_close(ring);
}

static bool has(const void *const *at)
{
	const struct mix *mix = at[0];
	const struct punt *punt = at[1];

	if (mix->buffered) /* a synced one, not punted, blocks the submission (docs/found/) */
		return punt->kind->async;
	/* Others meet in the inode's lock anyhow. */
	return mix == mixes || (!punt->workers && !punt->tasks);
}

static const char *const guards[] = {
	"838b35bb6a89 io_uring/rw: disable IOCB_DIO_CALLER_COMP",
	"d3e3c102d107 io-wq: serialize hash clear with wakeup",
	NULL,
};

static const char *const groups[] = { "iowq", NULL };

const struct rw_test rw_test = {
	.name = "iowq-dio",
	.summary = "writes in many workers of io-wq, and what waits for them there, end without "
		   "spinning",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(mixes), RW_AXIS(punts) },
	.has = has,
	.run = run,
};
