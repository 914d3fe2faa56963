// SPDX-License-Identifier: MIT
/*
 * What a run says of the kernel that is bisected: good, bad, or nothing. From results.json, so that
 * the same rules hold for every step, and with the arithmetic of failures that do not always come.
 */
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../runner.h"

static const char usage[] =
	"usage: verdict judge [--signature TEXT] [--needs CONFIG/TEST/VARIANT] DIR\n"
	"         says what was found; exit status 0 good, 1 bad, 125 it cannot be told\n"
	"       verdict signature FILE|DIR\n"
	"         signature of the first failure, and its CONFIG/TEST/VARIANT on a second line\n"
	"       verdict check TEXT\n"
	"         can it be a signature?\n"
	"       verdict evidence [--signature TEXT] DIR\n"
	"         the failure, the kernel, and the stacks\n"
	"       verdict runs FAILED RUNS\n"
	"         clean runs after which a kernel is good\n"
	"       verdict miss FAILED RUNS CLEAN\n"
	"         how likely a bad kernel has so many clean runs";

enum { GOOD = 0, BAD = 1, UNTOLD = 125 };

#define ENOUGH 0.01 /* a bad kernel taken for a good one: so often at most */
#define STACK_LINES 60

static json_t *results;

/* ---- signatures ---------------------------------------------------------- */

/*
 * Numbers differ from run to run, and lines of code from commit to commit: each becomes one '#',
 * but for those that belong to a name (ext4). Blanks are one blank.
 */
static char *plain(const char *text)
{
	char *out = malloc(strlen(text) + 1), *to = out;
	bool in_word = false;

	if (!out)
		die("out of memory");
	while (*text) {
		if (isdigit((unsigned char)*text) && !in_word) {
			if (!strncmp(text, "0x", 2))
				text += 2 + strspn(text + 2, "0123456789abcdef");
			else
				text += strspn(text, "0123456789");
			*to++ = '#';
			continue;
		}
		in_word = isalnum((unsigned char)*text) || *text == '_';
		if (!isspace((unsigned char)*text))
			*to++ = *text;
		else if (to > out && to[-1] != ' ')
			*to++ = ' ';
		text++;
	}
	while (to > out && to[-1] == ' ')
		to--;
	*to = 0;
	return out;
}

/* The verdict that a signature asks for, or NULL; *text is what is left of it. */
static const char *take_verdict(const char **text)
{
	static const char *const verdicts[] = { "FAIL", "HANG" };
	size_t i, len;

	*text += strspn(*text, " \t");
	for (i = 0; i < ARRAY_SIZE(verdicts); i++) {
		len = strlen(verdicts[i]);
		if (strncmp(*text, verdicts[i], len) || ((*text)[len] && (*text)[len] != ' '))
			continue;
		*text += len;
		return verdicts[i];
	}
	return NULL;
}

/* "[FAIL|HANG] text*text...": the pieces must be in the reason, in this order. */
static bool matches(const char *signature, const char *verdict, const char *reason)
{
	const char *want, *at;
	char *pieces, *piece, *next, *in;

	if (!signature)
		return true;
	want = take_verdict(&signature);
	if (want && strcmp(want, verdict))
		return false;
	pieces = plain(signature);
	in = plain(reason);
	at = in;
	for (piece = strtok_r(pieces, "*", &next); piece && at;
	     piece = strtok_r(NULL, "*", &next)) {
		piece += strspn(piece, " ");
		at = strstr(at, piece);
		if (at)
			at += strlen(piece);
	}
	free(pieces);
	free(in);
	return at;
}

/* Of a hang the innermost function and the call; of a failure what was wrong, not by how much. */
static char *signature_of(const char *verdict, const char *reason)
{
	const char *in = strstr(reason, " in "), *call = strchr(reason, '('), *end;

	if (!strcmp(verdict, "HANG") && strstr(reason, "livelock: "))
		return format("HANG livelock:");
	if (!strcmp(verdict, "HANG") && in && call > in && strchr(call, ')'))
		return format("HANG%.*s*%.*s", (int)(4 + strcspn(in + 4, " (")), in,
			      (int)(strchr(call, ')') + 1 - call), call);
	end = strstr(reason, ", expected ");
	if (!end)
		end = strstr(reason, " (lib/");
	if (!end)
		end = strstr(reason, " (tests/");
	return format("%s %.*s", verdict, (int)(end ? end - reason : (long)strlen(reason)), reason);
}

/* ---- results ------------------------------------------------------------- */

