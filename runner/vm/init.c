// SPDX-License-Identifier: MIT
/*
 * The first process of a guest: a static program, alone in an initramfs (besides the modules of a
 * distribution's kernel). It makes the host's root, read-only, the lower layer of an overlay, runs
 * one command in that, and says on the second serial port how it goes, a line each:
 *
 *   missing CONFIG_X    the kernel cannot do it, by the name of the option that would add it
 *   broken TEXT         anything else that went wrong before the command
 *   ready               the command is started
 *   .                   alive, once a second
 *   exit N              the command's exit status; the guest powers off
 *
 * A serial port, because it needs no module and works until the very end.
 *
 * What to run is in vm/$RW_JOB/job below the results, shared by the host: the folder of the results,
 * the one to start in, the command and its arguments, a line each.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define NINEP "trans=virtio,version=9p2000.L,msize=262144"
#define MAX_ARGS 64

static int port = -1;

static void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vdprintf(port < 0 ? STDERR_FILENO : port, fmt, ap);
	va_end(ap);
}

static void power_off(void) __attribute__((noreturn));
static void power_off(void)
{
	if (port >= 0)
		tcdrain(port);
	/* The file systems under test may be frozen or wedged, and are thrown away: no sync(2). */
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

/* The option whose absence explains that the mount failed. */
static void must_mount(const char *source, const char *target, const char *type,
		       unsigned long flags, const char *data, const char *option)
{
	mkdir(target, 0755);
	if (!mount(source, target, type, flags, data))
		return;
	if (errno == ENODEV || errno == ENOENT)
		say("missing %s\n", option);
	else
		say("broken mount of %s: %s\n", target, strerror(errno));
	power_off();
}

/* A folder of the host's: by 9p, or virtiofs where the host found that the kernel has no 9p. */
static void must_share(const char *tag, const char *target, unsigned long flags, const char *data)
{
	mkdir(target, 0755);
	if (mount(tag, target, "virtiofs", flags, NULL))
		must_mount(tag, target, "9p", flags, data, "CONFIG_9P_FS and CONFIG_NET_9P_VIRTIO");
}

/* The kernel has no port beyond the first, or no driver for it: then nobody hears. */
static void open_port(void)
{
	struct termios t;

	port = open("/dev/ttyS1", O_WRONLY | O_NOCTTY | O_CLOEXEC);
	if (port < 0 || tcgetattr(port, &t))
		return;
	cfmakeraw(&t);
	cfsetospeed(&t, B115200);
	tcsetattr(port, TCSANOW, &t);
}

/* /modules/0000-name.ko and so on, in an order in which each finds what it needs. */
static void load_modules(void)
{
	char path[64], name[256];

	for (int i = 0;; i++) {
		FILE *list;
		int fd;

		snprintf(path, sizeof(path), "/modules/%04d.ko", i);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return;
		/* A driver for hardware that is not there refuses to load: that is no harm. */
		if (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST && errno != ENODEV) {
			snprintf(path, sizeof(path), "/modules/%04d.name", i);
			list = fopen(path, "re");
			if (!list || !fgets(name, sizeof(name), list))
				snprintf(name, sizeof(name), "module %d", i);
			fprintf(stderr, "ringwedge: %s: %s\n", name, strerror(errno));
			if (list)
				fclose(list);
		}
		close(fd);
		unlink(path);
	}
}

/* The lines of the job, in place. Returns how many. */
static int read_job(char **line)
{
	static char text[65536];
	char path[128], *next = text;
	int n = 0, fd;
	ssize_t len;

	snprintf(path, sizeof(path), "/results/vm/%s/job", getenv("RW_JOB") ?: "");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	len = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (len <= 0) {
		say("broken %s: %s\n", path, strerror(errno));
		power_off();
	}
	close(fd);
	while (n < MAX_ARGS && *next)
		line[n++] = strsep(&next, "\n");
	line[n] = NULL;
	return n;
}

static void make_path(const char *path)
{
	char part[4096];

	for (size_t i = 1; path[i - 1]; i++) {
		if (path[i] && path[i] != '/')
			continue;
		snprintf(part, sizeof(part), "%.*s", (int)i, path);
		mkdir(part, 0755);
	}
}

