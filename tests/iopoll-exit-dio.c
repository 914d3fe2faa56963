/* SPDX-License-Identifier: MIT */
/*
 * The owner of a ring goes, or closes it, with polled direct reads (IORING_SETUP_IOPOLL) in flight.
 *
 * The device tells nobody that they have ended: it has when somebody polls, which was the owner's to
 * do (io_do_iopoll()). Who takes the ring down must do it for him (io_ring_exit_work()), or the next
 * fallocate or truncate sleeps for ever, and the file stays open.
 */
#include "ringwedge.h"

#include <linux/falloc.h>

#define SIZE (512 * RW_KIB)
#define LEN (32 * RW_KIB)
#define READS 4

static const struct end {
	const char *name;
	bool killed, closes;
} ends[] = {
	{ "exit" },
	{ "kill", .killed = true },
	{ "close", .closes = true },
};

struct owner {
	const struct end *end;
	const struct rw_ring_kind *kind;
	const struct rw_file *file;
};

static void own(const void *p)
{
	const struct owner *o = p;
	struct rw_ring *ring = rw_ring(o->kind, READS);
	struct rw_file file = *o->file;
	struct rw_io io[READS];

	/* Not the descriptor that was inherited: this one nobody else has, but with a ring. */
	file.fd = (int)rw_set_up(open(rw_path(&file), O_RDWR | O_DIRECT | O_CLOEXEC));
	rw_use(ring, &file);
	for (int i = 0; i < READS; i++) {
		io[i] = (struct rw_io){ .read = true, .off = i * LEN, .len = LEN };
		rw_submit(ring, &file, &io[i]);
	}
	rw_pause();
	if (o->end->closes)
		rw_ring_close(ring);
}

static void punch(const struct rw_file *f)
{
	rw_supported("fallocate",
		     fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, SIZE / 2));
}

static void shrink(const struct rw_file *f)
{
	rw_ok(ftruncate(f->fd, SIZE / 2));
}

static const struct op {
	void (*call)(const struct rw_file *);
	struct rw_change change;
} ops[] = { { punch, { RW_ZERO, 0, SIZE / 2 } }, { shrink, { RW_RESIZE, SIZE / 2 } } };

static void run(const void *const *at)
{
	const struct end *end = at[0];
	const struct rw_ring_kind *kind = at[1];

	if (!rw_device_polls())
		rw_skip("needs a device that polls (null_blk, nvme, virtio_blk with poll_queues)");
	rw_ring_close(rw_ring(kind, 1)); /* is it there? */
	for (size_t i = 0; i < RW_ARRAY_SIZE(ops); i++) {
		struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);
		const struct owner o = { end, kind, f };
		struct rw_helper owner = rw_start(own, &o);

		rw_wait_paused(&owner);
		if (!(kind->setup & IORING_SETUP_SQPOLL)) /* whose thread polls */
			rw_unpolled(READS);
		if (end->killed)
			rw_kill(&owner);
		else
			rw_go_on(&owner);
		ops[i].call(f);
		rw_then(f, ops[i].change);
		rw_join(owner);
		rw_let_go(f);
	}
}

static const char *const guards[] = {
	"3c7d76d6128a io_uring: IOPOLL polling improvements",
	NULL,
};

static const char *const groups[] = { "iopoll", "exit", NULL };

const struct rw_test rw_test = {
	.name = "iopoll-exit-dio",
	.summary = "polled direct I/O ends, and holds nothing, without the ring's owner",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(ends), RW_AXIS(rw_iopoll_kinds) },
	.run = run,
};
