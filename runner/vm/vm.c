// SPDX-License-Identifier: MIT
/*
 * Run the plan of a run in virtual machines, and see to it that every variant gets a verdict
 * whatever becomes of them.
 *
 * A job is one virtual machine after another, and a part of the plan. The guest (init.c) runs
 * `runtests.sh --guest` on it, with a journal of its own in the shared results folder; what comes
 * there is passed on to the journal of the run. When the guest panics, resets, falls silent or is
 * killed, the variant that was running gets its verdict from here, and the rest of the part goes on
 * in a fresh one. A guest that has had a hang, or is tainted, asks to be replaced by itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../runner.h"
#include "vm.h"

static const char usage[] =
	"usage: vm --results DIR --plan FILE --kernel FILE --initramfs FILE [options] -- "
	"COMMAND...\n"
	"Runs COMMAND vm/N, in guests, for each part of the plan.\n"
	"  --jobs N          so many guests side by side\n"
	"  --accel kvm|tcg   --cpus N   --memory MIB\n"
	"  --append TEXT     more for the guest's kernel command line\n"
	"  --qemu-arg ARG    one more argument for QEMU (repeatable)\n"
	"  --virtiofsd FILE  share by this program instead of 9p\n"
	"  --map FILE        the kernel's System.map, to name addresses by\n"
	"  --timeout-scale X\n"
	"  --until-fail      end with the test that fails first; COMMAND knows of it, too\n"
	"  --known FILE      failures of bugs in it are none\n"
	"exit status: 0 every part was run or has its verdicts; 1 the same, and something failed;\n"
	"2 no guest could be started";

/* The command's exit status that says: the rest in a fresh guest, please. runtests.sh */
enum { REPLACE = 100 };

#define LOSSES 3 /* guests that one test may cost; then the rest of it is left out */

/* Seconds, times the scale. A guest that beats but reports nothing has supervisors of its own. */
#define BOOT_SECONDS 180.0
#define BEAT_SECONDS 60.0
#define REPORT_SECONDS 900.0

struct unit {
	char *line; /* of the plan */
	char *config, *test;
	char **variant;
	bool *done;
	int nr, losses;
	int job;
	bool ended;
};

static struct unit *unit;
static int nr_units;
static struct job *job;
static int nr_jobs = 1;
static const char *results, *journal;
static double scale = 1;
static volatile sig_atomic_t stop;
static bool no_guest;	/* one that cannot be booted, or lacks what every guest needs */
static bool until_fail; /* the first failure ends it */
static bool any_failed, enough;

static void on_signal(int sig)
{
	stop = sig;
}

/* ---- the plan ------------------------------------------------------------ */

/* CONFIG TAB TEST TAB all|some TAB VARIANT... */
static void read_plan(const char *path)
{
	FILE *file = fopen(path, "re");
	char *line = NULL, *word, *next;
	size_t size = 0;

	if (!file)
		die("%s: %s", path, strerror(errno));
	while (getline(&line, &size, file) > 0) {
		struct unit *u;

		line[strcspn(line, "\n")] = 0;
		unit = realloc(unit, (nr_units + 1) * sizeof(*unit));
		if (!unit)
			die("out of memory");
		u = &unit[nr_units++];
		memset(u, 0, sizeof(*u));
		u->line = format("%s", line);
		u->config = format("%s", strtok_r(line, "\t", &next));
		u->test = format("%s", strtok_r(NULL, "\t", &next) ?: "");
		strtok_r(NULL, "\t", &next); /* all of the test's variants, or some */
		u->variant = calloc(strlen(next) / 2 + 2, sizeof(*u->variant));
		for (word = strtok_r(NULL, " ", &next); word; word = strtok_r(NULL, " ", &next))
			u->variant[u->nr++] = format("%s", word);
		u->done = calloc(u->nr, sizeof(*u->done));
		if (!u->nr)
			die("%s: no variants: %s", path, u->line);
	}
	free(line);
	fclose(file);
}

