// SPDX-License-Identifier: MIT
/*
 * Read a run's journal and write results.json and report.ktap, print the summary, and exit with the
 * status of the run. The journal alone is enough, even that of a run that was killed: what was
 * planned and has no line is NOTRUN, what began and has no end is a FAIL.
 */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "runner.h"

static const char usage[] =
	"usage: report [--quiet] [--known FILE] DIR\n"
	"Reads DIR/journal.jsonl, writes DIR/results.json and DIR/report.ktap, prints a summary.\n"
	"exit status: 0 something ran and nothing failed; 1 a failure; 2 broken; 3 a hang;\n"
	"77 nothing ran, all skipped\n";

/* In order of weight: of several runs of a variant the heaviest verdict counts. */
enum verdict { NONE, SKIP, PASS, XFAIL, NOTRUN, BROKEN, FAIL, HANG, VERDICTS };

static const struct {
	const char *name, *count; /* in the journal; in the sums */
	const char *directive;	  /* Documentation/dev-tools/ktap.rst */
} verdicts[VERDICTS] = {
	[NONE] = { "", "", "" },
	[SKIP] = { "SKIP", "skipped", " # SKIP " },
	[PASS] = { "PASS", "passed", "" },
	[XFAIL] = { "XFAIL", "expected to fail", " # XFAIL " },
	[NOTRUN] = { "NOTRUN", "not run", " # ERROR not run: " },
	[BROKEN] = { "BROKEN", "broken", " # ERROR " },
	[FAIL] = { "FAIL", "failed", "" },
	[HANG] = { "HANG", "hung", " # TIMEOUT " },
};

struct variant {
	const char *name;
	enum verdict verdict;
	json_t *worst;	      /* the "end" or "check" event of the verdict */
	json_t *open;	      /* a "start" without an end yet */
	const char *reason;   /* of the verdict, "" if none */
	const char *expected; /* why a skip is expected; NULL when it is not */
	const char *known;    /* reference of the bug that makes it fail, or should; NULL */
	double seconds;	      /* of the last run */
	int runs, bad_runs;
	bool is_check;
};

struct test {
	const char *config, *name;
	enum verdict verdict;
	const json_t *guards;
	const char *no_device; /* why the configuration may have none; NULL: it must */
	double seconds;
	size_t nr;
	struct variant *variant;
};

static json_t *events; /* all of the journal, for as long as we run */
static json_t *run_start, *run_end;
static json_t *guest;	    /* what the kernel in the virtual machine said of itself */
static json_int_t left_out; /* variants of group wedge */
static struct test *test;
static size_t nr_tests;
/* "config/test" to index of test, "config/test/variant" to index in it. */
static json_t *index_of;
static unsigned int count[VERDICTS];
static json_t *unexpected; /* names of the skips that were not expected */
static bool ran;	   /* some variant has run to a verdict */

/* ---- reading ------------------------------------------------------------- */

static void read_events(const char *path)
{
	FILE *file = fopen(path, "re");
	char *line = NULL;
	size_t size = 0;
	int number;

	if (!file)
		die("%s: %s", path, strerror(errno));
	events = json_array();
	for (number = 1; getline(&line, &size, file) >= 0; number++) {
		json_t *event = json_loads(line, 0, NULL);

		if (event)
			json_array_append_new(events, event);
		else if (strchr(line, '\n'))
			die("%s:%d: not JSON", path, number);
		/* else: torn by what ended the run, and the last line there is */
	}
	free(line);
	fclose(file);
}

/* Where key is in an array of *nr elements; grown by one zeroed element if it is new. */
static size_t find(const char *key, void **array, size_t *nr, size_t size)
{
	json_t *known = json_object_get(index_of, key);

	if (known)
		return json_integer_value(known);
	*array = grow(*array, *nr, size);
	json_object_set_new(index_of, key, json_integer(*nr));
	return (*nr)++;
}

static struct test *test_of(const json_t *event)
{
	const char *config = text_of(event, "config"), *name = text_of(event, "test");
	char *key = format("%s/%s", config, name);
	void *array = test;
	struct test *t;
	size_t i = find(key, &array, &nr_tests, sizeof(*test));

	test = array;
	t = &test[i];
	t->config = config;
	t->name = name;
	free(key);
	return t;
}