/* `project`: kept in sight when it lies below one of the folders that the guest has for itself. */
static void enter_host_root(const char *results, const char *project)
{
	static const char *const tmpfs[] = { "tmp", "run", "var/tmp", "dev/shm" };
	char covered[64];
	int fd;

	must_share("root", "/host", MS_RDONLY, NINEP ",cache=loose");
	must_mount("tmpfs", "/upper", "tmpfs", 0, NULL, "CONFIG_TMPFS");
	mkdir("/upper/data", 0755);
	mkdir("/upper/work", 0755);
	must_mount("overlay", "/root", "overlay", 0,
		   "lowerdir=/host,upperdir=/upper/data,workdir=/upper/work", "CONFIG_OVERLAY_FS");
	if (chdir("/root"))
		power_off();
	must_mount("proc", "proc", "proc", 0, NULL, "CONFIG_PROC_FS");
	must_mount("sysfs", "sys", "sysfs", 0, NULL, "CONFIG_SYSFS");
	must_mount("devtmpfs", "dev", "devtmpfs", 0, NULL, "CONFIG_DEVTMPFS");
	mount("debugfs", "sys/kernel/debug", "debugfs", 0, NULL);
	mount("tracefs", "sys/kernel/tracing", "tracefs", 0, NULL);
	fd = open(project + 1, O_PATH | O_CLOEXEC);
	snprintf(covered, sizeof(covered), "proc/self/fd/%d", fd);
	for (size_t i = 0; i < sizeof(tmpfs) / sizeof(tmpfs[0]); i++) {
		make_path(tmpfs[i]);
		must_mount("tmpfs", tmpfs[i], "tmpfs", 0, "mode=1777", "CONFIG_TMPFS");
	}
	/* What udev would make. */
	(void)!symlink("/proc/self/fd", "dev/fd");
	if (access(project + 1, F_OK)) {
		make_path(project + 1);
		mount(covered, project + 1, NULL, MS_BIND, NULL);
	}
	close(fd);
	make_path(results + 1);
	if (mount("/results", results + 1, NULL, MS_MOVE, NULL)) {
		say("broken mount of %s: %s\n", results, strerror(errno));
		power_off();
	}
	if (mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/")) {
		say("broken change of the root: %s\n", strerror(errno));
		power_off();
	}
}

static pid_t start(const char *results, char **argv)
{
	char path[4096];
	pid_t pid = fork();
	int fd;

	if (pid)
		return pid;
	setsid();
	snprintf(path, sizeof(path), "%s/vm/%s/output", results, getenv("RW_JOB"));
	fd = open(path, O_WRONLY | O_APPEND | O_CREAT, 0644);
	if (fd >= 0 && dup2(fd, STDOUT_FILENO) >= 0 && dup2(fd, STDERR_FILENO) >= 0)
		close(fd);
	fd = open("/dev/null", O_RDONLY);
	if (fd > 0)
		dup2(fd, STDIN_FILENO);
	if (chdir(argv[0]))
		fprintf(stderr, "%s: %s\n", argv[0], strerror(errno));
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("HOME", "/root", 1);
	setenv("RINGWEDGE_VM", "1", 1);
	execvp(argv[1], argv + 1);
	fprintf(stderr, "%s: %s\n", argv[1], strerror(errno));
	_exit(2);
}

/* Adopt and reap whatever there is, and show that this kernel still runs processes. */
static int wait_for(pid_t command)
{
	const struct timespec second = { .tv_sec = 1 };
	sigset_t child;
	int status;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	for (;;) {
		pid_t pid = waitpid(-1, &status, WNOHANG);

		if (pid == command)
			return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
		if (pid > 0)
			continue;
		if (sigtimedwait(&child, NULL, &second) < 0 && errno == EAGAIN)
			say(".\n");
	}
}

int main(void)
{
	char *line[MAX_ARGS + 1];
	sigset_t child;
	pid_t pid;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	mkdir("/dev", 0755);
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	open_port();
	load_modules();
	must_share("results", "/results", 0, NINEP);
	if (read_job(line) < 3) {
		say("broken job: too short\n");
		power_off();
	}
	enter_host_root(line[0], line[1]);
	sigprocmask(SIG_UNBLOCK, &child, NULL);
	pid = start(line[0], line + 1);
	sigprocmask(SIG_BLOCK, &child, NULL);
	say("ready\n");
	say("exit %d\n", wait_for(pid));
	power_off();
}