/* Each job gets a part of every configuration, as --shard does. */
static void deal(void)
{
	int i;

	if (nr_jobs > nr_units)
		nr_jobs = nr_units;
	for (i = 0; i < nr_units; i++)
		unit[i].job = i % nr_jobs;
}

static int left_in(const struct unit *u)
{
	int left = 0, i;

	for (i = 0; i < u->nr && !u->ended; i++)
		left += !u->done[i];
	return left;
}

static bool job_left(const struct job *j)
{
	int i;

	for (i = 0; i < nr_units; i++)
		if (unit[i].job == j->nr && left_in(&unit[i]))
			return true;
	return false;
}

static void write_plan(const struct job *j)
{
	char *path = format("%s/plan", j->dir);
	FILE *file = fopen(path, "we");
	int i, k;

	if (!file)
		die("%s: %m", path);
	for (i = 0; i < nr_units; i++) {
		const struct unit *u = &unit[i];

		if (u->job != j->nr || !left_in(u))
			continue;
		if (left_in(u) == u->nr) {
			fprintf(file, "%s\n", u->line);
			continue;
		}
		fprintf(file, "%s\t%s\tsome\t", u->config, u->test);
		for (k = 0; k < u->nr; k++)
			if (!u->done[k])
				fprintf(file, "%s ", u->variant[k]);
		fputc('\n', file);
	}
	if (fclose(file))
		die("%s: %m", path);
	free(path);
}

/* The unit that the variant of the event is of; NULL: the runner's own check. */
static struct unit *unit_of(const struct job *j, const json_t *event, int *which)
{
	int i, k;

	for (i = 0; i < nr_units; i++) {
		if (unit[i].job != j->nr || strcmp(unit[i].config, text_of(event, "config")) ||
		    strcmp(unit[i].test, text_of(event, "test")))
			continue;
		for (k = 0; k < unit[i].nr; k++) {
			if (strcmp(unit[i].variant[k], text_of(event, "variant")))
				continue;
			*which = k;
			return &unit[i];
		}
	}
	return NULL;
}

/* An "end" or "check" event. What is known to fail is no failure. */
static void judge(struct job *j, const json_t *event)
{
	const char *verdict = text_of(event, "verdict"), *reason = text_of(event, "reason");

	if (strcmp(verdict, "FAIL") && strcmp(verdict, "HANG") && strcmp(verdict, "BROKEN"))
		return;
	if (known_bug(text_of(event, "config"), text_of(event, "test"), text_of(event, "variant"),
		      verdict, reason))
		return;
	any_failed = j->failed = true;
}

/* ---- verdicts of our own ------------------------------------------------- */

static void give(struct job *j, const char *kind, const char *config, const char *test,
		 const char *variant, const char *verdict, const char *reason, const char *evidence)
{
	json_t *event = json_pack("{s:s, s:f, s:s, s:s, s:s, s:s, s:s}", "event", kind, "time",
				  wall_clock(), "config", config, "test", test, "variant", variant,
				  "verdict", verdict, "reason", reason);

	if (evidence)
		json_object_set_new(event, "evidence", json_string(evidence));
	judge(j, event);
	journal_append(journal, event);
	if (strcmp(verdict, "NOTRUN"))
		printf("%-6s %s/%s/%s: %s\n", verdict, config, test, variant, reason);
	fflush(stdout);
}

static void leave_out(struct job *j, struct unit *u, const char *reason)
{
	int i;

	for (i = 0; i < u->nr; i++)
		if (!u->done[i])
			give(j, "end", u->config, u->test, u->variant[i], "NOTRUN", reason, NULL);
	u->ended = true;
}

static void count_loss(struct job *j, struct unit *u)
{
	if (u && ++u->losses >= LOSSES && left_in(u))
		leave_out(j, u, "it took the guest away three times");
}

