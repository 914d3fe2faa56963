# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# What was found by a bisection, as text for a mail. Sourced by bisect.sh.

# git ends `git bisect run` by itself; so each step looks whether it was the last one. Prints the
# candidates that are left, were HEAD's verdict ($1, may be '') already told to git: one, or, when
# all others could not be tested, several.
candidates() {
	local term bad goods skips paths=() first=() ref
	local -A skipped=()

	term=$(git_tree bisect terms --term-bad 2> /dev/null)
	bad=$(git_tree rev-parse --quiet --verify "refs/bisect/${term:-bad}") || return
	term=$(git_tree bisect terms --term-good 2> /dev/null)
	goods=$(git_tree for-each-ref --format='%(objectname)' "refs/bisect/${term:-good}-*")
	skips=$(git_tree for-each-ref --format='%(objectname)' 'refs/bisect/skip-*')
	case $1 in
	bad) bad=$(git_tree rev-parse HEAD) ;;
	good) goods+=" $(git_tree rev-parse HEAD)" ;;
	untold) skips+=" $(git_tree rev-parse HEAD)" ;;
	esac
	[[ $goods ]] || return
	for ref in $skips; do
		skipped[$ref]=1
	done
	eval "paths=($(cat "$(git_path BISECT_NAMES)" 2> /dev/null))" # git has quoted it for that
	[[ -e $(git_path BISECT_FIRST_PARENT) ]] && first=(--first-parent)
	# shellcheck disable=SC2086 # words
	git_tree rev-list "${first[@]}" "$bad" --not $goods -- "${paths[@]}" | {
		mapfile -t left
		for ref in "${left[@]}"; do
			[[ $ref == "$bad" || ${skipped[$ref]-} ]] || exit
		done
		((${#left[@]})) && printf '%s\n' "${left[@]}"
	}
}

# The last step that tested this commit, in whatever run of the bisection.
step_of() {
	local steps=("$STATE"/steps/*-"${1:0:12}")

	[[ -e ${steps[-1]} ]] && echo "${steps[-1]}"
}

# Sets OUTCOME, CLEAN and LINE.
read_verdict() {
	{ read -r OUTCOME && read -r CLEAN && read -r LINE; } < "$1/verdict" 2> /dev/null
}

describe_commit() {
	git_tree log -1 --format='%h ("%s")' --abbrev=12 "$1"
}

# Those of the steps with this outcome.
list_steps() {
	local step

	for step in "$STATE"/steps/*; do
		read_verdict "$step"
		[[ $OUTCOME == "$1" ]] || continue
		printf '  %s\n      %s\n' "$(describe_commit "$(< "$step/commit")")" "$LINE"
	done
}

# write_report COMMIT...: one, or those of which it must be one.
write_report() {
	local step signature

	signature=$(< "$STATE/signature")
	if (($# == 1)); then
		printf 'First bad commit, found with git bisect and ringwedge (%s):\n\n' "$(< "$STATE/tested")"
		git_tree log -1 --format='  commit %H%n  Author: %an <%ae>%n  %s' "$1"
	else
		printf 'The first bad commit is one of these, of which all but the first could not be tested:\n\n'
		git_tree log --no-walk=unsorted --format='  %h ("%s")' --abbrev=12 "$@"
	fi
	printf '\nLooked for: %s\n' "${signature:-any failure}"
	step=$(step_of "$1") && read_verdict "$step" && [[ $OUTCOME == bad ]] && {
		printf 'It failed there in run %d:\n\n' $((CLEAN + 1))
		"$TOOLS/bisect/verdict" evidence --signature "$signature" \
			"$step/run-$((CLEAN + 1))"
	}
	((${#RATE[@]})) && printf '\nAt the bad end it failed in %d of %d runs.\n' "${RATE[@]}"
	printf '\nGood:\n%s\n' "$(list_steps good)"
	printf '\nBad:\n%s\n' "$(list_steps bad)"
	printf '\nCould not be tested:\n%s\n' "$(list_steps untold)"
	printf '\n'
	git_tree bisect log
}

# report_if_found OUTCOME: of HEAD, which git does not know yet, or ''.
report_if_found() {
	local found head

	mapfile -t found < <(candidates "$1")
	((${#found[@]})) || return 0
	head=$(git_tree rev-parse HEAD)
	{
		write_report "${found[@]}"
		[[ ! $1 ]] || printf 'git bisect %s %s\n' "${1/untold/skip}" "$head"
	} > "$STATE/report.txt"
	say "ringwedge: first bad commit: $(describe_commit "${found[0]}")"
	((${#found[@]} > 1)) && say "ringwedge: or one of $((${#found[@]} - 1)) before it that could not be tested"
	say "ringwedge: report in $STATE/report.txt"
}

# --bisect-report: also after the end, when git knows all the verdicts.
bisect_report() {
	enter_tree
	recall_check
	report_if_found ''
	[[ -e $STATE/report.txt ]] || die "--bisect-report: the first bad commit is not found yet"
	cat "$STATE/report.txt"
	exit 0
}
