/* SPDX-License-Identifier: MIT */
/* vm.h - one guest: QEMU started, watched from outside, examined and killed (guest.c). */
#ifndef VM_H
#define VM_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

struct unit;

/* One guest after another, and what is known of the present one. */
struct job {
	int nr; /* from 0; its folder is vm/NR+1 */
	char *dir;
	FILE *control, *journal, *output; /* written by QEMU and the guest, read here */
	pid_t pid;			  /* QEMU; 0: none */
	pid_t daemon[2];		  /* virtiofsd of each share; 0: none */
	int guests;			  /* started so far */
	int crashes;			  /* of QEMU, before the guest was up */
	char *serial;			  /* the guest's console */
	bool ready, exited;
	bool failed; /* something, in one of them */
	int status;  /* of the guest's command */
	char trouble[256];
	double started, beat, reported; /* steady_clock() */
	double waited;			/* tasks_waited() at the last beat */
	json_t *running;		/* "start" event without its "end" */
	char last_test[128];
	struct unit *hung;
};

enum vm_option {
	VM_KERNEL = 100,
	VM_INITRAMFS,
	VM_ACCEL,
	VM_CPUS,
	VM_MEMORY,
	VM_APPEND,
	VM_QEMU_ARG,
	VM_MAP,
	VM_VIRTIOFSD
};
/* die()s on a value that cannot be. The text is kept, not copied. */
void vm_option(int option, char *text);

/* A new, empty file of the job's folder, for reading what others append to it. */
FILE *vm_file(struct job *j, const char *name);
/* die()s when QEMU cannot be started at all. */
void vm_start(struct job *j);
void vm_kill(struct job *j);
/* QEMU has ended by itself, and was waited for. */
void vm_gone(struct job *j);
/* Why it is gone, from its wait status and its console; the caller frees it. */
char *vm_post_mortem(struct job *j, int status);
/* Registers and stacks of its CPUs, into a file whose name is returned; the caller frees it. */
char *vm_examine(struct job *j, const char *why);

#endif
