// SPDX-License-Identifier: MIT
/*
 * Which tests run on which configurations, and in what order. A name, glob or group that matches
 * nothing is an error: a typing error must never end in a green run of something else.
 */
#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runner.h"

static const char usage[] =
	"usage: plan --configs DIR --tests DIR [options] [TEST|GLOB]...\n"
	"Prints one line CONFIG TAB TEST TAB VARIANT... for each test program to start; no "
	"variants\n"
	"are named when all are meant.\n"
	"  --config NAME|GLOB, --group NAME, --exclude NAME|GLOB, --variant NAME|GLOB  "
	"(repeatable)\n"
	"  --wedge             also variants that, on a kernel with their bug, need a reboot\n"
	"  --directory         the tests run in a directory: the only configuration is \"dir\"\n"
	"  --shard I/N  --shuffle  --seed N\n"
	"  --journal FILE      append a \"plan\" event for each line\n"
	"  --dry-run           print for people: one line a variant, and the sums\n"
	"  --list              print all tests and configurations instead\n"
	"  --describe NAME     print all there is to know of a test or configuration instead\n";

/* What the user named, and whether it has matched anything yet. */
struct patterns {
	const char *what;
	int nr;
	struct pattern {
		const char *text;
		bool used;
	} * pattern;
};

static struct patterns names = { .what = "test" };
static struct patterns configs = { .what = "configuration" };
static struct patterns groups = { .what = "group" };
static struct patterns excludes = { .what = "excluded test, group, configuration or TEST/VARIANT" };
static struct patterns variants = { .what = "variant" };

struct test {
	json_t *describe;
	const char *name;
	bool wanted;
	bool only_quick; /* wanted for group "quick", and for nothing else */
};

struct config {
	const struct conf *conf; /* NULL: --directory */
	const char *name;
	bool wanted;
	int place, sisters; /* of those wanted with its filesystem, itself included */
};

/* One test program to start. */
struct unit {
	const struct config *config;
	const struct test *test;
	json_t *variants; /* names */
	bool all;	  /* of the test's variants */
};

static struct test *test;
static struct config *config;
static struct unit *unit;
static size_t nr_tests, nr_configs, nr_units;

static void add_pattern(struct patterns *patterns, const char *text)
{
	patterns->pattern = grow(patterns->pattern, patterns->nr, sizeof(*patterns->pattern));
	patterns->pattern[patterns->nr++].text = text;
}

static struct config *add_config(void)
{
	config = grow(config, nr_configs, sizeof(*config));
	return &config[nr_configs++];
}

static struct test *add_test(void)
{
	test = grow(test, nr_tests, sizeof(*test));
	return &test[nr_tests++];
}

static struct unit *add_unit(void)
{
	unit = grow(unit, nr_units, sizeof(*unit));
	return &unit[nr_units++];
}

static bool matches(struct patterns *patterns, const char *name)
{
	bool any = false;
	int i;

	for (i = 0; i < patterns->nr; i++) {
		if (fnmatch(patterns->pattern[i].text, name, 0))
			continue;
		patterns->pattern[i].used = true;
		any = true;
	}
	return any;
}

/* Is it one of them, letter by letter? */
static bool spelled_out(const struct patterns *patterns, const char *name)
{
	int i;

	for (i = 0; i < patterns->nr; i++)
		if (!strcmp(patterns->pattern[i].text, name))
			return true;
	return false;
}

static void check_used(const struct patterns *patterns, const char *hint)
{
	int i;

	for (i = 0; i < patterns->nr; i++)
		if (!patterns->pattern[i].used)
			die("no %s matches \"%s\"%s", patterns->what, patterns->pattern[i].text,
			    hint);
}

/* Names of the files in dir that `wanted` takes, sorted. */
static int list_dir(const char *dir, int (*wanted)(const struct dirent *), struct dirent ***list)
{
	int nr = scandir(dir, list, wanted, alphasort);

	if (nr < 0)
		die("%s: %s", dir, strerror(errno));
	return nr;
}

static int is_conf(const struct dirent *entry)
{
	return !fnmatch("*.conf", entry->d_name, FNM_PERIOD);
}

static int is_program(const struct dirent *entry)
{
	return !strpbrk(entry->d_name, "."); /* no .o, .d or hidden files */
}

