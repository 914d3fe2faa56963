/* SPDX-License-Identifier: MIT */
/*
 * Lines such as a broken kernel writes, put into the kernel log: each fails the variant during
 * which it came, and no other. Lines about a loop device that is not of this test fail nobody.
 */
#include "internal.h"

static const struct line {
	const char *name, *text;
	const char *after; /* the name of the test's device */
} lines[] = {
	{ "warning", "WARNING: CPU: 0 PID: 1 at fs/ringwedge.c:1 meta" },
	{ "none", NULL },
	{ "bug", "BUG: kernel NULL pointer dereference, address: 0000000000000000" },
	{ "lockdep", "meta: possible circular locking dependency detected" },
	{ "hung-task", "INFO: task meta:1 blocked for more than 122 seconds." },
	{ "rcu", "rcu: INFO: rcu_preempt self-detected stall on CPU" },
	{ "kasan", "BUG: KASAN: slab-use-after-free in ringwedge_meta+0x1/0x2" },
	{ "ubsan", "UBSAN: array-index-out-of-bounds in fs/ringwedge.c:1:1" },
	{ "xfs", "XFS (", "): Corruption detected. Unmount and run xfs_repair" },
	{ "ext4", "EXT4-fs error (device ", "): ringwedge_meta:1: inode #2: comm meta" },
	{ "io-error", "I/O error, dev ", ", sector 0 op 0x1:(WRITE) flags 0x0" },
	{ "harmless", "ringwedge: meta: a line that complains of nothing" },
	{ "mount", "XFS (", "): Ending clean mount" },
	{ "foreign", "XFS (loop9999): Corruption detected. Unmount and run xfs_repair" },
	{ "none-again", NULL },
};

static void run(const void *const *at)
{
	const struct line *line = at[0];
	char text[128];
	int fd, n;

	if (!line->text)
		return;
	fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		rw_skip("needs /dev/kmsg to write to: %s", strerror(errno));
	n = snprintf(text, sizeof(text), "<4>%s%s%s\n", line->text,
		     line->after ? rw_device_name() : "", line->after ? line->after : "");
	rw_set_up(write(fd, text, (size_t)n));
	close(fd);
}

const struct rw_test rw_test = {
	.name = "kernel-log",
	.summary = "the kernel's complaints fail the variant during which they came",
	.axes = { RW_AXIS(lines) },
	.run = run,
};
