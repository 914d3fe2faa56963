/* SPDX-License-Identifier: MIT */
/*
 * ringwedge.h - the one header for tests.
 *
 * A test is one file with one `const struct rw_test rw_test`; main() is in the library. The library
 * forks a child for each variant and watches it from the parent (see watchdog.c). Nothing here
 * returns an error: a call that cannot go on ends the variant, as FAIL when the kernel is wrong, as
 * BROKEN when the set-up went wrong, as SKIP when a named feature is missing. Offsets and lengths
 * are in bytes, times in milliseconds unless the name says otherwise.
 */
#ifndef RINGWEDGE_H
#define RINGWEDGE_H

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define RW_KIB 1024L
#define RW_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* ---- the descriptor ------------------------------------------------------ */

#define RW_AXES 4

/*
 * An axis is a const table whose rows begin with `const char *name`. The variants of a test are
 * the product of its axes, named by their rows: "punch-hole.plain.same".
 */
struct rw_axis {
	const void *rows;
	size_t n, size;
};
#define RW_AXIS(table)                                            \
	{                                                         \
		(table), RW_ARRAY_SIZE(table), sizeof((table)[0]) \
	}

struct rw_test {
	const char *name;	   /* as the file, without ".c" */
	const char *summary;	   /* completes "this test checks that ..." */
	const char *const *guards; /* fixing commits or threads, printed on failure; NULL-ended */
	const char *const *groups; /* beside "all"; NULL-ended */
	const char *const *needs;  /* what it cannot run without, in words; NULL-ended */
	struct rw_axis axes[RW_AXES];
	/* at[i] is the row of axis i. Combinations without a meaning: return false. May be NULL. */
	bool (*has)(const void *const *at);
	/*
	 * Variants of group "wedge": on a kernel with the bug a task is stuck where nothing but a
	 * reboot helps (its exit). On bare metal they run only when asked for. May be NULL.
	 */
	bool (*wedges)(const void *const *at);
	/* Returning is a PASS. */
	void (*run)(const void *const *at);
};
extern const struct rw_test rw_test;

/* ---- verdicts ------------------------------------------------------------ */

enum rw_verdict { RW_NONE, RW_PASS, RW_FAIL, RW_BROKEN, RW_HANG, RW_SKIP };

/* End the variant from any of its tasks. The first one to speak is heard. */
void rw_end(enum rw_verdict verdict, const char *file, int line, const char *fmt, ...)
	__attribute__((noreturn, format(printf, 4, 5)));
#define rw_fail(...) rw_end(RW_FAIL, __FILE__, __LINE__, __VA_ARGS__)
#define rw_broken(...) rw_end(RW_BROKEN, __FILE__, __LINE__, __VA_ARGS__)
#define rw_skip(...) rw_end(RW_SKIP, NULL, 0, __VA_ARGS__)

/* Announce a call to the watchdog, and its end: both are progress. `what` must be static. */
void rw_enter(const char *what);
long rw_leave(const char *what, long ret, enum rw_verdict otherwise, const char *file, int line);

/* The call must succeed (not return -1): otherwise the kernel is wrong (rw_ok), or set-up broke. */
#define rw_ok(call) (rw_enter(#call), rw_leave(#call, (call), RW_FAIL, __FILE__, __LINE__))
#define rw_set_up(call) (rw_enter(#call), rw_leave(#call, (call), RW_BROKEN, __FILE__, __LINE__))

