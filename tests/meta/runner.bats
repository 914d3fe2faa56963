#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# runtests.sh on the meta programs: verdicts, reports, bad input, and nothing left however it ends.
#
# shellcheck disable=SC2154 # run sets $stderr

bats_require_minimum_version 1.5.0
load common.bash

setup_file() {
	make_place
	unmake_devices # the runner makes its own; now it is known whether it can
	SCRATCH=$PLACE/scratch
	mkdir "$SCRATCH"
	LATEST=$(readlink "$TOP/results/latest" || true)
	export SCRATCH LATEST
}

teardown_file() {
	[[ $(id -u) != 0 ]] || "$TOP/runtests.sh" --scratch "$SCRATCH" --clean
	unmake_place
	# The user's own last results.
	rm -f "$TOP/results/latest"
	[[ ! $LATEST ]] || ln -s "$LATEST" "$TOP/results/latest"
}

setup() {
	RESULTS=$BATS_TEST_TMPDIR/results
	DIRECTORY=$BATS_TEST_TMPDIR/directory
	export RINGWEDGE_TESTS=$META
	mkdir "$DIRECTORY"
}

on_devices() {
	need_gate
	run --separate-stderr "$TOP/runtests.sh" --scratch "$SCRATCH" --results "$RESULTS" "$@"
}

in_directory() {
	run --separate-stderr "$TOP/runtests.sh" --dir "$DIRECTORY" --results "$RESULTS" "$@"
}

# result CONFIG TEST VARIANT KEY
result() {
	jq -r --arg config "$1" --arg test "$2" --arg variant "$3" --arg key "$4" '
		.tests[] | select(.config == $config and .test == $test) |
		.variants[] | select(.variant == $variant)[$key]' "$RESULTS/results.json"
}

scratch_is_clean() {
	local left

	left=$(
		grep -F "$SCRATCH" /proc/self/mountinfo
		grep -lF "$SCRATCH" /sys/block/loop*/loop/backing_file 2> /dev/null
		env -u SCRATCH grep -slF "$SCRATCH/" /proc/[0-9]*/cmdline /proc/[0-9]*/environ
		ls -A "$SCRATCH"
	)
	[[ ! $left ]] || {
		echo "left in $SCRATCH: $left"
		return 1
	}
}

@test "the exit status is 0, 1, 2, 3 or 77" {
	local pair

	for pair in pass:0 fail:1 broken:2 skip:77; do
		in_directory --variant "${pair%:*}" verdicts
		echo "${pair%:*}: $status $output $stderr"
		[[ $status == "${pair#*:}" ]]
		rm -r "$RESULTS"
	done
	need_io_uring
	in_directory --variant lost-wake-up hangs
	[[ $status == 3 ]]
}

@test "a hang outranks a failure, a failure what is broken" {
	in_directory --variant fail --variant broken verdicts
	[[ $status == 1 ]]
	rm -r "$RESULTS"
	need_io_uring
	in_directory --variant fail --variant lost-wake-up verdicts hangs
	[[ $status == 3 ]]
}

@test "results.json and report.ktap have the verdict of every variant, on xfs and on ext4" {
	local config

	need perl
	on_devices -c xfs-4k -c ext4-4k verdicts contents orphan
	echo "$output $stderr"
	[[ $status == 1 ]]
	for config in xfs-4k ext4-4k; do
		[[ $(result $config verdicts pass verdict) == PASS ]]
		[[ $(result $config verdicts fail verdict) == FAIL ]]
		[[ $(result $config verdicts fail reason) == "the kernel is wrong"* ]]
		[[ $(result $config verdicts skip verdict) == SKIP ]]
		[[ $(result $config verdicts broken verdict) == BROKEN ]]
		[[ $(result $config verdicts crash verdict) == FAIL ]]
		[[ $(result $config verdicts pass-again verdict) == PASS ]]
		[[ $(result $config contents stale verdict) == FAIL ]]
		[[ $(result $config contents none verdict) == PASS ]]
		[[ $(result $config orphan after-daemon verdict) == PASS ]]
	done
	jq -e '[.tests[].variants[] | has("variant") and has("verdict") and has("reason") and
		has("seconds")] | all' "$RESULTS/results.json"
	jq -es 'map(select(.event == "start")) | length == 50' "$RESULTS/journal.jsonl"
	[[ $(head -n 1 "$RESULTS/report.ktap") == "KTAP version 1" ]]
	# Top level: well-formed, every test failed. Each subtest for itself, too.
	read -r planned run failed _ errors < <(tap_counts < "$RESULTS/report.ktap")
	[[ $planned == "$run" && $errors == 0 && $failed -gt 0 ]]
	scratch_is_clean
}

