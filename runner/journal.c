// SPDX-License-Identifier: MIT
/*
 * Append one event to the journal: journal FILE EVENT [KEY=TEXT | KEY:=JSON]...
 * Every event gets the time; the first of a run, or of a guest, also gets what the kernel is.
 */
#include <string.h>
#include <sys/utsname.h>

#include "../lib/internal.h"
#include "runner.h"

static void add(json_t *event, const char *pair)
{
	const char *equals = strchr(pair, '=');
	bool is_json = equals && equals > pair && equals[-1] == ':';
	json_t *value;
	char *key;

	if (!equals || equals == pair + is_json)
		die("journal: \"%s\" is not KEY=TEXT or KEY:=JSON", pair);
	key = format("%.*s", (int)(equals - pair - is_json), pair);
	if (is_json)
		value = json_loads(equals + 1, JSON_DECODE_ANY, NULL);
	else
		value = json_stringn_nocheck(equals + 1, strlen(equals + 1));
	if (!value)
		die("journal: bad value in \"%s\"", pair);
	json_object_set_new(event, key, value);
	free(key);
}

static void add_kernel(json_t *event)
{
	struct utsname uts;

	uname(&uts);
	json_object_set_new(event, "kernel", json_string(uts.release));
	json_object_set_new(event, "version", json_string(uts.version));
	json_object_set_new(event, "machine", json_string(uts.machine));
	json_object_set_new(event, "host", json_string(uts.nodename));
}

int main(int argc, char **argv)
{
	json_t *event;
	int i;

	if (argc < 3)
		die("usage: journal FILE EVENT [KEY=TEXT | KEY:=JSON]...");
	event = json_pack("{s:s, s:f}", "event", argv[2], "time", wall_clock());
	if (!event)
		die("journal: bad event \"%s\"", argv[2]);
	if (!strcmp(argv[2], "run-start") || !strcmp(argv[2], "guest"))
		add_kernel(event);
	if (!strcmp(argv[2], "run-start") || !strcmp(argv[2], "run-end"))
		json_object_set_new(event, "taint", json_integer(rw_taint()));
	for (i = 3; i < argc; i++)
		add(event, argv[i]);
	journal_append(argv[1], event);
	return 0;
}
