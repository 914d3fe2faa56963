/* SPDX-License-Identifier: MIT */
/* main.c - the command line of every test program, and the loop over its variants. */
#include "internal.h"

#include <dirent.h>
#include <fnmatch.h>
#include <getopt.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define ORPHAN_WAIT 2000 /* ms for SIGKILL to work on what a variant left */

struct rw_options rw_opt = { .output = ".", .config = "dir", .max_hangs = 1, .timeout_scale = 1 };
struct rw_shared *rw_shared;
volatile sig_atomic_t rw_interrupted;

static const char usage[] =
	"usage: %s -d DIR [options]\n"
	"Checks that %s.\n"
	"  -d, --dir DIR        run in this directory (any filesystem with O_DIRECT)\n"
	"      --gate DIR       mounted filesystem that holds DIR's loop image; it will be frozen\n"
	"  -o, --output DIR     where evidence goes (default: the current directory)\n"
	"      --journal FILE   append a JSON line when a variant starts and when it ends\n"
	"      --config NAME    name the configuration in the journal\n"
	"      --variant GLOB   only these variants (repeatable)\n"
	"      --after NAME     only the variants after this one\n"
	"      --seed N         of the random choices (default: from the clock; printed on "
	"failure)\n"
	"      --timeout-scale X  multiply every time by X\n"
	"      --max-hangs N    stop after N unkillable tasks (default 1)\n"
	"      --list           the variants, one a line\n"
	"      --describe       the test as JSON\n"
	"      --ktap           KTAP version 1 on standard output\n"
	"  -q, --quiet          print only what did not pass\n"
	"      --die-with-parent  end when the process that started this one ends\n"
	"  -h, --help\n"
	"exit status: 0 pass, 1 fail (the kernel is wrong), 2 broken set-up or usage, 3 hang, 77 "
	"skip\n";

static void die(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));
static void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fprintf(stderr, "%s: ", rw_test.name);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	exit(2);
}

void rw_futex_wait(_Atomic uint32_t *word, uint32_t value, unsigned int ms)
{
	struct timespec ts = { ms / 1000, (long)(ms % 1000) * 1000000 };

	syscall(SYS_futex, word, FUTEX_WAIT, value, &ts, NULL, 0);
}

void rw_futex_wake(_Atomic uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

void rw_die_with(pid_t parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(2);
}

static void harmless(int sig)
{
	(void)sig;
}

void rw_child_signals(void)
{
	/* Ignored signals wake nobody: the watchdog's probe needs a handler to be delivered. */
	struct sigaction sa = { .sa_handler = harmless, .sa_flags = SA_RESTART };

	sigaction(SIGUSR2, &sa, NULL);
}

/* ---- variants: the product of the axes ----------------------------------- */

static unsigned int n_product(void)
{
	unsigned int n = 1;

	for (unsigned int a = 0; a < RW_AXES && rw_test.axes[a].rows; a++)
		n *= (unsigned int)rw_test.axes[a].n;
	return n;
}

static bool variant_at(unsigned int i, const void **at, char *name, size_t len)
{
	unsigned int n = n_product();
	size_t used = 0;

	name[0] = '\0';
	for (unsigned int a = 0; a < RW_AXES && rw_test.axes[a].rows; a++) {
		const struct rw_axis *axis = &rw_test.axes[a];

		n /= (unsigned int)axis->n;
		at[a] = (const char *)axis->rows + (i / n % axis->n) * axis->size;
		used += (size_t)snprintf(name + used, len - used, "%s%s", a ? "." : "",
					 *(const char *const *)at[a]);
	}
	if (!used)
		snprintf(name, len, "default");
	return !rw_test.has || rw_test.has(at);
}

static bool wanted(const char *name)
{
	if (!rw_opt.n_variants)
		return true;
	for (unsigned int i = 0; i < rw_opt.n_variants; i++)
		if (!fnmatch(rw_opt.variants[i], name, 0))
			return true;
	return false;
}

/* ---- the place ----------------------------------------------------------- */

static char work_dir[4096];

/* The test's own directory inside DIR: a second program may run beside it. */
static void make_work_dir(void)
{
	snprintf(work_dir, sizeof(work_dir), "%s/%s.XXXXXX", rw_opt.dir, rw_test.name);
	if (!mkdtemp(work_dir))
		die("%s: %s", work_dir, strerror(errno));
	rw_opt.dir = work_dir;
}

/* In a watched child: on a broken kernel unlink may hang as well as any other call. */
static void empty_work_dir(void)
{
	struct dirent *e;
	DIR *d = opendir(work_dir);

	rw_enter("unlink the test's files");
	while (d && (e = readdir(d)))
		if (e->d_name[0] != '.' && unlinkat(dirfd(d), e->d_name, 0) && errno == EISDIR)
			unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR); /* where own.c has mounted */
	if (d)
		closedir(d);
	rw_returned();
}