/* The guest is gone, or as good as gone: what was it doing? */
static void blame(struct job *j, const char *verdict, const char *reason, const char *evidence)
{
	struct unit *u;
	int i;

	if (j->running) {
		u = unit_of(j, j->running, &i);
		give(j, "end", text_of(j->running, "config"), text_of(j->running, "test"),
		     text_of(j->running, "variant"), verdict, reason, evidence);
		if (u) {
			u->done[i] = true;
			count_loss(j, u);
		}
		json_decref(j->running);
		j->running = NULL;
		return;
	}
	/* Between tests: making, checking or taking down devices, or before all of it. */
	for (i = 0; i < nr_units; i++) {
		u = &unit[i];
		if (u->job != j->nr || !left_in(u))
			continue;
		give(j, "check", u->config, *j->last_test ? j->last_test : u->test, "vm", verdict,
		     reason, evidence);
		count_loss(j, u);
		return;
	}
}

/* ---- what the guest says ------------------------------------------------- */

/* Complete lines that came since `*at`, one a call; NULL when there are no more. */
static char *next_line(FILE *file, char **line, size_t *size)
{
	off_t start = ftello(file);
	ssize_t len = getline(line, size, file);

	if (len > 0 && (*line)[len - 1] == '\n') {
		(*line)[len - 1] = 0;
		return *line;
	}
	clearerr(file);
	fseeko(file, start, SEEK_SET);
	return NULL;
}

static void heard_event(struct job *j, json_t *event)
{
	static bool told; /* by some guest: which kernel it is */
	const char *kind = text_of(event, "event"), *verdict = text_of(event, "verdict");
	struct unit *u;
	int i;

	j->reported = steady_clock();
	if (!strcmp(kind, "start")) {
		json_decref(j->running);
		j->running = json_incref(event);
		snprintf(j->last_test, sizeof(j->last_test), "%s", text_of(event, "test"));
	} else if (!strcmp(kind, "end")) {
		json_decref(j->running);
		j->running = NULL;
		u = unit_of(j, event, &i);
		if (u)
			u->done[i] = true;
		if (u && !strcmp(verdict, "HANG"))
			j->hung = u;
	} else if (!strcmp(kind, "config-start")) {
		*j->last_test = 0;
	} else if (!strcmp(kind, "check") && !strcmp(text_of(event, "test"), "devices") &&
		   !strcmp(text_of(event, "variant"), "set-up")) {
		/* No devices, no tests; report knows it from this event. */
		for (i = 0; i < nr_units; i++)
			if (unit[i].job == j->nr &&
			    !strcmp(unit[i].config, text_of(event, "config")))
				unit[i].ended = true;
	}
	if (!strcmp(kind, "end") || !strcmp(kind, "check"))
		judge(j, event);
	if (!strcmp(kind, "guest")) {
		known_kernel(text_of(event, "kernel"));
		if (told)
			return; /* the same kernel in every job */
		told = true;
	}
	journal_append(journal, json_incref(event));
}

static void hear_journal(struct job *j)
{
	char *line = NULL;
	size_t size = 0;

	while (next_line(j->journal, &line, &size)) {
		json_t *event = json_loads(line, 0, NULL);

		if (event)
			heard_event(j, event);
		json_decref(event);
	}
	free(line);
}

static void hear_output(struct job *j)
{
	char buf[4096];
	size_t n;

	while ((n = fread(buf, 1, sizeof(buf), j->output)) > 0)
		fwrite(buf, 1, n, stdout);
	clearerr(j->output);
	fflush(stdout);
}

static void hear_control(struct job *j)
{
	char *line = NULL;
	size_t size = 0;

	while (next_line(j->control, &line, &size)) {
		j->beat = steady_clock();
		j->waited = tasks_waited(j->pid);
		if (!strcmp(line, "ready")) {
			j->ready = true;
			j->reported = j->beat;
		} else if (sscanf(line, "exit %d", &j->status) == 1) {
			j->exited = true;
		} else if (strcmp(line, ".") && !*j->trouble) {
			snprintf(j->trouble, sizeof(j->trouble), "%s", line);
		}
	}
	free(line);
}

/* ---- one guest ----------------------------------------------------------- */

