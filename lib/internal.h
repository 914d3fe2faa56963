/* SPDX-License-Identifier: MIT */
/* internal.h - what the library's own files share. Tests do not include it. */
#ifndef RW_INTERNAL_H
#define RW_INTERNAL_H

#include "ringwedge.h"

#include <linux/fiemap.h>

#include <signal.h>
#include <stdatomic.h>
#include <sys/types.h>

#define RW_REASON 1024
#define RW_STACK 2048
#define RW_HELPERS 64

/* ---- options (main.c) ---------------------------------------------------- */

struct rw_options {
	const char *dir, *gate, *output, *journal, *config, *after;
	const char **variants;
	unsigned int n_variants, max_hangs;
	uint64_t seed;
	double timeout_scale;
	bool ktap, quiet, die_with_parent;
};
extern struct rw_options rw_opt;
extern volatile sig_atomic_t rw_interrupted; /* SIGINT, SIGTERM or SIGHUP, in the parent */

/* ---- what the parent, the child, its helpers and the gate's guardian share (mmap)  */

enum rw_gate_state { RW_GATE_OPEN, RW_GATE_SHUT };
enum rw_gate_order { RW_GATE_IDLE, RW_GATE_DO_SHUT, RW_GATE_DO_OPEN, RW_GATE_OPEN_WHEN_BLOCKED };

/* The filesystem under test: as soon as rw_freeze() is called, and when somebody is at FITHAW. */
enum rw_inner_state { RW_THAWED, RW_FROZEN, RW_THAWING };

struct rw_shared {
	_Atomic uint32_t gate_order; /* futex; enum rw_gate_order; the guardian resets it */
	_Atomic uint32_t gate_state; /* futex; enum rw_gate_state */
	_Atomic int gate_error;	     /* errno of the last FIFREEZE */
	_Atomic uint64_t opening_at; /* ns; the guardian is about to thaw; 0 while shut */
	_Atomic int blocked_seen;    /* blocked_in is filled, and must show the drain */
	_Atomic int slept;	     /* a submission; blocked_in is filled */
	char blocked_in[RW_STACK];   /* the stack that was asleep when the guardian opened */

	/* From here on it is the variant's own: zeroed before each. */
	_Atomic uint64_t progress;     /* bumped at every call and completion */
	_Atomic(const char *) calling; /* the last call announced, a static string */
	_Atomic int in_call;

	_Atomic int verdict; /* enum rw_verdict, set last */
	_Atomic int reason_set;
	char reason[RW_REASON];

	_Atomic int n_helpers; /* tasks beside the child, by pid */
	_Atomic int helpers[RW_HELPERS];
	_Atomic int child;  /* pid of the variant's first task */
	_Atomic int caller; /* tid that makes the call under test; 0: none, watch io-wq */

	_Atomic int device_broken; /* by the test itself: the kernel may say so */
	char own_device[64];	   /* of the test's own filesystem; "": none */
	char through_device[32];   /* that was told that it has no cache; "": none */

	_Atomic int may_block;	/* in a submission that is allowed to sleep (io_submit) */
	_Atomic int submitting; /* tid in a submission that is not */
	_Atomic int frozen;	/* enum rw_inner_state */

	_Atomic unsigned int held;     /* steps in which the gate held a write */
	_Atomic unsigned int not_held; /* steps in which it held none */
};
extern struct rw_shared *rw_shared;

static inline void rw_progress(void)
{
	atomic_fetch_add_explicit(&rw_shared->progress, 1, memory_order_relaxed);
}

#define RW_MS 1000000ull /* ns */

/* The call announced with rw_enter() is over; its result is looked at elsewhere. */
static inline void rw_returned(void)
{
	atomic_store(&rw_shared->in_call, 0);
	rw_progress();
}

/* The announced call that has not returned, or NULL. */
static inline const char *rw_in_call(void)
{
	return atomic_load(&rw_shared->in_call) ? atomic_load(&rw_shared->calling) : NULL;
}

