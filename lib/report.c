/* SPDX-License-Identifier: MIT */
/*
 * report.c - verdicts: how a task of the test gives one, and how the parent passes it on (standard
 * output, KTAP version 1 as in Documentation/dev-tools/ktap.rst, the journal).
 */
#include "internal.h"

#include <jansson.h>
#include <stdarg.h>

/* ---- in the test's tasks ------------------------------------------------- */

const char *rw_verdict_name(enum rw_verdict verdict)
{
	static const char *const names[] = {
		[RW_NONE] = "NONE",	[RW_PASS] = "PASS", [RW_FAIL] = "FAIL",
		[RW_BROKEN] = "BROKEN", [RW_HANG] = "HANG", [RW_SKIP] = "SKIP"
	};

	return names[verdict];
}

void rw_end(enum rw_verdict verdict, const char *file, int line, const char *fmt, ...)
{
	int first = 0;

	if (atomic_compare_exchange_strong(&rw_shared->reason_set, &first, 1)) {
		va_list ap;
		int n;

		va_start(ap, fmt);
		n = vsnprintf(rw_shared->reason, RW_REASON, fmt, ap);
		va_end(ap);
		if (file && n >= 0 && n < RW_REASON)
			snprintf(rw_shared->reason + n, (size_t)(RW_REASON - n), " (%s:%d)", file,
				 line);
		atomic_store(&rw_shared->verdict, verdict);
	}
	rw_progress();
	/* Exit waits for the writes that the gate holds. */
	if (rw_gate_exists() && rw_gate_is_shut())
		rw_gate_request(RW_GATE_DO_OPEN);
	_exit(verdict == RW_PASS ? 0 : 1);
}

void rw_enter(const char *what)
{
	atomic_store(&rw_shared->calling, what);
	atomic_store(&rw_shared->in_call, 1);
	rw_progress();
}

long rw_leave(const char *what, long ret, enum rw_verdict otherwise, const char *file, int line)
{
	int error = errno;

	atomic_store(&rw_shared->in_call, 0);
	rw_progress();
	if (ret == -1)
		rw_end(otherwise, file, line, "%s: %s", what, strerror(error));
	return ret;
}

void rw_try(const char *what, const char *feature, long ret, const char *file, int line)
{
	int error = errno;

	atomic_store(&rw_shared->in_call, 0);
	rw_progress();
	if (ret != -1)
		return;
	if (error == EOPNOTSUPP || error == ENOTTY || error == ENOSYS || error == EINVAL)
		rw_end(RW_SKIP, NULL, 0, "needs %s: %s", feature, strerror(error));
	rw_end(RW_BROKEN, file, line, "%s: %s", what, strerror(error));
}

void rw_equal(const char *what, long long got, const char *expr, long long want, const char *file,
	      int line)
{
	rw_progress();
	if (got != want)
		rw_end(RW_FAIL, file, line, "%s is %lld, expected %s = %lld", what, got, expr,
		       want);
}

/* ---- in the parent ------------------------------------------------------- */

static FILE *journal;
static unsigned int number;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (double)ts.tv_sec + (double)(ts.tv_nsec / 1000000) / 1e3;
}

/* Takes the reference. A journal that cannot be written is worth no run. */
static void append(json_t *line)
{
	char *text;
	bool ok;

	if (!rw_opt.journal) {
		json_decref(line);
		return;
	}
	if (!journal)
		journal = fopen(rw_opt.journal, "ae");
	text = json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(14));
	json_decref(line);
	ok = journal && text && fprintf(journal, "%s\n", text) > 0 && !fflush(journal) &&
	     !fsync(fileno(journal));
	free(text);
	if (!ok) {
		fprintf(stderr, "%s: %s: %s\n", rw_test.name, rw_opt.journal, strerror(errno));
		exit(2);
	}
}

