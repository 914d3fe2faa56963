#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Bisection, on kernels that are none: a tree whose build copies a file, and a runner that writes
# the results which that file names. The real thing: tests/slow/bisect.bats.
#
# shellcheck disable=SC2030,SC2031,SC2154 # run sets them, each test is a process

bats_require_minimum_version 1.5.0
load common.bash

VERDICT=$BUILD/runner/bisect/verdict

setup() {
	local tool

	need git
	cd "$BATS_TEST_TMPDIR" || return
	export RINGWEDGE_CACHE=$BATS_TEST_TMPDIR/cache RINGWEDGE_RUNNER=$BATS_TEST_TMPDIR/runner
	export RINGWEDGE_TESTS=$META GIT_CONFIG_GLOBAL=$BATS_TEST_TMPDIR/gitconfig
	git config --global user.name test
	git config --global user.email test@localhost
	git config --global init.defaultBranch main
	# What kernel/common.sh wants; the tree's Makefile uses none of it.
	mkdir bin
	for tool in gcc ld flex bison bc patch; do
		printf '#!/bin/sh\nexit 0\n' > "bin/$tool"
		chmod +x "bin/$tool"
	done
	PATH=$BATS_TEST_TMPDIR/bin:$PATH
	make_runner
}

# A kernel is a line for each run: VERDICT REASON. After the last line it begins again.
make_runner() {
	cat > runner << 'END'
#!/bin/bash
while (($#)); do
	case $1 in
	--vm=*) kernel=${1#--vm=} ;;
	--results) results=$2 ;;
	esac
	echo "$1" >> "$RINGWEDGE_RUNNER.argv"
	shift
done
[[ -d $kernel ]] && kernel=$kernel/arch/x86/boot/bzImage
nr=$(cat "$RINGWEDGE_RUNNER.count" 2> /dev/null)
echo $((nr + 1)) > "$RINGWEDGE_RUNNER.count"
mapfile -t line < "$kernel"
read -r verdict reason <<< "${line[nr % ${#line[@]}]}"
case $verdict in
none) echo "runtests.sh: no QEMU" >&2; exit 2 ;;
wait) echo $$ > "$RINGWEDGE_RUNNER.pid"; exec sleep 60 ;;
esac
mkdir -p "$results"
jq -n --arg verdict "$verdict" --arg reason "$reason" '{ kernel: "6.12.0", complete: true,
	counts: { PASS: (if $verdict == "PASS" then 1 else 0 end) },
	tests: [{ config: "xfs-4k", test: "verdicts", variants: [
		{ variant: "pass", verdict: $verdict, reason: $reason, seed: 7 }] }] }' > "$results/results.json"
END
	chmod +x runner
}

# commit TITLE LINE...: what that kernel does.
commit() {
	printf '%s\n' "${@:2}" > kernel
	git add -A
	git commit -q -m "$1" --allow-empty
}

make_tree() {
	git init -q tree
	cd tree || return
	mkdir init
	touch Kconfig init/main.c
	cat > Makefile << 'END'
PATCHLEVEL = 12
allnoconfig olddefconfig:
	@touch $(O)/.config; echo $@ >> $(O)/configured
bzImage:
	@! grep error kernel
	@mkdir -p $(O)/arch/x86/boot && cp kernel $(O)/arch/x86/boot/bzImage
END
	commit start PASS
}

step() {
	run --separate-stderr timeout 60 "$TOP/runtests.sh" --bisect verdicts "$@"
	printf 'status %s\n%s\n%s\n' "$status" "$output" "$stderr"
}

@test "a step ends with 0, 1 or 125, whatever the kernel does" {
	local line

	need jq
	make_tree
	while read -r expected line; do
		commit "$line" "$line"
		step
		[[ $status == "$expected" ]]
	done << 'END'
0 PASS
1 FAIL the kernel is wrong
1 HANG HANG after 1.8 s: x/240 D in inode_dio_wait < ext4_fallocate (fallocate), unkillable
125 SKIP needs io_uring
125 BROKEN boot failure: guest panic: VFS
125 BROKEN the guest's kernel is built without CONFIG_9P_FS
125 NOTRUN the run ended before it
125 XFAIL a known bug
125 none
125 error: does not build
END
	[[ $stderr == *"does not build"*"error"* ]]
}

