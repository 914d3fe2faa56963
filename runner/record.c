// SPDX-License-Identifier: MIT
/*
 * Run a command, and record by ftrace, of the whole system, who waits for direct I/O and how direct
 * I/O starts and ends. The file gets one line for each kind of stack, once the command has ended:
 *
 *   stack COUNT ADDRESS...   innermost first; which function was traced is in it
 *   ret NAME COUNT           direct I/Os that ended with this error
 *   lost                     events were overwritten before they were read
 *
 * init_wait_var_entry() is called by inode_dio_wait() when, and only when, i_dio_count is not 0; a
 * stack with both is a wait for a direct I/O in flight, whatever the scheduler does after that.
 *
 * The raw pages of the ring buffer are read, not the text: names would cost more than the tests.
 * Their layout: Documentation/trace/ring-buffer-map.rst, include/linux/ring_buffer.h, and
 * events/header_page, events/header_event of tracefs.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "runner.h"

static const char usage[] =
	"usage: record [--not-on DIR] FILE COMMAND...\n"
	"--not-on: direct I/O to the filesystem that DIR is on does not count\n";

#define TRACEFS "/sys/kernel/tracing"
#define INSTANCE TRACEFS "/instances/ringwedge"
#define BUFFER_KB "16384" /* of each CPU */

#define MAX_CPUS 256
#define MAX_DEPTH 64
#define MAX_STACKS (1u << 14) /* a power of two */
#define MAX_ERRNO 4096

static struct stack {
	int depth; /* 0: free */
	unsigned long count;
	uint64_t address[MAX_DEPTH];
} * stacks;
static unsigned int nr_stacks;
static unsigned long errors[MAX_ERRNO];
static bool lost;

static unsigned int stack_type, complete_type, ret_offset;

static bool mounted; /* by us */

static volatile pid_t child;

/* ---- tracefs ------------------------------------------------------------- */

/* Of some files a write takes no more than the first word. */
static void set(const char *name, const char *value)
{
	char *path = format(INSTANCE "/%s", name);
	int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	size_t left = strlen(value);
	ssize_t len = 0;

	do {
		value += len;
		left -= len;
		len = fd < 0 ? -1 : write(fd, value, left);
		if (len < 0)
			die("record: %s: %m (it takes CONFIG_FUNCTION_TRACER and Linux 6.6)", path);
	} while (len && (size_t)len < left);
	close(fd);
	free(path);
}

/* The event's number; where the field is in it, if one is asked for. */
static unsigned int event_format(const char *event, const char *field, unsigned int *offset)
{
	char *path = format(INSTANCE "/events/%s/format", event), line[256], *at;
	FILE *file = fopen(path, "re");
	unsigned int type = 0;

	if (!file)
		die("record: %s: %m", path);
	while (fgets(line, sizeof(line), file)) {
		sscanf(line, "ID: %u", &type);
		at = field ? strstr(line, field) : NULL;
		if (at)
			sscanf(at + strlen(field), "; offset:%u", offset);
	}
	fclose(file);
	free(path);
	return type;
}

/* The event, and with option stacktrace its stack, for all filesystems but one. */
static void trace_event(const char *event, const char *not_on)
{
	char *name = format("events/iomap/%s/filter", event), *filter;
	struct stat st;

	if (not_on) {
		if (stat(not_on, &st))
			die("record: %s: %m", not_on);
		/* as the kernel has it inside */
		filter = format("dev != %u", major(st.st_dev) << 20 | minor(st.st_dev));
		set(name, filter);
		free(filter);
	}
	strcpy(strrchr(name, '/'), "/enable");
	set(name, "1");
	free(name);
}

static void clean_up(void)
{
	rmdir(INSTANCE);
	if (mounted)
		umount(TRACEFS);
}

static void begin(const char *not_on)
{
	mounted = !mount("tracefs", TRACEFS, "tracefs", 0, NULL);
	if (!mounted && errno != EBUSY)
		die("record: tracefs: %m (it takes CONFIG_FTRACE)");
	atexit(clean_up); /* die() is an exit, too */
	if (mkdir(INSTANCE, 0700) && errno != EEXIST)
		die("record: %s: %m", INSTANCE);
	set("tracing_on", "0");
	set("current_tracer", "nop"); /* and with it, what a killed run has left */
	set("trace", "");
	set("buffer_size_kb", BUFFER_KB);
	stack_type = event_format("ftrace/kernel_stack", NULL, NULL);
	complete_type = event_format("iomap/iomap_dio_complete", "ssize_t ret", &ret_offset);
	if (!stack_type || !complete_type || !ret_offset)
		die("record: events of an unknown format");
	set("options/stacktrace", "1");
	trace_event("iomap_dio_rw_begin", not_on);
	trace_event("iomap_dio_complete", not_on);
	set("set_ftrace_filter", "inode_dio_wait init_wait_var_entry");
	set("current_tracer", "function");
	set("options/func_stack_trace", "1");
	set("tracing_on", "1");
}

/* ---- the ring buffer ----------------------------------------------------- */

static void count_stack(const uint64_t *address, int depth)
{
	uint64_t hash = 14695981039346656037u;
	struct stack *s;
	int i;

	for (i = 0; i < depth; i++)
		hash = (hash ^ address[i]) * 1099511628211u;
	for (hash ^= hash >> 32;; hash++) {
		s = &stacks[hash & (MAX_STACKS - 1)];
		if (!s->depth || (s->depth == depth && !memcmp(s->address, address, depth * 8)))
			break;
	}
	if (!s->depth) {
		if (nr_stacks == MAX_STACKS / 2) {
			lost = true;
			return;
		}
		nr_stacks++;
		s->depth = depth;
		memcpy(s->address, address, depth * 8);
	}
	s->count++;
}