@test "--ktap prints what TAP::Parser reads, and the rest elsewhere" {
	need perl
	in_directory --ktap verdicts
	[[ ${lines[0]} == "KTAP version 1" ]]
	read -r planned run failed _ errors < <(tap_counts <<< "$output")
	[[ $planned == "$run" && $errors == 0 && $failed == 1 ]]
	# The subtest, without its indentation: 11 variants, of which 7 failed and 2 were skipped.
	[[ $(sed -n 's/^  *//p' <<< "$output" | tap_counts) == "11 11 7 2 0" ]]
}

@test "a hang behind the gate does not keep the next variant from running" {
	on_devices -c xfs-4k --variant pwrite --variant none hangs
	echo "$output $stderr"
	[[ $status == 3 ]]
	[[ $(result xfs-4k hangs pwrite reason) == *" D in "*"(pwrite64), unkillable until the gate was opened" ]]
	[[ $(result xfs-4k hangs none verdict) == PASS ]]
	grep -q "^== sample 5" "$RESULTS/xfs-4k/hangs/pwrite.hang.txt"
	[[ $output$stderr == *pwrite.hang.txt* ]]
	scratch_is_clean
}

@test "there are no escapes where there is no terminal" {
	in_directory verdicts
	! LC_ALL=C grep -q $'\033' <<< "$output$stderr" || false
}

@test "without root it says so, and --dir works" {
	local open left user=(setpriv --reuid=65534 --regid=65534 --clear-groups)

	need_root # to become somebody else
	need setpriv
	"${user[@]}" test -x "$META/verdicts" || skip "needs a checkout that others may read"
	SAYS="needs root" refused "${user[@]}" "$TOP/runtests.sh" verdicts
	open=$(mktemp -d /var/tmp/ringwedge-meta.XXXXXX)
	chmod 1777 "$open"
	mkdir -m 1777 "$open/directory"
	run --separate-stderr "${user[@]}" "$TOP/runtests.sh" --dir "$open/directory" \
		--results "$open/results" --variant pass --variant none verdicts contents
	left=$(ls "$open/directory")
	rm -r "$open"
	echo "$output $stderr"
	[[ $status == 0 && ! $left ]]
}

@test "34 malformed command lines are refused with one line" {
	local r=("$TOP/runtests.sh" --scratch "$SCRATCH" --dry-run) file=$BATS_TEST_TMPDIR/file

	touch "$file"
	SAYS="unrecognized option" refused "${r[@]}" --bogus
	SAYS="invalid option" refused "${r[@]}" -Z
	SAYS="requires an argument" refused "${r[@]}" --config
	SAYS="requires an argument" refused "${r[@]}" -o
	SAYS="nonsense" refused "${r[@]}" nonsense
	SAYS="verdict" refused "${r[@]}" verdict
	SAYS="nonsense*" refused "${r[@]}" 'nonsense*'
	SAYS="../meta/verdicts" refused "${r[@]}" ../meta/verdicts
	SAYS='""' refused "${r[@]}" ""
	SAYS="nonsense" refused "${r[@]}" --config nonsense
	SAYS="xfs-4k.conf" refused "${r[@]}" --config xfs-4k.conf
	SAYS="../configs/xfs-4k" refused "${r[@]}" --config ../configs/xfs-4k
	SAYS="nonsense" refused "${r[@]}" --group nonsense
	SAYS="nonsense" refused "${r[@]}" --exclude nonsense
	SAYS="nonsense" refused "${r[@]}" --variant nonsense
	SAYS="nonsense" refused "${r[@]}" --describe nonsense
	SAYS="--seed takes" refused "${r[@]}" --seed x
	SAYS="--seed takes" refused "${r[@]}" --seed -1
	SAYS="--seed takes" refused "${r[@]}" --seed ""
	SAYS="--seed takes" refused "${r[@]}" --seed 99999999999999999999
	SAYS="--iterate takes" refused "${r[@]}" --iterate 0
	SAYS="--iterate takes" refused "${r[@]}" --iterate many
	SAYS="--shard" refused "${r[@]}" --shard 0/2
	SAYS="--shard" refused "${r[@]}" --shard 3/2
	SAYS="--shard" refused "${r[@]}" --shard 1/0
	SAYS="--shard" refused "${r[@]}" --shard 1
	SAYS="--timeout-scale takes" refused "${r[@]}" --timeout-scale 0
	SAYS="--timeout-scale takes" refused "${r[@]}" --timeout-scale nan
	SAYS="--timeout-scale takes" refused "${r[@]}" --timeout-scale 1e2
	SAYS="--dir /nonexistent" refused "${r[@]}" --dir /nonexistent
	SAYS="--dir $file" refused "${r[@]}" --dir "$file"
	SAYS="--keep" refused "${r[@]}" --dir "$DIRECTORY" --keep
	SAYS="--scratch $file" refused "$TOP/runtests.sh" --scratch "$file" verdicts
	SAYS="takes no tests" refused "$TOP/runtests.sh" --clean verdicts
}

