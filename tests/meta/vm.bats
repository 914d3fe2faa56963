#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# --vm: the same verdicts and reports as without, and a verdict whatever becomes of a guest.
#
# shellcheck disable=SC2154,SC2030,SC2031 # run sets $stderr; a test may have RESULTS of its own

bats_require_minimum_version 1.5.0
load common.bash

setup_file() {
	local program

	PLACE=$(mktemp -d /var/tmp/ringwedge-meta.XXXXXX)
	export PLACE
	for program in qemu-system-x86_64 cpio; do
		command -v "$program" > /dev/null || echo "needs $program (make deps-vm)" > "$PLACE/no-vm"
	done
	# shellcheck source=runner/cache.sh
	. "$TOP/runner/cache.sh"
	KERNEL=$(known_kernels | head -n 1)
	[[ $KERNEL ]] || echo "needs a kernel to boot (make kernel, make deps-vm)" > "$PLACE/no-vm"
	export KERNEL
}

teardown_file() {
	rm -rf "$PLACE"
}

setup() {
	RESULTS=$BATS_TEST_TMPDIR/results
	export RINGWEDGE_TESTS=$META
}

needs_vm() {
	[[ ! -e $PLACE/no-vm ]] || skip "$(< "$PLACE/no-vm")"
}

in_vm() {
	needs_vm
	run --separate-stderr timeout 300 "$TOP/runtests.sh" --vm "$KERNEL" --results "$RESULTS" -c xfs-4k "$@"
	echo "$status"
	echo "$output"
	echo "$stderr"
}

# variants_are VARIANT=VERDICT...
variants_are() {
	local pair got

	for pair; do
		got=$(result "${pair%=*}" verdict)
		[[ $got == "${pair#*=}" ]] || {
			echo "${pair%=*} is $got, expected ${pair#*=}: $(result "${pair%=*}" reason)"
			return 1
		}
	done
}

# result VARIANT KEY
result() {
	jq -r --arg variant "$1" --arg key "$2" '[.tests[].variants[] | select(.variant == $variant)][0][$key]' \
		"$RESULTS/results.json"
}

guests() {
	find "$RESULTS/vm" -name 'serial-*.txt' | wc -l
}

@test "verdicts, exit status and reports are as without --vm" {
	in_vm --variant pass --variant fail --variant skip verdicts
	[[ $status == 1 && $(guests) == 1 ]]
	variants_are pass=PASS fail=FAIL skip=SKIP
	jq -e --arg host "$(uname -r)" '.complete and .kernel != $host and .vm_accel != null and
		(.config_sha256 | length) == 64' "$RESULTS/results.json"
	[[ -s $RESULTS/xfs-4k/verdicts/stdout ]]
	grep -q '^not ok [0-9]* xfs-4k/verdicts$' "$RESULTS/report.ktap"
}

@test "a panic, or a reset, is a failure of the variant, and the rest goes on in a fresh guest" {
	in_vm --variant panic --variant pass-after-panic --variant reset --variant pass-at-the-end guest-ends
	[[ $status == 1 && $(guests) == 3 ]]
	variants_are panic=FAIL pass-after-panic=PASS reset=FAIL pass-at-the-end=PASS
	[[ $(result panic reason) == "guest panic: sysrq triggered crash" ]]
	[[ $(result reset reason) == "the guest reset"* ]]
	grep -q 'Kernel panic' "$(result panic evidence)"
}

@test "a guest out of memory is BROKEN, and says what to do" {
	in_vm --memory 600 --variant out-of-memory --variant pass-at-the-end guest-ends
	[[ $status == 2 ]]
	variants_are out-of-memory=BROKEN pass-at-the-end=PASS
	[[ $(result out-of-memory reason) == *"out of memory (see --memory)"* ]]
}

@test "a taint costs the guest" {
	in_vm --variant taint guest-ends verdicts --variant pass
	[[ $status == 1 && $(guests) == 2 ]]
	variants_are taint=FAIL pass=PASS
}

@test "a hang behind the gate costs the guest, and has its evidence" {
	in_vm --variant pwrite hangs verdicts --variant pass
	[[ $status == 3 && $(guests) == 2 ]]
	variants_are pwrite=HANG pass=PASS
	[[ $(result pwrite reason) == *" D in "*"(pwrite64)"* && -s $(result pwrite evidence) ]]
}

