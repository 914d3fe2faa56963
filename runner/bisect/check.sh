# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# Before a bisection: does its bad end fail, and how often, and is its good end good? Sourced by
# bisect.sh.

CHECK_RUNS=5 # without --runs

# Not a revision of the tree: a file or a folder.
is_image() {
	[[ $1 == /* || $1 == .* || $1 == *.deb ]] ||
		{ [[ -e $1 ]] && ! git rev-parse --quiet --verify "$1^{commit}" > /dev/null 2>&1; }
}

check_end() {
	if is_image "$1"; then
		[[ -e $1 ]] || die "$1: no such kernel"
	else
		git rev-parse --quiet --verify "$1^{commit}" > /dev/null 2>&1 ||
			die "$1: neither a commit of a tree here nor a kernel"
	fi
}

# prepare_end bad|good END: sets KERNEL and MODULES.
prepare_end() {
	MODULES=''
	rm -rf "${STATE:?}/check-$1"
	if [[ $2 == *.deb ]]; then
		unpack_package "$2" "$STATE/check-$1/package" || die "$2: $REASON"
	elif is_image "$2"; then
		KERNEL=$(realpath "$2")
	else
		build "$(git_tree rev-parse --verify "$2^{commit}")" "$STATE/check-$1" ||
			die "--bisect-check: $2 $REASON: see $STATE/check-$1/build.log"
	fi
}

# What is looked for: the failure of this run. Where the user has not chosen, one variant will do.
learn_from() {
	local lines own

	lines=$("$TOOLS/bisect/verdict" signature "$1") || exit 2
	{ read -r own && read -r NEEDS; } <<< "$lines"
	[[ $SIGNATURE ]] || SIGNATURE=$own
	NARROW=(--config "${NEEDS%%/*}" --variant "${NEEDS##*/}")
	case " ${PASSED[*]} " in
	*" -c "* | *" --config "* | *" -g "* | *" --group "* | *" --variant "*) NARROW=() ;;
	esac
	((${#NARROW[@]})) && ! can_plan "${NARROW[@]}" 2> /dev/null && NARROW=()
}

# count_failures FROM TO: adds to FAILED.
count_failures() {
	local nr

	for ((nr = $1; nr <= $2; nr++)); do
		run_once "$STATE/check-bad/run-$nr" "$KERNEL" "$MODULES"
		say "ringwedge: bad end, run $nr of $2: $LINE"
		[[ $OUTCOME == bad ]] && FAILED=$((FAILED + 1))
		[[ $OUTCOME == untold && $LINE != "another failure"* ]] &&
			die "--bisect-check: cannot tell: the bad end: $LINE"
	done
}

measure_bad() {
	local given=("${PASSED[@]}") runs=${RUNS:-$CHECK_RUNS} nr

	for ((nr = 1; nr <= runs; nr++)); do
		FAILED=0
		count_failures "$nr" "$nr"
		((FAILED)) && break
	done
	if ((!FAILED)); then
		say "--bisect-check: the bad end does not fail: $runs runs, the last: $LINE"
		exit 1
	fi
	learn_from "$STATE/check-bad/run-$nr"
	say "ringwedge: looking for \"$SIGNATURE\""
	if ((${#NARROW[@]})); then
		# One variant is the fastest, if it fails each time; if not, all together fail more often.
		PASSED=("${given[@]}" "${NARROW[@]}") FAILED=0
		count_failures $((runs + 1)) $((2 * runs))
		((FAILED == runs)) && RATE=("$FAILED" "$runs") && return
		PASSED=("${given[@]}")
	fi
	be_fast
	FAILED=$((nr <= runs))
	count_failures $((2 * runs + 1)) $((3 * runs - nr))
	RATE=("$FAILED" "$runs")
}

write_check() {
	printf '%s\n' "tested=$TESTED" "options=$(printf '%q ' "${PASSED[@]}")" "bad=$1" \
		"signature=$SIGNATURE" "needs=$NEEDS" "failed=${RATE[0]}" "runs=${RATE[1]}" > "$STATE/check"
}

bisect_check() {
	local bad=${BISECT_ENDS[0]} good=${BISECT_ENDS[1]}

	check_end "$bad"
	check_end "$good"
	if is_image "$bad" && is_image "$good"; then
		STATE=$CACHE/bisect/check
		mkdir -p "$STATE" || exit 2
	else
		enter_tree
	fi
	TESTED=$(printf '%q ' "${PASSED[@]}" -- "${BISECT_TESTS[@]}")
	be_fast
	prepare_end bad "$bad"
	measure_bad
	RUNS='' # was how often to measure; from here on the rate says
	prepare_end good "$good"
	run_kernel "$STATE/check-good" "$KERNEL" "$MODULES"
	case $OUTCOME in
	good)
		[[ ! $TREE ]] || is_image "$bad" || write_check "$(git_tree rev-parse "$bad^{commit}")"
		say "--bisect-check: $bad fails in ${RATE[0]} of ${RATE[1]} runs (\"$SIGNATURE\")," \
			"$good is good: $LINE"
		exit 0
		;;
	bad)
		say "--bisect-check: the good end fails, too: $LINE"
		exit 1
		;;
	esac
	die "--bisect-check: cannot tell: the good end: $LINE"
}
