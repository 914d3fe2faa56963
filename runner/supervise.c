// SPDX-License-Identifier: MIT
/*
 * Start one test program, follow the journal it writes, show how far it is, and see to it that it
 * ends. The program has a watchdog of its own for its variants; this one is for the program: when
 * nothing is added to the journal for very long, or it dies, that is BROKEN, not a verdict on the
 * kernel. Every variant asked for has a line in the journal afterwards, if only to say NOTRUN.
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

#include "../lib/internal.h"
#include "runner.h"

static const char usage[] =
	"usage: supervise [options] PROGRAM VARIANT...\n"
	"  --config NAME  --dir DIR  --gate DIR  --output DIR  --journal FILE  --seed N\n"
	"  --timeout-scale X\n"
	"  --all              the variants named are all there are\n"
	"  --resume           go on behind the variant that ended last, by the journal\n"
	"  --last-try         put what is not reached into the journal as NOTRUN\n"
	"  --previous FILE    results.json of an earlier run, for how long the test took\n"
	"  --quiet            show only what is not green\n"
	"  --verbose          show every variant\n"
	"  --fail-fast        end at the first variant that fails\n"
	"exit status: 0 green; 1 not green; 3 an unkillable task is left, variants may not be "
	"run;\n"
	"4 a hang, but nothing is left of it\n";

enum { GREEN, NOT_GREEN, WEDGED = 3, HUNG };

/* No variant needs nearly as long; it is there to end, not to judge. Times the scale. */
#define SILENCE_SECONDS 300.0

static const char *config, *dir, *gate, *output, *journal, *seed, *scale_text = "1", *after;
static const char *program, *test;
static bool all_variants, fail_fast, last_try, quiet, verbose, terminal, colour;
static double scale = 1, previous;

static char **variants; /* asked for; with --resume, those behind `after` are still to do */
static int nr_variants, nr_done;

static json_t *running; /* the "start" event without its "end" */
static const char *const weights[] = {
	"SKIP", "PASS", "XFAIL", "NOTRUN", "BROKEN", "FAIL", "HANG"
};
static size_t worst; /* of weights, so far */
static bool wedged;  /* an unkillable task is left */
static int skipped, expected_failures;
static bool enough;		   /* --fail-fast, and something has failed */
static volatile sig_atomic_t stop; /* the signal that asked for it */

static void on_signal(int sig)
{
	stop = sig;
}

/* ---- the journal --------------------------------------------------------- */

static json_t *event_about(const char *kind, const char *variant)
{
	return json_pack("{s:s, s:f, s:s, s:s, s:s}", "event", kind, "time", wall_clock(), "config",
			 config, "test", test, "variant", variant);
}

static bool is_green(const char *verdict)
{
	return !strcmp(verdict, "PASS") || !strcmp(verdict, "SKIP") || !strcmp(verdict, "XFAIL");
}

static void weigh(const char *verdict)
{
	size_t i;

	for (i = worst + 1; i < ARRAY_SIZE(weights); i++)
		if (!strcmp(weights[i], verdict))
			worst = i;
}

static void end_variant(const char *variant, const char *verdict, const char *reason)
{
	json_t *event = event_about("end", variant);

	json_object_set_new(event, "verdict", json_string(verdict));
	json_object_set_new(event, "reason", json_string(reason));
	journal_append(journal, event);
	weigh(verdict);
}

/* The program itself went wrong: variant "program". */
static void program_broken(const char *reason)
{
	json_t *event = event_about("check", "program");

	json_object_set_new(event, "verdict", json_string("BROKEN"));
	json_object_set_new(event, "reason", json_string(reason));
	journal_append(journal, event);
	weigh("BROKEN");
}

/* ---- what is shown ------------------------------------------------------- */

static const char *paint(const char *verdict)
{
	if (!colour)
		return "";
	if (!strcmp(verdict, "PASS"))
		return "\033[32m";
	if (!strcmp(verdict, "SKIP") || !strcmp(verdict, "NOTRUN") || !strcmp(verdict, "XFAIL"))
		return "\033[33m";
	return "\033[31m";
}

static void wipe(void)
{
	if (terminal && !quiet)
		fputs("\r\033[K", stdout);
}

static void show_verdict(const char *verdict, const char *variant, const char *reason)
{
	wipe();
	printf("%s%-6s%s %s/%s/%s%s%s\n", paint(verdict), verdict, colour ? "\033[0m" : "", config,
	       test, variant, *reason ? ": " : "", reason);
}

static void show_progress(double seconds)
{
	if (!terminal || quiet)
		return;
	wipe();
	printf("%s  %s  %d/%d  %.0fs", test, config, nr_done, nr_variants, seconds);
	if (previous > 0)
		printf(" ... %.0fs", previous);
	fflush(stdout);
}