@test "a step ends with 125 and says why when it is used wrongly, or lacks something" {
	make_tree
	step --no-such-option
	[[ $status == 125 && $stderr == *"no-such-option"* && $stderr == *"git bisect reset"* ]]
	step no-such-test
	[[ $status == 125 && $stderr == *"no-such-test"* ]]
	step --runs 0
	[[ $status == 125 && $stderr == *"--runs takes 1 or more"* ]]
	step --runs x
	[[ $status == 125 ]]
	step --signature from:nowhere
	[[ $status == 125 && $stderr == *nowhere* ]]
	step --signature from
	[[ $status == 125 ]]
	for option in --list --dry-run --help --clean "--dir=$PWD" --until-fail --vm=/boot/vmlinuz; do
		step "$option"
		[[ $status == 125 ]]
	done
	cd ..
	step
	[[ $status == 125 && $stderr == *"not in a git tree"* ]]
	git init -q other
	cd other
	step
	[[ $status == 125 && $stderr == *"no kernel source"* ]]
	cd ../tree
	mkdir ../less
	ln -s /usr/bin/* /bin/* ../less/ 2> /dev/null || true
	rm -f ../less/flex
	rm ../bin/flex
	PATH=$BATS_TEST_TMPDIR/bin:$BATS_TEST_TMPDIR/less step
	[[ $status == 125 && $stderr == *"missing: flex"* ]]
}

@test "a step that is interrupted ends with 125, and so does what it has started" {
	local signal pid

	make_tree
	commit wait wait
	for signal in TERM INT HUP; do
		rm -f ../runner.pid
		env --default-signal=INT,QUIT setsid "$TOP/runtests.sh" --bisect verdicts > /dev/null 2> ../log 3>&- &
		pid=$!
		eventually test -s ../runner.pid
		kill "-$signal" "$pid"
		status=0
		wait "$pid" || status=$?
		cat ../log
		[[ $status == 125 ]]
		! kill -0 "$(< ../runner.pid)" || false
	done
}

@test "git bisect run finds the commit, past others that fail otherwise or cannot be tested" {
	local bad

	need jq
	make_tree
	commit "one" PASS
	commit "does not build" "error: of syntax"
	commit "does not boot" "BROKEN boot failure: guest panic: Attempted to kill init"
	commit "two" PASS
	commit "another bug" "FAIL returned while a direct write submitted before it was in flight"
	commit "another bug, mended" PASS
	commit "the bug" "HANG HANG after 1.8 s: falloc-dio/240 D in inode_dio_wait < xfs_file_fallocate (fallocate), unkillable"
	bad=$(git rev-parse HEAD)
	commit "three" "HANG HANG after 2.0 s: falloc-dio/7 D in inode_dio_wait < ext4_fallocate (fallocate), unkillable"
	commit "another bug again" "FAIL kernel log: WARNING: CPU: 1 PID: 7 at f+0x1/0x2"
	commit "four" "HANG HANG after 2.0 s: falloc-dio/7 D in inode_dio_wait < ext4_fallocate (fallocate), unkillable"
	git bisect start HEAD "$(git rev-list --max-parents=0 HEAD)"
	run git bisect run "$TOP/runtests.sh" --bisect verdicts --signature "HANG inode_dio_wait"
	echo "$output"
	[[ $status == 0 ]]
	[[ $output == *"$bad is the first bad commit"* ]]
	report=.git/ringwedge-bisect/report.txt
	cat $report
	grep -q "commit $bad" $report
	grep -q "HANG after 1.8 s: falloc-dio/240 D in inode_dio_wait < xfs_file_fallocate" $report
	# Printed again, also after the end.
	run --separate-stderr "$TOP/runtests.sh" --bisect-report
	[[ $status == 0 && $output == *"commit $bad"* ]]
	git bisect reset
	[[ ! $(git status --porcelain) ]]
	run --separate-stderr "$TOP/runtests.sh" --bisect-report
	[[ $status == 0 && $output == *"commit $bad"* ]]
}

@test "the report names what git names: with words and paths of one's own, and when some cannot be tested" {
	local bad report=.git/ringwedge-bisect/report.txt

	need jq
	make_tree
	commit "one" PASS
	commit "the bug" "FAIL wrongly"
	bad=$(git rev-parse HEAD)
	touch elsewhere
	commit "two" "FAIL wrongly"
	git bisect start --term-new=broken --term-old=fine main "$(git rev-list --max-parents=0 main)" -- kernel
	run git bisect run "$TOP/runtests.sh" --bisect verdicts
	echo "$output"
	[[ $output == *"$bad is the first broken commit"* ]]
	grep -qx "  commit $bad" $report
	git bisect reset
	# Another bisection: its steps are its own, and those of the last one are kept.
	git checkout -q -b other main~2
	commit "does not boot" "BROKEN boot failure"
	commit "the bug, there" "FAIL wrongly"
	git bisect start HEAD HEAD~2
	run git bisect run "$TOP/runtests.sh" --bisect verdicts
	echo "$output"
	cat $report
	grep -q "is one of these" $report
	grep -q '^  .* ("the bug, there")' $report
	grep -q '^  .* ("does not boot")' $report
	[[ $(find .git/ringwedge-bisect/steps/* -maxdepth 0 | wc -l) == 1 ]]
	[[ -e .git/ringwedge-bisect/previous/report.txt ]]
}

@test "a tree that was built in place, or has changes of its own, is tested as it is and stays so" {
	need jq
	make_tree
	mkdir -p include/config
	touch .config include/config/auto.conf # a kernel's Makefile would refuse O= now
	echo "FAIL by hand" > kernel
	before=$(git status --porcelain; stat -c '%n %Y %s' ./* .config)
	step
	[[ $status == 1 ]]
	grep -qx olddefconfig "$RINGWEDGE_CACHE"/bisect/*/object/configured
	[[ $(git status --porcelain; stat -c '%n %Y %s' ./* .config) == "$before" ]]
	# Half a merge is no kernel.
	git commit -q -a -m "by hand"
	git checkout -q -b other HEAD~1
	commit "otherwise" "FAIL otherwise"
	git merge -q main > /dev/null || true
	step
	[[ $status == 125 && $stderr == *"has conflicts"* ]]
}

# judged VERDICT REASON SIGNATURE: what verdict says of such a failure; sets status and output.
judged() {
	mkdir -p results
	jq -n --arg verdict "$1" --arg reason "$2" '{ complete: true, counts: { PASS: 0 }, tests: [
		{ config: "xfs-4k", test: "t", variants: [
			{ variant: "v", verdict: $verdict, reason: $reason }] }] }' > results/results.json
	run "$VERDICT" judge --signature "$3" results
	echo "$3: $status $output"
}

HUNG="HANG after 1.8 s: falloc-dio/240 D in inode_dio_wait < ext4_fallocate (fallocate), unkillable"

@test "a signature is a verdict, a text, or both; numbers and blanks do not matter" {
	local expected text

	need jq
	while IFS=: read -r expected text; do
		judged HANG "$HUNG" "$text"
		[[ $status == "$expected" ]]
	done << 'END'
1:HANG
1:inode_dio_wait
1:HANG inode_dio_wait
1:HANG  D in inode_dio_wait  < ext4_fallocate
1:HANG in inode_dio_wait*(fallocate)
1:HANG after 20.5 s
125:FAIL
125:FAIL inode_dio_wait
125:HANG (fallocate)*inode_dio_wait
125:HANG ext3_fallocate
125:HANG freeze_super
125:HANGING
END
	judged FAIL "kernel log: WARNING: CPU: 1 PID: 261 at ext4_journal_check_start+0x58/0x90" \
		"FAIL WARNING: CPU: 0 PID: 9 at ext4_journal_check_start+0x5c/0xa0"
	[[ $status == 1 ]]
	judged FAIL "res 16384, expected 65536" "FAIL res 1, expected 65536"
	[[ $status == 1 ]]
}

# signature_is VERDICT REASON TEXT: taken from such a failure, and it finds that again.
signature_is() {
	judged "$1" "$2" ""
	run "$VERDICT" signature results
	echo "$output"
	[[ $status == 0 && ${lines[0]} == "$3" && ${lines[1]} == xfs-4k/t/v ]] || return
	judged "$1" "$2" "${lines[0]}"
	[[ $status == 1 ]]
}

@test "the signature of a failure leaves out what changes from run to run" {
	need jq
	signature_is HANG "$HUNG" "HANG in inode_dio_wait*(fallocate)"
	signature_is HANG "HANG after 9.1 s: livelock: x/1 R in io_write < io_wq_submit_work (io-wq), killed" \
		"HANG livelock:"
	signature_is HANG "the guest fell silent: no sign of life for 60 s" \
		"HANG the guest fell silent: no sign of life for 60 s"
	signature_is FAIL "cached read of \"file\" at offset 131072 is zeroed: zeros, expected \"file\" (file 1) generation 619 offset 131072 (lib/model.c:369)" \
		"FAIL cached read of \"file\" at offset 131072 is zeroed: zeros"
	signature_is FAIL "fallocate() returned while a direct write submitted before it was in flight (lib/held.c:145)" \
		"FAIL fallocate() returned while a direct write submitted before it was in flight"
	judged PASS "" ""
	run "$VERDICT" signature results
	[[ $status == 2 && $output == *"no failure"* ]]
}

@test "a failure that another hides is found, and only a variant that ran can be good" {
	need jq
	mkdir results
	jq -n --arg hung "$HUNG" '{ complete: true, counts: { PASS: 1 }, tests: [
		{ config: "xfs-4k", test: "t", variants: [
			{ variant: "a", verdict: "FAIL", reason: "another" },
			{ variant: "b", verdict: "HANG", reason: $hung },
			{ variant: "c", verdict: "NOTRUN", reason: "the run ended before it" }] }] }' > results/results.json
	run "$VERDICT" judge --signature "HANG inode_dio_wait" results
	[[ $status == 1 && $output == "HANG   xfs-4k/t/b: HANG after"* ]]
	jq -n '{ complete: true, counts: { PASS: 1 }, tests: [
		{ config: "xfs-4k", test: "t", variants: [
			{ variant: "a", verdict: "PASS", reason: "" },
			{ variant: "b", verdict: "SKIP", reason: "needs reflink" }] }] }' > results/results.json
	run "$VERDICT" judge results
	[[ $status == 0 ]]
	run "$VERDICT" judge --needs xfs-4k/t/b results
	[[ $status == 125 && $output == *"needs reflink"* ]]
	run "$VERDICT" judge --needs xfs-4k/t/a results
	[[ $status == 0 ]]
	jq -n '{ complete: true, counts: { PASS: 1 }, tainted: "the kernel became tainted", tests: [] }' \
		> results/results.json
	run "$VERDICT" judge results
	[[ $status == 1 ]]
	run "$VERDICT" judge --signature HANG results
	[[ $status == 125 ]]
	echo '{' > results/results.json
	run "$VERDICT" judge results
	[[ $status == 125 ]]
}

@test "so many clean runs that a bad kernel has them in one of a hundred cases" {
	local failed runs enough miss

	while read -r failed runs enough miss; do
		[[ $("$VERDICT" runs "$failed" "$runs") == "$enough" ]]
		[[ $("$VERDICT" miss "$failed" "$runs" "$enough") == "$miss %" ]]
	done << 'END'
1 2 7 0.78
9 10 2 1
1 10 44 0.97
5 5 3 0.46
100 100 1 0.99
END
	run "$VERDICT" runs 0 5
	[[ $status == 2 ]]
	run "$VERDICT" runs 6 5
	[[ $status == 2 ]]
}

@test "--signature from RESULTS: the first failure of an earlier run is what is looked for" {
	local from

	need jq
	make_tree
	commit "the bug" "FAIL res 5, expected 7 (lib/ring.c:1)"
	step
	[[ $status == 1 ]]
	cp -r .git/ringwedge-bisect/steps/001-*/run-1 ../bad-end
	commit "the bug, otherwise" "FAIL res 6, expected 7 (lib/ring.c:1)"
	for from in "from ../bad-end" from:../bad-end from:../bad-end/results.json; do
		step --signature "$from"
		[[ $status == 1 ]]
	done
	step --signature from ../bad-end
	[[ $status == 1 ]]
	commit "another" "FAIL st_size is 6"
	step --signature from ../bad-end
	[[ $status == 125 && $stderr == *"another failure"* ]]
	# Not there: no word of the other variants can make up for it.
	commit "skipped" "SKIP needs reflink"
	step --signature from ../bad-end
	[[ $status == 125 && $stderr == *"needs reflink"* ]]
}

@test "--runs: one failure is enough, so many must be clean" {
	need jq
	make_tree
	commit "fails in the third run" PASS PASS "FAIL at last"
	step --runs 2
	[[ $status == 0 && $stderr == *"clean runs: 2"* ]]
	rm ../runner.count
	step --runs 3
	[[ $status == 1 && $(< ../runner.count) == 3 ]]
	commit "another failure comes first" "FAIL otherwise" "FAIL as wanted"
	rm ../runner.count
	step --runs 2 --signature "FAIL as wanted"
	[[ $status == 1 ]]
	rm ../runner.count
	step --runs 1 --signature "FAIL as wanted"
	[[ $status == 125 ]]
}

check() {
	rm -f ../runner.count
	run --separate-stderr timeout 60 "$TOP/runtests.sh" --bisect-check "$@"
	printf 'status %s\n%s\n%s\n' "$status" "$output" "$stderr"
}

@test "--bisect-check: 0 when the bad end fails and the good one does not, else 1, or 2 if that cannot be told" {
	need jq
	make_tree
	git tag good
	commit "fails" "FAIL wrongly"
	git tag bad
	commit "does not build" "error:"
	git tag broken
	commit "does not boot" "BROKEN boot failure"
	check bad good verdicts
	[[ $status == 0 && $stderr == *"bad fails in 5 of 5 runs"* && $stderr == *"good is good"* ]]
	# It always failed: one variant will do from here on.
	grep -qx "options=--config xfs-4k --variant pass " .git/ringwedge-bisect/check
	check good good verdicts
	[[ $status == 1 && $stderr == *"the bad end does not fail"* ]]
	check bad bad verdicts
	[[ $status == 1 && $stderr == *"the good end fails, too"* ]]
	for end in broken HEAD; do
		check "$end" good verdicts
		[[ $status == 2 ]]
		check bad "$end" verdicts
		[[ $status == 2 ]]
	done
	check bad nowhere verdicts
	[[ $status == 2 && $stderr == *"nowhere"* ]]
	check bad
	[[ $status == 2 ]]
	[[ ! $(git status --porcelain) && $(git rev-parse HEAD) == "$(git rev-parse main)" ]]
	# Kernels instead of commits, outside of any tree.
	cd ..
	echo PASS > image-good
	echo "HANG in f (g), killed" > image-bad
	check ./image-bad ./image-good verdicts --runs 2
	[[ $status == 0 && $stderr == *"in 2 of 2 runs"* ]]
}

@test "what --bisect-check has measured is what the steps go by" {
	need jq
	make_tree
	git tag good
	commit "fails now and then" PASS "FAIL wrongly (lib/held.c:145)"
	commit "two" PASS "FAIL wrongly (lib/held.c:145)"
	check main good verdicts --runs 10
	[[ $status == 0 && $stderr == *"in 5 of 10 runs"* && $stderr == *"clean runs: 7"* && $stderr == *"0.78 %"* ]]
	git bisect start main good
	rm ../runner.count
	step
	[[ $status == 1 && $stderr == *"looking for \"FAIL wrongly\""* ]]
	git checkout -q good
	step
	[[ $status == 0 && $stderr == *"run 7 of 7"* && $stderr == *"0.78 %"* ]]
	# Another test or another bisection: not what was measured.
	step -c xfs-4k
	[[ $stderr == *"not used"* && $stderr == *"run 1 of 1"* ]]
	git bisect start main~1 good
	git checkout -q good
	step
	[[ $stderr == *"not used"* ]]
}

# package VERSION LINE...
package() {
	local dir=packages/$1

	mkdir -p "$dir/DEBIAN" "$dir/boot"
	printf 'Package: linux-image-%s\nVersion: %s\nArchitecture: amd64\nMaintainer: x <x@y>\nDescription: x\n' \
		"${1%-*}-amd64" "$1" > "$dir/DEBIAN/control"
	printf '%s\n' "${@:2}" > "$dir/boot/vmlinuz-${1%-*}-amd64"
	dpkg-deb --root-owner-group -b "$dir" "debs/linux-image-${1%-*}-amd64_$1_amd64.deb" > /dev/null
}

packages() {
	run --separate-stderr timeout 60 "$TOP/runtests.sh" --bisect-packages debs verdicts
	printf 'status %s\n%s\n%s\n' "$status" "$output" "$stderr"
}

@test "--bisect-packages names the first bad package and the last good one" {
	local without

	need jq
	need dpkg-deb
	mkdir debs
	package 6.1.99-1 PASS
	package 6.1.100-1 PASS
	package 6.9.7-1~bpo12+1 "BROKEN the guest's kernel is built without CONFIG_9P_FS"
	package 6.9.7-1 PASS
	package 6.10.2-1 "HANG in f (g), killed"
	package 6.10.11-1 "HANG in f (g), killed"
	cp debs/linux-image-6.1.99* debs/linux-image-6.1.99-amd64-dbg_1_amd64.deb
	packages
	[[ $status == 0 ]]
	[[ ${lines[0]} == "First bad package: linux-image-6.10.2-amd64_6.10.2-1_amd64.deb (6.10.2-1)" ]]
	[[ ${lines[1]} == "Last good one:     linux-image-6.9.7-amd64_6.9.7-1_amd64.deb (6.9.7-1)" ]]
	[[ $stderr == *"report in "* ]]
	grep -q ": in f (g), killed" "${stderr##*report in }"
	# Without dpkg: ar, tar, sort -V.
	mkdir less
	ln -s /usr/bin/* /bin/* less/ 2> /dev/null || true
	rm -f less/dpkg less/dpkg-deb
	without=$PATH
	PATH=$PWD/bin:$PWD/less packages
	PATH=$without
	[[ $status == 0 && ${lines[0]} == *" linux-image-6.10.2-"* && ${lines[1]} == *"_6.9.7-1_"* ]]
}

@test "--bisect-packages says when there is nothing to find, and what could not be tested" {
	need jq
	need dpkg-deb
	mkdir debs
	packages
	[[ $status == 2 ]]
	package 6.1.1-1 PASS
	package 6.1.2-1 PASS
	packages
	[[ $status == 1 && $stderr == *"nothing to find"* ]]
	package 6.1.3-1 "BROKEN the guest's kernel is built without CONFIG_9P_FS"
	package 6.1.4-1 "FAIL wrongly"
	packages
	[[ $status == 0 && $output == *"The 1 between them could not be tested"* ]]
	[[ $stderr == *"6.1.3"*"not testable"*"CONFIG_9P_FS"* ]]
	rm debs/*6.1.[124]*
	package 6.1.5-1 none
	packages
	[[ $status == 2 ]]
}