@test "group quick is some of every test, group wedge is left to who asks for it" {
	local quick wedge left

	unset RINGWEDGE_TESTS # the real ones
	plan() { "$TOP/runtests.sh" -n -c xfs-4k "$@"; }
	quick=$(plan --wedge -g quick | grep ^xfs-4k)
	[[ $(awk '{ print $2 }' <<< "$quick" | uniq | wc -l) == $(find "$TOP"/tests -maxdepth 1 -name "*.c" | wc -l) ]]
	[[ $(grep -c falloc-dio <<< "$quick") == $(plan falloc-dio | sed -n 's/^xfs-4k *falloc-dio *\([^.]*\)\..*/\1/p' | sort -u | wc -l) ]]
	plan -g quick falloc-dio | grep -q 'falloc-dio *allocate.sqpoll.other' # named: whole
	wedge=$(plan -g wedge | grep -c 'ring-exit-dio *kill')
	left=$(plan | sed -n 's/^\([0-9]*\) variants of group wedge left out.*/\1/p')
	[[ $wedge -gt 0 && $left -ge $wedge && $(plan | grep -c 'ring-exit-dio *kill') == 0 ]]
	[[ $(plan --wedge | grep -c 'ring-exit-dio *kill') == "$wedge" ]]
	[[ $(plan ring-exit-dio | grep -c 'ring-exit-dio *kill') == "$wedge" ]]
	# A glob does not ask for it, nor does another test's name.
	[[ $(plan 'ring-exit*' falloc-dio | grep -c 'ring-exit-dio *kill') == 0 ]]
}

@test "group all beside a test's name is that test, on every configuration" {
	unset RINGWEDGE_TESTS # the real ones
	plan() { "$TOP/runtests.sh" -n -g all map-dio | sed -n "s/^\([a-z][a-z0-9-]*\)  *$1 .*/\1/p" | sort -u; }
	[[ $(plan map-dio) == "$(basename -as .conf "$TOP"/configs/*.conf | sort)" ]]
	[[ ! $(plan '[a-ln-z][a-z-]*') ]]
}

@test "a configuration expects as many skips as there are lines" {
	local configs=$BATS_TEST_TMPDIR/configs

	mkdir "$configs"
	cp "$TOP/configs/xfs-4k.conf" "$TOP/configs/known-bugs.json" "$configs"
	seq -f 'SKIP=many-dio/of-%g. they are many' 100 >> "$configs/xfs-4k.conf"
	[[ $("$TOP/build/runner/plan" --configs "$configs" --tests "$TOP/build/tests" \
		--describe xfs-4k | grep -c 'expected skip: many-dio') == 100 ]]
}

@test "some of every test on every configuration comes first" {
	local all quick

	unset RINGWEDGE_TESTS # the real ones
	plan() { "$TOP/runtests.sh" -n -c xfs-4k -c ext4-4k --wedge "$@" | grep '^[ex]'; }
	all=$(plan)
	quick=$(plan -g quick)
	[[ $quick && $(head -n "$(wc -l <<< "$quick")" <<< "$all") == "$quick" ]]
	[[ $(cut -d ' ' -f 1 <<< "$all" | uniq | xargs) == "ext4-4k xfs-4k ext4-4k xfs-4k" ]]
	[[ ! $(sort <<< "$all" | uniq -d) ]]
}