static void show_end(double seconds)
{
	const char *verdict = weights[worst];

	wipe();
	if (quiet && is_green(verdict))
		return;
	printf("%s%-6s%s %s  %s  %d/%d  %.1fs", paint(verdict), verdict, colour ? "\033[0m" : "",
	       test, config, nr_done, nr_variants, seconds);
	if (previous > 0)
		printf(" ... %.1fs", previous);
	if (skipped)
		printf("  (%d skipped)", skipped);
	if (expected_failures)
		printf("  (%d expected to fail)", expected_failures);
	putchar('\n');
	fflush(stdout);
}

/* How long did these variants take on this configuration last time? */
static double previous_seconds(const char *path)
{
	json_t *results = json_load_file(path, 0, NULL), *entry, *variant;
	double seconds = 0;
	size_t i, k;
	int v;

	json_array_foreach(json_object_get(results, "tests"), i, entry) {
		if (strcmp(text_of(entry, "config"), config) ||
		    strcmp(text_of(entry, "test"), test))
			continue;
		json_array_foreach(json_object_get(entry, "variants"), k, variant)
			for (v = 0; v < nr_variants; v++)
				if (!strcmp(text_of(variant, "variant"), variants[v]))
					seconds += json_number_value(
						json_object_get(variant, "seconds"));
	}
	json_decref(results);
	return seconds;
}

/* ---- following the journal ----------------------------------------------- */

static void saw_end(const json_t *event)
{
	const char *verdict = text_of(event, "verdict"), *reason = text_of(event, "reason");

	/* The journal keeps what was seen; what is known of it is for whoever reads. */
	if (strcmp(verdict, "PASS") && strcmp(verdict, "SKIP") &&
	    known_bug(config, test, text_of(event, "variant"), verdict, reason))
		verdict = "XFAIL";
	expected_failures += !strcmp(verdict, "XFAIL");
	enough |= fail_fast && !is_green(verdict);
	nr_done++;
	skipped += !strcmp(verdict, "SKIP");
	weigh(verdict);
	wedged |= json_is_false(json_object_get(event, "killable"));
	json_decref(running);
	running = NULL;
	if (verbose || !is_green(verdict))
		show_verdict(verdict, text_of(event, "variant"), reason);
}

static void saw_line(const char *line)
{
	json_t *event = json_loads(line, 0, NULL);

	/* This process adds "check" and NOTRUN lines of its own: those are not looked at here. */
	if (!strcmp(text_of(event, "event"), "start")) {
		if (running)
			weigh("FAIL"); /* it did not end */
		json_decref(running);
		running = json_incref(event);
	} else if (!strcmp(text_of(event, "event"), "end")) {
		saw_end(event);
	}
	json_decref(event);
}

/* Read the complete lines that came since; true when there were any. */
static bool read_journal(FILE *file)
{
	char *line = NULL;
	size_t size = 0;
	bool any = false;
	ssize_t len;
	off_t start;

	clearerr(file);
	for (;;) {
		start = ftello(file);
		len = getline(&line, &size, file);
		if (len < 0)
			break;
		if (line[len - 1] != '\n') {
			fseeko(file, start, SEEK_SET); /* half a line: its writer is at it */
			break;
		}
		saw_line(line);
		any = true;
	}
	free(line);
	return any;
}

/* ---- the program --------------------------------------------------------- */

static pid_t start_program(void)
{
	char *log_path = format("%s/stdout", output);
	int log = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	char **argv = calloc(nr_variants * 2 + 32, sizeof(*argv));
	int n = 0, i;
	pid_t pid;

	if (log < 0 || !argv)
		die("%s: %m", log_path);
#define ARGUMENT(...)                                          \
	do {                                                   \
		const char *const words[] = { __VA_ARGS__ };   \
		for (size_t w = 0; w < ARRAY_SIZE(words); w++) \
			argv[n++] = (char *)words[w];          \
	} while (0)
	ARGUMENT(program, "--die-with-parent", "--dir", dir, "--output", output, "--journal",
		 journal, "--config", config, "--seed", seed, "--timeout-scale", scale_text);
	if (gate)
		ARGUMENT("--gate", gate);
	if (after)
		ARGUMENT("--after", after);
	for (i = 0; !all_variants && i < nr_variants; i++)
		ARGUMENT("--variant", variants[i]);
	pid = tasks_start(argv, log);
	close(log);
	free(argv);
	free(log_path);
	return pid;
}