/* ---- one variant --------------------------------------------------------- */

/*
 * As a subreaper this process inherits what the child leaves: that must not live on beside the
 * next variant. Returns one that cannot be killed, or 0.
 */
static pid_t reap_orphans(void)
{
	uint64_t end = rw_now_ns() + (uint64_t)(ORPHAN_WAIT * rw_opt.timeout_scale) * RW_MS;
	pid_t left[64];

	for (;;) {
		unsigned int n = rw_descendants(getpid(), left, 64);

		if (!n)
			return 0;
		if (rw_now_ns() > end)
			return left[0];
		for (unsigned int i = 0; i < n; i++)
			kill(left[i], SIGKILL);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		poll(NULL, 0, 1); /* some are adopted only when their parents have died */
	}
}

static void blame_orphan(pid_t pid, struct rw_outcome *o)
{
	static struct rw_task t[RW_MAX_TASKS];
	char where[512];

	atomic_store(&rw_shared->n_helpers, 0);
	if (!rw_tasks(pid, t, RW_MAX_TASKS, RW_WHOLE))
		return; /* just gone */
	rw_where(&t[0], where, sizeof(where));
	o->verdict = RW_HANG;
	o->unkillable = true;
	snprintf(o->reason, sizeof(o->reason),
		 "HANG after the variant's end: %s/%d %c in %s (%s), unkillable", t[0].comm, pid,
		 t[0].state, where, rw_syscall_name(t[0].syscall));
}

static void in_child(const void *const *at, pid_t parent)
{
	rw_die_with(parent);
	/* ^C reaches the whole foreground group: the parent decides what it means. */
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_DFL);
	signal(SIGHUP, SIG_IGN);
	rw_gate_leave();
	atomic_store(&rw_shared->child, getpid());
	rw_child_signals();
	empty_work_dir();
	if (at)
		rw_test.run(at);
	empty_work_dir();
	rw_end(RW_PASS, NULL, 0, "%s", "");
}

static void check_kernel_log(struct rw_kmsg *k, const char *variant, struct rw_outcome *o,
			     char *log, size_t len)
{
	char path[4096], bad[256], *text = NULL;
	size_t size = 0;
	FILE *mem = open_memstream(&text, &size), *f;
	unsigned int n = rw_kmsg_read(k, mem, bad, sizeof(bad));

	fclose(mem);
	if (k->fd < 0)
		snprintf(log, len, "unknown: /dev/kmsg: %s", strerror(k->error));
	else if (k->gap)
		snprintf(log, len, "unknown: lines were overwritten before they were read");
	else if (!n)
		snprintf(log, len, "clean");
	else
		snprintf(log, len, "%u lines", n);
	if (n) {
		snprintf(path, sizeof(path), "%s/%s.kmsg.txt", rw_opt.output, variant);
		f = fopen(path, "we");
		if (f) {
			fwrite(text, 1, size, f);
			fclose(f);
		}
	}
	if (bad[0] && o->verdict != RW_FAIL && o->verdict != RW_HANG) {
		o->verdict = RW_FAIL;
		snprintf(o->reason, sizeof(o->reason), "kernel log: %s", bad);
		if (n && !o->evidence[0])
			memcpy(o->evidence, path, sizeof(path));
	}
	free(text);
}

static void run_variant(unsigned int i, struct rw_outcome *o)
{
	const void *at[RW_AXES] = { NULL };
	pid_t child, parent = getpid();
	uint64_t taint = rw_taint();
	int lockdep = rw_lockdep_on();
	struct rw_kmsg k;
	char name[256], log[128];

	variant_at(i, at, name, sizeof(name));
	memset(o, 0, sizeof(*o));
	rw_shared_renew();
	rw_report_start(name);
	rw_kmsg_open(&k);
	k.foreign = rw_foreign_device;
	fflush(NULL);
	child = fork();
	if (child < 0)
		die("fork: %s", strerror(errno));
	if (!child)
		in_child(at, parent);
	rw_watch(child, name, o);
	if (!o->unkillable) {
		pid_t left = reap_orphans();

		if (left)
			blame_orphan(left, o);
		rw_thaw_left(); /* a helper may have come to the end of its FIFREEZE only now */
	}
	check_kernel_log(&k, name, o, log, sizeof(log));
	if (o->verdict == RW_PASS && (rw_taint() & ~taint)) {
		o->verdict = RW_FAIL;
		snprintf(o->reason, sizeof(o->reason), "the kernel became tainted: %#llx was %#llx",
			 (unsigned long long)rw_taint(), (unsigned long long)taint);
	}
	if (o->verdict == RW_PASS && lockdep == 1 && rw_lockdep_on() == 0) {
		o->verdict = RW_FAIL;
		snprintf(o->reason, sizeof(o->reason), "lockdep turned itself off: see kernel log");
	}
	rw_kmsg_close(&k);
	rw_report_end(name, o, log);
}

