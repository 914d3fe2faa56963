/* SPDX-License-Identifier: MIT */
/*
 * gate.c - hold every write to the device under test for as long as a test wants.
 *
 * The image under test is a file on an outer filesystem. While that one is frozen (FIFREEZE,
 * ioctl_fsfreeze: freeze_super() in fs/super.c) the loop driver's writes to the file sleep in
 * sb_start_write(), so a direct write of the inner filesystem is in flight as a fact. The loop
 * driver serves its queue in order: reads behind a held write wait too, so metadata a call needs
 * must be in memory before the gate is shut (make the call once, with nothing in flight).
 *
 * Only the guardian freezes and thaws: a process of its own session, adopted by init, that
 * thaws and ends as soon as the test's parent is gone, however that died. It is also who opens
 * the gate while the test's own task sleeps in the call under test.
 */
#include "internal.h"

#include <dirent.h>
#include <linux/fs.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

/* A caller asleep this long without a step is where it is going to stay, or, in the drain, it is there. */
#define SETTLED (10 * RW_MS)
#define SETTLED_IN_DRAIN (3 * RW_MS)
/* Asleep, but not in the drain: a slow allocation or a starved worker may yet let it go on. */
#define SETTLED_ELSEWHERE (1000 * RW_MS)
/* The gate is opened in any case after this long: what then still hangs is for the watchdog. */
#define LONGEST_SHUT (5000 * RW_MS)

/* The device under test and, if it is a loop device with a gate, the one its image lies on. */
static char device[64], outer[64];
static int life_pipe = -1, gone_pipe = -1;

/* What is mounted there: btrfs has device numbers of its own making (proc(5), mountinfo). */
static void mounted_at(const char *dir, char *name, size_t len)
{
	char line[4096], *dash, source[256];
	unsigned long long id;
	struct statx stx;
	FILE *f;

	if (statx(AT_FDCWD, dir, 0, STATX_MNT_ID, &stx) || !(stx.stx_mask & STATX_MNT_ID))
		return;
	f = fopen("/proc/self/mountinfo", "re");
	while (f && fgets(line, sizeof(line), f)) {
		dash = strstr(line, " - ");
		if (dash && sscanf(line, "%llu", &id) == 1 && id == stx.stx_mnt_id &&
		    sscanf(dash, " - %*s /dev/%255s", source) == 1)
			snprintf(name, len, "%.60s", source);
	}
	if (f)
		fclose(f);
}

/* "loop1", "vda2"; "" for overlay, network: no block device of their own. */
static void device_of(const char *dir, char *name, size_t len)
{
	char link[128], target[512];
	struct stat st;
	ssize_t n;

	name[0] = '\0';
	if (stat(dir, &st))
		return;
	if (!major(st.st_dev)) {
		mounted_at(dir, name, len);
		return;
	}
	snprintf(link, sizeof(link), "/sys/dev/block/%u:%u", major(st.st_dev), minor(st.st_dev));
	n = readlink(link, target, sizeof(target) - 1);
	if (n < 0)
		return;
	target[n] = '\0';
	snprintf(name, len, "%.60s", strrchr(target, '/') + 1);
}

void rw_device_find(const char *dir)
{
	device_of(dir, device, sizeof(device));
	if (rw_opt.gate)
		device_of(rw_opt.gate, outer, sizeof(outer));
}

void rw_device_own(const char *dir, bool heard)
{
	device_of(dir, device, sizeof(device));
	snprintf(rw_shared->own_device, sizeof(rw_shared->own_device), "%s", heard ? device : "");
}

static bool is_ours(const char *name)
{
	return !strcmp(name, device) || !strcmp(name, outer) ||
	       !strcmp(name, rw_shared->own_device);
}

/* Filesystems name their device in the log: what another run's device has is not of this test. */
bool rw_foreign_device(const char *line)
{
	if (atomic_load(&rw_shared->device_broken) && strstr(line, "I/O error, dev "))
		return true; /* that is what it was broken for */
	return device[0] && rw_only_other_loops(line, is_ours);
}

const char *rw_device_name(void)
{
	return device;
}