static void begin(struct job *j)
{
	write_plan(j);
	vm_start(j);
	j->ready = j->exited = false;
	j->status = -1;
	*j->trouble = *j->last_test = 0;
	j->hung = NULL;
	j->started = j->beat = j->reported = steady_clock();
	j->waited = 0;
}

/* It did not even come to run the command. */
static void cannot_boot(struct job *j, const char *why)
{
	char *reason;

	if (!strncmp(j->trouble, "missing ", 8))
		reason = format("the guest's kernel is built without %s", j->trouble + 8);
	else if (!strncmp(j->trouble, "broken ", 7))
		reason = format("the guest could not be set up: %s", j->trouble + 7);
	else
		reason = format("boot failure: %s", why);
	blame(j, "BROKEN", reason, j->serial);
	free(reason);
	no_guest = true; /* the next one is no better */
}

static void end_all(const struct job *j)
{
	int i;

	for (i = 0; i < nr_units; i++)
		if (unit[i].job == j->nr)
			unit[i].ended = true;
}

static void ended(struct job *j, int status)
{
	char *why = vm_post_mortem(j, status);

	/* The emulator's own crash says nothing of the kernel, and may not come again. */
	if (!j->ready && WIFSIGNALED(status) && ++j->crashes < LOSSES) {
		printf("%s before the guest was up: another one is started\n", why);
		fflush(stdout);
	} else if (!j->ready) {
		cannot_boot(j, why);
	} else if (!j->exited) {
		blame(j, WIFSIGNALED(status) || strstr(why, "out of memory") ? "BROKEN" : "FAIL",
		      why, j->serial);
	} else if (j->status == REPLACE) {
		count_loss(j, j->hung);
	} else if (!j->status) {
		end_all(j); /* what has no verdict now had no devices: report says so */
	} else if (job_left(j)) {
		free(why);
		why = format("the suite ended with %d in the guest (see vm/%d/output)", j->status,
			     j->nr + 1);
		blame(j, "BROKEN", why, NULL);
		no_guest = true;
	}
	free(why);
}

/* Alive, but nothing is heard of it. */
static void silent(struct job *j, const char *reason)
{
	char *evidence = vm_examine(j, reason);

	vm_kill(j);
	if (!j->ready)
		cannot_boot(j, reason);
	else
		blame(j, "HANG", reason, evidence);
	free(evidence);
}

/* Longer ago than that, not counting the time in which this machine had no CPU for the guest? */
static bool overdue(const struct job *j, double since, double seconds)
{
	double silence = steady_clock() - since;

	return silence > seconds && silence - (tasks_waited(j->pid) - j->waited) > seconds;
}

static void check(struct job *j)
{
	char *reason = NULL;

	if (!j->ready && overdue(j, j->started, BOOT_SECONDS * scale))
		reason = format("the guest did not come up within %.0f s", BOOT_SECONDS * scale);
	else if (j->ready && overdue(j, j->beat, BEAT_SECONDS * scale))
		reason = format("the guest fell silent: no sign of life for %.0f s",
				BEAT_SECONDS * scale);
	else if (j->ready && steady_clock() - j->reported > REPORT_SECONDS * scale)
		reason = format("the guest lives, but has reported nothing for %.0f s",
				REPORT_SECONDS * scale);
	if (reason)
		silent(j, reason);
	free(reason);
}

/* True while there is something to wait for. */
static bool tend(struct job *j)
{
	int status;
	bool gone;

	if (!j->pid) {
		enough |= until_fail && j->failed;
		if (no_guest || enough || !job_left(j))
			return false;
		begin(j);
		return true;
	}
	gone = waitpid(j->pid, &status, WNOHANG) ==
	       j->pid; /* before the last that it said is read */
	hear_journal(j);
	hear_output(j);
	hear_control(j);
	if (gone) {
		vm_gone(j);
		ended(j, status);
	} else {
		check(j);
	}
	return true;
}