static void remove_work_dir(void)
{
	struct rw_outcome o = { .verdict = RW_NONE };
	pid_t child, parent = getpid();

	rw_shared_renew();
	child = fork();
	if (!child)
		in_child(NULL, parent);
	if (child > 0)
		rw_watch(child, "clean-up", &o);
	if (o.verdict == RW_PASS && !rmdir(work_dir))
		return;
	fprintf(stderr, "%s: %s is left: %s\n", rw_test.name, work_dir,
		o.verdict == RW_PASS ? strerror(errno) : o.reason);
}

/* ---- the command line ---------------------------------------------------- */

static unsigned long long number(const char *opt, const char *s)
{
	unsigned long long v;
	char *end;

	errno = 0;
	v = strtoull(s, &end, 0);
	if (errno || *end || *s < '0' || *s > '9' || v > INT64_MAX)
		die("%s takes a number, not \"%s\"", opt, s);
	return v;
}

enum {
	O_GATE = 256,
	O_JOURNAL,
	O_CONFIG,
	O_VARIANT,
	O_AFTER,
	O_SEED,
	O_SCALE,
	O_MAX_HANGS,
	O_LIST,
	O_DESCRIBE,
	O_KTAP,
	O_DIE
};

static const struct option options[] = {
	{ "dir", required_argument, NULL, 'd' },
	{ "gate", required_argument, NULL, O_GATE },
	{ "output", required_argument, NULL, 'o' },
	{ "journal", required_argument, NULL, O_JOURNAL },
	{ "config", required_argument, NULL, O_CONFIG },
	{ "variant", required_argument, NULL, O_VARIANT },
	{ "after", required_argument, NULL, O_AFTER },
	{ "seed", required_argument, NULL, O_SEED },
	{ "timeout-scale", required_argument, NULL, O_SCALE },
	{ "max-hangs", required_argument, NULL, O_MAX_HANGS },
	{ "list", no_argument, NULL, O_LIST },
	{ "describe", no_argument, NULL, O_DESCRIBE },
	{ "ktap", no_argument, NULL, O_KTAP },
	{ "quiet", no_argument, NULL, 'q' },
	{ "die-with-parent", no_argument, NULL, O_DIE },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

/* Returns O_LIST or O_DESCRIBE when that is asked for, else 0. */
static int parse(int argc, char **argv)
{
	int c, show = 0;
	char *end;

	rw_opt.seed = rw_now_ns() % 1000000007;
	rw_opt.variants = calloc((size_t)argc, sizeof(*rw_opt.variants));
	if (!rw_opt.variants)
		die("out of memory");
	while ((c = getopt_long(argc, argv, "d:o:qh", options, NULL)) != -1) {
		switch (c) {
		case 'd':
			rw_opt.dir = optarg;
			break;
		case 'o':
			rw_opt.output = optarg;
			break;
		case 'q':
			rw_opt.quiet = true;
			break;
		case O_GATE:
			rw_opt.gate = optarg;
			break;
		case O_JOURNAL:
			rw_opt.journal = optarg;
			break;
		case O_CONFIG:
			rw_opt.config = optarg;
			break;
		case O_VARIANT:
			rw_opt.variants[rw_opt.n_variants++] = optarg;
			break;
		case O_AFTER:
			rw_opt.after = optarg;
			break;
		case O_SEED:
			rw_opt.seed = number("--seed", optarg);
			break;
		case O_SCALE:
			rw_opt.timeout_scale = strtod(optarg, &end);
			if (*end || end == optarg || !(rw_opt.timeout_scale >= 0.1) ||
			    rw_opt.timeout_scale > 1000)
				die("--timeout-scale takes 0.1 to 1000, not \"%s\"", optarg);
			break;
		case O_MAX_HANGS:
			rw_opt.max_hangs = (unsigned int)number("--max-hangs", optarg);
			if (!rw_opt.max_hangs)
				die("--max-hangs takes 1 or more");
			break;
		case O_LIST:
		case O_DESCRIBE:
			show = c;
			break;
		case O_KTAP:
			rw_opt.ktap = true;
			break;
		case O_DIE:
			rw_opt.die_with_parent = true;
			break;
		case 'h':
			printf(usage, rw_test.name, rw_test.summary);
			exit(0);
		default:
			exit(2);
		}
	}
	if (optind < argc)
		die("unexpected argument \"%s\"", argv[optind]);
	return show;
}

static unsigned int choose(unsigned int *chosen, char **names)
{
	const void *at[RW_AXES];
	bool after = !rw_opt.after;
	unsigned int n = 0;
	char name[256];

	for (unsigned int i = 0; i < n_product(); i++) {
		bool has = variant_at(i, at, name, sizeof(name));

		if (has && after && wanted(name)) {
			names[n] = strdup(name);
			chosen[n++] = i;
		}
		if (rw_opt.after && !strcmp(name, rw_opt.after))
			after = true;
	}
	if (!after)
		die("--after: no variant \"%s\"", rw_opt.after);
	return n;
}

static void describe(const unsigned int *chosen, char **names, unsigned int n)
{
	const char **wedge = calloc(n + 1, sizeof(*wedge)), **quick = calloc(n + 1, sizeof(*quick));
	unsigned int n_wedge = 0, n_quick = 0;
	const void *at[RW_AXES], *last = NULL;
	char name[256];

	if (!wedge || !quick)
		die("out of memory");
	for (unsigned int i = 0; i < n; i++) {
		variant_at(chosen[i], at, name, sizeof(name));
		if (rw_test.wedges && rw_test.wedges(at))
			wedge[n_wedge++] = names[i];
		/*
		 * The first of each row of the first axis: the last axes change quickest. Of an axis of
		 * the kinds of rings one will do.
		 */
		if (!n_quick || (at[0] != last && rw_test.axes[0].rows != rw_ring_kinds))
			quick[n_quick++] = names[i];
		last = at[0];
	}
	rw_describe((const char *const *)names, n, quick, wedge);
	free(quick);
	free(wedge);
}

static void check_place(void)
{
	char why[256];
	struct stat st;
	int fd;

	if (!rw_opt.dir)
		die("-d DIR is needed: a directory to test in (see --help)");
	if (stat(rw_opt.dir, &st) || !S_ISDIR(st.st_mode))
		die("%s: not a directory", rw_opt.dir);
	if (access(rw_opt.dir, W_OK))
		die("%s: %s", rw_opt.dir, strerror(errno));
	if (stat(rw_opt.output, &st) || !S_ISDIR(st.st_mode) || access(rw_opt.output, W_OK))
		die("%s: not a directory that can be written (-o)", rw_opt.output);
	if (rw_opt.journal && (fd = open(rw_opt.journal, O_WRONLY | O_CREAT | O_CLOEXEC, 0666)) < 0)
		die("--journal %s: %s", rw_opt.journal, strerror(errno));
	if (rw_opt.journal)
		close(fd);
	rw_device_find(rw_opt.dir);
	if (rw_opt.gate && rw_gate_start(rw_opt.gate, why, sizeof(why)))
		die("--gate %s: %s", rw_opt.gate, why);
	make_work_dir(); /* last: the ways out above leave nothing behind */
}

static void on_signal(int sig)
{
	rw_interrupted = sig;
}

static int run(const unsigned int *chosen, unsigned int n)
{
	unsigned int count[RW_SKIP + 1] = { 0 }, wedged = 0;
	struct sigaction sa = { .sa_handler = on_signal };
	struct rw_outcome o;
	int stop;

	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
	rw_calibrate();
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	rw_report_plan(n);
	for (unsigned int i = 0; i < n && wedged < rw_opt.max_hangs && !rw_interrupted; i++) {
		run_variant(chosen[i], &o);
		count[o.verdict]++;
		wedged += o.unkillable;
	}
	stop = rw_interrupted;
	rw_interrupted = 0; /* the clean-up is short, and watched */
	if (!wedged)
		remove_work_dir();
	rw_gate_stop();
	if (stop)
		return 128 + stop;
	if (count[RW_HANG])
		return 3;
	if (count[RW_FAIL])
		return 1;
	if (count[RW_BROKEN])
		return 2;
	return count[RW_PASS] ? 0 : 77;
}

int main(int argc, char **argv)
{
	int show = parse(argc, argv);
	unsigned int n = n_product(), *chosen = calloc(n, sizeof(*chosen));
	char **names = calloc(n, sizeof(*names));
	pid_t parent = getppid();
	int status = 0;

	if (!chosen || !names)
		die("out of memory");
	n = choose(chosen, names);
	if (!n)
		die("no variant matches (see --list)");
	if (show == O_DESCRIBE) {
		describe(chosen, names, n);
	} else if (show == O_LIST) {
		for (unsigned int i = 0; i < n; i++)
			puts(names[i]);
	} else {
		if (rw_opt.die_with_parent)
			rw_die_with(parent);
		rw_shared = mmap(NULL, sizeof(*rw_shared), PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if (rw_shared == MAP_FAILED)
			die("mmap: %s", strerror(errno));
		check_place();
		status = run(chosen, n);
	}
	for (unsigned int i = 0; i < n; i++)
		free(names[i]);
	free(names);
	free(chosen);
	return status;
}
