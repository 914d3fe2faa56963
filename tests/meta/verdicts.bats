#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Verdicts, exit statuses and reports of a test program.

bats_require_minimum_version 1.5.0
load common.bash

setup_file() {
	make_place
}

teardown_file() {
	unmake_place
}

@test "each way to end becomes its verdict" {
	meta verdicts
	verdicts_are pass=PASS fail=FAIL not-equal=FAIL failed-call=FAIL skip=SKIP unsupported=SKIP \
		broken=BROKEN crash=FAIL no-word=BROKEN odd-reason=FAIL pass-again=PASS
	[[ $status == 1 ]]
}

@test "the exit status is that of the worst verdict" {
	local pair options name names

	for pair in pass:0 fail:1 crash:1 broken:2 no-word:2 skip:77 pass,skip:0 pass,broken:2 \
		skip,broken:2 fail,broken:1 skip,fail,pass:1; do
		IFS=, read -ra names <<< "${pair%:*}"
		options=()
		for name in "${names[@]}"; do
			options+=(--variant "$name")
		done
		meta verdicts "${options[@]}"
		echo "$pair: $status"
		[[ $status == "${pair#*:}" ]]
	done
}

@test "a failure line names expression, both values, file and line" {
	meta verdicts --variant not-equal --variant failed-call
	[[ $output == *"got is 3, expected 2 + 2 = 4 ("*"verdicts.c:"* ]]
	[[ $output == *"close(-1): Bad file descriptor ("*"verdicts.c:"* ]]
}

@test "a crash is named, and not put down to a call that has returned" {
	meta verdicts --variant crash
	[[ $(end_of crash reason) == "the test was killed by signal 11 (Segmentation fault) in its own code" ]]
}

@test "guards and seed are printed with a failure only" {
	meta verdicts --variant fail --seed 42
	[[ $output == *"see 0123456789ab meta"* && $output == *"seed 42"* ]]
	meta verdicts --variant pass --variant skip --variant broken --seed 42
	[[ $output != *0123456789ab* && $output != *"seed 42"* ]]
}

@test "the journal has FAIL on disk before a variant starts" {
	meta verdicts --config some-config --seed 7
	jq -es '[range(0; length; 2) as $i | [.[$i], .[$i + 1]] |
			.[0].event == "start" and .[1].event == "end" and
			.[0].variant == .[1].variant and .[0].verdict == "FAIL" and
			.[0].reason == "did not end"] | length == 11 and all' "$JOURNAL"
	jq -es 'all(.config == "some-config" and .test == "verdicts" and .seed == 7 and
			(.time | type) == "number")' "$JOURNAL"
	jq -es 'map(select(.event == "end")) |
			all((.seconds | type) == "number" and (.kernel_log | type) == "string" and
			((.verdict == "PASS") == (.reason == "")))' "$JOURNAL"
}

@test "killed with -9, a program leaves a start without an end" {
	local pid

	command_of slow --variant steps
	"${COMMAND[@]}" > /dev/null 3>&- &
	pid=$!
	eventually grep -qs '"start"' "$JOURNAL"
	kill -9 "$pid"
	wait "$pid" || true
	[[ $(jq -r .event "$JOURNAL") == start ]]
	eventually no_process
	rm -r "$PLACE/i"/slow.* # only a program that ends by itself can do that
}

no_process() {
	[[ -z $(pgrep -f -- "--dir $PLACE/i") ]]
}

@test "KTAP is read by TAP::Parser, whatever a reason holds" {
	need perl
	meta verdicts --ktap
	[[ ${lines[0]} == "KTAP version 1" && ${lines[1]} == 1..11 ]]
	[[ $(tap_counts <<< "$output") == "11 11 7 2 0" ]]
}