static struct variant *variant_of(struct test *t, const char *name)
{
	char *key = format("%s/%s/%s", t->config, t->name, name);
	void *array = t->variant;
	size_t i = find(key, &array, &t->nr, sizeof(*t->variant));

	t->variant = array;
	t->variant[i].name = name;
	free(key);
	return &t->variant[i];
}

static enum verdict verdict_of(const json_t *event)
{
	enum verdict v;

	for (v = SKIP; v < VERDICTS; v++)
		if (!strcmp(verdicts[v].name, text_of(event, "verdict")))
			return v;
	return BROKEN;
}

static void add_verdict(struct variant *variant, enum verdict verdict, json_t *event,
			const char *reason)
{
	variant->runs++;
	variant->bad_runs += verdict > XFAIL;
	if (verdict <= variant->verdict)
		return;
	variant->verdict = verdict;
	variant->worst = event;
	variant->reason = reason;
}

/* Began and never ended: so a panic, or kill -9 of everything, reads. */
static void close_open(struct variant *variant)
{
	if (variant->open)
		add_verdict(variant, FAIL, variant->open, "did not end");
	variant->open = NULL;
}

static void take_plan(const json_t *event)
{
	const json_t *name, *skips = json_object_get(event, "expected_skips");
	struct test *t = test_of(event);
	size_t i;

	t->guards = json_object_get(event, "guards");
	t->no_device = json_string_value(json_object_get(skips, "devices/set-up"));
	json_array_foreach(json_object_get(event, "variants"), i, name) {
		struct variant *variant = variant_of(t, json_string_value(name));

		variant->expected = json_string_value(json_object_get(skips, variant->name));
	}
}

static void take_event(json_t *event)
{
	const char *kind = text_of(event, "event");
	struct variant *variant;

	if (!strcmp(kind, "run-start")) {
		run_start = event;
	} else if (!strcmp(kind, "run-end")) {
		run_end = event;
	} else if (!strcmp(kind, "guest")) {
		guest = event;
	} else if (!strcmp(kind, "plan")) {
		take_plan(event);
	} else if (!strcmp(kind, "left-out")) {
		left_out = json_integer_value(json_object_get(event, "wedge"));
	} else if (!strcmp(kind, "test-end")) {
		test_of(event)->seconds += json_number_value(json_object_get(event, "seconds"));
	} else if (!strcmp(kind, "start")) {
		variant = variant_of(test_of(event), text_of(event, "variant"));
		close_open(variant);
		variant->open = event;
	} else if (!strcmp(kind, "end") || !strcmp(kind, "check")) {
		variant = variant_of(test_of(event), text_of(event, "variant"));
		variant->open = NULL;
		variant->is_check = !strcmp(kind, "check");
		variant->seconds = json_number_value(json_object_get(event, "seconds"));
		add_verdict(variant, verdict_of(event), event, text_of(event, "reason"));
	}
}

/* ---- judging ------------------------------------------------------------- */

/* Why was nothing of this configuration run? The runner's own checks tell. */
static const struct variant *config_trouble(const char *config)
{
	const struct variant *worst = NULL;
	size_t i, k;

	for (i = 0; i < nr_tests; i++) {
		if (strcmp(test[i].config, config) || strcmp(test[i].name, "devices"))
			continue;
		for (k = 0; k < test[i].nr; k++)
			if (test[i].variant[k].verdict != PASS &&
			    (!worst || test[i].variant[k].verdict > worst->verdict))
				worst = &test[i].variant[k];
	}
	return worst;
}

static const char ended_before[] = "the run ended before it";

/* Planned, and not a line in the journal. */
static void judge_missing(const struct test *t, struct variant *variant)
{
	const struct variant *trouble = config_trouble(t->config);

	variant->verdict = trouble && trouble->verdict == SKIP ? SKIP : NOTRUN;
	if (variant->verdict == SKIP && t->no_device)
		variant->expected = t->no_device;
	variant->reason = trouble ? trouble->reason : ended_before;
}