@test "configurations of one filesystem share what is quick" {
	local quick

	unset RINGWEDGE_TESTS # the real ones
	plan() { "$TOP/runtests.sh" -n --wedge -c xfs-4k "$@" | sed -n 's/^xfs-[14]k *falloc-dio *//p'; }
	quick=$(plan -g quick | sort)
	[[ $quick && $(plan -g quick -c xfs-1k | sort) == "$quick" ]]
	[[ $(plan -c xfs-1k | sort | uniq -c | awk '{ print $1 }' | uniq) == 2 ]] # and the others have it later
}

@test "a test of which the first part failed is gone on with" {
	in_directory rounds
	[[ $status == 1 && $(jq -r 'select(.event == "end") | .variant' "$RESULTS/journal.jsonl" | xargs) == \
		"bad.first good.first bad.second good.second" ]]
	[[ $(result dir rounds bad.second verdict) == FAIL && $(result dir rounds good.second verdict) == PASS ]]
}

@test "with --fail-fast it is not, each time anew" {
	in_directory --fail-fast --iterate 2 rounds
	[[ $status == 1 && $(result dir rounds bad.first runs) == 2 ]]
	[[ $(result dir rounds bad.second verdict) == NOTRUN && $(result dir rounds good.second verdict) == NOTRUN ]]
	[[ $(result dir rounds good.second reason) == "the test ended at its first failure" ]]
}

@test "results of another run are not overwritten" {
	in_directory --variant pass verdicts
	[[ $status == 0 ]]
	in_directory --variant fail verdicts
	[[ $status == 2 && ${stderr_lines[-1]} == *"holds the results of another run"* ]]
	[[ $(result dir verdicts pass verdict) == PASS ]]
}

@test "19 malformed configurations are refused with one line" {
	local conf=$BATS_TEST_TMPDIR/bad.conf good=$TOP/configs/xfs-4k.conf line

	"$BUILD/runner/config" "$good"
	SAYS="No such file" refused "$BUILD/runner/config" /nonexistent.conf
	SAYS="directory" refused "$BUILD/runner/config" "$BATS_TEST_TMPDIR"
	: > "$conf"
	SAYS="is missing" refused "$BUILD/runner/config" "$conf"
	grep -v ^FILESYSTEM "$good" > "$conf"
	SAYS="FILESYSTEM is missing" refused "$BUILD/runner/config" "$conf"
	for line in COLOUR=red filesystem=xfs 'no equals sign' =value FILESYSTEM=xfs; do
		cat "$good" - <<< "$line" > "$conf"
		SAYS="bad.conf:" refused "$BUILD/runner/config" "$conf"
	done
	# shellcheck disable=SC2016 # nothing is expanded: that is the point
	for line in FILESYSTEM=reiserfs FILESYSTEM= DEVICE=vda BLOCK_SIZE=4097 BLOCK_SIZE=4k SIZE=10M SIZE=512 SIZE=-512M \
		SECTOR_SIZE=1024 DIRECT_IO=yes 'MOUNT_OPTIONS=$(reboot)' 'MKFS_OPTIONS=-f /dev/sda' \
		GROUPS=Default; do
		grep -v "^${line%%=*}=" "$good" | cat - <(echo "$line") > "$conf"
		SAYS="bad ${line%%=*}" refused "$BUILD/runner/config" "$conf"
	done
}

@test "runner killed with -9 at 20 random moments: nothing is left" {
	local nr pid delay

	need_gate
	for ((nr = 1; nr <= 20; nr++)); do
		# Its first variant shuts the gate and hangs behind it.
		setsid "$TOP/runtests.sh" --scratch "$SCRATCH" --results "$RESULTS-$nr" -c xfs-4k \
			--variant pwrite --variant none hangs > "$BATS_TEST_TMPDIR/killed-$nr" 2>&1 3>&- &
		pid=$!
		delay=$((RANDOM % 3)).$((RANDOM % 10))
		sleep "$delay" # the random moment
		kill -9 "$pid"
		wait "$pid" || true
		# Every other time it is for the next run to clean up.
		((nr % 2)) && continue
		run --separate-stderr "$TOP/runtests.sh" --scratch "$SCRATCH" --clean
		echo "kill $nr, after $delay s: $status $output $stderr"
		[[ $status == 0 ]]
		scratch_is_clean
	done
}