static void read_configs(const char *dir)
{
	struct dirent **list;
	int nr = list_dir(dir, is_conf, &list), i;

	for (i = 0; i < nr; i++) {
		struct config *new = add_config();
		char *path = format("%s/%s", dir, list[i]->d_name);

		new->conf = conf_read(path);
		new->name = new->conf->name;
		free(path);
		free(list[i]);
	}
	free(list);
}

static json_t *describe(const char *dir, const char *name)
{
	char *command = format("'%s/%s' --describe", dir, name);
	FILE *pipe = strchr(dir, '\'') ? NULL : popen(command, "re");
	json_t *json;

	if (!pipe)
		die("%s: %m", command);
	json = json_loadf(pipe, 0, NULL);
	if (pclose(pipe) || !json_is_array(json_object_get(json, "variants")) ||
	    strcmp(text_of(json, "name"), name))
		die("%s/%s --describe does not describe the test %s", dir, name, name);
	free(command);
	return json;
}

static void read_tests(const char *dir)
{
	struct dirent **list;
	int nr = list_dir(dir, is_program, &list), i;

	for (i = 0; i < nr; i++) {
		char *path = format("%s/%s", dir, list[i]->d_name);

		if (!access(path, X_OK)) {
			struct test *new = add_test();

			new->describe = describe(dir, list[i]->d_name);
			new->name = text_of(new->describe, "name");
		}
		free(path);
		free(list[i]);
	}
	free(list);
	if (!nr_tests)
		die("%s: no test programs", dir);
}

/* True when one of the patterns names the test or one of its groups. */
static bool test_in(struct patterns *patterns, const struct test *t)
{
	bool any = false;
	json_t *group;
	size_t i;

	json_array_foreach(json_object_get(t->describe, "groups"), i, group) {
		const char *name = json_string_value(group);
		/* Every test is in it: beside a test's name it is about configurations alone. */
		const bool all = patterns == &groups && names.nr && !strcmp(name, "all");

		any |= matches(patterns, name) && !all;
	}
	return any;
}

static bool config_in(struct patterns *patterns, const struct config *c)
{
	char *list, *word, *next;
	bool any = false;

	if (!c->conf)
		return false;
	list = format("%s", c->conf->value[KEY_GROUPS]);
	for (word = strtok_r(list, " ", &next); word; word = strtok_r(NULL, " ", &next))
		any |= matches(patterns, word);
	free(list);
	return any;
}

/*
 * A group may hold tests, configurations or both. What is named or is in a named group is wanted;
 * of the kind of which nothing was named: all tests, the configurations of group "default".
 */
static void choose_tests(void)
{
	bool any = names.nr;
	size_t i;

	for (i = 0; i < nr_tests; i++) {
		bool in_group = test_in(&groups, &test[i]);

		if (json_array_size(json_object_get(test[i].describe, "wedge")))
			in_group |= matches(&groups, "wedge");
		test[i].wanted = matches(&names, test[i].name) || in_group;
		/* Some variants of every test are. */
		if (matches(&groups, "quick") && !test[i].wanted)
			test[i].wanted = test[i].only_quick = in_group = true;
		any |= in_group;
	}
	for (i = 0; i < nr_tests; i++) {
		bool excluded = test_in(&excludes, &test[i]);

		excluded |= matches(&excludes, test[i].name);
		test[i].wanted = (test[i].wanted || !any) && !excluded;
	}
}

static void choose_configs(void)
{
	bool any = configs.nr;
	size_t i;

	for (i = 0; i < nr_configs; i++) {
		bool in_group = config_in(&groups, &config[i]);

		config[i].wanted = matches(&configs, config[i].name) || in_group;
		any |= in_group;
	}
	for (i = 0; i < nr_configs; i++) {
		const struct conf *conf = config[i].conf;
		bool excluded = config_in(&excludes, &config[i]);

		excluded |= matches(&excludes, config[i].name);
		if (!any)
			config[i].wanted = !conf || has_word(conf->value[KEY_GROUPS], "default");
		config[i].wanted &= !excluded;
	}
}

static bool wedge_wanted; /* --wedge */
static size_t nr_left_out;

/* The variant's place in one of the test's lists, or -1. */
static long place_in(const struct test *t, const char *array, const char *variant)
{
	const json_t *name;
	size_t i;

	json_array_foreach(json_object_get(t->describe, array), i, name)
		if (!strcmp(json_string_value(name), variant))
			return (long)i;
	return -1;
}