/* SIGKILL; when it does not die the device it uses is lost. */
static void kill_program(pid_t pid, const char *why)
{
	char *path = format("%s/program.hang.txt", output);
	char *where = tasks_blame(pid), *reason;
	FILE *out = fopen(path, "we");
	int status;

	if (out) {
		fprintf(out, "%s: %s\n", program, why);
		tasks_dump(pid, out);
		fclose(out);
	}
	wedged |= !tasks_kill(pid, &status);
	reason = format("%s (%s)%s: %s", why, where, wedged ? ", unkillable" : ", killed", path);
	program_broken(reason);
	show_verdict("BROKEN", "program", reason);
	free(reason);
	free(where);
	free(path);
}

/* What is left in the program's group must not work on the next test's device. */
static void kill_leftovers(pid_t group)
{
	char *where, *reason;
	int status;

	if (tasks_kill(group, &status))
		return;
	wedged = true;
	where = tasks_blame(getpid()); /* the orphans are ours now */
	reason = format("the test program left a task that cannot be killed: %s", where);
	program_broken(reason);
	show_verdict("BROKEN", "program", reason);
	free(reason);
	free(where);
}

static void program_ended(int status)
{
	int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	char *reason = NULL;

	if (WIFSIGNALED(status))
		reason = format("the test program was killed: %s", strsignal(WTERMSIG(status)));
	else if (running)
		reason = format("the test program exited with %d in the middle of %s", code,
				text_of(running, "variant"));
	else if (nr_done < nr_variants && !wedged)
		reason = format(
			"the test program exited with %d after %d of %d variants (see %s/stdout)",
			code, nr_done, nr_variants, output);
	else if (is_green(weights[worst]) && !expected_failures && code && code != EXIT_SKIP)
		reason = format(
			"the test program exited with %d but no variant failed (see %s/stdout)",
			code, output);
	if (!reason)
		return;
	program_broken(reason);
	show_verdict("BROKEN", "program", reason);
	free(reason);
}

/* The wait status, or -1 when it had to be killed or we were asked to stop. */
static int watch_program(pid_t pid, FILE *file)
{
	const struct timespec tick = { .tv_nsec = 50 * 1000 * 1000 };
	double begin = steady_clock(), heard = begin, drawn = 0;
	int status;

	while (waitpid(pid, &status, WNOHANG) != pid) {
		if (read_journal(file))
			heard = steady_clock();
		if (stop || enough) {
			wedged |= !tasks_kill(pid, &status);
			return -1;
		}
		if (steady_clock() - heard > SILENCE_SECONDS * scale) {
			kill_program(pid, "the journal stood still for too long");
			return -1;
		}
		if (steady_clock() - drawn >= 0.5) {
			drawn = steady_clock();
			show_progress(drawn - begin);
		}
		nanosleep(&tick, NULL);
	}
	return status;
}

/* End in the journal what has not ended there, unless a next try goes on with it. */
static void settle_journal(void)
{
	const char *reason = "the test program had ended";
	int i;

	if (wedged)
		reason = "unkillable tasks took the devices away too often";
	if (enough)
		reason = "the test ended at its first failure";
	if (stop)
		reason = "interrupted";
	if (running) {
		end_variant(text_of(running, "variant"), stop || enough ? "NOTRUN" : "FAIL",
			    stop || enough ? reason : "did not end");
		nr_done++;
	}
	if (wedged && !last_try && !stop && !enough)
		return;
	for (i = nr_done; i < nr_variants; i++)
		end_variant(variants[i], "NOTRUN", reason);
}

static void run(void)
{
	FILE *file = fopen(journal, "re");
	double begin = steady_clock();
	json_t *event;
	int status;
	pid_t pid;

	if (!file || fseeko(file, 0, SEEK_END))
		die("%s: %m", journal);
	pid = start_program();
	status = watch_program(pid, file);
	read_journal(file);
	fclose(file);
	if (!wedged)
		kill_leftovers(pid);
	if (status != -1)
		program_ended(status);
	settle_journal();
	event = json_pack("{s:s, s:f, s:s, s:s, s:o}", "event", "test-end", "time", wall_clock(),
			  "config", config, "test", test, "seconds",
			  json_seconds(steady_clock() - begin));
	journal_append(journal, event);
	show_end(steady_clock() - begin);
}

/*
 * Go on behind the variant of this test that ended last on this configuration, with the verdict
 * there was by then.
 */
static void skip_to_rest(void)
{
	FILE *file = fopen(journal, "re");
	char *line = NULL;
	size_t size = 0;
	int i;

	while (file && getline(&line, &size, file) >= 0) {
		json_t *event = json_loads(line, 0, NULL);
		const char *kind = text_of(event, "event");

		if (!strcmp(kind, "config-start"))
			worst = nr_done = 0; /* another iteration */
		if (!strcmp(kind, "end") && !strcmp(text_of(event, "config"), config) &&
		    !strcmp(text_of(event, "test"), test)) {
			weigh(text_of(event, "verdict"));
			for (i = 0; i < nr_variants; i++)
				if (!strcmp(text_of(event, "variant"), variants[i]))
					nr_done = i + 1;
		}
		json_decref(event);
	}
	free(line);
	if (file)
		fclose(file);
	if (nr_done)
		after = variants[nr_done - 1];
}

