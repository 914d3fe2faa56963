#!/bin/bash
# SPDX-License-Identifier: MIT
#
# What the .bats files share: a gate to run behind, meta programs run, and their journals read.
# setup_file calls make_place; what the machine does not give is a skip, by name.

TOP=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
BUILD=$(realpath -m "${BUILD:-$TOP/build}")
META=$BUILD/meta
export TOP BUILD META
# Options of a user's own must not change what is proved here.
unset RINGWEDGE_TESTS RINGWEDGE_RUN

# Sets PLACE, a folder of our own; in it i/ is on a loop device whose image is in o/. Where that
# cannot be, i/ is a directory and $PLACE/no-gate says why.
make_place() {
	PLACE=$(mktemp -d /var/tmp/ringwedge-meta.XXXXXX)
	export PLACE
	mkdir "$PLACE/o" "$PLACE/i"
	if [[ $(id -u) != 0 ]]; then
		echo "needs root" > "$PLACE/no-gate"
	elif ! make_devices > "$PLACE/log" 2>&1; then
		unmake_devices
		echo "needs loop devices and mounts: $(tail -n 1 "$PLACE/log")" > "$PLACE/no-gate"
	fi
}

make_devices() {
	truncate -s 400M "$PLACE/outer.img" &&
		mkfs.ext4 -q -F -O ^has_journal -E nodiscard "$PLACE/outer.img" &&
		mount_image off "$PLACE/outer.img" "$PLACE/o" &&
		truncate -s 320M "$PLACE/o/inner.img" &&
		mkfs.xfs -q -K "$PLACE/o/inner.img" &&
		mount_image on "$PLACE/o/inner.img" "$PLACE/i"
}

# Not "mount -o loop": it keeps the device open for writing, which a kernel without
# CONFIG_BLK_DEV_WRITE_MOUNTED refuses.
mount_image() {
	local loop status

	loop=$(losetup --find --show --direct-io="$1" "$2") || return
	mount "$loop" "$3"
	status=$?
	losetup --detach "$loop" # it goes when it is unmounted
	return "$status"
}

unmake_devices() {
	kill_left
	fsfreeze --unfreeze "$PLACE/o" 2> /dev/null || true
	eventually umount_all
}

# By the name of the place, which no process but ours can have.
kill_left() {
	pgrep -f -- "--dir $PLACE/i" | xargs -r kill -KILL 2> /dev/null || true
}

umount_all() {
	local dir

	for dir in "$PLACE/i" "$PLACE/o"; do
		if mountpoint -q "$dir"; then
			umount "$dir" || return
		fi
	done
}

unmake_place() {
	unmake_devices
	rm -rf --one-file-system "$PLACE"
}

need_gate() {
	[[ ! -e $PLACE/no-gate ]] || skip "$(< "$PLACE/no-gate")"
}

need_root() {
	[[ $(id -u) == 0 ]] || skip "needs root"
}

need_io_uring() {
	! "$BUILD/runner/probe" "$PLACE" | grep io_uring || skip "needs io_uring"
}

need() {
	command -v "$1" > /dev/null || skip "needs $1"
}

# Try until it succeeds, for ten seconds at most.
eventually() {
	local try

	for ((try = 0; try < 100; try++)); do
		"$@" && return
		sleep 0.1
	done
	echo "in ten seconds, never: $*" >&2
	return 1
}

# command_of PROGRAM OPTION...: how to run a meta program in this place, in $COMMAND.
command_of() {
	OUT=${OUT:-$BATS_TEST_TMPDIR}
	JOURNAL=$OUT/journal.jsonl
	COMMAND=("$META/$1" --dir "$PLACE/i" --output "$OUT" --journal "$JOURNAL" "${@:2}")
	[[ -e $PLACE/no-gate ]] || COMMAND+=(--gate "$PLACE/o")
}

# Sets status, output and lines. Into a file and not a pipe as run(1) of bats has it: what a broken
# harness leaves running would hold that open.
meta() {
	command_of "$@"
	status=0
	timeout --kill-after=5 120 "${COMMAND[@]}" > "$OUT/stdout" 2>&1 3>&- || status=$?
	output=$(< "$OUT/stdout")
	# shellcheck disable=SC2034 # for the tests
	mapfile -t lines < "$OUT/stdout"
	printf '%s\n' "$output"
}

# end_of VARIANT KEY: from the variant's last "end" line in the journal.
end_of() {
	jq -rs --arg variant "$1" --arg key "$2" \
		'map(select(.event == "end" and .variant == $variant))[-1][$key]' "$JOURNAL"
}

# verdicts_are VARIANT=VERDICT...
verdicts_are() {
	local pair got

	for pair; do
		got=$(end_of "${pair%=*}" verdict)
		[[ $got == "${pair#*=}" ]] || {
			echo "${pair%=*} is $got, expected ${pair#*=}: $(end_of "${pair%=*}" reason)"
			return 1
		}
	done
}

# took_at_least VARIANT SECONDS
took_at_least() {
	awk -v got="$(end_of "$1" seconds)" -v least="$2" 'BEGIN { exit !(got >= least) }'
}

# Nothing of the programs is left in the place, and it is not frozen.
nothing_left() {
	local pid

	for pid in $(pgrep -f -- "--dir $PLACE/i"); do
		ps -o pid,stat,wchan,args -p "$pid"
		return 1
	done
	[[ -z $(ls "$PLACE/i") ]] || {
		ls -l "$PLACE/i"
		return 1
	}
	timeout 5 touch "$PLACE/o/thawed" # asleep in D if it is not, but killable
}

# A parser that is not of ours. Prints: planned, run, failed, skipped, parse errors.
tap_counts() {
	perl -MTAP::Parser -e '
		my $p = TAP::Parser->new({ tap => do { local $/; <STDIN> } });
		$p->run;
		print join(" ", $p->tests_planned // "none", $p->tests_run, scalar($p->failed),
			scalar($p->skipped), scalar($p->parse_errors)), "\n";
	'
}

# refused COMMAND...: it must be refused with exit status 2 and one clear line that has $SAYS in it.
# shellcheck disable=SC2154 # run sets them
refused() {
	run --separate-stderr timeout 30 "$@"
	if [[ $status != 2 || ${#stderr_lines[@]} != 1 || $output || $stderr != *"$SAYS"* ]]; then
		printf 'not refused with one line that says "%s": %s\nexit status %s\n%s\n%s\n' \
			"$SAYS" "$*" "$status" "$output" "$stderr"
		return 1
	fi
}