/* Left to who asks for it: by --wedge, or by the name, no glob, of the test, variant or group. */
static bool leave_out(const struct test *t, const char *variant)
{
	if (place_in(t, "wedge", variant) < 0)
		return false;
	if (matches(&excludes, "wedge"))
		return true;
	if (wedge_wanted || matches(&groups, "wedge") || spelled_out(&names, t->name) ||
	    spelled_out(&variants, variant))
		return false;
	nr_left_out++;
	return true;
}

/*
 * The configurations of one filesystem share what is in a test's group quick, if that is more than two
 * variants: each has every other one.
 */
static bool is_quick(const struct test *t, const struct config *c, const char *variant)
{
	const long place = place_in(t, "quick", variant);

	return place >= 0 && (json_array_size(json_object_get(t->describe, "quick")) <= 2 ||
			      c->sisters < 2 || place % 2 == c->place % 2);
}

/* The test's variants that are wanted, of those that are quick or of the others; the reference is
 * the caller's.
 */
static json_t *choose_variants(const struct test *t, const struct config *c, bool quick)
{
	json_t *chosen = json_array(), *variant;
	size_t i;

	json_array_foreach(json_object_get(t->describe, "variants"), i, variant) {
		const char *name = json_string_value(variant);
		char *full;

		if (is_quick(t, c, name) != quick)
			continue;
		full = format("%s/%s", t->name, name);
		if (!matches(&excludes, full) && (!t->only_quick || quick) &&
		    (!variants.nr || matches(&variants, name)) && !leave_out(t, name))
			json_array_append(chosen, variant);
		free(full);
	}
	return chosen;
}

static void add_units(const struct config *c, bool quick)
{
	size_t i;

	for (i = 0; i < nr_tests; i++) {
		json_t *chosen, *all = json_object_get(test[i].describe, "variants");
		struct unit *new;

		if (!test[i].wanted)
			continue;
		chosen = choose_variants(&test[i], c, quick);
		if (!json_array_size(chosen)) {
			json_decref(chosen);
			continue;
		}
		new = add_unit();
		new->config = c;
		new->test = &test[i];
		new->variants = chosen;
		new->all = json_array_size(chosen) == json_array_size(all);
	}
}

static void find_sisters(void)
{
	size_t i, k;

	for (i = 0; i < nr_configs; i++)
		for (k = 0; k < nr_configs; k++) {
			if (!config[i].conf || !config[k].wanted ||
			    strcmp(config[i].conf->value[KEY_FILESYSTEM],
				   config[k].conf->value[KEY_FILESYSTEM]))
				continue;
			config[i].sisters++;
			config[i].place += k < i;
		}
}

/*
 * Some of every test on every configuration first: most kernels that are broken show it in the first
 * tenth of the time.
 */
static void make_units(void)
{
	size_t i;

	find_sisters();
	for (i = 0; i < nr_configs; i++)
		if (config[i].wanted)
			add_units(&config[i], true);
	for (i = 0; i < nr_configs; i++)
		if (config[i].wanted)
			add_units(&config[i], false);
}

/* Every N-th unit: each is in exactly one shard, and each shard has some of every configuration. */
static void take_shard(long long index, long long count)
{
	size_t from, to = 0;

	for (from = 0; from < nr_units; from++)
		if ((long long)from % count == index - 1)
			unit[to++] = unit[from];
	nr_units = to;
}

/* splitmix64: the order is the same wherever the seed is used again. */
static size_t random_below(unsigned long long *state, size_t limit)
{
	unsigned long long z = *state += 0x9e3779b97f4a7c15ull;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return (z ^ (z >> 31)) % limit;
}

static void shuffle(struct unit *list, size_t nr, unsigned long long *state)
{
	while (nr > 1) {
		size_t other = random_below(state, nr--);
		struct unit moved = list[nr];

		list[nr] = list[other];
		list[other] = moved;
	}
}

/* Tests within their configuration, whose devices are made once. */
static void shuffle_units(unsigned long long seed)
{
	size_t first, end;

	for (first = 0; first < nr_units; first = end) {
		for (end = first; end < nr_units && unit[end].config == unit[first].config; end++)
			;
		shuffle(unit + first, end - first, &seed);
	}
}