@test "a reason is one printable line of UTF-8" {
	meta verdicts --variant odd-reason
	[[ $(end_of odd-reason reason) == *'# SKIP "x" \ '*'ok 99 - forged # TODO'* ]]
	[[ ${#lines[@]} == 3 ]]
	! LC_ALL=C grep -q '[^ -~]' <<< "$output" || false
}

@test "--list, --describe, --variant, --after and --quiet agree" {
	run "$META/verdicts" --list
	[[ ${#lines[@]} == 11 && ${lines[0]} == pass && ${lines[10]} == pass-again ]]
	run "$META/verdicts" --describe
	jq -e '.name == "verdicts" and .groups == ["all", "ends"] and (.guards | length) == 1 and
		(.summary | length) > 0 and (.variants | length) == 11' <<< "$output"
	meta verdicts --variant 'pass*'
	[[ ${#lines[@]} == 2 ]]
	meta verdicts --after odd-reason
	[[ ${#lines[@]} == 1 && $output == "PASS    pass-again "* ]]
	meta verdicts --variant 'pass*' --variant skip --quiet
	[[ ${#lines[@]} == 1 && $output == "SKIP    skip "* ]]
}

@test "nothing is left in the directory" {
	meta verdicts
	[[ $status == 1 && -z $(ls "$PLACE/i") ]]
}

@test "no process outlives its variant" {
	meta orphan
	verdicts_are child=PASS after-child=PASS daemon=PASS after-daemon=PASS crash=FAIL after-crash=PASS
	no_process
}

@test "28 malformed command lines are refused with one line" {
	local d="--dir $PLACE/i" p=$META/verdicts

	touch "$BATS_TEST_TMPDIR/file"
	mkdir "$BATS_TEST_TMPDIR/empty"
	cd "$BATS_TEST_TMPDIR"
	# shellcheck disable=SC2086 # $d is two words
	{
		SAYS="-d DIR is needed" refused "$p"
		SAYS="not a directory" refused "$p" --dir /nonexistent
		SAYS="not a directory" refused "$p" --dir "$BATS_TEST_TMPDIR/file"
		SAYS="not a directory" refused "$p" --dir ""
		SAYS="requires an argument" refused "$p" --dir
		SAYS="unrecognized option" refused "$p" $d --bogus
		SAYS="invalid option" refused "$p" $d -Z
		SAYS="unexpected argument" refused "$p" $d fail
		SAYS="no variant matches" refused "$p" $d --variant nonsense
		SAYS="no variant matches" refused "$p" $d --variant ""
		SAYS="no variant matches" refused "$p" $d --variant fail --after fail
		SAYS="no variant \"nonsense\"" refused "$p" $d --after nonsense
		SAYS="--seed takes a number" refused "$p" $d --seed x
		SAYS="--seed takes a number" refused "$p" $d --seed 1x
		SAYS="--seed takes a number" refused "$p" $d --seed -1
		SAYS="--seed takes a number" refused "$p" $d --seed " -1"
		SAYS="--seed takes a number" refused "$p" $d --seed ""
		SAYS="--seed takes a number" refused "$p" $d --seed 18446744073709551615
		SAYS="--seed takes a number" refused "$p" $d --seed 99999999999999999999
		SAYS="--timeout-scale takes" refused "$p" $d --timeout-scale 0
		SAYS="--timeout-scale takes" refused "$p" $d --timeout-scale -1
		SAYS="--timeout-scale takes" refused "$p" $d --timeout-scale nan
		SAYS="--timeout-scale takes" refused "$p" $d --timeout-scale inf
		SAYS="--timeout-scale takes" refused "$p" $d --timeout-scale 2x
		SAYS="--max-hangs takes" refused "$p" $d --max-hangs 0
		SAYS="(-o)" refused "$p" $d --output /nonexistent
		SAYS="--journal" refused "$p" $d --journal /nonexistent/journal
		SAYS="--gate" refused "$p" $d --gate /
	}
	[[ -z $(ls "$PLACE/i") ]]
}

@test "a gate that does not hold the image is refused, and not frozen" {
	need_gate
	mkdir "$BATS_TEST_TMPDIR/other"
	SAYS="is not on that filesystem" refused "$META/verdicts" --dir "$PLACE/i" \
		--gate "$BATS_TEST_TMPDIR/other"
	SAYS="not on a loop device" refused "$META/verdicts" --dir "$BATS_TEST_TMPDIR" --gate "$PLACE/o"
	nothing_left
}
