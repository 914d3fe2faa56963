// SPDX-License-Identifier: MIT
/*
 * Does freezing the filesystem that holds a loop device's image hold writes to the device? The loop
 * driver has to take freeze protection for that, and with direct I/O it did not before 39d86db34e41
 * ("loop: add file_start_write() and file_end_write()"), of which not every stable kernel has a copy.
 *
 * holds DIR DEVICE: DIR is the filesystem that will be frozen. The first block of DEVICE is
 * overwritten. Exit status 0: it holds; 1: it does not; 2: it could not be tried.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../lib/internal.h"
#include "runner.h"

#define BLOCK 4096
#define HELD_SECONDS 0.5 /* in flight for so long: it is held */
#define LONGEST_SECONDS 10.0

static void write_block(int fd)
{
	void *block = aligned_alloc(BLOCK, BLOCK);

	if (!block)
		die("out of memory");
	memset(block, 0, BLOCK);
	if (pwrite(fd, block, BLOCK, 0) != BLOCK)
		die("holds: write: %m");
	free(block);
}

static unsigned int writes_in_flight(const char *name)
{
	char *path = format("/sys/class/block/%s/inflight", name), buf[64];
	unsigned int reads, writes = 0;

	if (rw_slurp(path, buf, sizeof(buf)) < 0 || sscanf(buf, "%u %u", &reads, &writes) != 2)
		die("%s: %m", path);
	free(path);
	return writes;
}

/* True when the writer is still at it after its write was in flight for long enough. */
static bool is_held(pid_t writer, const char *name)
{
	const struct timespec tick = { .tv_nsec = 2 * 1000 * 1000 };
	double end = steady_clock() + LONGEST_SECONDS, since = 0;
	siginfo_t info = { 0 };

	while (steady_clock() < end) {
		if (!waitid(P_PID, writer, &info, WEXITED | WNOHANG | WNOWAIT) && info.si_pid)
			return false;
		if (!writes_in_flight(name))
			since = 0;
		else if (!since)
			since = steady_clock();
		else if (steady_clock() - since > HELD_SECONDS)
			return true;
		nanosleep(&tick, NULL);
	}
	return false;
}

int main(int argc, char **argv)
{
	int dir, device, status;
	pid_t writer;
	bool held;

	if (argc != 3)
		die("usage: holds DIR DEVICE");
	dir = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	device = open(argv[2], O_RDWR | O_DIRECT | O_CLOEXEC);
	if (dir < 0 || device < 0)
		die("holds: %s: %m", dir < 0 ? argv[1] : argv[2]);
	/* Once before: what is written to a frozen filesystem must not need an allocation there. */
	write_block(device);
	if (fsync(device) || ioctl(dir, FIFREEZE, 0))
		die("holds: %s: %m", argv[1]);
	writer = fork();
	if (!writer) {
		write_block(device);
		_exit(0);
	}
	held = writer > 0 && is_held(writer, strrchr(argv[2], '/') + 1);
	ioctl(dir, FITHAW, 0);
	if (writer < 0)
		die("fork: %m");
	waitpid(writer, &status, 0);
	return held ? 0 : 1;
}
