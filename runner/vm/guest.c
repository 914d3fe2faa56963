// SPDX-License-Identifier: MIT
/*
 * The QEMU side of one guest. QEMU(1) and the QEMU Machine Protocol (docs/interop/qmp-spec) say what
 * the arguments and commands mean.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../lib/internal.h"
#include "../runner.h"
#include "vm.h"

#define QMP_SECONDS 5.0
#define STACK_WORDS 256 /* of each CPU, in its dump */

static const char *kernel, *initramfs, *accel = "tcg", *append = "", *map_path, *virtiofsd;
static long long cpus = 2, memory = 2048;
static char *extra[64];
static int nr_extra;

void vm_option(int option, char *text)
{
	switch ((enum vm_option)option) {
	case VM_KERNEL:
		kernel = text;
		break;
	case VM_INITRAMFS:
		initramfs = text;
		break;
	case VM_ACCEL:
		accel = text;
		break;
	case VM_CPUS:
		if (!parse_number(text, 1, 64, &cpus))
			die("vm: --cpus %s", text);
		break;
	case VM_MEMORY:
		if (!parse_number(text, 256, 1 << 20, &memory))
			die("vm: --memory %s", text);
		break;
	case VM_APPEND:
		append = text;
		break;
	case VM_QEMU_ARG:
		if (nr_extra == (int)ARRAY_SIZE(extra))
			die("--qemu-arg: too many");
		extra[nr_extra++] = text;
		break;
	case VM_MAP:
		map_path = text;
		break;
	case VM_VIRTIOFSD:
		virtiofsd = text;
		break;
	}
}

FILE *vm_file(struct job *j, const char *name)
{
	char *path = format("%s/%s", j->dir, name);
	int fd = open(path, O_RDONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	FILE *file = fd < 0 ? NULL : fdopen(fd, "r");

	if (!file)
		die("%s: %m", path);
	free(path);
	return file;
}

/* ---- start and end ------------------------------------------------------- */

/* In Linux's abstract namespace: there is no file to be left behind. */
static char *qmp_name(const struct job *j)
{
	return format("ringwedge-%d-%d", (int)getpid(), j->nr);
}

/* A comma would end a value in QEMU's option syntax. */
static char *escape(const char *path)
{
	char *out = malloc(2 * strlen(path) + 1), *to = out;

	if (!out)
		die("out of memory");
	for (; *path; path++) {
		if (*path == ',')
			*to++ = ',';
		*to++ = *path;
	}
	*to = 0;
	return out;
}

static char *fs_name(const struct job *j, const char *tag)
{
	return format("ringwedge-%d-%d-%s", (int)getpid(), j->nr, tag);
}

/* An address in the abstract namespace. Returns its length. */
static socklen_t address_of(const char *name, struct sockaddr_un *addr)
{
	memset(addr, 0, sizeof(*addr));
	addr->sun_family = AF_UNIX;
	snprintf(addr->sun_path + 1, sizeof(addr->sun_path) - 1, "%s", name);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name));
}

/* security_model=none: owners are not kept, so that it works without root. */
static int share_9p(char **argv, const char *tag, const char *path, const char *more)
{
	char *escaped = escape(path);

	argv[0] = "-virtfs";
	argv[1] = format("local,path=%s,mount_tag=%s,security_model=none,multidevs=remap%s",
			 escaped, tag, more);
	free(escaped);
	return 2;
}

