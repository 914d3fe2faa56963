/* SPDX-License-Identifier: MIT */
/*
 * Quota turned off and on, and a file given to another project, with direct writes to it in flight.
 *
 * The blocks of a write are charged when it is submitted, and what it lays aside for its end - to be
 * converted, or shared no more - as well. Q_XQUOTAOFF, Q_XQUOTAON and a project's change may not wait
 * for the end with what that needs, and must take along what is charged already: in the end each
 * project pays for the blocks that its files have, which stat(2) tells, no more and no less.
 */
#include "ringwedge.h"

#include <linux/dqblk_xfs.h>
#include <linux/fs.h>
#include <linux/quota.h>
#include <sys/syscall.h>

#define SIZE (256 * RW_KIB)
#define AT (32 * RW_KIB)
#define LEN (64 * RW_KIB)
#define LIMIT (1 << 20) /* in units of 512 bytes */

#define PROJECT 4711 /* and one for every second file: of one that is gone, the charge goes later */

#ifndef SYS_quotactl_fd
#define SYS_quotactl_fd 443
#endif

struct arg {
	const struct op *op;
	const struct rw_file *file;
	unsigned int project; /* of the file; the next one is the other */
};

static long quota(const struct rw_file *f, unsigned int command, unsigned int id, void *arg)
{
	return syscall(SYS_quotactl_fd, f->fd, QCMD(command, PRJQUOTA), id, arg);
}

static void set_project(const struct rw_file *f, unsigned int id)
{
	struct fsxattr x;

	rw_ok(ioctl(f->fd, FS_IOC_FSGETXATTR, &x));
	x.fsx_projid = id;
	rw_ok(ioctl(f->fd, FS_IOC_FSSETXATTR, &x));
}

static void enforce(const struct rw_file *f, bool on)
{
	unsigned int flags = FS_QUOTA_PDQ_ENFD;

	rw_ok(quota(f, on ? Q_XQUOTAON : Q_XQUOTAOFF, 0, &flags));
}

static void off(const struct arg *a)
{
	enforce(a->file, false);
}

static void on(const struct arg *a)
{
	enforce(a->file, true);
}

static void other_project(const struct arg *a)
{
	set_project(a->file, a->project + 1);
}

static void own_project(const struct arg *a)
{
	set_project(a->file, a->project);
}

static const struct op {
	const char *name;
	void (*call)(const struct arg *a);
	void (*undo)(const struct arg *a);
	bool other; /* project pays in the end */
} ops[] = {
	{ "off", off, on, false },
	{ "on", on, off, false },
	{ "other-project", other_project, own_project, true },
};

static void call(const void *p)
{
	const struct arg *a = p;

	a->op->call(a);
}

static unsigned long long charged(const struct rw_file *f, unsigned int id)
{
	struct fs_disk_quota q = { 0 };

	if (quota(f, Q_XGETQUOTA, id, &q))
		rw_fail("Q_XGETQUOTA of project %u: %s", id, strerror(errno));
	return q.d_bcount;
}

/* A limit, so that there is something to enforce; and a project that has none may be unknown. */
static void limit(const struct rw_file *f, unsigned int id)
{
	struct fs_disk_quota q = { .d_version = FS_DQUOT_VERSION,
				   .d_flags = FS_PROJ_QUOTA,
				   .d_fieldmask = FS_DQ_BHARD,
				   .d_id = id,
				   .d_blk_hardlimit = LIMIT };

	rw_set_up(quota(f, Q_XSETQLIM, id, &q));
}

static void one(struct rw_ring *ring, enum rw_state state, struct arg a)
{
	struct rw_file *f = rw_file("file", state, SIZE);
	struct stat st;

	a.file = f;
	limit(f, a.project);
	limit(f, a.project + 1);
	own_project(&a);
	a.op->call(&a); /* what it reads is in memory from here on */
	a.op->undo(&a);
	rw_set_up(syncfs(f->fd));
	rw_use(ring, f);
	rw_gate_shut();
	rw_write(ring, f, AT, LEN, 0);
	rw_write(ring, f, SIZE - LEN, LEN, 0);
	rw_in_flight(2);
	rw_held_by(&rw_whos[0], call, &a, false);
	rw_reap(ring);
	rw_then(f, (struct rw_change){ RW_KEEP });
	rw_verify(f);
	rw_set_up(fsync(f->fd));
	rw_set_up(fstat(f->fd, &st));
	rw_eq(charged(f, a.project + a.op->other), st.st_blocks);
	rw_eq(charged(f, a.project + !a.op->other), 0);
	a.op->undo(&a);
}

static void run(const void *const *at)
{
	static const enum rw_state states[] = { RW_HOLE, RW_MIXED, RW_SHARED, RW_SHARED_MIXED };
	static const char *const ext4[] = { "-O", "quota,project", "-E",
					    "quotatype=prjquota,nodiscard,lazy_itable_init=1",
					    NULL };
	struct rw_ring *ring = rw_ring(at[1], 2);
	struct rw_own own = { 0 };
	struct fs_disk_quota q;
	struct arg arg = { .op = at[0] };
	int error;

	if (!(rw_fs() & (RW_XFS | RW_EXT4)))
		rw_skip("needs xfs or ext4");
	if (!rw_has_gate())
		rw_skip("needs a gate, and direct I/O");
	rw_own_make(&own, rw_fs() == RW_EXT4 ? ext4 : NULL);
	error = rw_own_mount(&own, "prjquota");
	if (error)
		rw_skip("needs quota (CONFIG_XFS_QUOTA, or CONFIG_QUOTA and CONFIG_QFMT_V2): %s",
			strerror(error));
	arg.file = rw_file("file", RW_WRITTEN, SIZE);
	rw_supported("quotactl_fd", quota(arg.file, Q_XGETQUOTA, 0, &q));
	if (arg.op->call == on)
		off(&arg);
	for (size_t i = 0; i < RW_ARRAY_SIZE(states); i++) {
		arg.project = PROJECT + 2 * (unsigned int)i;
		if (rw_can_make(states[i]))
			one(ring, states[i], arg);
	}
	rw_ring_close(ring);
}

static const char *const guards[] = {
	"4b4c1326fd7c xfs: treat CoW fork operations as delalloc for quota accounting",
	NULL,
};

static const char *const groups[] = { "resize", NULL };
static const char *const needs[] = { "root", "a gate", "quota", NULL };

const struct rw_test rw_test = {
	.name = "quota-dio",
	.summary = "quota counts the blocks of direct writes in flight, whatever happens to it",
	.guards = guards,
	.groups = groups,
	.needs = needs,
	.axes = { RW_AXIS(ops), RW_AXIS(rw_two_kinds) },
	.run = run,
};
