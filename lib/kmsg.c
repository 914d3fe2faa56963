/* SPDX-License-Identifier: MIT */
/*
 * kmsg.c - the kernel log, by sequence number.
 *
 * Every reader of /dev/kmsg has its own position (Documentation/ABI/testing/dev-kmsg), and each
 * record its number, so lines belong to the variant that ran and lost ones are known to be lost.
 */
#include "internal.h"

#include <regex.h>

/* What a sound kernel does not say. POSIX extended expressions. */
static const struct {
	const char *kind, *pattern;
} complaints[] = {
	{ "panic", "Kernel panic" },
	{ "oops",
	  "(Oops|general protection fault|unable to handle (kernel|page fault)|stack-protector)" },
	{ "bug", "(BUG:|kernel BUG at)" },
	{ "warning", "(^| )WARNING:" },
	{ "lockdep",
	  "(possible (circular|recursive) locking|inconsistent lock state|lock order|lock held "
	  "when "
	  "returning|bad unlock balance|held lock freed|suspicious RCU usage|non-static key|"
	  "MAX_LOCK(DEP)?)" },
	{ "hung task", "blocked for more than [0-9]+ seconds" },
	{ "lockup", "(soft lockup|hard LOCKUP)" },
	{ "rcu stall", "rcu: INFO|rcu.*detected (expedited )?stall|rcu.*self-detected stall" },
	{ "sanitizer", "(KASAN|UBSAN|KCSAN|KMSAN|KFENCE):|kmemleak: [0-9]+ new" },
	{ "refcount", "refcount_t:" },
	{ "xfs",
	  "XFS( \\(|: Assertion).*(Corruption|corrupt|Internal error|shut ?down|Shutting down|"
	  "Assertion failed|metadata I/O error|log I/O error|Unmount and run xfs_repair)" },
	{ "ext4", "EXT4-fs (error|warning|critical)|EXT4-fs.*(Remounting filesystem read-only|"
		  "failed to convert unwritten|This should not happen)|JBD2: .*(error|Error)" },
	{ "btrfs", "BTRFS:? (emergency|alert|critical|error|warning|Transaction aborted)" },
	{ "f2fs",
	  "F2FS-fs.*([Ii]nconsistent|[Cc]orrupt|[Ii]nvalid|[Mm]ismatch|[Ii]ncorrect|[Ww]rong|"
	  "failed|leak|still inuse|run fsck|Stopped filesystem)" },
	{ "block", "I/O error, dev (loop|dm-)" },
};

static regex_t compiled[RW_ARRAY_SIZE(complaints)];
static bool ready;

const char *rw_kmsg_complaint(const char *line)
{
	for (size_t i = 0; !ready && i < RW_ARRAY_SIZE(complaints); i++)
		if (regcomp(&compiled[i], complaints[i].pattern, REG_EXTENDED | REG_NOSUB))
			abort(); /* a typing error in the table above */
	ready = true;
	for (size_t i = 0; i < RW_ARRAY_SIZE(complaints); i++)
		if (!regexec(&compiled[i], line, 0, NULL, 0))
			return complaints[i].kind;
	return NULL;
}

bool rw_only_other_loops(const char *line, bool (*ours)(const char *name))
{
	bool named = false;
	char name[16];

	for (const char *at = line; (at = strstr(at, "loop")); at += 4) {
		size_t digits = strspn(at + 4, "0123456789");

		if (!digits || digits > 9)
			continue;
		snprintf(name, sizeof(name), "%.*s", (int)digits + 4, at);
		if (ours(name))
			return false;
		named = true;
	}
	return named;
}

void rw_kmsg_open(struct rw_kmsg *k)
{
	memset(k, 0, sizeof(*k));
	k->next = UINT64_MAX;
	k->fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	k->error = errno;
	if (k->fd >= 0 && lseek(k->fd, 0, SEEK_END) < 0) {
		k->error = errno;
		close(k->fd);
		k->fd = -1;
	}
}

unsigned int rw_kmsg_read(struct rw_kmsg *k, FILE *out, char *bad, size_t len)
{
	unsigned int lines = 0;
	char record[8192];
	ssize_t n;

	bad[0] = '\0';
	if (k->fd < 0)
		return 0;
	for (;;) {
		unsigned long long seq = 0, usec = 0;
		unsigned int prio = 0;
		const char *kind;
		char *text;

		n = read(k->fd, record, sizeof(record) - 1);
		if (n < 0 && errno == EPIPE) { /* overwritten; the next read goes on behind it */
			k->gap = true;
			k->next = UINT64_MAX;
			continue;
		}
		if (n <= 0)
			break;
		record[n] = '\0';
		text = strchr(record, ';');
		if (!text || sscanf(record, "%u,%llu,%llu", &prio, &seq, &usec) != 3)
			continue;
		*text++ = '\0';
		text[strcspn(text, "\n")] = '\0'; /* behind it: the device, as KEY=value lines */
		if (k->next != UINT64_MAX && seq != k->next)
			k->gap = true;
		k->next = seq + 1;
		lines++;
		if (out)
			fprintf(out, "[%5llu.%06llu] %s\n", usec / 1000000, usec % 1000000, text);
		kind = rw_kmsg_complaint(text);
		if (kind && !bad[0] && !(k->foreign && k->foreign(text)))
			snprintf(bad, len, "%s: %.180s", kind, text);
	}
	return lines;
}

void rw_kmsg_close(struct rw_kmsg *k)
{
	if (k->fd >= 0)
		close(k->fd);
	k->fd = -1;
}

uint64_t rw_taint(void)
{
	char buf[64];

	return rw_slurp("/proc/sys/kernel/tainted", buf, sizeof(buf)) > 0 ? strtoull(buf, NULL, 10)
									  : 0;
}

int rw_lockdep_on(void)
{
	char buf[8192];
	const char *at;

	if (rw_slurp("/proc/lockdep_stats", buf, sizeof(buf)) <= 0)
		return -1;
	at = strstr(buf, "debug_locks:");
	return at ? atoi(at + strlen("debug_locks:")) != 0 : -1;
}