static json_t *event(const char *what, const char *variant, const char *verdict, const char *reason)
{
	return json_pack("{ss sf ss ss ss sI ss ss}", "event", what, "time", now(), "config",
			 rw_opt.config, "test", rw_test.name, "variant", variant, "seed",
			 (json_int_t)rw_opt.seed, "verdict", verdict, "reason", reason);
}

/* A reason may quote anything, and goes into formats of one line, in UTF-8, for terminals. */
static void tidy(char *reason)
{
	json_t *text;

	for (unsigned char *c = (unsigned char *)reason; *c; c++)
		if (*c < ' ' || *c == 0x7f)
			*c = ' ';
	text = json_string(reason);
	for (unsigned char *c = (unsigned char *)reason; !text && *c; c++)
		if (*c >= 0x80)
			*c = '?';
	json_decref(text);
}

void rw_report_plan(unsigned int n)
{
	if (rw_opt.ktap)
		printf("KTAP version 1\n1..%u\n", n);
}

void rw_report_start(const char *variant)
{
	/* FAIL until told otherwise: after a panic this line is all there is. */
	append(event("start", variant, "FAIL", "did not end"));
}

static void print_ktap(const char *variant, const struct rw_outcome *o)
{
	bool ok = o->verdict == RW_PASS || o->verdict == RW_SKIP;

	number++;
	printf("%sok %u %s", ok ? "" : "not ", number, variant);
	if (o->verdict == RW_SKIP)
		printf(" # SKIP %s", o->reason);
	putchar('\n');
	if (!ok)
		printf("# %s %s\n", rw_verdict_name(o->verdict), o->reason);
}

static void print_plain(const char *variant, const struct rw_outcome *o)
{
	if (o->verdict == RW_PASS && rw_opt.quiet)
		return;
	printf("%-6s  %s  %.2f s%s%s\n", rw_verdict_name(o->verdict), variant, o->seconds,
	       o->reason[0] ? "  " : "", o->reason);
	if (o->verdict != RW_FAIL && o->verdict != RW_HANG)
		return;
	printf("        seed %llu%s%s\n", (unsigned long long)rw_opt.seed,
	       o->evidence[0] ? ", evidence " : "", o->evidence);
	for (size_t i = 0; rw_test.guards && rw_test.guards[i]; i++)
		printf("        see %s\n", rw_test.guards[i]);
}

void rw_report_end(const char *variant, struct rw_outcome *o, const char *kernel_log)
{
	json_t *line;

	tidy(o->reason);
	line = event("end", variant, rw_verdict_name(o->verdict), o->reason);
	json_object_set_new(line, "seconds", json_real(o->seconds));
	json_object_set_new(line, "kernel_log", json_string(kernel_log));
	json_object_set_new(line, "held", json_integer(atomic_load(&rw_shared->held)));
	if (o->evidence[0])
		json_object_set_new(line, "evidence", json_string(o->evidence));
	if (o->verdict == RW_HANG)
		json_object_set_new(line, "killable", json_boolean(!o->unkillable));
	append(line);
	(rw_opt.ktap ? print_ktap : print_plain)(variant, o);
	fflush(stdout);
}

static json_t *strings(const char *const *list)
{
	json_t *a = json_array();

	for (; list && *list; list++)
		json_array_append_new(a, json_string(*list));
	return a;
}

void rw_describe(const char *const *variants, unsigned int n, const char *const *quick,
		 const char *const *wedge)
{
	json_t *groups = strings(rw_test.groups), *names = json_array(), *all;

	json_array_insert_new(groups, 0, json_string("all"));
	for (unsigned int i = 0; i < n; i++)
		json_array_append_new(names, json_string(variants[i]));
	all = json_pack("{ss ss so so so so so so}", "name", rw_test.name, "summary",
			rw_test.summary, "groups", groups, "guards", strings(rw_test.guards),
			"needs", strings(rw_test.needs), "variants", names, "quick", strings(quick),
			"wedge", strings(wedge));
	json_dumpf(all, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(all);
}