static void run(void)
{
	const struct timespec tick = { .tv_nsec = 20 * 1000 * 1000 };
	bool any = true;
	int i;

	while (any && !stop && !enough) {
		any = false;
		for (i = 0; i < nr_jobs; i++)
			any |= tend(&job[i]);
		nanosleep(&tick, NULL);
	}
	for (i = 0; i < nr_jobs; i++) {
		if (job[i].pid)
			vm_kill(&job[i]);
		hear_journal(&job[i]);
		if (job[i].running)
			give(&job[i], "end", text_of(job[i].running, "config"),
			     text_of(job[i].running, "test"), text_of(job[i].running, "variant"),
			     "NOTRUN", stop ? "interrupted" : "another test had failed", NULL);
	}
}

static void make_job(struct job *j, int nr, char **command)
{
	char *path;
	FILE *file;
	int i;

	j->nr = nr;
	j->dir = format("%s/vm/%d", results, nr + 1);
	if (mkdir(j->dir, 0755) && errno != EEXIST)
		die("%s: %m", j->dir);
	j->control = vm_file(j, "control");
	j->journal = vm_file(j, "journal.jsonl");
	j->output = vm_file(j, "output");
	path = format("%s/job", j->dir);
	file = fopen(path, "we");
	if (!file)
		die("%s: %m", path);
	free(path);
	path = getcwd(NULL, 0);
	fprintf(file, "%s\n%s\n", results, path);
	for (i = 0; command[i]; i++)
		fprintf(file, "%s\n", command[i]);
	fprintf(file, "%s\n", j->dir);
	fclose(file);
	free(path);
}

int main(int argc, char **argv)
{
	enum { RESULTS = 1, PLAN, JOBS, SCALE, UNTIL_FAIL, KNOWN };
	static const struct option options[] = {
		{ "results", required_argument, NULL, RESULTS },
		{ "plan", required_argument, NULL, PLAN },
		{ "jobs", required_argument, NULL, JOBS },
		{ "timeout-scale", required_argument, NULL, SCALE },
		{ "until-fail", no_argument, NULL, UNTIL_FAIL },
		{ "known", required_argument, NULL, KNOWN },
		{ "kernel", required_argument, NULL, VM_KERNEL },
		{ "initramfs", required_argument, NULL, VM_INITRAMFS },
		{ "accel", required_argument, NULL, VM_ACCEL },
		{ "cpus", required_argument, NULL, VM_CPUS },
		{ "memory", required_argument, NULL, VM_MEMORY },
		{ "append", required_argument, NULL, VM_APPEND },
		{ "qemu-arg", required_argument, NULL, VM_QEMU_ARG },
		{ "map", required_argument, NULL, VM_MAP },
		{ "virtiofsd", required_argument, NULL, VM_VIRTIOFSD },
		{ NULL },
	};
	struct sigaction action = { .sa_handler = on_signal };
	const char *plan = NULL;
	long long number;
	int opt, i;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while ((opt = getopt_long(argc, argv, "+", options, NULL)) != -1) {
		switch (opt) {
		case RESULTS:
			results = optarg;
			break;
		case PLAN:
			plan = optarg;
			break;
		case JOBS:
			if (!parse_number(optarg, 1, 64, &number))
				die("vm: --jobs %s", optarg);
			nr_jobs = (int)number;
			break;
		case SCALE:
			if (!parse_scale(optarg, &scale))
				die("--timeout-scale %s: want a number above 0", optarg);
			break;
		case UNTIL_FAIL:
			until_fail = true;
			break;
		case KNOWN:
			known_read(optarg);
			break;
		case '?':
			die("%s", usage);
		default:
			vm_option(opt, optarg);
		}
	}
	if (!results || !plan || optind == argc)
		die("%s", usage);
	journal = format("%s/journal.jsonl", results);
	read_plan(plan);
	if (!nr_units)
		return 0;
	deal();
	job = calloc(nr_jobs, sizeof(*job));
	if (!job)
		die("out of memory");
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	for (i = 0; i < nr_jobs; i++)
		make_job(&job[i], i, argv + optind);
	run();
	return no_guest ? EXIT_BROKEN : any_failed ? EXIT_FAIL : 0;
}
