// SPDX-License-Identifier: MIT
/*
 * What does this machine give less than the suite can use? Found out by trying. One line each, with
 * what to do. Exit status 2 when DIR, if given, cannot be tested in at all.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>

#include "../lib/internal.h"
#include "runner.h"

static bool direct_io_works(const char *dir)
{
	char *path = format("%s/ringwedge-probe.XXXXXX", dir);
	void *block = NULL;
	int fd = mkstemp(path), direct;
	bool works = false;

	if (fd < 0)
		die("%s: %s", dir, strerror(errno));
	close(fd);
	direct = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (direct >= 0) {
		if (posix_memalign(&block, 65536, 65536))
			die("out of memory");
		memset(block, 0, 65536);
		works = pwrite(direct, block, 65536, 0) == 65536;
		close(direct);
		free(block);
	}
	unlink(path);
	free(path);
	return works;
}

static void probe_io_uring(void)
{
	struct io_uring_params params = { 0 };
	int fd = syscall(SYS_io_uring_setup, 1, &params);

	if (fd >= 0)
		close(fd);
	else if (errno == ENOSYS)
		puts("no io_uring: build the kernel with CONFIG_IO_URING=y");
	else if (errno == EPERM)
		puts("io_uring is forbidden: set kernel.io_uring_disabled=0, or leave the "
		     "container "
		     "or its seccomp filter");
	else
		printf("io_uring_setup: %s\n", strerror(errno));
}

static void probe_evidence(void)
{
	struct rw_kmsg kmsg;

	if (!rw_stack_readable())
		puts("no /proc/PID/stack (needs root and CONFIG_STACKTRACE): a hang is told from "
		     "its wait channel and system call");
	rw_kmsg_open(&kmsg);
	if (kmsg.fd < 0)
		printf("/dev/kmsg cannot be read (%s): the kernel log of a test is \"unknown\"; "
		       "run "
		       "as root, outside a container\n",
		       strerror(kmsg.error));
	rw_kmsg_close(&kmsg);
	if (access("/dev/kmsg", W_OK))
		printf("/dev/kmsg cannot be written (%s): tests are not marked in the kernel log\n",
		       strerror(errno));
}

int main(int argc, char **argv)
{
	if (argc > 2 || (argc == 2 && argv[1][0] == '-'))
		die("usage: probe [DIR]");
	if (argc == 2 && !direct_io_works(argv[1]))
		die("%s: the filesystem has no direct I/O (O_DIRECT): choose another directory",
		    argv[1]);
	probe_io_uring();
	probe_evidence();
	return 0;
}