in_background() {
	needs_vm
	"$TOP/runtests.sh" --vm "$KERNEL" --results "$RESULTS" -c xfs-4k --timeout-scale 0.1 \
		--variant linger --variant pass-at-the-end guest-ends > "$BATS_TEST_TMPDIR/output" 2>&1 3>&- &
	RUNNER=$!
	for ((try = 0; try < 600; try++)); do # an emulated guest needs its time
		grep -qs '"variant":"linger"' "$RESULTS/journal.jsonl" && return
		kill -0 "$RUNNER" || break
		sleep 0.1
	done
	cat "$BATS_TEST_TMPDIR/output"
	return 1
}

qemu_of_results() {
	pgrep -f -- "-chardev file,id=console,path=$(realpath "$RESULTS")/"
}

@test "a guest that falls silent is a hang, with its registers" {
	local name

	in_background
	# Stopped by the monitor: no sign of life, but QEMU answers.
	name=$(tr '\0' ' ' < "/proc/$(qemu_of_results)/cmdline" | grep -o 'ringwedge-[0-9]*-0')
	perl -MIO::Socket::UNIX -e '
		my $s = IO::Socket::UNIX->new(Type => SOCK_STREAM, Peer => "\0$ARGV[0]") or die "$ARGV[0]: $!";
		<$s>;
		print $s qq({"execute":"qmp_capabilities"}{"execute":"stop"}\n);
		<$s>; <$s>;' "$name"
	status=0
	wait "$RUNNER" || status=$?
	cat "$BATS_TEST_TMPDIR/output"
	[[ $status == 3 && $(guests) == 2 ]]
	variants_are linger=HANG pass-at-the-end=PASS
	[[ $(result linger reason) == "the guest fell silent: "* ]]
	grep -q '^RIP=' "$(result linger evidence)"
	grep -q '^== CPU 1' "$(result linger evidence)"
}

@test "a QEMU that is killed is BROKEN, and the rest goes on" {
	in_background
	qemu_of_results | xargs kill -KILL
	status=0
	wait "$RUNNER" || status=$?
	cat "$BATS_TEST_TMPDIR/output"
	[[ $status == 2 && $(guests) == 2 ]]
	variants_are linger=BROKEN pass-at-the-end=PASS
	[[ $(result linger reason) == "QEMU was killed: Killed" ]]
}

@test "a QEMU that crashes before the guest is up is started again, twice" {
	local real crashes=$BATS_TEST_TMPDIR/crashes

	needs_vm
	real=$(command -v qemu-system-x86_64)
	mkdir "$BATS_TEST_TMPDIR/bin"
	cat > "$BATS_TEST_TMPDIR/bin/qemu-system-x86_64" <<- END
		#!/bin/sh
		read -r left < $crashes
		echo \$((left - 1)) > $crashes
		[ "\$left" -le 0 ] || kill -SEGV \$\$
		exec $real "\$@"
	END
	chmod +x "$BATS_TEST_TMPDIR/bin/qemu-system-x86_64"
	PATH=$BATS_TEST_TMPDIR/bin:$PATH
	echo 2 > "$crashes"
	in_vm --accel tcg --variant pass verdicts
	[[ $status == 0 && $(< "$crashes") == -1 ]]
	[[ $output == *"Segmentation fault before the guest was up"* ]]
	RESULTS=$RESULTS-2
	echo 3 > "$crashes"
	in_vm --accel tcg --variant pass verdicts
	[[ $status == 2 && $(< "$crashes") == 0 && $output == *"boot failure: QEMU was killed"* ]]
}

@test "killed with -9, the runner leaves no guest" {
	in_background
	kill -9 "$RUNNER"
	wait "$RUNNER" || true
	eventually no_qemu
}

no_qemu() {
	! qemu_of_results
}

@test "a kernel that does not boot is one clear line and exit status 2" {
	in_vm --append rdinit=/nonexistent --variant pass verdicts
	[[ $status == 2 && $(guests) == 1 ]]
	[[ $output == *"boot failure: guest panic: "* ]]
}

@test "what a guest's kernel must have is named by its option" {
	in_vm --append "initcall_blacklist=ovl_init module_blacklist=overlay" --variant pass verdicts
	[[ $status == 2 && $(guests) == 1 ]]
	[[ $output == *"the guest's kernel is built without CONFIG_OVERLAY_FS"* ]]
}