/* struct stack_entry: the common 8 bytes, `int size`, and from 16 on the addresses. */
static void saw_stack(const char *event, size_t len)
{
	uint64_t address[MAX_DEPTH];
	int size, depth;

	memcpy(&size, event + 8, sizeof(size));
	if (size < 0 || size > MAX_DEPTH || len < 16 + (size_t)size * 8)
		size = len < 16 + MAX_DEPTH * 8 ? (int)((len - 16) / 8) : MAX_DEPTH;
	memcpy(address, event + 16, size * sizeof(*address));
	for (depth = 0; depth < size && address[depth];)
		depth++;
	if (depth)
		count_stack(address, depth);
}

static void saw_event(const char *event, size_t len)
{
	uint16_t type;
	int64_t ret;

	if (len < 16)
		return;
	memcpy(&type, event, sizeof(type));
	if (type == stack_type) {
		saw_stack(event, len);
	} else if (type == complete_type && len >= ret_offset + sizeof(ret)) {
		memcpy(&ret, event + ret_offset, sizeof(ret));
		if (ret < 0 && ret > -MAX_ERRNO)
			errors[-ret]++;
	}
}

/* A time stamp, how much there is, and with that in the upper bits, whether events were missed. */
static void saw_page(const char *page, size_t size)
{
	enum { PADDING = 29, TIME_EXTEND, TIME_STAMP };
	uint64_t commit;
	uint32_t header, words;
	size_t at = 16, end, len;

	memcpy(&commit, page + 8, sizeof(commit));
	lost |= commit >> 31 & 1;
	end = at + (commit & 0xfffff);
	if (end > size)
		end = size;
	while (at + 4 <= end) {
		memcpy(&header, page + at, sizeof(header));
		at += 4;
		len = (header & 31) * 4;
		switch (header & 31) {
		case TIME_EXTEND:
		case TIME_STAMP:
			at += 4;
			continue;
		case PADDING:
			if (!(header >> 5))
				return;
			/* fall through */
		case 0:
			if (at + 4 > end)
				return;
			memcpy(&words, page + at, sizeof(words));
			len = words; /* in bytes, with this word itself */
			if ((header & 31) == 0 && len >= 4 && at + len <= end)
				saw_event(page + at + 4, len - 4);
			break;
		default:
			if (at + len <= end)
				saw_event(page + at, len);
		}
		at += len;
	}
}

static int open_cpus(int *pipes)
{
	int nr = (int)sysconf(_SC_NPROCESSORS_CONF), i;
	char *path;

	if (nr > MAX_CPUS)
		die("record: more than %d CPUs", MAX_CPUS);
	for (i = 0; i < nr; i++) {
		path = format(INSTANCE "/per_cpu/cpu%d/trace_pipe_raw", i);
		pipes[i] = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		free(path);
	}
	return nr;
}

static void read_all(const int *pipes, int nr)
{
	static char page[65536];
	ssize_t len;
	int i;

	for (i = 0; i < nr; i++)
		while (pipes[i] >= 0 && (len = read(pipes[i], page, getpagesize())) > 16)
			saw_page(page, len);
}

/* ---- the command --------------------------------------------------------- */

/* It cleans up after itself; then so do we. */
static void on_signal(int sig)
{
	if (child > 0)
		kill(child, sig);
}

static void start(char **argv)
{
	struct sigaction action = { .sa_handler = on_signal };

	child = fork();
	if (child < 0)
		die("record: fork: %m");
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGTERM);
		execvp(argv[0], argv);
		fprintf(stderr, "record: %s: %m\n", argv[0]);
		_exit(EXIT_BROKEN);
	}
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
}

static void write_all(const char *path)
{
	FILE *file = fopen(path, "ae");
	unsigned int i;
	int k;

	if (!file)
		die("record: %s: %m", path);
	for (i = 0; i < MAX_STACKS; i++) {
		if (!stacks[i].depth)
			continue;
		fprintf(file, "stack %lu", stacks[i].count);
		for (k = 0; k < stacks[i].depth; k++)
			fprintf(file, " %lx", stacks[i].address[k]);
		fputc('\n', file);
	}
	for (i = 0; i < MAX_ERRNO; i++)
		if (errors[i])
			fprintf(file, "ret %s %lu\n", strerrorname_np((int)i) ?: "?", errors[i]);
	if (lost)
		fputs("lost\n", file);
	if (fclose(file))
		die("record: %s: %m", path);
}

int main(int argc, char **argv)
{
	const struct timespec tick = { .tv_nsec = 20 * 1000 * 1000 };
	const char *not_on = NULL;
	int pipes[MAX_CPUS], nr, status;

	if (argc > 2 && !strcmp(argv[1], "--not-on")) {
		not_on = argv[2];
		argc -= 2;
		argv += 2;
	}
	if (argc < 3)
		die("%s", usage);
	stacks = calloc(MAX_STACKS, sizeof(*stacks));
	if (!stacks)
		die("record: out of memory");
	begin(not_on);
	nr = open_cpus(pipes);
	start(argv + 2);
	while (waitpid(child, &status, WNOHANG) != child) {
		read_all(pipes, nr);
		nanosleep(&tick, NULL);
	}
	set("tracing_on", "0");
	read_all(pipes, nr);
	while (nr--)
		close(pipes[nr]);
	set("current_tracer", "nop");
	set("events/enable", "0");
	write_all(argv[1]);
	return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_BROKEN;
}
