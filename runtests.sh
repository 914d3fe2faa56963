#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Run tests on devices made for them, and report. See usage() below, and README.md.
#
# One way through: options -> plan -> devices -> test program -> journal -> report. bash makes the
# devices; whatever parses, times or decides is in build/runner/.
#
# shellcheck disable=SC2317 # finish() and what it calls run from a trap

set -u

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 2
BUILD=${BUILD:-$TOP/build}
TOOLS=$BUILD/runner
TESTS=${RINGWEDGE_TESTS:-$BUILD/tests} # tests/meta/ runs the harness on programs of its own

usage() {
	cat << 'END'
usage: ./runtests.sh [options] [TEST|GLOB]...

Runs tests on filesystems made on loop devices. By default all tests run on every
configuration of the group "default".

  -c, --config NAME|GLOB   run on this configuration (repeatable; see configs/)
  -g, --group NAME         run the tests, on the configurations, of this group (repeatable)
  -x, --exclude NAME|GLOB  leave out a test, group, configuration or TEST/VARIANT (repeatable)
      --variant NAME|GLOB  run only this variant (repeatable)
      --seed N             of all random choices (default: another one each time, printed)
      --iterate N          run it all N times, with seeds N, N + 1 and so on
      --until-fail         stop at the first failure; without --iterate, repeat until there is one
      --shuffle            in random order
      --shard I/N          only the I-th of N equal parts
      --timeout-scale X    all waiting times X times as long (0.1 to 1000)
      --dir DIR            run in DIR, any filesystem with direct I/O, instead of on devices;
                           needs no root
      --scratch DIR        where images and mount points are made (default /var/tmp)
  -o, --results DIR        results go here (default results/TIME-KERNEL, and link results/latest)
      --keep               leave the devices mounted (until --clean)
      --ktap               print the report as KTAP, the rest on standard error
      --reach              record, with ftrace, where a test waits for direct I/O and how that
                           starts and ends, in CONFIG/TEST/reach.txt (see make reach)
      --fail-fast          a test ends at its first failure; the rest of its variants is not run
      --wedge              also the variants after which a kernel that has their bug must be
                           rebooted, which else run where the test or the variant is named,
                           without a glob; in a virtual machine they are never left out
      --strict             a known bug (configs/known-bugs.json) is a failure like any other
  -q, --quiet              show only what is not green
  -v, --verbose            show every variant

In virtual machines; needs no root, and nothing on this machine but the results is written to:

      --vm [KERNEL]        boot a build tree, bzImage, vmlinux or a distribution's vmlinuz; without
                           KERNEL the newest that "make kernel" or "make deps-vm" has made
      --modules DIR        lib/modules/VERSION of a kernel that needs modules to boot
      --jobs N             N of them side by side (default 1)
      --cpus N --memory MIB  of each (default 2, 2048)
      --accel kvm|tcg      default: KVM if it works, else emulation
      --append TEXT        more for the kernel's command line
      --qemu-arg ARG       one more argument for QEMU (repeatable)

Bisecting, in a kernel tree (docs/bisect.md); with --vm's options, and those that choose tests:

      --bisect TEST...     build, boot and test what is checked out: for "git bisect run"
      --bisect-check BAD GOOD TEST...
                           before it: does BAD fail, how often, and is GOOD good?
      --bisect-packages DIR
                           the same search over a folder of kernels, linux-image-*.deb
      --bisect-report      print what was found
      --signature TEXT     only this failure counts: "HANG inode_dio_wait"; from:RESULTS takes it
                           from the first failure of an earlier run
      --runs N             so many clean runs make a kernel good

  -l, --list               list tests and configurations
      --describe NAME      describe a test or a configuration
  -n, --dry-run            print what would be run
      --clean              undo what a killed run, or --keep, left in --scratch (or --dir)
  -h, --help

exit status: 0 something ran and nothing failed; 1 a failure; 2 wrong usage, set-up or harness;
3 a hang; 77 nothing ran, all was skipped
END
}