@test "a kernel without the filesystem, or without io_uring, is a skip by name" {
	local RINGWEDGE_TESTS=$BUILD/tests

	in_vm --append "initcall_blacklist=init_xfs_fs module_blacklist=xfs" falloc-dio --variant allocate.plain.same
	[[ $status == 77 && $(result allocate.plain.same reason) == "this kernel has no xfs" ]]
	RESULTS=$RESULTS-2
	in_vm --append sysctl.kernel.io_uring_disabled=2 falloc-dio --variant allocate.plain.same \
		--variant allocate.aio.same
	[[ $status == 0 ]]
	variants_are allocate.plain.same=SKIP allocate.aio.same=PASS
	[[ $(result allocate.plain.same reason) == "needs io_uring"* ]]
}

@test "two guests side by side share the plan, and the report is one" {
	in_vm --jobs 2 --variant pass --variant none verdicts hangs
	[[ $status == 0 && $(guests) == 2 ]]
	variants_are pass=PASS none=PASS
	[[ $(grep -c '"event":"guest"' "$RESULTS/journal.jsonl") == 1 ]]
}

@test "--until-fail ends a run with the test that fails first" {
	in_vm --until-fail --variant bad.first --variant bad.second --variant pass rounds verdicts
	[[ $status == 1 && $(guests) == 1 ]]
	variants_are bad.first=FAIL bad.second=NOTRUN pass=NOTRUN
	RESULTS=$RESULTS-2
	in_vm --until-fail --jobs 2 --variant linger --variant bad.first guest-ends rounds
	[[ $status == 1 ]]
	variants_are bad.first=FAIL linger=NOTRUN
	[[ $(result linger reason) == "another test had failed" ]]
	jq -e --arg host "$(uname -r)" '.kernel != $host' "$RESULTS/results.json" # whichever guest was up first
}

@test "an ordinary user runs it, with nothing but files" {
	need_root
	needs_vm
	su -s /bin/sh nobody -c "test -x '$TOP/runtests.sh' -a -x '$META/verdicts'" ||
		skip "needs a checkout that every user can read"
	mkdir "$RESULTS" && chmod 777 "$RESULTS" "$BATS_TEST_TMPDIR"
	chmod 755 "$BATS_RUN_TMPDIR" "$BATS_FILE_TMPDIR" "${BATS_TEST_TMPDIR%/*}"
	cp "$KERNEL" "$PLACE/image" && chmod 644 "$PLACE/image" && chmod 755 "$PLACE"
	[[ $KERNEL == *bzImage ]] || skip "needs a kernel without modules (make kernel)"
	run timeout 300 setpriv --reuid nobody --regid nogroup --clear-groups env HOME=/nonexistent \
		"$TOP/runtests.sh" --vm "$PLACE/image" -o "$RESULTS/run" -c xfs-4k --variant pass verdicts
	echo "$status $output"
	[[ $status == 0 ]]
	[[ $(stat -c %U "$RESULTS/run/results.json") == nobody ]]
}

@test "options of --vm are refused with one line when they make no sense" {
	local r=("$TOP/runtests.sh" --results "$RESULTS" --variant pass verdicts)

	SAYS="no such file" refused "${r[@]}" --vm /nonexistent/bzImage
	SAYS="arch/x86/boot/bzImage" refused "${r[@]}" --vm "$BATS_TEST_TMPDIR"
	SAYS="go with --vm" refused "${r[@]}" --jobs 2
	SAYS="about this machine" refused "${r[@]}" --vm --dir "$BATS_TEST_TMPDIR"
	SAYS="about this machine" refused "${r[@]}" --vm --keep
	touch "$BATS_TEST_TMPDIR/bzImage"
	[[ $(command -v qemu-system-x86_64) && $(command -v cpio) ]] || return 0
	SAYS="--accel takes" refused "${r[@]}" --vm "$BATS_TEST_TMPDIR/bzImage" --accel fast
	SAYS="--jobs takes" refused "${r[@]}" --vm "$BATS_TEST_TMPDIR/bzImage" --jobs 0
	SAYS="--memory takes" refused "${r[@]}" --vm "$BATS_TEST_TMPDIR/bzImage" --memory 1
	SAYS="--cpus takes" refused "${r[@]}" --vm "$BATS_TEST_TMPDIR/bzImage" --cpus many
}