static int in_flight(const char *name, unsigned int *writes)
{
	char path[128], buf[64];
	unsigned int r, w;

	snprintf(path, sizeof(path), "/sys/class/block/%s/inflight", name);
	if (!name[0] || rw_slurp(path, buf, sizeof(buf)) < 0 || sscanf(buf, "%u %u", &r, &w) != 2)
		return -1;
	if (writes)
		*writes = w;
	return (int)(r + w);
}

int rw_device_in_flight(unsigned int *writes)
{
	return in_flight(device, writes);
}

bool rw_device_polls(void)
{
	char path[128], buf[16];

	snprintf(path, sizeof(path), "/sys/class/block/%s/queue/io_poll", device);
	return rw_slurp(path, buf, sizeof(buf)) > 0 && buf[0] == '1';
}

/* The driver's worker, "kworker/u8:2+loop3", while it is at it ('-': has been). 0: it is not. */
static int loop_worker(const char *name)
{
	char path[64], buf[80];
	struct dirent *e;
	DIR *d = opendir("/proc");
	int pid = 0;

	while (d && !pid && (e = readdir(d))) {
		snprintf(path, sizeof(path), "/proc/%.20s/comm", e->d_name);
		if (e->d_name[0] >= '1' && e->d_name[0] <= '9' &&
		    rw_slurp(path, buf, sizeof(buf)) > 0 && strchr(buf, '+') &&
		    !strcmp(strchr(buf, '+') + 1, name))
			pid = atoi(e->d_name);
	}
	if (d)
		closedir(d);
	return pid;
}

bool rw_driver_at_gate(void)
{
	char path[64], buf[8192];

	snprintf(path, sizeof(path), "/proc/%d/stack", loop_worker(device));
	return rw_slurp(path, buf, sizeof(buf)) > 0 && strstr(buf, "percpu_rwsem_wait");
}

/* The counters leave out flushes (block/blk-flush.c), which take longest on a slow disk. */
bool rw_device_busy(void)
{
	return in_flight(device, NULL) > 0 || in_flight(outer, NULL) > 0 ||
	       in_flight(rw_shared->own_device, NULL) > 0 ||
	       (!strncmp(device, "loop", 4) && loop_worker(device)) ||
	       (!strncmp(outer, "loop", 4) && loop_worker(outer));
}

/* ---- the guardian -------------------------------------------------------- */

/*
 * Waits the task for direct I/O, or, in a freeze, for the writers themselves? (Locks are not seen:
 * /proc/PID/stack leaves out __sched code. What a freeze does later has a function of its own.)
 */
bool rw_in_drain(const char *stack)
{
	/* btrfs waits for the ordered extents that the writes belong to, or their lock. */
	return strstr(stack, "dio_wait") || strstr(stack, "btrfs_start_ordered_extent") ||
	       !strncmp(stack, "freeze_super", 12);
}

/* A writer asleep on its way down holds locks: then any sleep of the caller is explained. */
static bool writer_asleep(const struct rw_task *t, unsigned int n, pid_t caller)
{
	for (unsigned int i = 0; i < n; i++)
		if (t[i].tid != caller && strstr(t[i].stack, "write_iter"))
			return true;
	return false;
}

/* Is it time to open? Fills blocked_in from the caller's stack. */
static bool settled(struct rw_quiet *q, bool stacks)
{
	static struct rw_task t[RW_MAX_TASKS];
	static struct rw_quiet drain;
	pid_t caller = atomic_load(&rw_shared->caller);
	unsigned int n = rw_tasks(atomic_load(&rw_shared->child), t, RW_MAX_TASKS,
				  stacks ? RW_STACKS : RW_GLANCE);
	uint64_t quiet;

	/* A poller that is being ended spins for as long as writes are in flight. */
	for (unsigned int i = 0; stacks && caller > 0 && i < n; i++) {
		if (t[i].tid != caller)
			continue;
		rw_look_quiet(&drain, &t[i], 1, 0);
		if (rw_in_drain(t[i].stack) && drain.since &&
		    rw_now_ns() - drain.since >= 20 * SETTLED)
			return true;
	}
	rw_look_quiet(q, t, n, 0);
	if (!q->since)
		return false;
	quiet = rw_now_ns() - q->since;
	if (quiet < SETTLED_IN_DRAIN)
		return false;
	if (!stacks || !caller)
		return quiet >= 2 * SETTLED;
	for (unsigned int i = 0; i < n; i++) {
		if (t[i].tid != caller)
			continue;
		if (rw_in_drain(t[i].stack))
			return true;
		if (quiet < SETTLED)
			return false;
		if (writer_asleep(t, n, caller))
			return quiet >= 2 * SETTLED;
		if (quiet >= SETTLED_ELSEWHERE) {
			memcpy(rw_shared->blocked_in, t[i].stack, sizeof(rw_shared->blocked_in));
			atomic_store(&rw_shared->blocked_seen, 1);
		}
	}
	return quiet >= SETTLED_ELSEWHERE;
}

