/* SPDX-License-Identifier: MIT */
/*
 * A direct write is done with the credentials that its request names, whoever carries it out.
 *
 * A request has its ring's, or those of a personality (IORING_REGISTER_PERSONALITY), and takes them
 * along to io-wq, to a SQPOLL thread and into a chain (io_prep_async_work(), io_issue_sqe()). A
 * write takes the set-user-ID bit off the file if the writer is not privileged
 * (file_remove_privs()), which a submission that may not sleep leaves to a worker. With the
 * credentials lost on the way, a writer without privileges writes to a program that stays
 * set-user-ID, or root's write takes the bit away.
 */
#include "ringwedge.h"

#define SIZE (128 * RW_KIB)
#define LEN (16 * RW_KIB)
#define NOBODY 65534

static const struct way {
	const char *name;
	unsigned int before, flags; /* IOSQE_*: of a nop before it, and of the write itself */
} ways[] = {
	{ "alone", 0, 0 },
	{ "async", 0, IOSQE_ASYNC },
	{ "linked", IOSQE_IO_LINK, 0 },
	{ "drained", 0, IOSQE_IO_DRAIN },
};

static const struct rw_ring_kind kinds[] = {
	{ .name = "plain" },
	{ .name = "defer-taskrun",
	  .setup = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN },
	{ .name = "sqpoll", .setup = IORING_SETUP_SQPOLL },
};

static void set_bit(const struct rw_file *f)
{
	rw_set_up(fchmod(f->fd, S_ISUID | 0755));
}

static bool has_bit(const struct rw_file *f)
{
	struct stat st;

	rw_set_up(fstat(f->fd, &st));
	return st.st_mode & S_ISUID;
}

static void write_as(struct rw_ring *ring, struct rw_file *f, const struct way *way,
		     unsigned int personality)
{
	static char buf[LEN] __attribute__((aligned(4096)));
	struct io_uring_sqe nop = { .opcode = IORING_OP_NOP, .flags = (__u8)way->before };
	struct io_uring_sqe sqe = { 0 };

	set_bit(f);
	rw_fill(f, buf, LEN, LEN, rw_promise(f, LEN, LEN));
	io_uring_prep_write(&sqe, f->fd, buf, LEN, LEN);
	sqe.flags = (__u8)way->flags;
	sqe.personality = (__u16)personality;
	if (way->before)
		rw_queue(ring, &nop, &(struct rw_op){ "nop", NULL, 0 });
	rw_queue(ring, &sqe, &(struct rw_op){ "write", f, LEN });
	rw_submit_queued(ring, 0);
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	if (has_bit(f) != !personality)
		rw_fail("a write %s: the file is %sset-user-ID afterwards",
			personality ? "without privileges" : "by root, next to one without",
			has_bit(f) ? "" : "not ");
}

static void run(const void *const *at)
{
	struct rw_file *f = rw_file("file", RW_WRITTEN, SIZE);
	struct rw_ring *ring = rw_ring(at[1], 2);
	int id;

	if (geteuid())
		rw_skip("needs root");
	rw_set_up(seteuid(NOBODY));
	id = io_uring_register_personality(rw_uring(ring));
	rw_set_up(seteuid(0));
	if (id <= 0)
		rw_skip("needs IORING_REGISTER_PERSONALITY: %s", strerror(-id));
	for (int i = 0; i < 2; i++) {
		write_as(ring, f, at[0], (unsigned int)id);
		write_as(ring, f, at[0], 0);
	}
	rw_verify(f);
	rw_ring_close(ring);
}

static const char *const groups[] = { "iowq", NULL };
static const char *const needs[] = { "root, to be somebody else for a moment", NULL };

const struct rw_test rw_test = {
	.name = "creds-dio",
	.summary = "a direct write is done with the credentials that its request names",
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(ways), RW_AXIS(kinds) },
	.run = run,
};