static void judge(struct test *t, struct variant *variant)
{
	close_open(variant);
	if (!variant->verdict)
		judge_missing(t, variant);
	if (variant->verdict == PASS && !variant->is_check)
		variant->known = known_bug(t->config, t->name, variant->name, NULL, NULL);
	if (variant->verdict >= FAIL && !variant->is_check) {
		variant->known = known_bug(t->config, t->name, variant->name,
					   verdicts[variant->verdict].name, variant->reason);
		if (variant->known) {
			variant->verdict = XFAIL;
			variant->reason = variant->known;
		}
	}
	if (variant->verdict == SKIP && !variant->is_check && !variant->expected)
		json_array_append_new(unexpected, json_sprintf("%s/%s/%s: %s", t->config, t->name,
							       variant->name, variant->reason));
	if (variant->is_check && variant->verdict <= PASS)
		return; /* the runner's work, not the tests' */
	count[variant->verdict]++;
	if (!variant->is_check && variant->verdict != SKIP && variant->verdict != NOTRUN)
		ran = true;
}

static void judge_all(void)
{
	size_t i, k;

	for (i = 0; i < nr_tests; i++) {
		for (k = 0; k < test[i].nr; k++) {
			struct variant *variant = &test[i].variant[k];

			judge(&test[i], variant);
			if (variant->is_check && variant->verdict == PASS)
				continue; /* else nothing could ever be all skipped */
			if (variant->verdict > test[i].verdict)
				test[i].verdict = variant->verdict;
		}
	}
}

/*
 * A run that ended itself and left the kernel with another taint than it found. With --vm that kernel
 * was not under test; a guest that becomes tainted is seen to by runtests.sh in it.
 */
static char *taint_change(void)
{
	json_int_t before = json_integer_value(json_object_get(run_start, "taint"));
	json_int_t after = json_integer_value(json_object_get(run_end, "taint"));

	if (!run_end || before == after || json_object_get(run_start, "vm_kernel"))
		return NULL;
	return format("the kernel became tainted during the run: %lld was %lld", (long long)after,
		      (long long)before);
}

static int exit_status(bool tainted)
{
	if (count[HANG])
		return EXIT_HANG;
	if (count[FAIL] || tainted)
		return EXIT_FAIL;
	if (count[BROKEN] || count[NOTRUN] || !run_start)
		return EXIT_BROKEN;
	return ran ? 0 : EXIT_SKIP;
}

/* ---- writing ------------------------------------------------------------- */

/* Into a file of another name first: readers never see half a report. */
static FILE *begin_file(const char *path)
{
	char *temporary = format("%s.new", path);
	FILE *file = fopen(temporary, "we");

	if (!file)
		die("%s: %m", temporary);
	free(temporary);
	return file;
}

static void end_file(FILE *file, const char *path)
{
	char *temporary = format("%s.new", path);

	if (ferror(file) || fclose(file) || rename(temporary, path))
		die("%s: %m", path);
	free(temporary);
}

static json_t *json_of_variant(const struct variant *variant)
{
	static const char *const copied[] = { "seed", "evidence", "kernel_log", "killable" };
	json_t *json = json_pack("{s:s, s:s, s:s, s:o, s:i, s:i}", "variant", variant->name,
				 "verdict", verdicts[variant->verdict].name, "reason",
				 variant->reason ? variant->reason : "", "seconds",
				 json_seconds(variant->seconds), "runs", variant->runs, "bad_runs",
				 variant->bad_runs);
	json_t *value;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(copied); i++) {
		value = json_object_get(variant->worst, copied[i]);
		if (value)
			json_object_set(json, copied[i], value);
	}
	if (variant->known)
		json_object_set_new(json, "known_bug", json_string(variant->known));
	if (variant->expected)
		json_object_set_new(json, "expected_skip", json_string(variant->expected));
	return json;
}

static json_t *json_of_test(const struct test *t)
{
	json_t *list = json_array();
	size_t i;

	for (i = 0; i < t->nr; i++)
		json_array_append_new(list, json_of_variant(&t->variant[i]));
	return json_pack("{s:s, s:s, s:s, s:o, s:o}", "config", t->config, "test", t->name,
			 "verdict", verdicts[t->verdict].name, "seconds", json_seconds(t->seconds),
			 "variants", list);
}