static void print_words(const char *title, const json_t *words)
{
	const json_t *word;
	size_t i;

	if (!json_array_size(words))
		return;
	printf("%s\n", title);
	json_array_foreach(words, i, word)
		printf("    %s\n", json_string_value(word));
}

static void list(void)
{
	json_t *group;
	size_t i, k;

	puts("tests:");
	for (i = 0; i < nr_tests; i++) {
		printf("    %-20s %s (%zu variants;", test[i].name,
		       text_of(test[i].describe, "summary"),
		       json_array_size(json_object_get(test[i].describe, "variants")));
		json_array_foreach(json_object_get(test[i].describe, "groups"), k, group)
			printf(" %s", json_string_value(group));
		puts(")");
	}
	puts("configurations:");
	for (i = 0; i < nr_configs; i++)
		printf("    %-20s %s (%s)\n", config[i].name,
		       config[i].conf->value[KEY_DESCRIPTION], config[i].conf->value[KEY_GROUPS]);
}

static void describe_test(const struct test *t)
{
	printf("%s: this test checks that %s\n", t->name, text_of(t->describe, "summary"));
	print_words("groups:", json_object_get(t->describe, "groups"));
	print_words("guards:", json_object_get(t->describe, "guards"));
	print_words("needs:", json_object_get(t->describe, "needs"));
	print_words("variants:", json_object_get(t->describe, "variants"));
}

static void describe_config(const struct conf *conf)
{
	int i;

	printf("%s: %s\n", conf->name, conf->value[KEY_DESCRIPTION]);
	for (i = KEY_DESCRIPTION + 1; i < CONF_KEYS; i++)
		printf("    %s=%s\n", conf_key_name(i), conf->value[i]);
	for (i = 0; i < conf->nr_skips; i++)
		printf("    expected skip: %s: %s\n", conf->skips[i].match, conf->skips[i].reason);
}

static void describe_name(const char *name)
{
	bool found = false;
	size_t i;

	for (i = 0; i < nr_tests; i++) {
		if (strcmp(test[i].name, name))
			continue;
		describe_test(&test[i]);
		found = true;
	}
	for (i = 0; i < nr_configs; i++) {
		if (strcmp(config[i].name, name))
			continue;
		describe_config(config[i].conf);
		found = true;
	}
	if (!found)
		die("no test or configuration is named \"%s\" (see --list)", name);
}

static void print_dry_run(void)
{
	size_t i, k, sum = 0;
	json_t *variant;

	for (i = 0; i < nr_units; i++) {
		json_array_foreach(unit[i].variants, k, variant)
			printf("%s  %s  %s\n", unit[i].config->name, unit[i].test->name,
			       json_string_value(variant));
		sum += json_array_size(unit[i].variants);
	}
	printf("%zu variants, %zu test programs to start\n", sum, nr_units);
	if (nr_left_out)
		printf("%zu variants of group wedge left out (--wedge)\n", nr_left_out);
}

static void print_units(void)
{
	size_t i, k;
	json_t *variant;

	for (i = 0; i < nr_units; i++) {
		printf("%s\t%s\t%s\t", unit[i].config->name, unit[i].test->name,
		       unit[i].all ? "all" : "some");
		json_array_foreach(unit[i].variants, k, variant)
			printf("%s%s", k ? " " : "", json_string_value(variant));
		putchar('\n');
	}
}

/* With the plan in it the journal tells what was not reached, and which skips were expected. */
static void write_plan(const char *journal, const struct unit *u)
{
	json_t *skips = json_object(), *variant;
	const char *no_device = NULL;
	size_t i;

	json_array_foreach(u->variants, i, variant) {
		const char *name = json_string_value(variant), *why = NULL;

		if (u->config->conf)
			why = conf_expects_skip(u->config->conf, u->test->name, name);
		if (why)
			json_object_set_new(skips, name, json_string(why));
	}
	/* Its device may be one that not every kernel has. */
	if (u->config->conf)
		no_device = conf_expects_skip(u->config->conf, "devices", "set-up");
	if (no_device)
		json_object_set_new(skips, "devices/set-up", json_string(no_device));
	journal_append(journal, json_pack("{s:s, s:f, s:s, s:s, s:O, s:O, s:o}", "event", "plan",
					  "time", wall_clock(), "config", u->config->name, "test",
					  u->test->name, "variants", u->variants, "guards",
					  json_object_get(u->test->describe, "guards"),
					  "expected_skips", skips));
}

