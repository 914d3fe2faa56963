/* SPDX-License-Identifier: MIT */
/*
 * rcu.c - make freezing fast.
 *
 * FIFREEZE waits for an RCU grace period for each of its three levels (percpu_down_write()), 10 to
 * 20 ms apiece: most of the time of a test that shuts the gate often. While any guardian lives,
 * grace periods are expedited (/sys/kernel/rcu_expedited, a system-wide switch); the last one puts
 * back what was there. Guardians count each other by shared locks on a file, which a kill releases.
 */
#include "internal.h"

#include <sys/file.h>

static const char knob[] = "/sys/kernel/rcu_expedited";
static const char count[] = "/run/ringwedge-rcu-expedited"; /* holds the value to put back */
static int lock_fd = -1;

static void put(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	/* Slower is all that comes of it. */
	if (fd >= 0 && write(fd, value, strlen(value)) < 0)
		fprintf(stderr, "%s: %s: %s\n", rw_test.name, path, strerror(errno));
	if (fd >= 0)
		close(fd);
}

void rw_rcu_hurry(void)
{
	char old[32], saved[32];

	if (access(knob, W_OK))
		return;
	lock_fd = open(count, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (lock_fd < 0)
		return;
	/* The first one; a saved value is from one that was killed. */
	if (!flock(lock_fd, LOCK_EX | LOCK_NB) && rw_slurp(knob, old, sizeof(old)) > 0 &&
	    rw_slurp(count, saved, sizeof(saved)) <= 0)
		put(count, old);
	flock(lock_fd, LOCK_SH);
	put(knob, "1");
}

void rw_rcu_calm(void)
{
	char saved[32];

	if (lock_fd < 0)
		return;
	if (!flock(lock_fd, LOCK_EX | LOCK_NB)) { /* the last one */
		if (rw_slurp(count, saved, sizeof(saved)) > 0)
			put(knob, saved);
		unlink(count);
	}
	close(lock_fd);
	lock_fd = -1;
}
