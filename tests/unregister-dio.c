/* SPDX-License-Identifier: MIT */
/*
 * What a ring had registered is taken out of it while direct writes that use it are in flight.
 *
 * A request holds no reference of its own to a registered file or buffer, but a node of the ring's
 * table: what is unregistered, or replaced, must be kept until the requests have ended (io_rsrc_data_kill(),
 * io_queue_rsrc_removal(); unregistering waits for them on some kernels, Linux 6.12). Memory that is let
 * go of too early is foreign data in the file, a file is another one in its place.
 */
#include "ringwedge.h"

#include <linux/falloc.h>

#define SIZE (256 * RW_KIB)
#define LEN (16 * RW_KIB)
#define FROM (3 * LEN) /* N writes: to each sort of block of RW_MIXED */
#define N 4
#define BUFFERS (N / 2 + 1) /* of a ring with room for N writes and another request */

static void unregister(struct rw_ring *r)
{
	struct io_uring *ring = rw_uring(r);

	rw_enter("io_uring_register (unregister buffers and files)");
	rw_eq(io_uring_unregister_buffers(ring), 0);
	rw_eq(io_uring_unregister_files(ring), 0);
}

static void replace_buffers(struct rw_ring *ring)
{
	struct iovec none[BUFFERS] = { { NULL, 0 } };

	rw_enter("io_uring_register (replace buffers)");
	rw_eq(io_uring_register_buffers_update_tag(rw_uring(ring), 0, none, NULL, BUFFERS),
	      BUFFERS);
}

static void replace(struct rw_ring *ring)
{
	int no_file = -1;

	replace_buffers(ring);
	rw_enter("io_uring_register (replace files)");
	rw_eq(io_uring_register_files_update(rw_uring(ring), 0, &no_file, 1), 1);
}

/* The file by a request of the ring itself, which is done at once. */
static void close_file(struct rw_ring *ring)
{
	struct io_uring_sqe sqe = { 0 };

	replace_buffers(ring);
	io_uring_prep_close_direct(&sqe, 0);
	rw_queue(ring, &sqe, &(struct rw_op){ "close", NULL, 0 });
	rw_submit_queued(ring, 0);
}

static const struct rw_ring_kind fixed = { .name = "fixed", .fixed = true };
/* Files that are not registered: those would hold the node of the ring's buffers, too. */
static const struct rw_ring_kind by_fd = { .name = "fixed", .fixed = true, .by_fd = true };

static const struct way {
	const char *name;
	void (*take_out)(struct rw_ring *ring);
	const struct rw_ring_kind *kind;
} ways[] = {
	{ "replace", replace, &fixed },	      { "unregister-buffers", unregister, &by_fd },
	{ "unregister", unregister, &fixed }, { "replace-buffers", replace, &by_fd },
	{ "close", close_file, &fixed },
};

struct owner {
	const struct way *way;
	struct rw_file *file;
	unsigned int promise[N];
};

static void own(const void *p)
{
	const struct owner *o = p;
	struct rw_ring *ring = rw_ring(o->way->kind, N + 1);
	struct rw_file file = *o->file;

	/* Not the descriptor that was inherited: this one nobody else has, but with a ring. */
	file.fd = (int)rw_set_up(open(rw_path(&file), O_RDWR | O_DIRECT | O_CLOEXEC));
	rw_use(ring, &file);
	for (int i = 0; i < N; i++)
		rw_write_promised(ring, &file, FROM + i * LEN, LEN, o->promise[i], 0);
	rw_pause();
	/* Memory and file are from here on the ring's and the writes' only. */
	rw_adopt(ring); /* unmaps the buffers */
	close(file.fd);
	o->way->take_out(ring);
	if (rw_gate_is_shut())
		rw_pinned();
	/* If the file was let go of, another one is now where it stood. */
	for (int i = 0; i < 64; i++)
		rw_set_up(open("/dev/null", O_RDONLY | O_CLOEXEC));
	rw_reap(ring);
	rw_unpinned();
}

static const struct rw_change punched = { RW_ZERO, FROM + LEN, 2 * LEN };

static void punch(const void *p)
{
	rw_ok(fallocate(((const struct rw_file *)p)->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			punched.off, punched.len));
}

static struct owner prepare(const struct way *way)
{
	enum rw_state state = rw_can_make(RW_UNWRITTEN) ? RW_MIXED : RW_WRITTEN;
	struct owner o = { way };

	o.file = rw_file("file", state, SIZE);
	rw_supported("fallocate", fallocate(o.file->fd, 0, 0, SIZE));
	punch(o.file); /* reads the metadata that it needs */
	o.file = rw_file("file", state, SIZE);
	for (int i = 0; i < N; i++)
		o.promise[i] = rw_promise(o.file, FROM + i * LEN, LEN);
	return o;
}

static void held(const struct way *way)
{
	struct owner o = prepare(way);
	struct rw_helper owner;
	unsigned int n;

	rw_gate_shut();
	owner = rw_start(own, &o);
	rw_wait_paused(&owner);
	n = rw_in_flight(N);
	rw_go_on(&owner);
	rw_in_flight(N); /* it has come as far as it can */
	rw_use_memory(); /* the pages of the writes, if they were let go of */
	rw_held_by(&rw_whos[0], punch, o.file, n > 0);
	rw_join(owner);
	(n == N ? rw_then : rw_race)(o.file, punched);
	rw_let_go(o.file);
}

/* The writes have ended; without a gate they may be on their way. */
static void free_running(const struct way *way)
{
	struct owner o = prepare(way);
	struct rw_helper owner = rw_start(own, &o);

	rw_wait_paused(&owner);
	if (rw_has_gate())
		rw_done();
	rw_go_on(&owner);
	punch(o.file);
	rw_join(owner);
	rw_race(o.file, punched);
	rw_let_go(o.file);
}

static void run(const void *const *at)
{
	if (rw_has_gate())
		held(at[0]);
	free_running(at[0]);
}

static const char *const guards[] = {
	"634d00df5e1c io_uring: add full-fledged dynamic buffers support",
	NULL,
};

static const char *const groups[] = { "exit", NULL };

const struct rw_test rw_test = {
	.name = "unregister-dio",
	.summary = "what is taken out of a ring is kept for the direct writes that use it",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(ways) },
	.run = run,
};