/*
 * A submission that sleeps behind the gate would do so for ever: nobody else would open. io_submit
 * may sleep. Of one that may not, it is remembered where.
 */
static bool submission_stuck(struct rw_quiet *q, bool shut)
{
	static struct rw_task t[RW_MAX_TASKS];
	pid_t submitting = shut ? atomic_load(&rw_shared->submitting) : 0;
	unsigned int n;

	if (!atomic_load(&rw_shared->may_block) && !submitting) {
		q->since = 0;
		return false;
	}
	n = rw_tasks(atomic_load(&rw_shared->child), t, RW_MAX_TASKS,
		     submitting ? RW_STACKS : RW_GLANCE);
	rw_look_quiet(q, t, n, 0);
	if (!q->since || rw_now_ns() - q->since < (submitting ? 50 : 10) * SETTLED)
		return false;
	for (unsigned int i = 0; submitting && i < n; i++)
		if (t[i].tid == submitting && strstr(t[i].stack, "io_submit")) {
			memcpy(rw_shared->blocked_in, t[i].stack, sizeof(rw_shared->blocked_in));
			atomic_store(&rw_shared->slept, 1);
		}
	return true;
}

static void set_state(enum rw_gate_state state)
{
	atomic_store(&rw_shared->gate_state, state);
	rw_futex_wake(&rw_shared->gate_state);
}

static int inner_fd = -1; /* a directory of the filesystem under test */

static void thaw(int fd)
{
	atomic_store(&rw_shared->opening_at, rw_now_ns());
	while (ioctl(fd, FITHAW, 0) && errno == EINTR)
		;
	set_state(RW_GATE_OPEN);
}

/* One at a time, test or guardian: a thaw that came late would undo the next freeze. */
static bool may_thaw(void)
{
	int frozen = RW_FROZEN;

	return atomic_compare_exchange_strong(&rw_shared->frozen, &frozen, RW_THAWING);
}

static void thaw_inner(void)
{
	if (may_thaw())
		atomic_store(&rw_shared->frozen,
			     ioctl(inner_fd, FITHAW, 0) ? RW_FROZEN : RW_THAWED);
}

/* The test's tasks are dying. One that is in FIFREEZE ends that first: thaw until all are gone. */
static void outlive_test(void)
{
	static struct rw_task t[RW_MAX_TASKS];
	uint64_t end = rw_now_ns() + 5000 * RW_MS;
	bool alive;

	do {
		unsigned int n =
			rw_tasks(atomic_load(&rw_shared->child), t, RW_MAX_TASKS, RW_WHOLE);

		alive = false;
		for (unsigned int i = 0; i < n; i++)
			alive |= t[i].state != 'Z' && t[i].state != 'X';
		/* Else it would wait for who hangs with s_umount, and the run for this process. */
		if (atomic_load(&rw_shared->frozen))
			ioctl(inner_fd, FITHAW, 0);
		poll(NULL, 0, alive ? 10 : 0);
	} while (alive && rw_now_ns() < end);
}

static bool parent_alive(int life)
{
	struct pollfd p = { .fd = life, .events = POLLIN };

	return poll(&p, 1, 0) == 0;
}