/* A first try of a feature, nothing in flight: EOPNOTSUPP, ENOTTY, ENOSYS and EINVAL are a SKIP. */
void rw_try(const char *what, const char *feature, long ret, const char *file, int line);
#define rw_supported(feature, call) \
	(rw_enter(#call), rw_try(#call, feature, (call), __FILE__, __LINE__))

/* Two numbers must be equal; the message gives both expressions and both values. */
void rw_equal(const char *what, long long got, const char *expr, long long want, const char *file,
	      int line);
#define rw_eq(got, want) rw_equal(#got, (got), #want, (want), __FILE__, __LINE__)

/* ---- surroundings -------------------------------------------------------- */

enum { RW_XFS = 1, RW_EXT4 = 2, RW_BTRFS = 4, RW_F2FS = 8, RW_OTHER_FS = 16 };

unsigned int rw_fs(void);    /* one of the above: what the test's directory is on */
size_t rw_block_size(void);  /* filesystem block, st_blksize */
size_t rw_sector_size(void); /* smallest direct I/O */
bool rw_direct(void);	     /* false: O_DIRECT falls back to the page cache (data=journal) */
unsigned int rw_rand(unsigned int n); /* 0..n-1, from --seed */
void rw_jitter(unsigned int us);      /* burn 0..us microseconds of CPU: moves the race */

/* for-loop that ends after `ms` milliseconds (times --timeout-scale), at least once through */
#define rw_for_ms(ms) for (uint64_t rw_end_ = rw_until(ms); rw_more(rw_end_);)
uint64_t rw_until(unsigned int ms);
/* CLOCK_MONOTONIC, clock_gettime(2) */
static inline uint64_t rw_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}
bool rw_more(uint64_t end);

/* ---- files and what they must hold --------------------------------------- */

enum rw_state {
	RW_HOLE,	 /* no blocks, size set */
	RW_WRITTEN,	 /* written and synced: a write is a pure overwrite */
	RW_UNWRITTEN,	 /* fallocated, synced: a write must convert the extent */
	RW_SHARED,	 /* written, then cloned: a write must go elsewhere; SKIP without reflink */
	RW_MIXED,	 /* by turns of 16 KiB written, unwritten and hole: a write meets several */
	RW_SHARED_MIXED, /* the latter, then cloned: blocks to be shared no more beside others */
	RW_PAST_EOF,	 /* written, with as many unwritten blocks again behind the end */
	RW_SHRUNK,	 /* was twice as long: what blocks are given to it again hold is stale */
};

/*
 * A file of the test, opened O_DIRECT, with a model of its contents. Each 8-byte word written to
 * it names the file, the generation of the write and the word's own offset, so that a stale,
 * shifted or foreign block is named by what it holds (model.c).
 */
struct rw_file {
	int fd; /* O_RDWR | O_DIRECT */
	const char *name;
	struct rw_model *model;
};

/* Make the file, or make it anew (unlinked, created, filled, synced) if it was made before. */
struct rw_file *rw_file(const char *name, enum rw_state state, size_t size);
/* Can the filesystem make such files at all? */
bool rw_can_make(enum rw_state state);
/* Make files in this directory from here on, and tell about the filesystem that it is on. */
void rw_move_to(const char *dir);
/*
 * A filesystem of the test's own, of the kind of the one under test, for what would end that: its image
 * has no name, its mount is seen by nobody else, and both go with the test. The gate holds it, too.
 */
struct rw_own {
	const char *type;
	bool through; /* set before the mount: on a device without a cache */
	bool dies; /* set before it is made: it is to be shut down, or cut, of which the kernel complains */
	off_t journal;	 /* set before it is made: its log's size, on the filesystem under test */
	int image;	 /* its descriptor */
	int rest;	 /* what was cut off of it */
	off_t cut;	 /* and from where on */
	char mnt[4200];	 /* where it is mounted */
	char device[32]; /* "/dev/loop7", another one after each mount */
	char log[32];	 /* with a journal: the one that it is on */
};
/* Make it, and make files there from here on; mkfs's options NULL-ended, or NULL. SKIP without root. */
void rw_own_make(struct rw_own *own, const char *const *mkfs_options);
/* mount(2) with these options, or NULL. Returns its errno, or 0. */
int rw_own_mount(struct rw_own *own, const char *options) __attribute__((warn_unused_result));
/* It was unmounted, and the last to use it has gone: wait until it has let go of its device. */
void rw_own_gone(const struct rw_own *own);
/* Shut it down, for good: frozen first; with its log written; without. On xfs, ext4 and f2fs. */
enum rw_shutdown { RW_LOG_FROZEN, RW_LOG_WRITTEN, RW_LOG_LOST }; /* the kernel's own numbers */
void rw_own_shut_down(const struct rw_own *own, enum rw_shutdown how);
/* Unmount it, as soon as nobody uses it, and mount it anew. f->fd is another one then. */
void rw_own_come_back(struct rw_own *own, struct rw_file *f);
/* Both, without its log: lose all that is not on stable storage, as by a loss of power. */
void rw_own_lose_power(struct rw_own *own, struct rw_file *f);
/*
 * The device ends in the middle of the file's last written extent on it: reads behind fail with EIO, in
 * the driver's worker. Until it is mended, unharmed, the filesystem is read-only. f->fd is another one
 * after each. SKIP but on xfs and ext4.
 */
void rw_own_cut(struct rw_own *own, struct rw_file *f);
void rw_own_mend(struct rw_own *own, struct rw_file *f);
/* Is any of the range, as the file has it on the device, behind that? */
bool rw_own_is_cut(const struct rw_own *own, const struct rw_file *f, off_t off, size_t len);
/* ioctl(2) of ext4: write back what the journal holds, and leave it empty (fs/ext4/ext4.h). */
#define RW_EXT4_CHECKPOINT _IOW('f', 43, uint32_t)
/*
 * A block device in memory, which the gate does not hold. It goes with the descriptor, and its mappings.
 * SKIP without root.
 */
int rw_own_device(size_t size);
/* The path of the file, for calls that want one. */
const char *rw_path(const struct rw_file *f);

enum rw_change_kind {
	RW_KEEP,     /* contents and size stay */
	RW_GROW,     /* size becomes at least off + len */
	RW_ZERO,     /* [off, off + len) reads as zeros, size stays */
	RW_COLLAPSE, /* [off, off + len) is taken out */
	RW_INSERT,   /* [off, off + len) of zeros is put in */
	RW_RESIZE,   /* size becomes off */
	RW_COPY,     /* [off, off + len) becomes that of `from` at `from_off` */
	RW_EXCHANGE, /* they change places; len 0: all of both files, and the sizes */
};

/* What a call does to a file, for the model. */
struct rw_change {
	enum rw_change_kind kind;
	off_t off, len;
	const struct rw_file *from;
	off_t from_off;
};

/* The writes submitted so far ended, then the change was made. */
void rw_then(struct rw_file *f, struct rw_change c);
/* The change was made while the writes were on their way: each write is before or after it. */
void rw_race(struct rw_file *f, struct rw_change c);
/* The same, and some of the writes may not have come at all: they were cancelled. */
void rw_race_cancelled(struct rw_file *f, struct rw_change c);
/* The change was made, or not, or in part: each cell is as before or as after it. */
void rw_maybe(struct rw_file *f, struct rw_change c);
/* The writes overlap and race each other: each cell holds one that covers it, whole. */
void rw_unordered(struct rw_file *f);
/* Contents, size and neighbours, by direct and by cached reads: any other word is a FAIL. */
void rw_verify(struct rw_file *f);
/* The same for `len` bytes at `off` that were read as `how` says: "read through a mapping". */
void rw_check(struct rw_file *f, const char *how, const void *buf, off_t off, size_t len);

/* Have this part of the file in the page cache, and no more of it: whole pages. */
void rw_cache(const struct rw_file *f, off_t off, size_t len);
/* The same by a write of a new generation, which is part of the file from then on: dirty pages. */
void rw_cache_dirty(struct rw_file *f, off_t off, size_t len);

enum rw_layout {
	RW_ANY_LAYOUT,
	RW_UNMAPPED, /* no blocks */
	RW_MAPPED,   /* blocks, written or not */
	RW_OWN,	     /* blocks that no other file shares */
};
/* The range, of whole blocks, must have such blocks (FIEMAP; on xfs and ext4): else FAIL. */
void rw_layout(const struct rw_file *f, off_t off, off_t len, enum rw_layout must);

/*
 * No open file but f->fd writes to it any more, neither a task's nor one that the kernel forgot
 * (fcntl(2), F_SETLEASE: refused while there is one). Rings let go of theirs a little later: that is
 * waited for. f->fd is closed and opened again.
 */
void rw_sole(struct rw_file *f);
/*
 * Nothing that direct writes to `f` held is left: its contents are right, and there is nothing behind its
 * end; what others may do with it and its filesystem works (freeze, truncate, fallocate, unaligned write,
 * clone); and nobody has it open. Only its first half stays as it was.
 */
void rw_let_go(struct rw_file *f);

/* ---- rings --------------------------------------------------------------- */

struct rw_ring_kind {
	const char *name;
	unsigned int setup; /* IORING_SETUP_* */
	bool async;	    /* IOSQE_ASYNC: io-wq does it */
	bool fixed;	    /* registered files and buffers */
	bool by_fd;	    /* registered buffers only: the file by its descriptor */
	bool aio;	    /* io_submit(2) instead of io_uring */
	bool sync;	    /* pwritev2(2) and preadv2(2): all is done at once */
	bool poll;	    /* aio: looks at the events in memory, never enters the kernel */
	bool eventfd;	    /* told by eventfd(2) */
	/* Room for so few entries that completions overflow (IORING_FEAT_NODROP); 0: enough. */
	unsigned int overflows;
};
extern const struct rw_ring_kind rw_ring_kinds[7];
/* Where how a write was submitted makes no difference, but who completes it might. */
extern const struct rw_ring_kind rw_two_kinds[2];
extern const struct rw_ring_kind rw_aio_kinds[3];    /* by the ways to learn of an event */
extern const struct rw_ring_kind rw_iopoll_kinds[6]; /* IORING_SETUP_IOPOLL: the owner polls */
/* Every way of direct I/O: those of rw_ring_kinds, and "sync". */
struct rw_way {
	const char *name;
	const struct rw_ring_kind *kind;
};
extern const struct rw_way rw_ways[8];

/* The ways of direct writes: what they are written to, how, and whether the file grows by them. */
struct rw_write_kind {
	enum rw_state state;
	int rwf;     /* RWF_* flags */
	bool extend; /* one of the writes goes behind the end */
};
enum { RW_OVERWRITE, RW_CONVERT, RW_SYNCED, RW_EXTEND, RW_EXTEND_INTO, RW_ACROSS, RW_WRITE_KINDS };
extern const struct rw_write_kind rw_write_kinds[RW_WRITE_KINDS];
/*
 * Is that kind to be tried against a call, where the filesystem can? What writes do to blocks is of all
 * kinds when the ring's owner calls, or by the plain ring.
 */
bool rw_write_kind_wanted(size_t k, const struct rw_ring_kind *ring, bool owner_calls);

struct rw_ring;

#define RW_MAX_WRITE (128 * RW_KIB)

/* A ring with room for `depth` requests of RW_MAX_WRITE bytes. SKIP when the kernel lacks it. */
struct rw_ring *rw_ring(const struct rw_ring_kind *kind, unsigned int depth);
/* The same, with the poller or the workers of another ring (IORING_SETUP_ATTACH_WQ). */
struct rw_ring *rw_ring_beside(struct rw_ring *other, unsigned int depth);
/* Let `f` be written through the ring (registers its descriptor where the kind asks for that). */
void rw_use(struct rw_ring *ring, struct rw_file *f);
/* Submit one direct write of a new generation; it must end with res == len. `rwf`: RWF_* flags. */
void rw_write(struct rw_ring *ring, struct rw_file *f, off_t off, size_t len, int rwf);
/* The same in two steps, when another task is to write: announced here, submitted there. */
unsigned int rw_promise(struct rw_file *f, off_t off, size_t len);
void rw_write_promised(struct rw_ring *ring, struct rw_file *f, off_t off, size_t len,
		       unsigned int promise, int rwf);
/* What the promised write is to hold, for a test that writes it by other means than a ring. */
void rw_fill(struct rw_file *f, void *buf, off_t off, size_t len, unsigned int promise);
/* Submit a direct write of memory of the test's own. What the file holds then, it says itself. */
void rw_write_from(struct rw_ring *ring, struct rw_file *f, off_t off, size_t len, void *buf);
/*
 * Submit fallocate(2) as a request of the ring itself; it must end with res == 0 and, if it
 * `must_wait`, not before the gate was opened.
 */
void rw_ring_fallocate(struct rw_ring *ring, struct rw_file *f, int mode, off_t off, off_t len,
		       bool must_wait);
/* The same of ftruncate(2), where rw_has_opcode(ring, RW_OP_FTRUNCATE). */
#define RW_OP_FTRUNCATE 55 /* IORING_OP_FTRUNCATE, Linux 6.9 */
void rw_ring_ftruncate(struct rw_ring *ring, struct rw_file *f, off_t size, bool must_wait);
/* Submit fsync(2), or fdatasync(2); it must end with res == 0. */
void rw_ring_fsync(struct rw_ring *ring, struct rw_file *f, bool data_only);
/* aio: try to cancel (io_cancel(2)) what is in flight, which cannot be done to writes. */
void rw_aio_cancel(struct rw_ring *ring);
/* A request of the test's own making, for rw_queue(). */
struct rw_op {
	const char *what;
	struct rw_file *file; /* fills in sqe->fd; NULL: leaves it */
	long want;	      /* the exact result, or RW_ANY */
	bool must_wait;	      /* not to end before the gate was opened */
	bool any_order;	      /* of its end, in a chain of links or behind a drain */
	bool silent;	      /* nobody hears of it: not to be reaped */
};
#define RW_ANY LONG_MIN
/* Queue a copy of `sqe`; rw_submit_queued() submits it. */
void rw_queue(struct rw_ring *ring, const struct io_uring_sqe *sqe, const struct rw_op *op);
/* Queue a direct write as rw_write() submits it, with more IOSQE_* flags. */
void rw_queue_write(struct rw_ring *ring, struct rw_file *f, off_t off, size_t len,
		    unsigned int sqe_flags);
/* Submit what is queued and, in the same call, wait for `wait_nr` completions (not reaped). */
void rw_submit_queued(struct rw_ring *ring, unsigned int wait_nr);
/* Does the kernel know the opcode (IORING_REGISTER_PROBE)? */
bool rw_has_opcode(const struct rw_ring *ring, int opcode);
/* From here on what was submitted may end with -ECANCELED or -EINTR, too. */
void rw_may_cancel(struct rw_ring *ring);
/*
 * A direct read or write whose result the test judges itself: it is in `res` when `done`. What is
 * read is compared with what the file must hold when it is reaped; of a write, the model is to be
 * told the end with rw_ended(). It must stay in place until it is reaped.
 */
struct rw_io {
	bool read;
	off_t off;
	size_t len; /* at most RW_MAX_WRITE */
	int rwf;
	size_t valid; /* the rest of the buffer faults (whole pages); 0: all of it is there */
	size_t into;  /* the buffer begins so far into its page; with `valid` whole pages */
	bool done;
	long res;
	unsigned int promise;
};
/* `ring` NULL: by preadv2(2) or pwritev2(2), which is done at once. */
void rw_submit(struct rw_ring *ring, struct rw_file *f, struct rw_io *io);
/* The write ended with io->res: that many bytes are there; of one that failed, any sector may be. */
void rw_ended(struct rw_file *f, const struct rw_io *io);
/* The write was refused, or failed before its first byte: nothing of it may be there. */
void rw_not_written(struct rw_file *f, const struct rw_io *io);
/*
 * True for -EAGAIN on xfs: a try that may not sleep, of which a part was in flight when the lock for the
 * next one was taken, ends so, and nobody tries again (docs/found/xfs-read-eagain.md).
 */
bool rw_gave_up(const struct rw_io *io);
/* The read must have ended where it should, or where a file of `size` bytes does, or have given up. */
void rw_check_read(const struct rw_io *io, off_t size);
/* Wait for everything submitted; each result must be the exact one. */
void rw_reap(struct rw_ring *ring);
/* Wait in one call for `n` completions, at most `s` seconds (0: for ever), and reap what is there. */
void rw_wait(struct rw_ring *ring, unsigned int n, unsigned int s);
/* The same with a signal mask for the time of the wait. False when a signal ended it. */
bool rw_wait_masked(struct rw_ring *ring, unsigned int n, unsigned int s, sigset_t *mask);
/* Reap what has completed, without waiting. Returns how many. */
unsigned int rw_reap_ready(struct rw_ring *ring);
/* The same when reads of `f` raced its writes and the change: they may find it before and after. */
void rw_reap_either(struct rw_ring *ring, struct rw_file *f, struct rw_change c);
/* From here on files only grow: when a write's completion is seen, st_size covers it. */
void rw_only_grows(struct rw_ring *ring);
/*
 * From now on the ring's only worker of io-wq waits, in a fallocate(2) of all of `f`, for a write to it
 * that the gate holds: what is submitted with IOSQE_ASYNC is queued behind that.
 */
void rw_occupy_worker(struct rw_ring *ring, struct rw_file *f);
/* How many of the ring's requests are not reaped. */
unsigned int rw_unreaped(const struct rw_ring *ring);
void rw_ring_close(struct rw_ring *ring);
/* In a forked task: use the ring of its parent, which may no longer do so. */
void rw_adopt(struct rw_ring *ring);
/*
 * Writes from memory that this process registered are held by the gate: until it is opened that
 * memory may not be given back, whatever became of the registration (VmPin, proc(5)).
 */
void rw_pinned(void);
/* Nothing of this process is registered, or in flight from what was, any more (VmPin, proc(5)). */
void rw_unpinned(void);
/*
 * Fill the pages that were freed last, on each CPU, with other data: a write that still reads them
 * writes that. They stay in use until the variant ends.
 */
void rw_use_memory(void);
/* A mapping of the file, shared, that may be written to; without one (-1) memory of this task's own. */
void *rw_map(int fd, off_t off, size_t len);
#define RW_HUGE (2048 * RW_KIB)
/*
 * `n` huge pages, one behind the other: of the file, which is in memory, or of this task's own (-1). Forked
 * ones do not have them. SKIP where the kernel has none of this size, or none free (madvise(2),
 * MADV_COLLAPSE, Linux 6.1).
 */
void *rw_huge_pages(int fd, size_t n);
/* For what there is no call for. */
struct io_uring *rw_uring(struct rw_ring *ring);
struct io_context *rw_aio_context(struct rw_ring *ring); /* libaio.h: io_context_t */

/* What a request for a direct write may look like, where it must not make a difference (shape.c). */
struct rw_shape {
	const char *name;
	const struct rw_ring_kind *kind; /* the ring that it takes */
	off_t off;
	size_t len;		    /* 0: a sector, the second of its block */
	size_t piece;		    /* of a vector: sectors at least; 0: without a vector */
	int rwf;		    /* RWF_* flags */
	unsigned int before, flags; /* IOSQE_*: of a nop before it, and of the write itself */
	bool position;		    /* at the file's own */
	bool extents;		    /* it goes to two of them */
};
extern const struct rw_shape rw_shapes[14];
#define RW_SHAPE_SIZE (512 * RW_KIB)
/* The file for it. Its last 192 KiB are left as they are, and what an append writes is behind them. */
struct rw_file *rw_shape_file(struct rw_ring *ring, const struct rw_shape *shape);
/* Two requests at most. */
void rw_write_shaped(struct rw_ring *ring, struct rw_file *f, const struct rw_shape *shape);

/* ---- the gate ------------------------------------------------------------ */

/*
 * Is there one (--gate), and direct I/O for it to hold? If not, steps that need it are left out, or
 * the variant is skipped by name.
 */
bool rw_has_gate(void);
/* Hold every write to the device under test from now on (FIFREEZE of the outer filesystem). */
void rw_gate_shut(void);
void rw_gate_open(void);
/* Is it still? The guardian opens it for a submission that may sleep (io_submit) and does. */
bool rw_gate_is_shut(void);
/*
 * Wait until the device holds `n` writes. Returns how many it holds once nothing moves any more:
 * fewer than `n` when the kernel serialises them, 0 when they did not need the device (buffered).
 * Only with all `n` is it known which comes first, a write or a call made now: rw_then(); with
 * fewer it is a race: rw_race().
 */
unsigned int rw_in_flight(unsigned int n);
/*
 * Reads are held by the gate only behind a write: the driver (drivers/block/loop.c) takes what is
 * queued in order, and sleeps over the first write. True when it does; then what is submitted from
 * here on waits, too. A write that is in flight need not have come that far: false after 200 ms.
 */
bool rw_queue_held(void);
/* As rw_in_flight(), of reads. */
unsigned int rw_reads_in_flight(unsigned int n);
/*
 * A device that polls ends a request of a ring with IORING_SETUP_IOPOLL only when somebody polls: it
 * is held without a gate. The same as rw_in_flight(), of reads and writes, with the gate open.
 */
bool rw_device_polls(void);
unsigned int rw_unpolled(unsigned int n);

/*
 * Wait until all tasks but this one are asleep: FAIL if the thread of a SQPOLL ring sleeps in a
 * request. (That a submission of another ring, or RWF_NOWAIT by libaio, does not sleep behind the
 * gate is checked at each.)
 */
void rw_submitted(void);
/*
 * Wait until the writes submitted have ended at the device and all tasks but this one are asleep.
 * Whether their completions were delivered is up to the kind of the ring.
 */
void rw_done(void);

/*
 * With the gate shut and everything asleep that can sleep: the workers of the rings (io-wq, SQPOLL)
 * use no CPU. One that does is a FAIL, with its name and stack.
 */
void rw_workers_asleep(void);

/* Another task, which the watchdog watches like the first one. */
struct rw_helper {
	pid_t pid;
	int slot, sig;
	int paused, go; /* eventfds */
};
struct rw_helper rw_start(void (*call)(const void *), const void *arg);
/* In that task: tell that it has come so far, and wait for rw_go_on(). */
void rw_pause(void);
void rw_wait_paused(const struct rw_helper *h);
void rw_go_on(const struct rw_helper *h);
/* Send SIGKILL, which need not work at once. */
void rw_kill(struct rw_helper *h);
/* Wait until the task sleeps for direct I/O in flight; false if it does not come to that. */
bool rw_in_drain_now(pid_t pid);
/* The same of a function of the kernel, whatever it waits for there. */
bool rw_asleep_in(pid_t pid, const char *function);
/*
 * Wait until one of the rings' workers (io-wq) sleeps there, 20 s at most. That all tasks are asleep does not
 * tell: the worker that is to have a request may have yet to be made (io_uring/io-wq.c, io_workqueue_create()).
 */
void rw_worker_in(const char *function);
/* Wait for its end. It is a FAIL when a signal killed it, other than by rw_kill(). */
void rw_join(struct rw_helper h);

/*
 * FIFREEZE and FITHAW of the filesystem under test; SKIP without a gate. However the variant ends,
 * the filesystem is thawed.
 */
void rw_freeze(void);
void rw_thaw(void);
/* It is not any more when the guardian had to thaw for a submission that may sleep (io_submit). */
bool rw_is_frozen(void);

/*
 * From now on writes to the blocks that the file has fail at the device, until it is mended. What
 * they held is lost: zeros. SKIP without a gate. Not while the gate is shut.
 */
void rw_device_break(struct rw_file *f);
void rw_device_mend(void);
/* The device becomes `by` bytes larger. Returns its size. SKIP without a gate. */
off_t rw_device_grow(off_t by);
/*
 * A nameless file that takes all the free space of the filesystem under test: punch a hole into it
 * to free some, close it to free all. SKIP without fallocate.
 */
int rw_fill_up(void);

/* Who makes a call: the ring's owner itself, or another task. */
struct rw_who {
	const char *name;
	bool other;
};
extern const struct rw_who rw_whos[2];

/* Make the call, free-running: as soon as may be. */
void rw_by(const struct rw_who *who, void (*call)(const void *), const void *arg);
/*
 * Make the call with the gate shut and writes in flight. When every task of the test is asleep the
 * gate is opened. If the call `must_wait` for the writes, it is a FAIL when it returns before that,
 * or when it was asleep for anything else than direct I/O (/proc/PID/stack).
 */
void rw_held_by(const struct rw_who *who, void (*call)(const void *), const void *arg,
		bool must_wait);
/* Make the call, with writes in flight: it must not return before somebody opens the gate. */
void rw_must_wait(void (*call)(const void *), const void *arg);
/*
 * What befalls a task asleep in a call. `hit` is done by another task while it sleeps, the gate is
 * opened, and then comes `after` (may be NULL). `dies_of`: the signal that it dies of, if it does.
 */
struct rw_strike {
	const char *name;
	void (*hit)(pid_t pid, int fd);
	void (*after)(pid_t pid);
	int dies_of;
};
/* Make the call as rw_held_by() does; it must sleep on. `fd` is for `hit`. */
void rw_held_struck(const struct rw_who *who, void (*call)(const void *), const void *arg,
		    const struct rw_strike *strike, int fd);
/* The same for requests of the ring itself: opens the gate when all is asleep, and reaps. */
void rw_held_reap(struct rw_ring *ring);

#endif
