#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Hangs of every sort are found in seconds, named, written down and cleared away.
#
# shellcheck disable=SC2030,SC2031 # a test that runs a program again has an OUT of its own

bats_require_minimum_version 1.5.0
load common.bash

# All the hangs in one run, which takes half a minute; the tests look at what it left.
setup_file() {
	make_place
	export OUT=$BATS_FILE_TMPDIR
	command_of hangs
	timeout --kill-after=5 200 "${COMMAND[@]}" > "$OUT/stdout" 2>&1 3>&- && echo 0 > "$OUT/status" || echo $? > "$OUT/status"
}

teardown_file() {
	unmake_place
}

setup() {
	command_of hangs
}

# declared_within VARIANT SECONDS: by the reason, which has the time without progress in it.
declared_within() {
	local seconds

	seconds=$(end_of "$1" reason | sed -n 's/^HANG after \([0-9.]*\) s: .*/\1/p')
	echo "$1 was declared after $seconds s"
	awk -v got="$seconds" -v limit="$2" 'BEGIN { exit !(got > 0 && got <= limit) }'
}

# evidence_has VARIANT REGULAR-EXPRESSION...
evidence_has() {
	local variant=$1 pattern

	for pattern in "${@:2}"; do
		grep -qE -- "$pattern" "$OUT/$variant.hang.txt" || {
			echo "not in the evidence of $variant: $pattern"
			return 1
		}
	done
}

@test "the exit status of a run with a hang is 3" {
	[[ $(< "$OUT/status") == 3 ]]
}

@test "a call asleep in D behind the gate is a hang within 3 s" {
	need_gate
	verdicts_are pwrite=HANG fsync=HANG other-task=HANG
	declared_within pwrite 3
	declared_within fsync 3
	declared_within other-task 3
}

@test "the reason names task, state, function and system call" {
	need_gate
	[[ $(end_of pwrite reason) =~ :\ hangs/[0-9]+\ D\ in\ [a-z_]+.*\ \(pwrite64\) ]]
	[[ $(end_of fsync reason) =~ :\ hangs/[0-9]+\ D\ in\ [a-z_]+.*\ \(fsync\) ]]
	# Of two tasks it is the one in D, not the one that waits for it.
	[[ $(end_of other-task reason) =~ :\ hangs/[0-9]+\ D\ in\ [a-z_]+.*\ \(pwrite64\) ]]
}

@test "it says that the task could not be killed until the gate was opened" {
	local name

	need_gate
	for name in pwrite fsync other-task; do
		[[ $(end_of $name reason) == *", unkillable until the gate was opened" ]]
		[[ $(end_of $name killable) == true ]]
	done
}

@test "a completion that never comes is a lost wake-up within 3 s" {
	need_io_uring
	verdicts_are lost-wake-up=HANG
	declared_within lost-wake-up 3
	[[ $(end_of lost-wake-up reason) =~ "lost wake-up: hangs/"[0-9]+\ S\ in\ .*\(io_uring_enter\),\ killed$ ]]
}

@test "a completion behind the gate is a lost wake-up within 3 s" {
	need_gate
	need_io_uring
	verdicts_are reap=HANG
	declared_within reap 3
	[[ $(end_of reap reason) =~ "lost wake-up: hangs/"[0-9]+\ S\ in\ .*\(io_uring_enter\) ]]
}

@test "a spin in user space is a livelock, and is not put down to a call" {
	verdicts_are spin=HANG
	declared_within spin 20
	[[ $(end_of spin reason) =~ "livelock: hangs/"[0-9]+\ R\ .*"(user space), killed"$ ]]
}

@test "a ring's poller that burns CPU in the kernel is a livelock" {
	need_io_uring
	verdicts_are spin-in-kernel=HANG
	declared_within spin-in-kernel 20
	[[ $(end_of spin-in-kernel reason) =~ "livelock: iou-sqp-"[0-9]+/[0-9]+\ R\ .*"(SQPOLL), killed"$ ]]
}

@test "the variant after all of them finds nothing that is left" {
	verdicts_are none=PASS
}

@test "without a gate, what needs one is skipped by name" {
	run "$META/hangs" --dir "$PLACE/i" --output "$BATS_TEST_TMPDIR" --variant pwrite
	[[ $status == 77 && $output == SKIP*"needs a gate (--gate)" ]]
}

@test "the evidence has five samples with state, wchan, system call and stack" {
	need_gate
	[[ $(grep -c '^== sample ' "$OUT/pwrite.hang.txt") == 5 ]]
	evidence_has pwrite '^HANG after .* D in ' "^hangs pwrite, config dir, seed [0-9]+" \
		'last call: pwrite\(.*\(not returned\)' \
		'^hangs/[0-9]+ \(process [0-9]+\) state D, cpu .* switches, wchan [a-z_]+$' \
		'^    syscall 18 0x.*\(pwrite64\)$|^    syscall 68 0x.*\(pwrite64\)$' \
		'gate: shut$' 'of it writes: [1-9]'
	if [[ -r /proc/self/stack ]]; then
		evidence_has pwrite '^    stack [a-z_0-9.]+ < .*vfs_write'
	else
		evidence_has pwrite 'missing: /proc/PID/stack'
	fi
}

@test "the evidence shows both tasks, when one waits for the other" {
	need_gate
	[[ $(grep -c '^hangs/[0-9]* .*state D' "$OUT/other-task.hang.txt") == 5 ]]
	[[ $(grep -c '^hangs/[0-9]* .*state S' "$OUT/other-task.hang.txt") == 5 ]]
}

@test "the evidence has the other tasks in D, with stacks, and the kernel log" {
	need_gate
	# The loop driver's worker is the other half of this hang.
	evidence_has pwrite '^== other tasks of the system in D$' '^[0-9]+ \(kworker.*\) D$' \
		'^== kernel log' '^== signals$' 'SIGUSR2 \(harmless\) did not wake the task'
	[[ $(grep '^== ' "$OUT/pwrite.hang.txt" | tail -n 1) == "== signals" ]]
}

@test "the evidence has the ring's fdinfo" {
	need_io_uring
	evidence_has lost-wake-up '^== io_uring \(/proc/[0-9]+/fdinfo/[0-9]+\)$' '^SqMask:' '^CqTail:' \
		'SIGUSR2 \(harmless\) woke the task; SIGKILL: killed'
}

@test "the evidence shows the ring's workers" {
	need_io_uring
	evidence_has spin-in-kernel '^iou-sqp-[0-9]+/[0-9]+ .* io_uring worker, state R'
}

@test "nothing is left: no process, no file, no frozen filesystem" {
	need_gate
	nothing_left
}

@test "killed with -9 in a hang, the program leaves nothing frozen and no process" {
	local OUT=$BATS_TEST_TMPDIR pid

	need_gate
	command_of hangs --variant pwrite
	"${COMMAND[@]}" > /dev/null 3>&- &
	pid=$!
	eventually in_d
	kill -9 "$pid"
	wait "$pid" || true
	eventually gone
	timeout 5 touch "$PLACE/o/thawed"
	rm -r "$PLACE/i"/hangs.*
}

in_d() {
	pgrep -f -- "--dir $PLACE/i" | while read -r pid; do
		grep -q '^State:.D' "/proc/$pid/status" && echo "$pid"
	done | grep -q .
}

gone() {
	[[ -z $(pgrep -f -- "--dir $PLACE/i") ]]
}
