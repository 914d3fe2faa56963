/* SPDX-License-Identifier: MIT */
/*
 * What fcntl(F_SETFL) says of an open file holds for the direct I/O that comes next.
 *
 * A request takes its flags from a copy that the file has (f_iocb_flags): if setfl() does not renew it
 * O_DIRECT is without effect, and an application that sets or clears it for a write to come, of a
 * file's last bytes, gets the other kind (see append-end-dio for O_APPEND). O_NONBLOCK is not for regular
 * files: what may not block in the submission goes to io-wq, as without it (io_rw_init_file(), and
 * io_slot_flags() of a registered file), and does not end with -EAGAIN.
 */
#include "ringwedge.h"

#define SIZE (256 * RW_KIB)
#define LEN (32 * RW_KIB)

/* Into a hole, behind the end, and over dirty pages, which is also where it reads. */
static void nonblock(struct rw_ring *ring, struct rw_file *f)
{
	struct rw_io read = { .read = true, .off = SIZE / 2 - LEN, .len = LEN };

	rw_set_up(fcntl(f->fd, F_SETFL, O_DIRECT | O_NONBLOCK));
	rw_use(ring, f);
	rw_cache_dirty(f, SIZE / 2 - LEN, 2 * LEN);
	rw_submit(ring, f, &read);
	rw_reap(ring);
	rw_check_read(&read, SIZE);
	rw_write(ring, f, SIZE / 2, LEN, 0);
	rw_write(ring, f, 0, LEN, 0);
	rw_write(ring, f, SIZE, LEN, 0);
	rw_reap(ring);
}

/* Set for a write, and cleared while that is in flight. */
static void direct(struct rw_ring *ring, struct rw_file *f)
{
	struct rw_file other = *f;
	uint64_t buf[10]; /* of a length that direct I/O refuses */

	other.fd = (int)rw_set_up(open(rw_path(f), O_RDWR | O_CLOEXEC));
	rw_set_up(fcntl(other.fd, F_SETFL, O_DIRECT));
	rw_use(ring, &other);
	rw_write(ring, &other, 0, LEN, 0); /* allocates */
	rw_reap(ring);
	if (rw_has_gate())
		rw_gate_shut();
	rw_write(ring, &other, 0, LEN, 0);
	if (rw_has_gate() && !rw_in_flight(1))
		rw_fail("a write to a file with O_DIRECT set by fcntl(2) is in the page cache");
	rw_set_up(fcntl(other.fd, F_SETFL, 0));
	if (rw_has_gate())
		rw_gate_open();
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_eq(rw_ok(pread(other.fd, buf, sizeof(buf), 512)), sizeof(buf));
	rw_check(f, "read with O_DIRECT cleared", buf, 512, sizeof(buf));
	close(other.fd);
}

static const struct flag {
	const char *name;
	void (*set)(struct rw_ring *ring, struct rw_file *f);
} flags[] = { { "nonblock", nonblock }, { "direct", direct } };

static const struct rw_ring_kind kinds[] = {
	{ .name = "plain" },
	{ .name = "fixed", .fixed = true },
};

static void run(const void *const *at)
{
	struct rw_ring *ring = rw_ring(at[1], 4);
	struct rw_file *f = rw_file("file", RW_HOLE, SIZE);

	((const struct flag *)at[0])->set(ring, f);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
	rw_ring_close(ring);
}

static bool has(const void *const *at)
{
	const struct flag *flag = at[0];

	/* The other flags are not of the ring's table. */
	return flag->set == nonblock || at[1] == &kinds[0];
}

static const char *const guards[] = {
	"5d329e1286b0 io_uring: allow retry for O_NONBLOCK if async is supported",
	NULL,
};

static const char *const groups[] = { "nowait", NULL };

const struct rw_test rw_test = {
	.name = "setfl-dio",
	.summary = "the flags of an open file, as fcntl sets them, hold for direct I/O at once",
	.guards = guards,
	.groups = groups,
	.axes = { RW_AXIS(flags), RW_AXIS(kinds) },
	.has = has,
	.run = run,
};