static void write_json(const char *path, int status, const char *tainted)
{
	json_t *root = json_object(), *tests = json_array(), *sums = json_object(), *value;
	const char *key;
	FILE *file;
	size_t i;

	/* Host, kernel, seed, arguments: whatever the run said of itself when it started. */
	json_object_foreach(run_start, key, value)
		if (strcmp(key, "event"))
			json_object_set(root, key, value);
	/* The kernel under test is the guest's, if there is one; where it ran, run_start said. */
	json_object_foreach(guest, key, value)
		if (strcmp(key, "event") && strcmp(key, "time") && strcmp(key, "host") &&
		    (!json_is_string(value) || *json_string_value(value)))
			json_object_set(root, key, value);
	json_object_set_new(root, "complete", json_boolean(run_end));
	json_object_set_new(root, "status", json_integer(status));
	json_object_set_new(root, "taint_end", json_incref(json_object_get(run_end, "taint")));
	if (tainted)
		json_object_set_new(root, "tainted", json_string(tainted));
	for (i = SKIP; i < VERDICTS; i++)
		json_object_set_new(sums, verdicts[i].name, json_integer(count[i]));
	json_object_set_new(root, "counts", sums);
	json_object_set_new(root, "left_out", json_integer(left_out));
	json_object_set(root, "unexpected_skips", unexpected);
	for (i = 0; i < nr_tests; i++)
		json_array_append_new(tests, json_of_test(&test[i]));
	json_object_set_new(root, "tests", tests);

	file = begin_file(path);
	json_dumpf(root, file, JSON_INDENT(1) | JSON_REAL_PRECISION(15));
	fputc('\n', file);
	end_file(file, path);
	json_decref(root);
}

/* One line, and no '#', which would begin a directive. */
static void print_text(FILE *file, const char *text)
{
	for (; *text; text++)
		fputc(*text == '\n' || *text == '#' ? ' ' : *text, file);
}

static void write_point(FILE *file, const char *indent, size_t number, const char *name,
			enum verdict verdict, const char *reason)
{
	fprintf(file, "%s%s %zu %s%s", indent, verdict > XFAIL ? "not ok" : "ok", number, name,
		verdicts[verdict].directive);
	if (*verdicts[verdict].directive)
		print_text(file, reason);
	fputc('\n', file);
}

static void write_ktap(const char *path)
{
	FILE *file = begin_file(path);
	size_t i, k;

	fprintf(file, "KTAP version 1\n1..%zu\n", nr_tests);
	for (i = 0; i < nr_tests; i++) {
		const struct test *t = &test[i];
		char *name = format("%s/%s", t->config, t->name);

		fprintf(file, "  KTAP version 1\n  # Subtest: %s\n  1..%zu\n", name, t->nr);
		for (k = 0; k < t->nr; k++) {
			const struct variant *variant = &t->variant[k];
			const char *reason = variant->reason ? variant->reason : "";

			if (variant->verdict == FAIL) {
				fputs("  # ", file);
				print_text(file, reason);
				fputc('\n', file);
			}
			write_point(file, "  ", k + 1, variant->name, variant->verdict, reason);
		}
		write_point(file, "", i + 1, name, t->verdict,
			    t->verdict == SKIP ? "every variant" : "see its variants");
		free(name);
	}
	end_file(file, path);
}

static void print_failures(void)
{
	const json_t *guard;
	size_t i, k, g;

	for (i = 0; i < nr_tests; i++) {
		bool failed = false;

		for (k = 0; k < test[i].nr; k++) {
			const struct variant *v = &test[i].variant[k];
			const char *evidence = text_of(v->worst, "evidence");

			if (v->verdict <= NOTRUN) /* those are told by reason */
				continue;
			printf("%-6s %s/%s/%s: %s", verdicts[v->verdict].name, test[i].config,
			       test[i].name, v->name, v->reason);
			if (v->runs > 1)
				printf(" (%d of %d runs)", v->bad_runs, v->runs);
			puts("");
			if (*evidence)
				printf("       %s\n", evidence);
			failed |= v->verdict >= FAIL;
		}
		if (failed)
			json_array_foreach(test[i].guards, g, guard)
				printf("       %s guards: %s\n", test[i].name,
				       json_string_value(guard));
	}
}

static bool is_listed(const struct variant *variant, enum verdict verdict)
{
	if (variant->verdict != verdict || variant->is_check || variant->reason == ended_before)
		return false;
	return verdict != SKIP || !variant->expected;
}