/* A run comes to each test twice (plan.c): has another variant of it failed with this seed? */
static bool failed_before(void)
{
	FILE *file = fopen(journal, "re");
	char *line = NULL;
	size_t size = 0;
	bool any = false;

	while (file && !any && getline(&line, &size, file) >= 0) {
		json_t *event = json_loads(line, 0, NULL);
		const char *verdict = text_of(event, "verdict");

		any = !strcmp(text_of(event, "event"), "end") &&
		      !strcmp(text_of(event, "config"), config) &&
		      !strcmp(text_of(event, "test"), test) &&
		      json_integer_value(json_object_get(event, "seed")) == atoll(seed) &&
		      !is_green(verdict) &&
		      !known_bug(config, test, text_of(event, "variant"), verdict,
				 text_of(event, "reason"));
		json_decref(event);
	}
	free(line);
	if (file)
		fclose(file);
	return any;
}

int main(int argc, char **argv)
{
	enum {
		CONFIG = 1,
		DIR,
		GATE,
		OUTPUT,
		JOURNAL,
		SEED,
		SCALE,
		ALL,
		RESUME,
		LAST_TRY,
		PREVIOUS,
		KNOWN,
		FAIL_FAST,
		QUIET,
		VERBOSE
	};
	static const struct option options[] = {
		{ "config", required_argument, NULL, CONFIG },
		{ "dir", required_argument, NULL, DIR },
		{ "gate", required_argument, NULL, GATE },
		{ "output", required_argument, NULL, OUTPUT },
		{ "journal", required_argument, NULL, JOURNAL },
		{ "seed", required_argument, NULL, SEED },
		{ "timeout-scale", required_argument, NULL, SCALE },
		{ "all", no_argument, NULL, ALL },
		{ "resume", no_argument, NULL, RESUME },
		{ "last-try", no_argument, NULL, LAST_TRY },
		{ "previous", required_argument, NULL, PREVIOUS },
		{ "known", required_argument, NULL, KNOWN },
		{ "fail-fast", no_argument, NULL, FAIL_FAST },
		{ "quiet", no_argument, NULL, QUIET },
		{ "verbose", no_argument, NULL, VERBOSE },
		{ NULL },
	};
	const char *earlier = NULL, *no_color = getenv("NO_COLOR");
	struct sigaction action = { .sa_handler = on_signal };
	bool resume = false;
	int opt;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while ((opt = getopt_long(argc, argv, "+", options, NULL)) != -1) {
		switch (opt) {
		case CONFIG:
			config = optarg;
			break;
		case DIR:
			dir = optarg;
			break;
		case GATE:
			gate = optarg;
			break;
		case OUTPUT:
			output = optarg;
			break;
		case JOURNAL:
			journal = optarg;
			break;
		case SEED:
			seed = optarg;
			break;
		case SCALE:
			scale_text = optarg;
			if (!parse_scale(optarg, &scale))
				die("--timeout-scale %s: want a number above 0", optarg);
			break;
		case KNOWN:
			known_read(optarg);
			break;
		case ALL:
			all_variants = true;
			break;
		case RESUME:
			resume = true;
			break;
		case LAST_TRY:
			last_try = true;
			break;
		case PREVIOUS:
			earlier = optarg;
			break;
		case FAIL_FAST:
			fail_fast = true;
			break;
		case QUIET:
			quiet = true;
			break;
		case VERBOSE:
			verbose = true;
			break;
		default:
			die("%s", usage);
		}
	}
	if (argc - optind < 2 || !config || !dir || !output || !journal || !seed)
		die("%s", usage);
	program = argv[optind];
	test = strrchr(program, '/') ? strrchr(program, '/') + 1 : program;
	variants = argv + optind + 1;
	nr_variants = argc - optind - 1;
	if (resume)
		skip_to_rest();
	if (nr_done == nr_variants)
		return NOT_GREEN; /* it was the last one that wedged */
	if (fail_fast && !resume && failed_before()) {
		enough = true;
		settle_journal();
		return GREEN; /* the failure has been told */
	}
	terminal = isatty(STDOUT_FILENO);
	colour = terminal && !(no_color && *no_color);
	if (earlier)
		previous = previous_seconds(earlier);

	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	run();
	if (wedged)
		return WEDGED;
	if (!strcmp(weights[worst], "HANG"))
		return HUNG;
	return is_green(weights[worst]) ? GREEN : NOT_GREEN;
}
