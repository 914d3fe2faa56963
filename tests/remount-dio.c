/* SPDX-License-Identifier: MIT */
/*
 * A filesystem that is mounted in another way under direct writes.
 *
 * What is due at the end of a write, as the conversion of its blocks, was settled at its beginning,
 * and not by the mount options of then. A remount read-only is refused (mnt_hold_writers()) as long
 * as a write is in flight, though the last descriptor of its file was closed: else the write would
 * end in a filesystem that takes no change any more, and is lost. It does not wait for the write.
 */
#include "ringwedge.h"

#include <mntent.h>
#include <poll.h>
#include <sys/mount.h>

#define SIZE (256 * RW_KIB)
#define AT (8 * RW_KIB)
#define LEN (64 * RW_KIB)

static const char *const options[][2] = {
	{ "inode64", "inode32" },	      /* of xfs: where blocks are allocated */
	{ "dioread_nolock", "dioread_lock" }, /* of ext4: in which state */
};

struct mounted {
	char at[4200];
	const char *option, *other; /* that it has, and that it could have */
	bool *refused;
};

static struct mounted find_mount(const struct rw_file *f)
{
	const char *const *both = options[rw_fs() == RW_EXT4], *path = rw_path(f);
	struct mounted found = { .option = both[0], .other = both[1] };
	FILE *mounts = setmntent("/proc/self/mounts", "r");
	const struct mntent *m;

	while (mounts && (m = getmntent(mounts))) {
		size_t len = strlen(m->mnt_dir);
		bool has = hasmntopt(m, both[1]);

		if (len < strlen(found.at) || strncmp(path, m->mnt_dir, len) || path[len] != '/')
			continue;
		snprintf(found.at, sizeof(found.at), "%s", m->mnt_dir);
		found.option = both[has];
		found.other = both[!has];
	}
	if (mounts)
		endmntent(mounts);
	return found;
}

static int remount(const struct mounted *m, unsigned long flags, const char *data)
{
	rw_enter("mount (MS_REMOUNT)");
	return mount(NULL, m->at, NULL, MS_REMOUNT | flags, data);
}

static void must(int ret, const char *what)
{
	rw_leave(what, ret, RW_FAIL, __FILE__, __LINE__);
}

static void with_other_option(const void *p)
{
	const struct mounted *m = p;

	must(remount(m, 0, m->other), "remount with another option");
	*m->refused = true; /* nothing to refuse */
}

static void with_own_option(const struct mounted *m, struct rw_file *f)
{
	(void)f;
	must(remount(m, 0, m->option), "remount with the option as before");
}

static void read_only(const void *p)
{
	const struct mounted *m = p;
	bool shut = rw_gate_is_shut();
	int ret = remount(m, MS_RDONLY, NULL);

	if (ret && errno != EBUSY)
		rw_fail("remount read-only: %s", strerror(errno));
	if (!ret)
		must(remount(m, 0, NULL), "remount read-write");
	if (!ret && rw_gate_is_shut())
		rw_fail("a remount read-only succeeded with direct writes in flight");
	*m->refused |= ret || !shut;
}

/*
 * It succeeds as soon as nobody has a file open for writing. __fput() lets go of the inode, which
 * rw_sole() sees, before it lets go of the mount and of an unlinked inode (fs/file_table.c).
 */
static void read_only_and_back(const struct mounted *m, struct rw_file *f)
{
	uint64_t end = rw_until(20000);
	int ret;

	rw_sole(f);
	close(f->fd);
	while ((ret = remount(m, MS_RDONLY, NULL)) && errno == EBUSY && rw_more(end))
		poll(NULL, 0, 1);
	must(ret, "remount read-only");
	must(remount(m, 0, NULL), "remount read-write");
	f->fd = (int)rw_ok(open(rw_path(f), O_RDWR | O_DIRECT | O_CLOEXEC));
}

static const struct op {
	const char *name;
	void (*call)(const void *m);
	void (*after)(const struct mounted *m, struct rw_file *f);
	bool closes;
} ops[] = {
	{ "option", with_other_option, with_own_option },
	{ "read-only", read_only, read_only_and_back, true },
};

static void one(const struct op *op, const struct rw_ring_kind *kind, const struct mounted *m,
		struct rw_file *f)
{
	struct rw_ring *ring = rw_ring(kind, 4);

	rw_use(ring, f);
	rw_gate_shut();
	rw_write(ring, f, AT, LEN, 0);
	rw_write(ring, f, SIZE - LEN, LEN, 0);
	if (!kind->aio) /* io_submit would wait for the end of this one */
		rw_write(ring, f, SIZE, LEN, 0);
	rw_submitted();
	if (op->closes) {
		close(f->fd); /* the requests have the file */
		f->fd = -1;
	}
	rw_held_by(&rw_whos[0], op->call, m, false);
	rw_reap(ring);
	rw_ring_close(ring);
	op->after(m, f);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
}

static void run(const void *const *at)
{
	const enum rw_state states[] = { rw_can_make(RW_MIXED) ? RW_MIXED : RW_WRITTEN, RW_SHARED };
	const struct op *op = at[0];

	if (!(rw_fs() & (RW_XFS | RW_EXT4)))
		rw_skip("needs xfs or ext4");
	if (!rw_has_gate())
		rw_skip("needs a gate: a filesystem that others use is not remounted");
	for (size_t i = 0; i < RW_ARRAY_SIZE(states); i++) {
		bool refused = false;

		if (!rw_can_make(states[i]))
			continue;
		/* Where it had to wait for somebody else, the writes may have ended meanwhile. */
		for (int tries = 0; tries < 3 && !refused; tries++) {
			struct rw_file *f = rw_file("file", states[i], SIZE);
			struct mounted m = find_mount(f);

			m.refused = &refused;
			one(op, at[1], &m, f);
		}
		if (!refused)
			rw_fail("a remount read-only succeeded, after direct writes that were in "
				"flight when it was asked for");
	}
}

static bool has(const void *const *at)
{
	const struct op *op = at[0];
	const struct rw_ring_kind *kind = at[1];

	/* Who has the file is another one on each kind of ring; the end of a write is the same. */
	return op->closes || kind->aio || kind == &rw_ring_kinds[0];
}

static const char *const guards[] = {
	"745f17a4166e ext4: fix race between writepages and remount",
	NULL,
};

static const char *const groups[] = { "remount", NULL };
static const char *const needs[] = { "xfs or ext4", "a gate", NULL };

const struct rw_test rw_test = {
	.name = "remount-dio",
	.summary = "a remount under direct writes changes nothing for them, and is refused if it "
		   "would",
	.guards = guards,
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(ops), RW_AXIS(rw_ring_kinds) },
	.has = has,
	.run = run,
};