/* virtiofsd(1), of QEMU 7.2 or later. It cannot be told to be read-only: the guest's mount is. */
static int share_virtiofs(struct job *j, char **argv, int nr, const char *tag, const char *path)
{
	char *name = fs_name(j, tag), *log_path = format("%s/virtiofsd.txt", j->dir);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	int log = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	struct sockaddr_un addr;
	socklen_t len = address_of(name, &addr);

	if (fd < 0 || log < 0 || bind(fd, (struct sockaddr *)&addr, len) || listen(fd, 1))
		die("%s: %m", name);
	j->daemon[nr] = tasks_start((char *[]){ (char *)virtiofsd, format("--fd=%d", fd), "-o",
						format("source=%s", path), "-o",
						"cache=auto,sandbox=chroot", NULL },
				    log);
	close(fd);
	close(log);
	argv[0] = "-chardev";
	argv[1] = format("socket,id=%s,path=%s,abstract=on", tag, name);
	argv[2] = "-device";
	argv[3] = format("vhost-user-fs-pci,chardev=%s,tag=%s", tag, tag);
	free(name);
	free(log_path);
	return 4;
}

static char **command(struct job *j)
{
	char **argv = calloc(64 + ARRAY_SIZE(extra), sizeof(*argv));
	char *qmp = qmp_name(j), *control, *serial, *folder;
	bool kvm = !strcmp(accel, "kvm");
	int n = 0, i;

	if (!argv)
		die("out of memory");
	control = escape(folder = format("%s/control", j->dir));
	free(folder);
	serial = escape(j->serial);
	folder = format("%.*s", (int)(strrchr(j->dir, '/') - 3 - j->dir), j->dir); /* DIR/vm/N */
#define ADD(...)                                               \
	do {                                                   \
		char *words[] = { __VA_ARGS__ };               \
		for (size_t w = 0; w < ARRAY_SIZE(words); w++) \
			argv[n++] = words[w];                  \
	} while (0)
	ADD("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
	    "-no-reboot", "-accel", kvm ? "kvm" : "tcg,thread=multi", "-cpu", kvm ? "host" : "max",
	    "-smp", format("%lld", cpus), "-m", format("%lldM", memory), "-kernel", (char *)kernel,
	    "-initrd", (char *)initramfs);
	/* The console, and what init.c says. append: QEMU must not truncate what is being read. */
	ADD("-chardev", format("file,id=console,path=%s", serial), "-serial", "chardev:console",
	    "-chardev", format("file,id=control,append=on,path=%s", control), "-serial",
	    "chardev:control", "-chardev",
	    format("socket,id=qmp,path=%s,abstract=on,server=on,wait=off", qmp), "-mon",
	    "chardev=qmp,mode=control");
	if (virtiofsd) {
		/* It works on the guest's memory. */
		ADD("-object", format("memory-backend-memfd,id=memory,share=on,size=%lldM", memory),
		    "-numa", "node,memdev=memory");
		n += share_virtiofs(j, argv + n, 0, "root", "/");
		n += share_virtiofs(j, argv + n, 1, "results", folder);
	} else {
		n += share_9p(argv + n, "root", "/", ",readonly=on");
		n += share_9p(argv + n, "results", folder, "");
	}
	/*
	 * Where it is out of memory no verdict can be trusted: a panic makes sure of that. On a busy
	 * host an emulated timer can be too late for the kernel's check of it, which is a panic, too,
	 * and for its measurement of the emulated TSC: a clock that is many times too fast.
	 */
	ADD("-append",
	    format("console=ttyS0,115200 ignore_loglevel panic=-1 nokaslr mitigations=off "
		   "no_timer_check%s sysctl.vm.panic_on_oom=1 RW_JOB=%d %s",
		   kvm ? "" : " tsc=unstable", j->nr + 1, append));
	for (i = 0; i < nr_extra; i++)
		argv[n++] = extra[i];
	free(qmp);
	free(control);
	free(serial);
	free(folder);
	return argv;
}

void vm_start(struct job *j)
{
	char **argv, *path;
	int log;

	free(j->serial);
	j->serial = format("%s/serial-%d.txt", j->dir, ++j->guests);
	argv = command(j);
	path = format("%s/qemu.txt", j->dir);
	log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (log < 0)
		die("%s: %m", path);
	j->pid = tasks_start(argv, log);
	close(log);
	free(path);
	free(argv); /* its words live on; there are a few guests a run */
}

