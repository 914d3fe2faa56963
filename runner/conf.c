// SPDX-License-Identifier: MIT
/*
 * Read configs/NAME.conf: lines KEY=value, blank lines, and comments that start with '#'.
 * Nothing is executed or expanded and there are no quotes: the value is the rest of the line.
 */
#include <errno.h>
#include <fnmatch.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>

#include "runner.h"

static bool is_text(const char *value)
{
	return *value;
}

static bool is_words(const char *value)
{
	return *value && !value[strspn(value, "abcdefghijklmnopqrstuvwxyz0123456789- ")];
}

static bool is_filesystem(const char *value)
{
	return has_word("xfs ext4 btrfs f2fs", value);
}

static bool is_block_size(const char *value)
{
	return has_word("512 1024 2048 4096 8192 16384 32768 65536", value);
}

/* No slash: an option can then name no device or file outside the scratch folder. */
static bool is_options(const char *value)
{
	return !value[strspn(value, "abcdefghijklmnopqrstuvwxyz"
				    "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789=,.^_:- ")];
}

static bool is_size(const char *value)
{
	char number[16];
	long long megabytes;
	size_t len = strlen(value);

	if (len < 2 || len > sizeof(number) || value[len - 1] != 'M')
		return false;
	snprintf(number, sizeof(number), "%.*s", (int)len - 1, value);
	return parse_number(number, 64, 1 << 20, &megabytes);
}

static bool is_sector_size(const char *value)
{
	return has_word("512 4096", value);
}

static bool is_device(const char *value)
{
	return has_word("loop null_blk", value);
}

static bool is_switch(const char *value)
{
	return has_word("on off", value);
}

static const struct {
	const char *name;
	bool (*valid)(const char *value);
	const char *wanted;
	const char *fallback; /* NULL: the key must be there */
} keys[] = {
	[KEY_DESCRIPTION] = { "DESCRIPTION", is_text, "some text", NULL },
	[KEY_GROUPS] = { "GROUPS", is_words, "kebab-case words", NULL },
	[KEY_FILESYSTEM] = { "FILESYSTEM", is_filesystem, "xfs, ext4, btrfs or f2fs", NULL },
	[KEY_BLOCK_SIZE] = { "BLOCK_SIZE", is_block_size, "a power of two from 512 to 65536",
			     NULL },
	[KEY_MKFS_OPTIONS] = { "MKFS_OPTIONS", is_options, "letters, digits, blanks and =,.^_:-",
			       "" },
	[KEY_MOUNT_OPTIONS] = { "MOUNT_OPTIONS", is_options, "letters, digits and =,.^_:-", "" },
	[KEY_DEVICE] = { "DEVICE", is_device, "loop or null_blk", "loop" },
	[KEY_SIZE] = { "SIZE", is_size, "megabytes from 64 up, like 512M", "512M" },
	[KEY_SECTOR_SIZE] = { "SECTOR_SIZE", is_sector_size, "512 or 4096", "512" },
	[KEY_DIRECT_IO] = { "DIRECT_IO", is_switch, "on or off", "on" },
	[KEY_EXCHANGE_RANGE] = { "EXCHANGE_RANGE", is_switch, "on or off", "off" },
};

const char *conf_key_name(enum conf_key key)
{
	return keys[key].name;
}

bool has_word(const char *list, const char *word)
{
	size_t len = strlen(word);
	const char *p;

	for (p = list; len && (p = strstr(p, word)); p++)
		if ((p == list || p[-1] == ' ') && (!p[len] || p[len] == ' '))
			return true;
	return false;
}

const char *conf_expects_skip(const struct conf *conf, const char *test, const char *variant)
{
	char *name = format("%s/%s", test, variant);
	const char *reason = NULL;
	int i;

	for (i = 0; i < conf->nr_skips && !reason; i++)
		if (!fnmatch(conf->skips[i].match, name, 0))
			reason = conf->skips[i].reason;
	free(name);
	return reason;
}

/* Cut blanks off both ends, in place. */
static char *trim(char *text)
{
	char *end = text + strlen(text);

	while (end > text && strchr(" \t\r\n", end[-1]))
		*--end = 0;
	return text + strspn(text, " \t");
}

/* SKIP=TEST/VARIANT why: both patterns, then the reason. */
static bool add_skip(struct conf *conf, const char *value)
{
	size_t len = strcspn(value, " \t");
	struct conf_skip *skip;

	if (!memchr(value, '/', len) || !value[len])
		return false;
	conf->skips = grow(conf->skips, (size_t)conf->nr_skips, sizeof(*skip));
	skip = &conf->skips[conf->nr_skips];
	skip->match = format("%.*s", (int)len, value);
	skip->reason = format("%s", value + len + strspn(value + len, " \t"));
	conf->nr_skips++;
	return true;
}

static void set(struct conf *conf, const char *where, const char *key, const char *value)
{
	size_t i;

	if (!strcmp(key, "SKIP")) {
		if (!add_skip(conf, value))
			die("%s: bad SKIP \"%s\": want TEST/VARIANT, a blank, and the reason",
			    where, value);
		return;
	}
	for (i = 0; i < CONF_KEYS; i++)
		if (!strcmp(keys[i].name, key))
			break;
	if (i == CONF_KEYS)
		die("%s: unknown key \"%s\"", where, key);
	if (conf->value[i])
		die("%s: %s is set twice", where, key);
	if (!keys[i].valid(value))
		die("%s: bad %s \"%s\": want %s", where, key, value, keys[i].wanted);
	conf->value[i] = format("%s", value);
}

struct conf *conf_read(const char *path)
{
	struct conf *conf = calloc(1, sizeof(*conf));
	FILE *file = fopen(path, "re");
	char *line = NULL, *text, *equals;
	size_t size = 0;
	int number, i;

	if (!conf)
		die("out of memory");
	if (!file)
		die("%s: %s", path, strerror(errno));
	text = format("%s", path);
	conf->name = format("%s", basename(text));
	free(text);
	if (strlen(conf->name) > 5 && !strcmp(conf->name + strlen(conf->name) - 5, ".conf"))
		conf->name[strlen(conf->name) - 5] = 0;

	for (number = 1; getline(&line, &size, file) >= 0; number++) {
		char *where = format("%s:%d", path, number);

		text = trim(line);
		equals = strchr(text, '=');
		if (*text && *text != '#') {
			if (!equals)
				die("%s: \"%s\" is not KEY=value", where, text);
			*equals = 0;
			set(conf, where, trim(text), trim(equals + 1));
		}
		free(where);
	}
	if (ferror(file))
		die("%s: %m", path);
	free(line);
	fclose(file);
	for (i = 0; i < CONF_KEYS; i++) {
		if (!conf->value[i] && !keys[i].fallback)
			die("%s: %s is missing", path, keys[i].name);
		if (!conf->value[i])
			conf->value[i] = format("%s", keys[i].fallback);
	}
	return conf;
}
