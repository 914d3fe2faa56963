/* SPDX-License-Identifier: MIT */
/*
 * What the runner's own tools share.
 *
 * Bad input or a failing system call in a tool is the user's or the machine's fault, never a
 * verdict on the kernel: one line on stderr and exit status 2, by die().
 */
#ifndef RUNNER_H
#define RUNNER_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

enum { EXIT_FAIL = 1, EXIT_BROKEN = 2, EXIT_HANG = 3, EXIT_SKIP = 77 }; /* runtests.sh */

void die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

/* Never NULL; out of memory is die(). */
char *format(const char *fmt, ...) __attribute__((format(printf, 1, 2), warn_unused_result));
/* The array with room for one more element, zeroed, behind its nr; out of memory is die(). */
void *grow(void *array, size_t nr, size_t size) __attribute__((warn_unused_result));
/* True when the whole of text is a decimal number in [min, max]. */
bool parse_number(const char *text, long long min, long long max, long long *number);
/* True for a finite number above zero. */
bool parse_scale(const char *text, double *scale);

double wall_clock(void);	      /* seconds since the epoch, to the millisecond */
double steady_clock(void);	      /* seconds since boot, for differences */
json_t *json_seconds(double seconds); /* to the millisecond */

/* Add one line to the journal; it is on disk on return. Takes over the reference to event. */
void journal_append(const char *path, json_t *event);
/* "" when the key is absent or not a string. */
const char *text_of(const json_t *event, const char *key);

/* tasks.c: a program that is watched from outside, and all below it. */

/* Start argv in a process group of its own that dies with this process; output to `log`. */
pid_t tasks_start(char *const *argv, int log);
/* Changes whenever one of the tasks has run. */
uint64_t tasks_progress(pid_t root);
/* Seconds for which its threads have been runnable without a CPU, all together. */
double tasks_waited(pid_t root);
/* State, wait channel, system call and stack of every thread. */
void tasks_dump(pid_t root, FILE *out);
/* "umount/123 D in xfs_log_force < xfs_fs_sync": a thread in uninterruptible sleep if there is one.
 */
char *tasks_blame(pid_t root);
/* SIGKILL all of it and reap; false when something lives on after ten seconds. */
bool tasks_kill(pid_t group, int *status);

/* conf.c: configs/NAME.conf */
enum conf_key {
	KEY_DESCRIPTION,
	KEY_GROUPS,
	KEY_FILESYSTEM,
	KEY_BLOCK_SIZE,
	KEY_MKFS_OPTIONS,
	KEY_MOUNT_OPTIONS,
	KEY_DEVICE,
	KEY_SIZE,
	KEY_SECTOR_SIZE,
	KEY_DIRECT_IO,
	KEY_EXCHANGE_RANGE,
	CONF_KEYS,
};

struct conf {
	char *name;
	char *value[CONF_KEYS]; /* never NULL once read */
	int nr_skips;
	struct conf_skip {
		char *match; /* glob on TEST/VARIANT */
		char *reason;
	} * skips;
};

/* die()s with "FILE:LINE: what" on anything wrong. */
struct conf *conf_read(const char *path);
const char *conf_key_name(enum conf_key key);
/* NULL, or why this test/variant is expected to be skipped. */
const char *conf_expects_skip(const struct conf *conf, const char *test, const char *variant);
/* True when word is one of the blank-separated words of list. */
bool has_word(const char *list, const char *word);

/* known.c: configs/known-bugs.json */

/* die()s when the file is no list of bugs; the kernel is the running one unless told otherwise. */
void known_read(const char *path);
void known_kernel(const char *release);
/*
 * The reference of a known bug that explains this failure, or NULL. Without a verdict: is a bug
 * known of this variant at all?
 */
const char *known_bug(const char *config, const char *test, const char *variant,
		      const char *verdict, const char *reason);

#endif