static void guard(int fd, int life)
{
	bool stacks = rw_stack_readable(), shut = false;
	struct rw_quiet q = { 0, 0 };
	uint64_t shut_at = 0;

	while (parent_alive(life)) {
		uint32_t order = atomic_load(&rw_shared->gate_order);

		switch ((enum rw_gate_order)order) {
		case RW_GATE_IDLE:
			/* Bounded, because the parent's death does not wake a futex. */
			rw_futex_wait(&rw_shared->gate_order, order,
				      shut || atomic_load(&rw_shared->frozen) ? 10 : 200);
			if (!submission_stuck(&q, shut))
				continue;
			if (shut)
				thaw(fd);
			shut = false;
			thaw_inner();
			break;
		case RW_GATE_DO_SHUT:
			atomic_store(&rw_shared->gate_error, 0);
			atomic_store(&rw_shared->blocked_seen, 0);
			atomic_store(&rw_shared->slept, 0);
			rw_shared->blocked_in[0] = '\0';
			if (!shut && ioctl(fd, FIFREEZE, 0)) {
				atomic_store(&rw_shared->gate_error, errno ? errno : EIO);
				set_state(RW_GATE_OPEN);
			} else {
				shut = true;
				shut_at = rw_now_ns();
				atomic_store(&rw_shared->opening_at, 0);
				set_state(RW_GATE_SHUT);
			}
			break;
		case RW_GATE_OPEN_WHEN_BLOCKED:
			if (shut && rw_now_ns() - shut_at < LONGEST_SHUT && !settled(&q, stacks)) {
				rw_futex_wait(&rw_shared->gate_order, order, 3);
				continue;
			}
			/* fall through */
		case RW_GATE_DO_OPEN:
			if (shut)
				thaw(fd);
			shut = false;
			break;
		}
		q.since = 0;
		/* Unless another order came meanwhile. */
		atomic_compare_exchange_strong(&rw_shared->gate_order, &order, RW_GATE_IDLE);
		rw_futex_wake(&rw_shared->gate_state);
	}
	if (shut)
		thaw(fd);
	outlive_test();
}

/* ---- the parent's side --------------------------------------------------- */

static bool backs_device(const char *gate_dir, char *why, size_t len)
{
	char path[160], backing[4096];
	struct stat gate, file, root;

	snprintf(path, sizeof(path), "/sys/block/%.60s/loop/backing_file", device);
	if (!device[0] || rw_slurp(path, backing, sizeof(backing)) < 0) {
		snprintf(why, len, "the test directory is not on a loop device");
		return false;
	}
	if (stat(gate_dir, &gate) || stat("/", &root)) {
		snprintf(why, len, "%s", strerror(errno));
		return false;
	}
	/* Freezing a filesystem that others use would hang them: only the image's own will do. */
	if (stat(backing, &file) || file.st_dev != gate.st_dev || gate.st_dev == root.st_dev) {
		snprintf(why, len, "%s, the image of /dev/%s, is not on that filesystem", backing,
			 device);
		return false;
	}
	return true;
}