void vm_gone(struct job *j)
{
	int status;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(j->daemon); i++)
		if (j->daemon[i])
			tasks_kill(j->daemon[i], &status);
	memset(j->daemon, 0, sizeof(j->daemon));
	j->pid = 0;
}

void vm_kill(struct job *j)
{
	int status;

	if (j->pid && !tasks_kill(j->pid, &status))
		fprintf(stderr, "QEMU %d cannot be killed\n", (int)j->pid);
	vm_gone(j);
}

/* ---- post mortem --------------------------------------------------------- */

/* The text behind the last `mark` on the console, up to the end of its line. */
static char *find_on_console(const struct job *j, const char *mark)
{
	FILE *file = fopen(j->serial, "re");
	char *line = NULL, *found = NULL, *at;
	size_t size = 0;

	while (file && getline(&line, &size, file) > 0) {
		at = strstr(line, mark);
		if (!at)
			continue;
		line[strcspn(line, "\r\n")] = 0;
		free(found);
		found = format("%.300s", at + strlen(mark));
	}
	free(line);
	if (file)
		fclose(file);
	return found;
}

/* QEMU's own last words, when it would not start. */
static char *last_words(const struct job *j)
{
	char *path = format("%s/qemu.txt", j->dir), buf[4096], *start;
	ssize_t n = rw_slurp(path, buf, sizeof(buf));

	free(path);
	start = n > 0 ? strrchr(buf, '\n') : NULL;
	return format("%.300s", n > 0 ? (start ? start + 1 : buf) : "no message");
}

char *vm_post_mortem(struct job *j, int status)
{
	char *panic = find_on_console(j, "Kernel panic - not syncing: "), *why, *words;

	if (WIFSIGNALED(status)) {
		why = format("QEMU was killed: %s", strsignal(WTERMSIG(status)));
	} else if (panic && strstr(panic, "ut of memory")) {
		why = format("the guest ran out of memory (see --memory): %s", panic);
	} else if (panic) {
		why = format("guest panic: %s", panic);
	} else if (WEXITSTATUS(status)) {
		words = last_words(j);
		why = format("QEMU ended with %d: %s", WEXITSTATUS(status), words);
		free(words);
	} else {
		why = format("the guest reset without a word");
	}
	free(panic);
	return why;
}

/* ---- QMP ----------------------------------------------------------------- */

static int qmp_connect(const struct job *j)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char *name = qmp_name(j);
	struct sockaddr_un addr;
	socklen_t len = address_of(name, &addr);

	free(name);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&addr, len)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

/* One line of JSON, or NULL after QMP_SECONDS. Its lines are short but for the dumps asked for. */
static json_t *qmp_read(int fd)
{
	static char buf[1 << 20];
	double end = steady_clock() + QMP_SECONDS;
	struct pollfd p = { .fd = fd, .events = POLLIN };
	size_t used = 0;

	while (used < sizeof(buf) && steady_clock() < end) {
		if (poll(&p, 1, 100) <= 0)
			continue;
		if (read(fd, buf + used, 1) != 1)
			return NULL;
		if (buf[used++] == '\n')
			return json_loadb(buf, used, 0, NULL);
	}
	return NULL;
}

/* The text that a command of QEMU's human monitor prints; NULL when there is no answer. */
static char *monitor(int fd, const char *line)
{
	json_t *ask = json_pack("{s:s, s:{s:s}}", "execute", "human-monitor-command", "arguments",
				"command-line", line);
	json_t *answer;
	char *text = NULL;

	json_dumpfd(ask, fd, JSON_COMPACT);
	json_decref(ask);
	while (!text && (answer = qmp_read(fd))) { /* events come in between */
		const char *got = json_string_value(json_object_get(answer, "return"));

		if (got || json_object_get(answer, "error"))
			text = format("%s", got ? got : "error\n");
		json_decref(answer);
	}
	return text;
}

