/* SPDX-License-Identifier: MIT */
/*
 * What is slow but moves, which must never be called a hang: steps just under the time after which
 * the watchdog gives its verdict (1 s without progress and five equal samples 0.2 s apart), CPU
 * burnt for less than a livelock takes (4 s), a task that hardly gets any CPU, and a slow device
 * (slow.bats freezes what is below it).
 */
#include "internal.h"

#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

#define STEPS 3

static uint64_t after_ms(unsigned int ms)
{
	return rw_now_ns() + (uint64_t)(ms * rw_opt.timeout_scale) * RW_MS;
}

static void sleep_in_steps(void)
{
	for (unsigned int i = 0; i < STEPS; i++) {
		uint64_t end = after_ms(1600);
		struct timespec ts = { (time_t)(end / 1000000000), (long)(end % 1000000000) };

		rw_enter("a slow call");
		while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
			;
		rw_progress();
	}
}

static void burn(unsigned int ms)
{
	for (uint64_t end = after_ms(ms); rw_now_ns() < end;)
		;
	rw_progress();
}

static void burn_cpu(void)
{
	burn(3000);
}

static pid_t busy_loop(int cpu)
{
	pid_t parent = getpid(), pid = fork();
	cpu_set_t set;

	if (pid < 0)
		rw_broken("fork: %s", strerror(errno));
	if (pid)
		return pid;
	rw_die_with(parent);
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set); /* fails on CPUs that are not for us */
	for (volatile unsigned int i = 0;; i++)
		;
}

static uint64_t cpu_time(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void be_starved(void)
{
	struct sched_param param = { 0 };
	uint64_t start, cpu;
	pid_t loops[CPU_SETSIZE];
	cpu_set_t set;

	rw_set_up(sched_getaffinity(0, sizeof(set), &set));
	for (int cpu_nr = 0; cpu_nr < CPU_SETSIZE; cpu_nr++)
		loops[cpu_nr] = CPU_ISSET(cpu_nr, &set) ? busy_loop(cpu_nr) : 0;
	rw_set_up(sched_setscheduler(0, SCHED_IDLE, &param));
	start = rw_now_ns();
	cpu = cpu_time();
	burn(3000);
	burn(3000);
	if (cpu_time() - cpu > (rw_now_ns() - start) / 4)
		rw_broken("not starved: %llu ms of CPU", (cpu_time() - cpu) / RW_MS);
	for (int cpu_nr = 0; cpu_nr < CPU_SETSIZE; cpu_nr++)
		if (loops[cpu_nr]) {
			kill(loops[cpu_nr], SIGKILL);
			waitpid(loops[cpu_nr], NULL, 0);
		}
}

static void write_file(void)
{
	rw_verify(rw_file("file", RW_WRITTEN, 64 * RW_KIB));
}

static const struct {
	const char *name;
	void (*run)(void);
} kinds[] = {
	{ "steps", sleep_in_steps },
	{ "burning", burn_cpu },
	{ "starved", be_starved },
	{ "device", write_file },
};

static void run(const void *const *at)
{
	((__typeof__(&kinds[0]))at[0])->run();
}

const struct rw_test rw_test = {
	.name = "slow",
	.summary = "what is slow but moves is not called a hang",
	.axes = { RW_AXIS(kinds) },
	.run = run,
};