static void print_ended_before(void)
{
	size_t i, k, nr = 0;

	for (i = 0; i < nr_tests; i++)
		for (k = 0; k < test[i].nr; k++)
			nr += test[i].variant[k].reason == ended_before;
	if (nr)
		printf("NOTRUN %zu variants: the run ended before them\n", nr);
}

/* One line a reason and test: a thousand variants that were not run have two or three. */
static void print_by_reason(const struct test *t, enum verdict verdict)
{
	size_t i, k, nr;

	for (i = 0; i < t->nr; i++) {
		const char *reason = t->variant[i].reason;

		if (!is_listed(&t->variant[i], verdict))
			continue;
		for (k = 0, nr = 0; k < t->nr; k++) {
			if (!is_listed(&t->variant[k], verdict) ||
			    strcmp(t->variant[k].reason, reason))
				continue;
			if (k < i)
				break; /* printed with that one */
			nr++;
		}
		if (k == t->nr)
			printf("%-6s %s%s/%s: %zu variants, %s%s: %s\n", verdicts[verdict].name,
			       verdict == SKIP ? "unexpected: " : "", t->config, t->name, nr,
			       t->variant[i].name, nr > 1 ? " the first" : "", reason);
	}
}

/* Fixed, or the list of known bugs claims too much. */
static void print_unexpected_passes(void)
{
	size_t i, k, nr;

	for (i = 0; i < nr_tests; i++) {
		const char *known = NULL;

		for (k = 0, nr = 0; k < test[i].nr; k++) {
			if (test[i].variant[k].verdict != PASS || !test[i].variant[k].known)
				continue;
			known = test[i].variant[k].known;
			nr++;
		}
		if (nr)
			printf("XPASS  %s/%s: %zu variants passed, expected to fail: %s\n",
			       test[i].config, test[i].name, nr, known);
	}
}

static void print_summary(const char *dir, const char *tainted, bool quiet)
{
	static const enum verdict order[] = { PASS, FAIL, HANG, BROKEN, SKIP, XFAIL, NOTRUN };
	double begin = json_number_value(json_object_get(run_start, "time"));
	double end = json_number_value(json_object_get(run_end, "time"));
	size_t i;

	print_failures();
	for (i = 0; i < nr_tests; i++)
		print_by_reason(&test[i], NOTRUN);
	print_ended_before();
	for (i = 0; i < nr_tests; i++)
		print_by_reason(&test[i], XFAIL);
	print_unexpected_passes();
	if (tainted)
		printf("FAIL   %s\n", tainted);
	for (i = 0; !quiet && i < nr_tests; i++)
		print_by_reason(&test[i], SKIP);
	if (left_out && !quiet)
		printf("left out: %lld variants of group wedge, which may cost a reboot "
		       "(--wedge)\n",
		       (long long)left_out);
	for (i = 0; i < ARRAY_SIZE(order); i++)
		if (count[order[i]] || order[i] == PASS)
			printf("%s%u %s", i ? ", " : "", count[order[i]], verdicts[order[i]].count);
	if (json_array_size(unexpected))
		printf("; %zu skips unexpected", json_array_size(unexpected));
	if (run_end)
		printf(" in %.0f s", end - begin);
	printf("; see %s\n", dir);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "quiet", no_argument, NULL, 'q' },
		{ "known", required_argument, NULL, 'k' },
		{ NULL },
	};
	bool quiet = false;
	char *tainted;
	json_t *event;
	int opt, status;
	size_t i;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt == 'q')
			quiet = true;
		else if (opt == 'k')
			known_read(optarg);
		else
			die("%s", usage);
	}
	if (argc - optind != 1)
		die("%s", usage);
	index_of = json_object();
	unexpected = json_array();
	read_events(format("%s/journal.jsonl", argv[optind]));
	json_array_foreach(events, i, event)
		take_event(event);
	if (run_start)
		known_kernel(text_of(guest ? guest : run_start, "kernel"));
	judge_all();
	tainted = taint_change();
	status = exit_status(tainted);
	write_json(format("%s/results.json", argv[optind]), status, tainted);
	write_ktap(format("%s/report.ktap", argv[optind]));
	print_summary(argv[optind], tainted, quiet);
	return status;
}