int rw_gate_start(const char *gate_dir, char *why, size_t len)
{
	int fd, life[2], gone[2];
	pid_t pid;

	if (!backs_device(gate_dir, why, len))
		return -1;
	fd = open(gate_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	inner_fd = open(rw_opt.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || inner_fd < 0 || pipe2(life, O_CLOEXEC) || pipe2(gone, O_CLOEXEC)) {
		snprintf(why, len, "%s", strerror(errno));
		return -1;
	}
	pid = fork();
	if (pid == 0) {
		/* A second fork: its parent shall be init, not the test that may be killed. */
		setsid();
		if (fork())
			_exit(0);
		close(life[1]);
		close(gone[0]); /* the other end closes with this process */
		prctl(PR_SET_NAME, "rw-gate");
		signal(SIGINT, SIG_IGN);
		signal(SIGTERM, SIG_IGN);
		signal(SIGHUP, SIG_IGN);
		rw_rcu_hurry();
		guard(fd, life[0]);
		rw_rcu_calm();
		_exit(0);
	}
	close(fd);
	close(life[0]);
	close(gone[1]);
	life_pipe = life[1];
	gone_pipe = gone[0];
	if (pid > 0)
		waitpid(pid, NULL, 0);
	return 0;
}

void rw_gate_stop(void)
{
	char c;

	if (life_pipe < 0)
		return;
	rw_gate_request(RW_GATE_DO_OPEN);
	close(life_pipe);
	life_pipe = -1;
	/* Its descriptors would keep the filesystems from being unmounted. */
	close(inner_fd);
	while (read(gone_pipe, &c, 1) < 0 && errno == EINTR)
		;
	close(gone_pipe);
}

void rw_gate_leave(void)
{
	if (life_pipe >= 0)
		close(life_pipe);
}

bool rw_gate_exists(void)
{
	return life_pipe >= 0;
}

void rw_gate_request(enum rw_gate_order order)
{
	atomic_store(&rw_shared->gate_order, order);
	rw_futex_wake(&rw_shared->gate_order);
}

bool rw_gate_busy(void)
{
	return atomic_load(&rw_shared->gate_order) != RW_GATE_IDLE;
}

bool rw_gate_is_shut(void)
{
	/* It is open a moment before the guardian says so. */
	return atomic_load(&rw_shared->gate_state) == RW_GATE_SHUT &&
	       !atomic_load(&rw_shared->opening_at);
}

static bool wait_for(enum rw_gate_state state)
{
	uint64_t end = rw_now_ns() + (uint64_t)(60000 * rw_opt.timeout_scale) * RW_MS;
	uint32_t now;

	while ((now = atomic_load(&rw_shared->gate_state)) != state || rw_gate_busy()) {
		if (atomic_load(&rw_shared->gate_error) || rw_now_ns() > end)
			return false;
		rw_futex_wait(&rw_shared->gate_state, now, now == state ? 1 : 100);
	}
	return true;
}

/*
 * Leave the filesystem under test nothing of its own to write: what its journal does later would be
 * taken for the test's writes. sync does not do: xfs writes metadata back when it likes; a freeze
 * pushes all of it out (xfs_log_quiesce(), ext4_freeze()).
 */
static void quiesce(void)
{
	if (!rw_is_frozen()) {
		rw_freeze();
		rw_thaw();
	}
	for (uint64_t end = rw_now_ns() + 1000 * RW_MS; rw_device_in_flight(NULL) > 0;)
		if (rw_now_ns() > end)
			rw_broken("I/O in flight at an idle /dev/%s", device);
}

/* By a process of its own, because the thaw waits for a freeze that hangs (s_umount). */
void rw_thaw_left(void)
{
	uint64_t end = rw_now_ns() + 2000 * RW_MS;
	pid_t pid;

	if (!rw_gate_exists() || !atomic_load(&rw_shared->frozen))
		return;
	pid = fork();
	if (!pid) {
		prctl(PR_SET_NAME, "rw-thaw");
		if (!ioctl(inner_fd, FITHAW, 0))
			atomic_store(&rw_shared->frozen, RW_THAWED);
		_exit(0);
	}
	while (pid > 0 && !waitpid(pid, NULL, WNOHANG) && rw_now_ns() < end)
		poll(NULL, 0, 1);
}

void rw_freeze(void)
{
	if (!rw_gate_exists())
		rw_skip("needs a gate: a filesystem that others use is not frozen");
	atomic_store(&rw_shared->frozen, RW_FROZEN);
	rw_futex_wake(&rw_shared->gate_order); /* for a look at `frozen` */
	rw_enter("FIFREEZE");
	rw_leave("FIFREEZE", ioctl(inner_fd, FIFREEZE, 0), RW_FAIL, __FILE__, __LINE__);
}

bool rw_is_frozen(void)
{
	return atomic_load(&rw_shared->frozen) == RW_FROZEN;
}

void rw_thaw(void)
{
	if (!may_thaw()) {
		/* The guardian has, or is at it, for a submission that may sleep. */
		while (atomic_load(&rw_shared->frozen) == RW_THAWING)
			sched_yield();
		return;
	}
	rw_enter("FITHAW");
	rw_leave("FITHAW", ioctl(inner_fd, FITHAW, 0), RW_FAIL, __FILE__, __LINE__);
	atomic_store(&rw_shared->frozen, RW_THAWED);
}

void rw_gate_shut(void)
{
	if (!rw_gate_exists())
		rw_broken("rw_gate_shut() without a gate");
	quiesce();
	rw_enter("shut the gate");
	atomic_store(&rw_shared->gate_error, 0);
	rw_gate_request(RW_GATE_DO_SHUT);
	if (!wait_for(RW_GATE_SHUT))
		rw_broken("the gate does not shut: FIFREEZE of the outer filesystem: %s",
			  strerror(atomic_load(&rw_shared->gate_error)));
	rw_progress();
}

void rw_gate_open(void)
{
	rw_gate_request(RW_GATE_DO_OPEN);
	if (!wait_for(RW_GATE_OPEN))
		rw_broken("the gate does not open");
	rw_progress();
}
