#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Wrong contents and the kernel's complaints are found and named.

bats_require_minimum_version 1.5.0
load common.bash

setup_file() {
	make_place
}

teardown_file() {
	unmake_place
}

@test "wrong contents fail, and only they" {
	meta contents
	verdicts_are stale=FAIL shifted=FAIL foreign-file=FAIL foreign-word=FAIL zeroed=FAIL \
		first-word=FAIL last-word=FAIL none=PASS
}

@test "a stale, shifted, foreign or zeroed word is named by what it is" {
	meta contents
	[[ $(end_of stale reason) =~ 'at offset 8192 is stale: "file" (file 2) generation '([0-9]+)' offset 8192, expected "file" (file 2) generation '([0-9]+)' offset 8192 ' ]]
	((BASH_REMATCH[1] < BASH_REMATCH[2]))
	[[ $(end_of shifted reason) =~ 'at offset 8192 is shifted: "file" (file 2) generation '([0-9]+)' offset 32768, expected "file" (file 2) generation '([0-9]+)' offset 8192 ' ]]
	[[ $(end_of foreign-file reason) == *'at offset 8192 is foreign: "other" (file 1) '*' offset 8192, expected "file" (file 2) '* ]]
	[[ $(end_of foreign-word reason) == *'at offset 8192 is foreign: 0xdeadbeefdeadbeef, no word of this test, expected "file" (file 2) '* ]]
	[[ $(end_of zeroed reason) == *'at offset 8192 is zeroed: zeros, expected "file" (file 2) '* ]]
}

@test "one wrong word is found where it is" {
	meta contents --variant '*-word'
	[[ $(end_of first-word reason) == *' at offset 8192 is zeroed'* ]]
	[[ $(end_of last-word reason) == *' at offset 12280 is zeroed'* ]]
}

@test "a complaint of the kernel fails its variant, and only that" {
	need_root
	[[ -w /dev/kmsg ]] || skip "needs /dev/kmsg to write to"
	meta kernel-log
	verdicts_are warning=FAIL none=PASS bug=FAIL lockdep=FAIL hung-task=FAIL rcu=FAIL kasan=FAIL \
		ubsan=FAIL xfs=FAIL ext4=FAIL harmless=PASS mount=PASS none-again=PASS
	[[ $status == 1 ]]
	[[ $(end_of warning reason) == "kernel log: warning: WARNING: CPU: 0 PID: 1 at fs/ringwedge.c:1 meta" ]]
	[[ $(end_of warning evidence) == "$OUT/warning.kmsg.txt" ]]
	grep -q 'WARNING: CPU: 0 PID: 1 at fs/ringwedge.c:1 meta' "$OUT/warning.kmsg.txt"
	grep -q 'a line that complains of nothing' "$OUT/harmless.kmsg.txt"
	! grep -l fs/ringwedge.c:1\ meta "$OUT"/*.kmsg.txt | grep -v /warning.kmsg.txt || false
	# Its own device, and another run's: for a test that has one.
	[[ -e $PLACE/no-gate ]] || verdicts_are io-error=FAIL foreign=PASS
	[[ $(end_of harmless kernel_log) =~ ^[0-9]+\ lines$ ]]
}
