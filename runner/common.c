// SPDX-License-Identifier: MIT
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runner.h"

void die(const char *fmt, ...)
{
	va_list args;
	char *text = NULL, *p;

	va_start(args, fmt);
	if (vasprintf(&text, fmt, args) < 0)
		exit(EXIT_BROKEN);
	va_end(args);
	/* It may quote what a binary file or a user put in: no control characters to a terminal. */
	for (p = text; *p; p++)
		if (iscntrl((unsigned char)*p) && *p != '\n')
			*p = '?';
	fprintf(stderr, "%s\n", text);
	exit(EXIT_BROKEN);
}

char *format(const char *fmt, ...)
{
	va_list args;
	char *text;

	va_start(args, fmt);
	if (vasprintf(&text, fmt, args) < 0)
		die("out of memory");
	va_end(args);
	return text;
}

void *grow(void *array, size_t nr, size_t size)
{
	char *grown = realloc(array, (nr + 1) * size);

	if (!grown)
		die("out of memory");
	memset(grown + nr * size, 0, size);
	return grown;
}

bool parse_number(const char *text, long long min, long long max, long long *number)
{
	char *end;

	if (text[0] < '0' || text[0] > '9')
		return false; /* strtoll() would take blanks and signs */
	errno = 0;
	*number = strtoll(text, &end, 10);
	return !errno && !*end && *number >= min && *number <= max;
}

bool parse_scale(const char *text, double *scale)
{
	char *end;

	if (!*text || text[strspn(text, "0123456789.")])
		return false; /* strtod() would take signs, hex, "inf" and "nan" */
	*scale = strtod(text, &end);
	return !*end && *scale > 0 && isfinite(*scale);
}

static double clock_seconds(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return ts.tv_sec + ts.tv_nsec / 1000000 / 1000.0;
}

double wall_clock(void)
{
	return clock_seconds(CLOCK_REALTIME);
}

double steady_clock(void)
{
	return clock_seconds(CLOCK_MONOTONIC);
}

json_t *json_seconds(double seconds)
{
	return json_real((long long)(seconds * 1000 + 0.5) / 1000.0);
}

void journal_append(const char *path, json_t *event)
{
	char *text = json_dumps(event, JSON_COMPACT | JSON_REAL_PRECISION(15));
	int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
	char *line;
	ssize_t len;

	if (!text)
		die("%s: cannot encode the event", path);
	if (fd < 0)
		die("%s: %m", path);
	line = format("%s\n", text);
	len = strlen(line);
	/* One write: lines of several writers never mix. */
	if (write(fd, line, len) != len || fsync(fd) || close(fd))
		die("%s: %m", path);
	free(line);
	free(text);
	json_decref(event);
}

const char *text_of(const json_t *event, const char *key)
{
	const char *text = json_string_value(json_object_get(event, key));

	return text ? text : "";
}