static inline void rw_shared_renew(void)
{
	memset(&rw_shared->progress, 0, sizeof(*rw_shared) - offsetof(struct rw_shared, progress));
}

/* Wait at most `ms` for a word shared between processes to change from `value`. futex(2). */
void rw_futex_wait(_Atomic uint32_t *word, uint32_t value, unsigned int ms);
void rw_futex_wake(_Atomic uint32_t *word);

/* Die with this parent (prctl(2) PR_SET_PDEATHSIG); `parent` closes the race with its death. */
void rw_die_with(pid_t parent);
/* In a task forked by a test: name it to the watchdog, handle its harmless signal. */
void rw_child_signals(void);
const char *rw_verdict_name(enum rw_verdict verdict);

/* ---- tasks (tasks.c): one sample of one thread, from /proc --------------- */

struct rw_task {
	pid_t pid, tid;
	char comm[32];
	char state;	   /* R S D T t Z X I, '?' when unreadable; but for RW_WHOLE just R or S */
	bool io_worker;	   /* iou-wrk-*, iou-sqp-* */
	uint64_t cpu_ns;   /* schedstat, or utime + stime */
	uint64_t wait_ns;  /* runnable, not running; 0 where unknown */
	uint64_t switches; /* how often it was given a CPU, or gave it up */
	char wchan[64];
	char syscall[192];    /* /proc/PID/task/TID/syscall as is */
	char stack[RW_STACK]; /* "f < g < h", innermost first, offsets cut; "" when unreadable */
};

#define RW_MAX_TASKS 128

enum rw_depth {
	RW_GLANCE, /* does it run, has it run? */
	RW_STACKS, /* that and its stack */
	RW_WHOLE,  /* everything. May sleep until direct I/O in flight has ended: see sample() */
};

/* Every thread of `root` and of the registered helpers. */
unsigned int rw_tasks(pid_t root, struct rw_task *out, unsigned int max, enum rw_depth depth);
/* Every process with an ancestor `root`, for orphans and grandchildren. Returns how many. */
unsigned int rw_descendants(pid_t root, pid_t *out, unsigned int max);
/* All of a test's threads asleep, and none has run since the last call with the same `mark`. */
struct rw_quiet {
	uint64_t sum;
	uint64_t since; /* ns; 0: not quiet */
};
void rw_look_quiet(struct rw_quiet *q, const struct rw_task *t, unsigned int n, pid_t except);
/* The first two functions worth naming: "inode_dio_wait < xfs_file_fallocate". */
void rw_where(const struct rw_task *t, char *buf, size_t len);
/* Name of the system call a task is in, "" when none. The table is made from <sys/syscall.h>. */
const char *rw_syscall_name(const char *syscall_line);
bool rw_stack_readable(void);
/* Is a thread of the kernel runnable, or running? Looks at all tasks. */
bool rw_kernel_runnable(void);
/* The whole of a small file, without the last newline. Returns its length, -1 and errno. */
ssize_t rw_slurp(const char *path, char *buf, size_t len);

/* ---- kernel log (kmsg.c) ------------------------------------------------- */

struct rw_kmsg {
	int fd;	       /* -1: cannot be read */
	int error;     /* why */
	uint64_t next; /* sequence number expected; UINT64_MAX before the first line */
	bool gap;
	bool (*foreign)(const char *line); /* may be NULL: complaints that are not ours */
};

/* Open /dev/kmsg behind its last line. */
void rw_kmsg_open(struct rw_kmsg *k);
/*
 * Read what came since, append it to `out` (may be NULL), and put the first line that is a
 * kernel's complaint into `bad` ("" if none). Returns the number of lines.
 */
unsigned int rw_kmsg_read(struct rw_kmsg *k, FILE *out, char *bad, size_t len);
void rw_kmsg_close(struct rw_kmsg *k);
/* Does the line name loop devices, and none that is ours? Other runs have some of their own. */
bool rw_only_other_loops(const char *line, bool (*ours)(const char *name));
/* Is the line a complaint? Returns what kind ("warning", "lockdep", ...), or NULL. */
const char *rw_kmsg_complaint(const char *line);
uint64_t rw_taint(void);
/* 1 on, 0 off, -1 not built. */
int rw_lockdep_on(void);

