// SPDX-License-Identifier: MIT
/*
 * Run a command that a broken kernel may never let end (mount, umount, fsck, fsfreeze), and say in
 * one line on stdout what went wrong. Its own output goes to the log. timeout(1) would not do: it
 * waits for what it killed, and a task in uninterruptible sleep does not die.
 */
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../lib/internal.h"
#include "runner.h"

static const char usage[] =
	"usage: within SECONDS LOG COMMAND [ARGUMENT]...\n"
	"LOG may be \"-\": its output is not kept\n"
	"exit status: that of the command; 123 it succeeded but the kernel complained meanwhile;\n"
	"124 no progress for SECONDS, killed; 125 the same, and it cannot be killed";

enum { COMPLAINT = 123, STUCK = 124, UNKILLABLE = 125 };

/* The last line that the command wrote. */
static void last_line(int log, off_t from, char *line, size_t size)
{
	char text[4096] = "", *start;
	off_t end = lseek(log, 0, SEEK_END);
	ssize_t len;

	if (end - from > (off_t)sizeof(text) - 1)
		from = end - (sizeof(text) - 1);
	len = pread(log, text, sizeof(text) - 1, from);
	while (len > 0 && text[len - 1] == '\n')
		len--;
	text[len > 0 ? len : 0] = 0;
	start = strrchr(text, '\n');
	snprintf(line, size, "%.*s", (int)size - 1, start ? start + 1 : text);
}

static bool is_of_run(const char *name)
{
	const char *run = getenv("RINGWEDGE_RUN");
	char path[64], image[4096];

	snprintf(path, sizeof(path), "/sys/block/%.20s/loop/backing_file", name);
	return rw_slurp(path, image, sizeof(image)) > 0 && !strncmp(image, run, strlen(run)) &&
	       image[strlen(run)] == '/';
}

static bool is_foreign(const char *line)
{
	return getenv("RINGWEDGE_RUN") && rw_only_other_loops(line, is_of_run);
}

static int stuck(pid_t pid, const char *name, double seconds, int log)
{
	FILE *out = fdopen(dup(log), "a");
	char *where = tasks_blame(pid);
	bool killed;
	int status;

	if (out) {
		fprintf(out, "%s: no progress for %g s\n", name, seconds);
		tasks_dump(pid, out);
		fclose(out);
	}
	killed = tasks_kill(pid, &status);
	printf("%s made no progress for %g s: %s%s\n", name, seconds, where,
	       killed ? "" : ", unkillable");
	free(where);
	return killed ? STUCK : UNKILLABLE;
}

static int wait_for(pid_t pid, double seconds, int *status)
{
	const struct timespec tick = { .tv_nsec = 1000 * 1000 };
	uint64_t progress = 0, now;
	double since = steady_clock(), next = since;

	while (waitpid(pid, status, WNOHANG) != pid) {
		if (steady_clock() >= next) {
			next = steady_clock() + 0.5;
			now = tasks_progress(pid);
			if (now != progress)
				since = steady_clock();
			progress = now;
		}
		if (steady_clock() - since > seconds)
			return -1;
		nanosleep(&tick, NULL);
	}
	return 0;
}

int main(int argc, char **argv)
{
	char line[512], complaint[512];
	struct rw_kmsg kmsg;
	double seconds;
	int log, status = 0;
	FILE *out;
	off_t from;
	pid_t pid;

	if (argc < 4 || !parse_scale(argv[1], &seconds))
		die("%s", usage);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (strcmp(argv[2], "-"))
		log = open(argv[2], O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	else
		log = memfd_create("log", MFD_CLOEXEC);
	if (log < 0)
		die("%s: %m", argv[2]);
	from = lseek(log, 0, SEEK_END);

	rw_kmsg_open(&kmsg);
	kmsg.foreign = is_foreign;
	pid = tasks_start(argv + 3, log);
	if (wait_for(pid, seconds, &status))
		return stuck(pid, argv[3], seconds, log);
	out = fdopen(dup(log), "a");
	rw_kmsg_read(&kmsg, out, complaint, sizeof(complaint));
	if (out)
		fclose(out);
	if (WIFSIGNALED(status)) {
		printf("%s: killed: %s\n", argv[3], strsignal(WTERMSIG(status)));
		return EXIT_BROKEN;
	}
	if (WEXITSTATUS(status)) {
		last_line(log, from, line, sizeof(line));
		printf("%s: exit status %d: %s\n", argv[3], WEXITSTATUS(status), line);
		return WEXITSTATUS(status);
	}
	if (*complaint) {
		printf("kernel log during %s: %s\n", argv[3], complaint);
		return COMPLAINT;
	}
	return 0;
}