/* False when there are none. */
static bool read_results(const char *path)
{
	char *file = format("%s/results.json", path);

	results = json_load_file(file, 0, NULL);
	if (!results)
		results = json_load_file(path, 0, NULL);
	free(file);
	return json_is_array(json_object_get(results, "tests"));
}

static char *name_of(const json_t *test, const json_t *variant)
{
	return format("%s/%s/%s", text_of(test, "config"), text_of(test, "test"),
		      text_of(variant, "variant"));
}

static bool is(const json_t *variant, const char *verdict)
{
	return !strcmp(text_of(variant, "verdict"), verdict);
}

typedef bool choice(const json_t *variant, const char *argument);

static bool fails(const json_t *variant, const char *signature)
{
	return (is(variant, "FAIL") || is(variant, "HANG")) &&
	       matches(signature, text_of(variant, "verdict"), text_of(variant, "reason"));
}

/* The first variant that `chosen` takes, and its test; NULL. */
static const json_t *first(choice *chosen, const char *argument, const json_t **of)
{
	const json_t *test, *variant;
	size_t i, k;

	json_array_foreach(json_object_get(results, "tests"), i, test)
		json_array_foreach(json_object_get(test, "variants"), k, variant)
			if (chosen(variant, argument)) {
				*of = test;
				return variant;
			}
	return NULL;
}

static const json_t *by_name(const char *name, const json_t **of)
{
	const json_t *test, *variant;
	size_t i, k;

	json_array_foreach(json_object_get(results, "tests"), i, test)
		json_array_foreach(json_object_get(test, "variants"), k, variant) {
			char *own = name_of(test, variant);
			bool same = !strcmp(own, name);

			free(own);
			if (same) {
				*of = test;
				return variant;
			}
		}
	return NULL;
}

/* Found what is looked for, in no one variant: a complaint that was seen after their end. */
static const char *taint(void)
{
	return text_of(results, "tainted");
}

/* ---- judging ------------------------------------------------------------- */

static int say(int status, const char *what, const json_t *test, const json_t *variant)
{
	char *name = name_of(test, variant);
	const char *reason = text_of(variant, "reason");

	printf("%s%s%-6s %s%s%s\n", what, *what ? ": " : "", text_of(variant, "verdict"), name,
	       *reason ? ": " : "", reason);
	free(name);
	return status;
}

/* No failure at all: but was there anything that could have failed? */
static int judge_clean(const char *needs)
{
	const json_t *test, *variant;
	json_int_t passed;

	variant = first(is, "BROKEN", &test);
	if (!variant)
		variant = first(is, "NOTRUN", &test);
	if (variant)
		return say(UNTOLD, "not tested", test, variant);
	variant = needs ? by_name(needs, &test) : NULL;
	if (variant && is(variant, "XFAIL"))
		return say(UNTOLD, "a known bug (--strict counts it)", test, variant);
	if (variant && !is(variant, "PASS"))
		return say(UNTOLD, "not tested", test, variant);
	passed = json_integer_value(json_object_get(json_object_get(results, "counts"), "PASS"));
	if (passed && json_is_true(json_object_get(results, "complete"))) {
		printf("clean: %lld passed\n", (long long)passed);
		return GOOD;
	}
	variant = first(is, "XFAIL", &test);
	if (variant)
		return say(UNTOLD, "a known bug (--strict counts it)", test, variant);
	variant = first(is, "SKIP", &test);
	if (variant)
		return say(UNTOLD, "nothing ran", test, variant);
	printf("not tested: the run did not come to its end\n");
	return UNTOLD;
}

static int judge(const char *signature, const char *needs, const char *dir)
{
	const json_t *test, *variant;

	if (!read_results(dir)) {
		printf("not tested: the run left no results\n");
		return UNTOLD;
	}
	variant = first(fails, signature, &test);
	if (variant)
		return say(BAD, "", test, variant);
	if (*taint() && matches(signature, "FAIL", taint())) {
		printf("FAIL   %s\n", taint());
		return BAD;
	}
	variant = first(fails, NULL, &test);
	if (variant)
		return say(UNTOLD, "another failure", test, variant);
	if (*taint()) {
		printf("another failure: FAIL   %s\n", taint());
		return UNTOLD;
	}
	return judge_clean(needs);
}