/* ---- watchdog (watchdog.c) ----------------------------------------------- */

struct rw_outcome {
	enum rw_verdict verdict;
	char reason[RW_REASON];
	char evidence[4096]; /* path, "" if none */
	double seconds;
	bool unkillable;
};

void rw_calibrate(void);
/* Watch the child until it ends or hangs; kill what is left of it. Fills the outcome. */
void rw_watch(pid_t child, const char *variant, struct rw_outcome *out);

/* ---- gate (gate.c) ------------------------------------------------------- */

/* Start the guardian that owns the freeze. -1 and a reason when the gate cannot be used. */
int rw_gate_start(const char *gate_dir, char *why, size_t len);
void rw_gate_stop(void);
/* In a forked child: let go of the parent's sign of life. */
void rw_gate_leave(void);
void rw_gate_request(enum rw_gate_order order);
/* Is the guardian at work on an order, such as an opening that needs no more from the test? */
bool rw_gate_busy(void);
bool rw_gate_exists(void);
/* In the parent: thaw the filesystem under test if the variant left it frozen. */
void rw_thaw_left(void);
/* Reads and writes in flight at the device that holds `dir`; -1 when it has no counter. */
int rw_device_in_flight(unsigned int *writes);
/* The driver of the loop device sleeps for the frozen filesystem that its file is on. */
bool rw_driver_at_gate(void);
/* Waits a task with such a stack for direct I/O, or for writers? */
bool rw_in_drain(const char *stack);
/* FAIL if the guardian had to open for a submission that may not sleep. */
void rw_check_slept(const char *what);
/* Is it, or what its image lies on, at work on anything? Dearer: looks at all tasks. */
bool rw_device_busy(void);
void rw_device_find(const char *dir);
/*
 * The test has a device of its own, mounted there: it is the one under test from here on. `heard`: what the
 * kernel complains of about it is of this test.
 */
void rw_device_own(const char *dir, bool heard);
/* In the parent: the device that was told that it has no cache has one again. */
void rw_own_put_back(void);
const char *rw_device_name(void);

/* In the guardian: expedite RCU grace periods while it lives (rcu.c). */
void rw_rcu_hurry(void);
void rw_rcu_calm(void);
/* Does the line name only another loop device than the test's own and the gate's? */
bool rw_foreign_device(const char *line);

/* ---- ring, model --------------------------------------------------------- */

uint64_t rw_word(unsigned int tag, uint32_t gen, off_t off);
/* What a read of a ring has found: as rw_check(). */
void rw_check_asynchronous(struct rw_file *f, const void *buf, off_t off, size_t len);
/* As rw_then(), but the cells may hold what they held before, too, until rw_settle(). */
struct rw_model *rw_either(struct rw_file *f, struct rw_change c);
void rw_settle(struct rw_file *f, struct rw_model *after);
/* Say in words where a word comes from. */
void rw_describe_word(uint64_t word, char *buf, size_t len);

/* ---- layout (layout.c) ----------------------------------------------------- */

#define RW_EXTENTS 256

struct rw_extents {
	unsigned int n;
	struct fiemap_extent e[RW_EXTENTS];
};

/* All of the file's, written back before. */
void rw_extents(const struct rw_file *f, struct rw_extents *x);

/* ---- report (report.c) --------------------------------------------------- */

void rw_report_start(const char *variant);
void rw_report_end(const char *variant, struct rw_outcome *o, const char *kernel_log);
void rw_report_plan(unsigned int n);
/* `quick`, `wedge`: those of the groups of that name, NULL-ended. */
void rw_describe(const char *const *variants, unsigned int n, const char *const *quick,
		 const char *const *wedge);

#endif