@test "what a killed run left, the next run removes" {
	local pid

	need_gate
	setsid "$TOP/runtests.sh" --scratch "$SCRATCH" --results "$RESULTS-killed" -c xfs-4k \
		--variant pwrite hangs > "$BATS_TEST_TMPDIR/killed" 2>&1 3>&- &
	pid=$!
	eventually grep -qs '"start"' "$RESULTS-killed/journal.jsonl"
	kill -9 "$pid"
	wait "$pid" || true
	on_devices -c xfs-4k --variant pass verdicts
	echo "$status $output $stderr"
	[[ $status == 0 && $stderr == *"removed what a run left"* ]]
	scratch_is_clean
	# And what is killed has a report all the same.
	run "$BUILD/runner/report" "$RESULTS-killed"
	[[ $status == 1 ]]
	[[ $(jq -r '.tests[] | select(.test == "hangs").variants[0].reason' \
		"$RESULTS-killed/results.json") == "did not end" ]]
}

@test "a loop device that a killed run had said of that it has no cache has one again" {
	local ns loop cache dead

	need_gate
	ns=$(readlink /proc/self/ns/pid | tr -dc 0-9)
	truncate -s 1M "$BATS_TEST_TMPDIR/image"
	loop=$(losetup --find --show "$BATS_TEST_TMPDIR/image")
	cache=/sys/block/${loop#/dev/}/queue/write_cache
	dead=$SCRATCH/ringwedge-$ns-$$-1 # of a process of that number that began with the machine
	mkdir "$dead" && echo "${loop#/dev/}" > "$dead/without-cache"
	echo "write through" > "$cache"
	run "$TOP/runtests.sh" --scratch "$SCRATCH" --clean
	echo "$status $output $(< "$cache")"
	run -0 cat "$cache"
	losetup --detach "$loop"
	[[ $output == "write back" ]]
	scratch_is_clean
}

@test "a filesystem that is corrupt when it has just been made is the kernel's failure" {
	local mkfs

	need_gate
	mkfs=$(type -P mkfs.xfs)
	mkdir "$BATS_TEST_TMPDIR/bin"
	cat > "$BATS_TEST_TMPDIR/bin/mkfs.xfs" << END
#!/bin/sh
"$mkfs" "\$@" && for device; do :; done &&
	echo label | dd of="\$device" bs=1 seek=108 conv=notrunc # the superblock's checksum is of another one
END
	chmod +x "$BATS_TEST_TMPDIR/bin/mkfs.xfs"
	PATH=$BATS_TEST_TMPDIR/bin:$PATH on_devices -c xfs-4k --variant pass verdicts
	echo "$status $output $stderr"
	[[ $status == 1 && $(result xfs-4k devices set-up verdict) == FAIL ]]
	[[ $(result xfs-4k verdicts pass verdict) == NOTRUN ]]
	scratch_is_clean
}

@test "a kernel that becomes tainted fails the run, but not that below a guest" {
	local journal=$RESULTS/journal.jsonl

	in_directory verdicts --variant pass
	[[ $status == 0 ]]
	jq -c 'if .event == "run-end" then .taint += 512 else . end' "$journal" > "$journal.new"
	mv "$journal.new" "$journal"
	run "$BUILD/runner/report" "$RESULTS"
	[[ $status == 1 && $output == *"the kernel became tainted during the run"* ]]
	jq -c 'if .event == "run-start" then .vm_kernel = "bzImage" else . end' "$journal" > "$journal.new"
	mv "$journal.new" "$journal"
	run "$BUILD/runner/report" "$RESULTS"
	[[ $status == 0 && $output != *tainted* ]]
}

@test "--clean has nothing to say when there is nothing to do" {
	need_root
	run "$TOP/runtests.sh" --scratch "$SCRATCH" --clean
	[[ $status == 0 && ! $output ]]
}
