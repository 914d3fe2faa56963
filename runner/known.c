/* SPDX-License-Identifier: MIT */
/*
 * Known bugs of kernels: failures that are expected, with the fix or the thread for each. They are
 * reported as XFAIL, apart from passes and failures.
 */
#include <fnmatch.h>
#include <string.h>
#include <sys/utsname.h>

#include "runner.h"

static json_t *bugs; /* the list of configs/known-bugs.json */
static char kernel[sizeof(((struct utsname *)0)->release)];

static const char *const keys[] = { "config",  "test",	 "variant",  "kernel",
				    "verdict", "reason", "reference" };

void known_read(const char *path)
{
	json_error_t error;
	json_t *file = json_load_file(path, 0, &error), *bug;
	struct utsname name;
	size_t i, k;

	if (!file)
		die("%s:%d: %s", path, error.line, error.text);
	bugs = json_object_get(file, "bugs");
	if (!json_is_array(bugs))
		die("%s: no list \"bugs\"", path);
	json_array_foreach(bugs, i, bug)
		for (k = 0; k < ARRAY_SIZE(keys); k++)
			if (!*text_of(bug, keys[k]))
				die("%s: bug %zu has no \"%s\"", path, i + 1, keys[k]);
	uname(&name);
	memcpy(kernel, name.release, sizeof(kernel));
}

void known_kernel(const char *release)
{
	snprintf(kernel, sizeof(kernel), "%s", release);
}

static bool matches(const json_t *bug, const char *key, const char *text)
{
	return !fnmatch(text_of(bug, key), text, 0);
}

const char *known_bug(const char *config, const char *test, const char *variant,
		      const char *verdict, const char *reason)
{
	const json_t *bug;
	size_t i;

	json_array_foreach(bugs, i, bug)
		if (matches(bug, "config", config) && matches(bug, "test", test) &&
		    matches(bug, "variant", variant) && matches(bug, "kernel", kernel) &&
		    (!verdict || (!strcmp(text_of(bug, "verdict"), verdict) &&
				  strstr(reason, text_of(bug, "reason")))))
			return text_of(bug, "reference");
	return NULL;
}