static int print_signature(const char *path)
{
	const json_t *test, *variant;
	char *name, *text;

	if (!read_results(path))
		die("%s: no results.json, or not of ours", path);
	variant = first(fails, NULL, &test);
	if (!variant)
		die("%s: there is no failure in it", path);
	name = name_of(test, variant);
	text = signature_of(text_of(variant, "verdict"), text_of(variant, "reason"));
	printf("%s\n%s\n", text, name);
	free(text);
	free(name);
	return 0;
}

static int check_signature(const char *text)
{
	const char *rest = text;

	if (!take_verdict(&rest) && !rest[strspn(rest, " \t*")])
		die("--signature \"%s\": want FAIL or HANG, a text, or both", text);
	return 0;
}

/* ---- evidence ------------------------------------------------------------ */

static FILE *open_evidence(const char *dir, const json_t *test, const json_t *variant)
{
	const char *path = text_of(variant, "evidence"), *slash = strrchr(path, '/');
	FILE *file = *path ? fopen(path, "re") : NULL;
	char *moved;

	if (file || !*path)
		return file;
	moved = format("%s/%s/%s/%s", dir, text_of(test, "config"), text_of(test, "test"),
		       slash ? slash + 1 : path);
	file = fopen(moved, "re");
	free(moved);
	return file;
}

/* Of a hang's samples the last one; of a kernel log the beginning. */
static void print_stacks(FILE *file)
{
	char *line = NULL;
	size_t size = 0;
	long from = 0;
	int n;

	while (getline(&line, &size, file) > 0)
		if (!strncmp(line, "== sample ", 10))
			from = ftell(file);
	fseek(file, from, SEEK_SET);
	for (n = 0; n < STACK_LINES && getline(&line, &size, file) > 0; n++) {
		if (!strncmp(line, "== ", 3))
			break;
		if (*line != '\n')
			printf("    %s", line);
	}
	free(line);
}

static int print_evidence(const char *signature, const char *dir)
{
	const json_t *test, *variant = NULL;
	FILE *file;

	if (read_results(dir))
		variant = first(fails, signature, &test);
	if (!variant)
		die("%s: no such failure in it", dir);
	printf("  ");
	say(0, "", test, variant);
	printf("  kernel %s %s, seed %lld\n", text_of(results, "kernel"),
	       text_of(results, "version"),
	       (long long)json_integer_value(json_object_get(variant, "seed")));
	file = open_evidence(dir, test, variant);
	if (!file)
		return 0;
	printf("\n");
	print_stacks(file);
	fclose(file);
	return 0;
}

/* ---- rates --------------------------------------------------------------- */

/* That it has always failed does not say that it always will: as if the next run were clean. */
static double rate(const char *failed_text, const char *runs_text)
{
	long long failed, runs;

	if (!parse_number(runs_text, 1, 1000000, &runs) ||
	    !parse_number(failed_text, 1, runs, &failed))
		die("%s", usage);
	return failed == runs ? runs / (runs + 1.0) : failed / (double)runs;
}

static int print_runs(const char *failed, const char *runs)
{
	double p = rate(failed, runs), missed = 1 - p;
	int n = 1;

	for (; missed > ENOUGH * (1 + 1e-9); n++)
		missed *= 1 - p;
	printf("%d\n", n);
	return 0;
}

static int print_miss(const char *failed, const char *runs, const char *clean_text)
{
	long long clean;

	if (!parse_number(clean_text, 0, 1000000, &clean))
		die("%s", usage);
	printf("%.2g %%\n", 100 * pow(1 - rate(failed, runs), clean));
	return 0;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "signature", required_argument, NULL, 's' },
		{ "needs", required_argument, NULL, 'n' },
		{ NULL },
	};
	const char *signature = NULL, *needs = NULL, *what;
	int opt, n;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt == 's')
			signature = *optarg ? optarg : NULL;
		else if (opt == 'n')
			needs = *optarg ? optarg : NULL;
		else
			die("%s", usage);
	}
	argv += optind;
	n = argc - optind - 1;
	what = n > 0 ? argv[0] : "";
	if (!strcmp(what, "judge") && n == 1)
		return judge(signature, needs, argv[1]);
	if (!strcmp(what, "signature") && n == 1)
		return print_signature(argv[1]);
	if (!strcmp(what, "check") && n == 1)
		return check_signature(argv[1]);
	if (!strcmp(what, "evidence") && n == 1)
		return print_evidence(signature, argv[1]);
	if (!strcmp(what, "runs") && n == 2)
		return print_runs(argv[1], argv[2]);
	if (!strcmp(what, "miss") && n == 3)
		return print_miss(argv[1], argv[2], argv[3]);
	die("%s", usage);
}