static void parse_shard(const char *text, long long *index, long long *count)
{
	const char *slash = strchr(text, '/');
	char *first = format("%.*s", slash ? (int)(slash - text) : 0, text);

	if (!slash || !parse_number(slash + 1, 1, 100000, count) ||
	    !parse_number(first, 1, *count, index))
		die("--shard %s: want I/N with 1 <= I <= N", text);
	free(first);
}

int main(int argc, char **argv)
{
	enum {
		CONFIGS = 1,
		TESTS,
		DIRECTORY,
		WEDGE,
		SHARD,
		SHUFFLE,
		SEED,
		JOURNAL,
		DRY_RUN,
		LIST,
		DESCRIBE
	};
	static const struct option options[] = {
		{ "configs", required_argument, NULL, CONFIGS },
		{ "tests", required_argument, NULL, TESTS },
		{ "config", required_argument, NULL, 'c' },
		{ "group", required_argument, NULL, 'g' },
		{ "exclude", required_argument, NULL, 'x' },
		{ "variant", required_argument, NULL, 'v' },
		{ "directory", no_argument, NULL, DIRECTORY },
		{ "wedge", no_argument, NULL, WEDGE },
		{ "shard", required_argument, NULL, SHARD },
		{ "shuffle", no_argument, NULL, SHUFFLE },
		{ "seed", required_argument, NULL, SEED },
		{ "journal", required_argument, NULL, JOURNAL },
		{ "dry-run", no_argument, NULL, DRY_RUN },
		{ "list", no_argument, NULL, LIST },
		{ "describe", required_argument, NULL, DESCRIBE },
		{ NULL },
	};
	const char *configs_dir = NULL, *tests_dir = NULL, *journal = NULL, *shown = NULL;
	bool directory = false, shuffled = false, dry_run = false, listed = false;
	long long index = 1, count = 1, seed = 0;
	size_t i;
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case CONFIGS:
			configs_dir = optarg;
			break;
		case TESTS:
			tests_dir = optarg;
			break;
		case 'c':
			add_pattern(&configs, optarg);
			break;
		case 'g':
			add_pattern(&groups, optarg);
			break;
		case 'x':
			add_pattern(&excludes, optarg);
			break;
		case 'v':
			add_pattern(&variants, optarg);
			break;
		case DIRECTORY:
			directory = true;
			break;
		case WEDGE:
			wedge_wanted = true;
			break;
		case SHARD:
			parse_shard(optarg, &index, &count);
			break;
		case SHUFFLE:
			shuffled = true;
			break;
		case SEED:
			if (!parse_number(optarg, 0, INT64_MAX, &seed))
				die("--seed %s: want a number from 0 to 2^63 - 1", optarg);
			break;
		case JOURNAL:
			journal = optarg;
			break;
		case DRY_RUN:
			dry_run = true;
			break;
		case LIST:
			listed = true;
			break;
		case DESCRIBE:
			shown = optarg;
			break;
		default:
			die("%s", usage);
		}
	}
	if (!configs_dir || !tests_dir)
		die("%s", usage);
	for (; optind < argc; optind++)
		add_pattern(&names, argv[optind]);

	read_tests(tests_dir);
	if (directory)
		add_config()->name = "dir";
	else
		read_configs(configs_dir);
	if (listed || shown) {
		if (listed)
			list();
		else
			describe_name(shown);
		return 0;
	}

	choose_tests();
	choose_configs();
	make_units();
	check_used(&names, " (see --list)");
	check_used(&configs, " (see --list)");
	check_used(&groups, " (see --list)");
	check_used(&variants, " of the tests chosen (see --describe TEST)");
	check_used(&excludes, "");
	if (!nr_units)
		die("everything chosen is also excluded: nothing to run");
	take_shard(index, count);
	if (!nr_units)
		die("--shard %lld/%lld is empty: there are fewer tests to start", index, count);
	if (shuffled)
		shuffle_units(seed);
	for (i = 0; journal && i < nr_units; i++)
		write_plan(journal, &unit[i]);
	if (journal && nr_left_out)
		journal_append(journal, json_pack("{s:s, s:I}", "event", "left-out", "wedge",
						  (json_int_t)nr_left_out));
	if (dry_run)
		print_dry_run();
	else
		print_units();
	return 0;
}