/* ---- names for addresses ------------------------------------------------- */

struct symbol {
	uint64_t at;
	char name[64];
};

static struct symbol *symbol;
static size_t nr_symbols;

static void read_map(void)
{
	FILE *file = map_path && !symbol ? fopen(map_path, "re") : NULL;
	unsigned long long at;
	struct symbol *grown;
	char name[64], type;

	while (file && fscanf(file, "%llx %c %63s%*[^\n]", &at, &type, name) == 3) {
		if (type != 't' && type != 'T')
			continue;
		if (nr_symbols % 4096 == 0) {
			grown = realloc(symbol, (nr_symbols + 4096) * sizeof(*symbol));
			if (!grown)
				break;
			symbol = grown;
		}
		symbol[nr_symbols].at = at;
		memcpy(symbol[nr_symbols++].name, name, sizeof(name));
	}
	if (file)
		fclose(file);
}

/* The function that an address is in: System.map is sorted. NULL when it is in none. */
static const char *name_of(uint64_t address)
{
	size_t low = 0, high = nr_symbols;

	if (!nr_symbols || address < symbol[0].at || address >= symbol[nr_symbols - 1].at + 65536)
		return NULL;
	while (high - low > 1) {
		size_t middle = (low + high) / 2;

		if (symbol[middle].at <= address)
			low = middle;
		else
			high = middle;
	}
	return symbol[low].name;
}

static uint64_t reg(const char *registers, const char *name)
{
	const char *at = registers ? strstr(registers, name) : NULL;

	return at ? strtoull(at + strlen(name), NULL, 16) : 0;
}

/* "0123: 0xffff... 0xffff...": what looks like a return address may be a left-over of another call. */
static void write_stack(FILE *out, const char *dump)
{
	const char *at = dump, *name;

	while ((at = strstr(at, "0x"))) {
		name = name_of(strtoull(at, NULL, 16));
		if (name)
			fprintf(out, "    ? %s\n", name);
		at += 2;
	}
}

static void examine_cpu(int fd, FILE *out, int cpu)
{
	char *line = format("cpu %d", cpu), *registers, *stack;
	const char *name;

	free(monitor(fd, line));
	free(line);
	registers = monitor(fd, "info registers");
	fprintf(out, "\n== CPU %d\n%s", cpu, registers ? registers : "no answer\n");
	name = name_of(reg(registers, "RIP="));
	fprintf(out, "\nin %s\n", name ? name : "(no name: user space, or no System.map)");
	line = format("x /%dgx 0x%llx", STACK_WORDS, (unsigned long long)reg(registers, "RSP="));
	stack = monitor(fd, line);
	fprintf(out, "stack:\n");
	if (stack)
		write_stack(out, stack);
	fprintf(out, "%s", stack ? stack : "no answer\n");
	free(line);
	free(stack);
	free(registers);
}

char *vm_examine(struct job *j, const char *why)
{
	char *path = format("%s/silent-%d.txt", j->dir, j->guests);
	FILE *out = fopen(path, "we");
	int fd = qmp_connect(j), cpu;
	char *text;

	if (!out)
		die("%s: %m", path);
	fprintf(out, "%s; its console: %s\n", why, j->serial);
	if (fd < 0) {
		fprintf(out, "QMP: %s\n", strerror(errno));
	} else {
		read_map();
		json_decref(qmp_read(fd)); /* the greeting */
		dprintf(fd, "{\"execute\":\"qmp_capabilities\"}");
		json_decref(qmp_read(fd));
		text = monitor(fd, "info status");
		fprintf(out, "%s", text ? text : "QMP: no answer\n");
		for (cpu = 0; text && cpu < cpus; cpu++)
			examine_cpu(fd, out, cpu);
		free(text);
		close(fd);
	}
	fclose(out);
	return path;
}