say() {
	printf '%s\n' "$*" >&2
}

die() {
	say "runtests.sh: $*"
	exit 2
}

# ---- options ---------------------------------------------------------------------------------------

PLAN=() # options for build/runner/plan
KNOWN=(--known "$TOP/configs/known-bugs.json")
SHOW=() # how much is shown: options for build/runner/supervise
FAIL_FAST=()
MODE=run SCRATCH=/var/tmp SCALE=1 ITERATE=1
DIR='' RESULTS='' SEED='' KEEP='' KTAP='' UNTIL_FAIL='' UNLIMITED='' GUEST='' REACH=''
VM='' VM_KERNEL='' VM_MODULES='' VM_ACCEL='' VM_OPTIONS=() # see runner/vm/vm.sh
PASSED_ON=() # options that mean the same in a guest

number() {
	[[ $2 =~ ^(0|[1-9][0-9]{0,17})$ ]] || die "$1 takes a number, not \"$2\""
}

# range OPTION VALUE LEAST MOST
range() {
	[[ $2 =~ ^[1-9][0-9]{0,8}$ ]] && (($2 >= $3 && $2 <= $4)) && return
	die "$1 takes $3 to $4, not \"$2\""
}

parse_options() {
	local parsed iterate='' words=()

	# getopt(1) would want --vm=KERNEL.
	while (($#)); do
		if [[ $1 == --signature && ${2-} == from ]]; then
			words+=(--signature "from:${3-}")
			shift $(($# > 2 ? 2 : 1))
		elif [[ $1 == --vm && (${2-} == */* || -e ${2-}) && ${2-} != -* ]]; then
			words+=("--vm=$2")
			shift
		else
			words+=("$1")
		fi
		shift
	done
	parsed=$(getopt --name runtests.sh --options c:g:x:no:qvlh --longoptions \
		config:,group:,exclude:,variant:,seed:,iterate:,until-fail,shuffle,shard: \
		--longoptions timeout-scale:,dir:,scratch:,results:,keep,ktap,strict,quiet,verbose \
		--longoptions fail-fast,reach,wedge,vm::,modules:,jobs:,cpus:,memory:,accel:,append:,qemu-arg: \
		--longoptions bisect,bisect-check,bisect-packages:,bisect-report,signature:,runs: \
		--longoptions list,describe:,dry-run,clean,guest:,help -- "${words[@]}") || exit 2
	eval set -- "$parsed"
	BISECT_ARGV=("$@")
	while [[ $1 != -- ]]; do
		case $1 in
		-c | --config) PLAN+=(--config "$2") ;;
		-g | --group) PLAN+=(--group "$2") ;;
		-x | --exclude) PLAN+=(--exclude "$2") ;;
		--variant | --shard) PLAN+=("$1" "$2") ;;
		--describe) PLAN+=("$1" "$2") MODE=plan ;;
		--seed) number "$1" "$2" && SEED=$2 ;;
		--iterate)
			number "$1" "$2" && ITERATE=$2 iterate=1
			((ITERATE)) || die "--iterate takes 1 or more"
			;;
		--timeout-scale) SCALE=$2 ;;
		--dir | --scratch | -o | --results)
			[[ $2 ]] || die "$1 takes the name of a directory"
			;;&
		--dir) DIR=$2 ;;
		--scratch) SCRATCH=$2 ;;
		-o | --results) RESULTS=$2 ;;
		--until-fail) UNTIL_FAIL=1 PASSED_ON+=("$1") ;;
		--shuffle) PLAN+=("$1") ;;
		--keep) KEEP=1 ;;
		--ktap) KTAP=1 ;;
		--wedge) PLAN+=("$1") ;;
		--reach) REACH=1 PASSED_ON+=("$1") ;;
		--fail-fast) FAIL_FAST=("$1") PASSED_ON+=("$1") ;;
		--strict) KNOWN=() PASSED_ON+=("$1") ;;
		-q | --quiet) SHOW=(--quiet) PASSED_ON+=("$1") ;;
		-v | --verbose) SHOW=(--verbose) PASSED_ON+=("$1") ;;
		--vm) VM=1 VM_KERNEL=$2 ;;
		--modules) VM_MODULES=$2 ;;
		--accel) VM_ACCEL=$2 ;;
		--jobs | --cpus) range "$1" "$2" 1 64 ;;&
		--memory) range "$1" "$2" 256 1048576 ;;&
		--jobs | --cpus | --memory | --append | --qemu-arg) VM_OPTIONS+=("$1" "$2") ;;
		--bisect) BISECT=step ;;
		--bisect-check | --bisect-report) BISECT=${1#--bisect-} ;;
		--bisect-packages) BISECT=packages PACKAGE_DIR=$2 ;;
		--signature)
			[[ $2 ]] || die "--signature takes a text"
			SIGNATURE=$2
			;;
		--runs) number "$1" "$2" && RUNS=$2 ;;
		--guest) GUEST=$2 MODE=guest ;;
		-l | --list) PLAN+=(--list) MODE=plan ;;
		-n | --dry-run) PLAN+=(--dry-run) MODE=plan ;;
		--clean) MODE=clean ;;
		-h | --help)
			usage
			exit 0
			;;
		esac
		case $1 in
		-[cgxo] | --config | --group | --exclude | --variant | --shard | --describe | --seed | \
			--iterate | --timeout-scale | --dir | --scratch | --results | --vm | --modules | \
			--jobs | --cpus | --memory | --accel | --append | --qemu-arg | --guest | \
			--bisect-packages | --signature | --runs) shift 2 ;;
		*) shift ;;
		esac
	done
	shift
	[[ $MODE == clean && $# -gt 0 ]] && die "--clean takes no tests"
	# Who boots a kernel under emulation can boot it again.
	if [[ $VM$BISECT || ${RINGWEDGE_VM-} ]] || grep -qs 'QEMU TCG CPU' /proc/cpuinfo; then
		PLAN+=(--wedge)
	fi
	if [[ $BISECT == check ]]; then
		(($# >= 2)) || die "--bisect-check takes the bad end, the good end, and tests"
		BISECT_ENDS=("$1" "$2")
		shift 2
	fi
	BISECT_TESTS=("$@")
	PLAN+=(-- "$@")
	[[ $UNTIL_FAIL && ! $iterate ]] && UNLIMITED=1
	check_options
}

check_options() {
	[[ ! $BISECT ]] || bisect_options
	if ! [[ $SCALE =~ ^[0-9]{1,4}(\.[0-9]{1,6})?$ ]] ||
		! awk -v x="$SCALE" 'BEGIN { exit !(x >= 0.1 && x <= 1000) }'; then
		die "--timeout-scale takes 0.1 to 1000, not \"$SCALE\""
	fi
	TOOL_SECONDS=$(awk -v x="$SCALE" 'BEGIN { print 60 * x }')
	if [[ $DIR ]]; then
		[[ -d $DIR && -w $DIR ]] || die "--dir $DIR: not a directory that can be written"
		[[ $KEEP ]] && die "--keep: with --dir there are no devices to keep"
		SCRATCH=$DIR
		PLAN=(--directory "${PLAN[@]}")
	fi
	if [[ $VM ]]; then
		[[ $DIR || $KEEP || $SCRATCH != /var/tmp ]] &&
			die "--vm: --dir, --keep and --scratch are about this machine, not a virtual one"
		[[ $MODE == clean ]] && die "--clean: a virtual machine leaves nothing behind"
	elif [[ $VM_MODULES || $VM_ACCEL ]] || ((${#VM_OPTIONS[@]})); then
		die "--jobs, --cpus, --memory, --accel, --append, --modules and --qemu-arg go with --vm"
	else
		[[ -d $SCRATCH && -w $SCRATCH || $MODE == plan ]] ||
			die "--scratch $SCRATCH: not a directory that can be written"
		SCRATCH=$(realpath "$SCRATCH")
	fi
	: "${SEED:=$((SRANDOM))}"
	PLAN=(--seed "$SEED" --configs "$TOP/configs" --tests "$TESTS" "${PLAN[@]}")
}

# ---- the journal and the results -------------------------------------------------------------------

journal() {
	"$TOOLS/journal" "$JOURNAL" "$@"
}

# The kernel's configuration, for telling results of different builds apart.
config_hash() {
	local sum=''

	if [[ -r /proc/config.gz ]]; then
		sum=$(gzip -dc /proc/config.gz | sha256sum)
	elif [[ -r /boot/config-$(uname -r) ]]; then
		sum=$(sha256sum < "/boot/config-$(uname -r)")
	fi
	echo "${sum%% *}"
}

# check TEST VARIANT VERDICT REASON [EVIDENCE]: a verdict of the runner's own.
check() {
	journal check "config=$CONFIG" "test=$1" "variant=$2" "verdict=$3" "reason=$4" \
		${5:+"evidence=$5"}
	if [[ $3 != PASS && $3 != SKIP ]]; then
		say "$(printf %-6s "$3") $CONFIG/$1/$2: $4"
		FAILED=1
	fi
}

make_results() {
	local name i

	PREVIOUS=$TOP/results/latest/results.json
	[[ -e $PREVIOUS ]] && PREVIOUS=$(realpath "$PREVIOUS") # before the link points to this run
	if [[ $RESULTS ]]; then
		mkdir -p "$RESULTS" 2> /dev/null || die "--results $RESULTS: cannot be made"
		RESULTS=$(realpath "$RESULTS")
	else
		name=$TOP/results/$(date +%Y-%m-%d-%H%M%S)-$(uname -r)
		mkdir -p "$TOP/results" 2> /dev/null || die "$TOP/results: cannot be made: use --results DIR"
		RESULTS=$name
		for ((i = 2; i < 100; i++)); do # another run may have begun in the same second
			mkdir "$RESULTS" 2> /dev/null && break
			RESULTS=$name-$i
		done
	fi
	# Two runs never share a journal, and no run's results are overwritten.
	(set -o noclobber && : > "$RESULTS/journal.jsonl") 2> /dev/null ||
		die "$RESULTS: holds the results of another run, or cannot be written"
	JOURNAL=$RESULTS/journal.jsonl
	mkdir -p "$TOP/results" 2> /dev/null && ln -sfnT "$RESULTS" "$TOP/results/latest" 2> /dev/null
	RESULTS=${RESULTS#"$PWD"/}
	JOURNAL=${JOURNAL#"$PWD"/}
}

# ---- running ---------------------------------------------------------------------------------------

RUN='' SET='' REASON='' CONFIG='' FAILED='' SUPERVISE='' STARTED=''
LOG=- # where the output of mkfs, mount and the like goes
HOLDS='' # yes, no: a frozen filesystem holds writes to a loop device on it
NR_SETS=0 QUARANTINE=() KEPT=() LAST_TESTS=()
declare -A CONF

begin_config() {
	local key value

	CONFIG=$1
	LOG=$RESULTS/$CONFIG/set-up.txt
	mkdir -p "$RESULTS/$CONFIG"
	journal config-start "config=$CONFIG"
	if [[ $DIR ]]; then
		SET=$RUN
		return
	fi
	while IFS='=' read -r key value; do
		CONF[$key]=$value
	done <<< "$("$TOOLS/config" "$TOP/configs/$CONFIG.conf")"
	make_devices
}

end_config() {
	[[ $CONFIG ]] || return
	[[ $SET && ! $DIR ]] && release_devices
	journal config-end "config=$CONFIG"
	CONFIG=''
}

# supervise TEST VARIANTS OPTION...: in the background, so that a signal to us is handled at once.
supervise() {
	local names status record=()

	read -ra names <<< "$2"
	[[ ! $REACH ]] || record=("$TOOLS/record" "$RESULTS/$CONFIG/$1/reach.txt")
	if [[ $DIR ]]; then
		set -- "$1" "${@:3}" --dir "$SET"
	elif [[ ${CONF[DEVICE]} != loop ]]; then
		set -- "$1" "${@:3}" --dir "$SET/inner"
	else
		[[ ! $REACH ]] || record=("$TOOLS/record" --not-on "$SET/outer" "${record[@]:1}")
		set -- "$1" "${@:3}" --dir "$SET/inner" --gate "$SET/outer"
	fi
	"${record[@]}" "$TOOLS/supervise" "${@:2}" --config "$CONFIG" --output "$RESULTS/$CONFIG/$1" \
		--journal "$JOURNAL" --seed "$RUN_SEED" --timeout-scale "$SCALE" \
		--previous "$PREVIOUS" "${KNOWN[@]}" "${SHOW[@]}" "${FAIL_FAST[@]}" "$TESTS/$1" "${names[@]}" &
	SUPERVISE=$!
	wait "$SUPERVISE"
	status=$?
	SUPERVISE=''
	return "$status"
}

# Run one test on the set there is. An unkillable task takes the set away: the rest of the test is
# run on another one, twice at most.
run_test() {
	local test=$1 which=$2 variants=$3 try status options=()

	mkdir -p "$RESULTS/$CONFIG/$test"
	[[ $which == all ]] && options=(--all)
	for try in 1 2 3; do
		[[ $SET ]] || make_devices || return
		LAST_TESTS+=("$test")
		((try == 3)) && options+=(--last-try)
		supervise "$test" "$variants" "${options[@]}"
		status=$?
		[[ $GUEST ]] && judge_guest "$status"
		case $status in
		0) return ;;
		3)
			FAILED=1
			[[ $DIR ]] && return
			quarantine
			options+=(--resume)
			;;
		*)
			FAILED=1
			[[ $DIR ]] || release_devices # what it left may be broken: the next one gets new ones
			return
			;;
		esac
	done
}

run_plan() {
	local config test which variants broken

	while IFS=$'\t' read -r config test which variants <&3; do
		[[ $UNTIL_FAIL && $FAILED ]] && break
		if [[ $config != "$CONFIG" ]]; then
			end_config
			begin_config "$config"
			broken=$?
		fi
		((broken)) || run_test "$test" "$which" "$variants"
	done 3< "$PLAN_FILE"
	end_config
}

# A kernel that hung or complained is not the one to try the next test on: ask for a fresh guest,
# which goes on where the journal ends.
judge_guest() {
	local taint

	read -r taint < /proc/sys/kernel/tainted
	case $1 in
	3) ;;
	4) release_devices ;;
	*)
		[[ $taint == "$TAINT" ]] && return
		release_devices
		;;
	esac
	trap - EXIT
	exit 100
}

# Everything is taken down here, however the run ends, but for kill -9.
finish() {
	local status=$? reported

	trap '' INT TERM HUP
	trap - EXIT
	if [[ $SUPERVISE ]]; then
		kill -TERM "$SUPERVISE" 2> /dev/null
		wait "$SUPERVISE"
	fi
	if [[ $RUN ]]; then
		[[ $SET && ! $DIR ]] && kill_processes "$SET"
		take_down_run
	fi
	[[ $GUEST ]] && exit "$status" # the whole machine is thrown away
	if [[ $STARTED ]]; then
		rm -f "$RESULTS/vm/initramfs" # for all iterations
		if ((status)); then
			journal run-end "interrupted:=true"
		else
			journal run-end
		fi
		report
		reported=$?
		((status)) || status=$reported
	fi
	exit "$status"
}

take_down_run() {
	local set

	if ((${#KEPT[@]})); then
		[[ $SET ]] && { tear_down "$SET" || say "left alone: $SET: $REASON"; }
		: > "$RUN/keep"
		for set in "${KEPT[@]}"; do
			say "kept: $set/inner (undo with ./runtests.sh --clean)"
		done
		return 0
	fi
	# A task that could not be killed may have died since, when what it waited for was let go.
	if { ((${#QUARANTINE[@]})) && ! kill_processes "$RUN"; } || ! tear_down "$RUN"; then
		say "left alone: $RUN: $REASON"
	fi
}

report() {
	local quiet=()

	[[ ${SHOW[*]} == --quiet ]] && quiet=(--quiet)
	"$TOOLS/report" "${KNOWN[@]}" "${quiet[@]}" "$RESULTS"
	local status=$?
	[[ $KTAP ]] && cat "$RESULTS/report.ktap" >&4
	return "$status"
}

main() {
	local i

	bisect_guard "$@"
	parse_options "$@"
	if [[ ($MODE == run || $MODE == clean) && ! $DIR && ! $VM && $(id -u) != 0 ]]; then
		die "needs root, to make loop devices and mounts: use sudo, --dir DIR to test in a directory, or --vm"
	fi
	[[ $MODE == guest || ($MODE == clean && -x $TOOLS/within) ]] ||
		flock "$TOP" make -s -C "$TOP" suite >&2 ||
		die "the build failed (when something is missing: ./runner/deps run)"
	[[ ! $BISECT ]] || bisect_main
	case $MODE in
	plan) exec "$TOOLS/plan" "${PLAN[@]}" ;;
	clean)
		clean_up all
		exit
		;;
	guest) run_as_guest ;;
	esac

	"$TOOLS/plan" "${PLAN[@]}" > /dev/null || exit 2 # before anything is made
	[[ $KTAP ]] && exec 4>&1 1>&2
	trap finish EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	trap 'exit 129' HUP
	if [[ $VM ]]; then
		prepare_vm
	else
		clean_up dead
		make_run_folder
		"$TOOLS/probe" ${DIR:+"$RUN"} >&2 || exit 2
	fi
	make_results
	PLAN_FILE=$RESULTS/plan
	if [[ $VM ]]; then
		journal run-start "seed:=$SEED" "scale:=$SCALE" "argv=$*" "${VM_JOURNAL[@]}"
	else
		journal run-start "seed:=$SEED" "scale:=$SCALE" "argv=$*" "config_sha256=$(config_hash)"
	fi
	STARTED=1
	"$TOOLS/plan" --journal "$JOURNAL" "${PLAN[@]}" > "$PLAN_FILE" || exit 2
	say "ringwedge: kernel ${VM_KERNEL:-$(uname -r)}, seed $SEED, results in $RESULTS"
	for ((i = 0; UNLIMITED || i < ITERATE; i++)); do
		RUN_SEED=$((SEED + i))
		if [[ $VM ]]; then
			run_in_vms
		else
			run_plan
		fi
		[[ $UNTIL_FAIL && $FAILED ]] && break
	done
	exit 0
}

# In a guest that runner/vm/init.c has set up: run the part of the plan that is in $GUEST.
run_as_guest() {
	trap finish EXIT
	JOURNAL=$GUEST/journal.jsonl PREVIOUS='' RUN_SEED=$SEED PLAN_FILE=$GUEST/plan
	read -r TAINT < /proc/sys/kernel/tainted
	journal guest "config_sha256=$(config_hash)"
	make_run_folder
	"$TOOLS/probe" >&2 || exit 2
	run_plan
	exit 0
}

# shellcheck source=runner/vm/vm.sh
. "$TOP/runner/vm/vm.sh"
# shellcheck source=runner/devices.sh
. "$TOP/runner/devices.sh"
# shellcheck source=runner/bisect/bisect.sh
. "$TOP/runner/bisect/bisect.sh"
main "$@"
