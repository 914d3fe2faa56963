#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# What is slow but moves is no hang.

bats_require_minimum_version 1.5.0
load common.bash

setup_file() {
	make_place
}

teardown_file() {
	unmake_place
}

@test "steps just under the time after which a hang is declared pass" {
	meta slow --variant steps
	verdicts_are steps=PASS
}

@test "CPU burnt for less than a livelock takes passes" {
	meta slow --variant burning
	verdicts_are burning=PASS
}

@test "a task that gets no CPU beside busy loops passes" {
	meta slow --variant starved
	verdicts_are starved=PASS
	took_at_least starved 6
}

@test "a device that needs four seconds for a write passes" {
	local pid

	need_gate
	need fsfreeze
	fsfreeze --freeze "$PLACE/o"
	OUT=$BATS_TEST_TMPDIR JOURNAL=$BATS_TEST_TMPDIR/journal.jsonl
	# Without --gate: the program does not know why the device is slow.
	"$META/slow" --dir "$PLACE/i" --output "$OUT" --journal "$JOURNAL" --variant device 3>&- &
	pid=$!
	eventually write_in_flight
	sleep 4 # that is the slow device
	fsfreeze --unfreeze "$PLACE/o"
	wait "$pid"
	verdicts_are device=PASS
	took_at_least device 3.9
}

write_in_flight() {
	local device

	device=$(findmnt -no SOURCE "$PLACE/i")
	read -r _ writes < "/sys/block/${device#/dev/}/inflight" && ((writes))
}
