#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# new-mutant, mutants/run and mutants/score, on a source tree of a few files and a suite that finds
# what stands in the image.
#
# shellcheck disable=SC2154,SC2016,SC2030,SC2031 # run sets $output and the like; each test is a subshell

bats_require_minimum_version 1.5.0
load common.bash
load tree.bash

setup() {
	need jq
	make_tree
}

# mutant NAME OLD NEW [FIELD-TO-LEAVE-OUT]
mutant() {
	local file=$RINGWEDGE_MUTANTS/$1.patch name

	echo "SPDX-License-Identifier: GPL-2.0-only" > "$file"
	for name in Title Class History Affects Expose Observe Base; do
		[[ $name == "${4-}" ]] || printf '%s: the %s of\n  %s\n' $name "${name,}" "$1" >> "$file"
	done
	echo >> "$file"
	sed "s/$2/$3/" "$TREE/fs/xfs/file.c" |
		diff -u --label a/fs/xfs/file.c --label b/fs/xfs/file.c "$TREE/fs/xfs/file.c" - >> "$file" || true
}

# A suite: each word "bug" in the image is a failure, "hang" a hang, "slow" takes long.
make_suite() {
	export RINGWEDGE_RUNTESTS=$BATS_TEST_TMPDIR/runtests
	cat > "$RINGWEDGE_RUNTESTS" << 'END'
#!/bin/bash
image=$2 dir=$4
trap '' TERM # like runtests.sh, it has its results whole
mkdir -p "$dir"
echo "$*" >> "${image%/*}/arguments"
event() {
	jq -cn --arg event "$1" --argjson time "$2" --arg variant "$3" --arg verdict "$4" '{ event: $event,
		time: $time, config: "xfs-4k", test: "some-test", variant: $variant, verdict: $verdict }'
}
{
	event run-start 100 '' ''
	event start 110 first FAIL
	event end 111 first PASS
	event start 111 second FAIL
	! grep -q bug "$image" || event end 112.5 second FAIL
	! grep -q hang "$image" || event end 114 second HANG
	event run-end 120 '' ''
} > "$dir/journal.jsonl"
if grep -q slow "$image"; then
	trap 'kill $!' TERM
	sleep 60 &
	wait $!
fi
verdict=PASS
grep -q bug "$image" && verdict=FAIL
grep -q hang "$image" && verdict=HANG
jq -n --arg verdict $verdict '{ complete: true, kernel: "6.12.0-fake", counts: {}, tests: [ {
	config: "xfs-4k", test: "some-test", variants: [ { variant: "first", verdict: "PASS", reason: "" },
	{ variant: "second", verdict: $verdict, reason: "a|reason" } ] } ] }' > "$dir/results.json"
[[ $verdict == PASS ]]
END
	chmod +x "$RINGWEDGE_RUNTESTS"
}

mutants() {
	run --separate-stderr "$TOP/mutants/run" --source "$TREE" --runs 2 "$@"
	echo "$output $stderr"
}

score() {
	jq -r "$1" "$RINGWEDGE_MUTANTS/mutants.json"
}

runs() {
	cat "$RINGWEDGE_CACHE"/mutants/*/arguments | wc -l
}

# ---- new-mutant ------------------------------------------------------------------------------------

@test "a mutant without a field, a name, a licence or a patch is refused" {
	local name

	export KSRC=$TREE
	mutant 01-good three 3
	run "$TOP/new-mutant" --check "$RINGWEDGE_MUTANTS/01-good.patch"
	[[ $status == 0 && ! $output ]]
	for name in Title Class History Affects Expose Observe Base; do
		mutant 02-bad three 3 $name
		run "$TOP/new-mutant" --check "$RINGWEDGE_MUTANTS/02-bad.patch"
		[[ $status == 1 && $output == *"02-bad.patch: has no $name:" ]]
	done
	mutant bad three 3
	run "$TOP/new-mutant" --check
	[[ $status == 1 && $output == *"bad.patch: is not named NUMBER-kebab-case.patch"* ]]
	sed -i 1d "$RINGWEDGE_MUTANTS/01-good.patch"
	run "$TOP/new-mutant" --check "$RINGWEDGE_MUTANTS/01-good.patch"
	[[ $status == 1 && $output == *"the first line is not: SPDX"* ]]
	mutant 03-empty none none
	run "$TOP/new-mutant" --check "$RINGWEDGE_MUTANTS/03-empty.patch"
	[[ $status == 1 && $output == *"has no patch with a/ and b/" ]]
}

@test "a mutant that does not apply, or is in the tree already, is refused" {
	export KSRC=$TREE
	mutant 01-some three 3
	sed -i 's/three/3/' "$TREE/fs/xfs/file.c"
	run "$TOP/new-mutant" --check
	[[ $status == 1 && $output == *"is in $TREE already" ]]
	echo other > "$TREE/fs/xfs/file.c"
	run "$TOP/new-mutant" --check
	[[ $status == 1 && $output == *"does not apply to $TREE" ]]
}

@test "a new mutant has the next number and is refused until it is filled in" {
	export KSRC=$TREE
	mutant 08-some three 3
	diff -u --label a/fs/xfs/file.c --label b/fs/xfs/file.c "$TREE/fs/xfs/file.c" \
		<(sed s/two/2/ "$TREE/fs/xfs/file.c") > "$BATS_TEST_TMPDIR/diff" || true
	"$TOP/new-mutant" xfs-some-bug < "$BATS_TEST_TMPDIR/diff"
	run "$TOP/new-mutant" --check "$RINGWEDGE_MUTANTS/09-xfs-some-bug.patch"
	[[ $status == 1 && $output == *"09-xfs-some-bug.patch: is not filled in" ]]
	SAYS="not a name in kebab-case" refused "$TOP/new-mutant" Some_Bug
}

@test "the project's mutants have their headers, and the index is of them" {
	unset RINGWEDGE_MUTANTS
	run "$TOP/new-mutant" --check
	[[ $status == 0 ]]
	export RINGWEDGE_MUTANTS=$BATS_TEST_TMPDIR/mutants
	cp "$TOP"/mutants/*.patch "$RINGWEDGE_MUTANTS"
	"$TOP/mutants/score" --index
	cmp "$RINGWEDGE_MUTANTS/README.md" "$TOP/mutants/README.md"
}

# ---- mutants/run -----------------------------------------------------------------------------------

@test "mutants are built, run and scored, survivors first; the tree is as it was" {
	need_kernel_tools
	make_suite
	mutant 01-found three bug
	mutant 02-survivor two 2
	echo "Survives: for a reason." | sed -i '7r /dev/stdin' "$RINGWEDGE_MUTANTS/02-survivor.patch"
	mutant 03-hangs four hang
	mutant 04-broken four broken
	mutant 05-stale four stale
	sed -i 's/^-four/-vier/' "$RINGWEDGE_MUTANTS/05-stale.patch"
	cp -r "$TREE" "$BATS_TEST_TMPDIR/before"
	mutants
	[[ $status == 0 && $output == "2 of 5 killed; see docs/mutants.md" ]]
	diff -r "$TREE" "$BATS_TEST_TMPDIR/before"

	[[ $(score '.score | [.mutants, .killed, .survived, .["not-built"]] | @csv') == 5,2,1,2 ]]
	[[ $(score '.mutants[] | .verdict' | xargs) == "killed survived killed not-built not-built" ]]
	[[ $(score '.mutants[0].first_kill | [.config, .test, .variant, .verdict, .seconds] | @csv') == \
		'"xfs-4k","some-test","second","FAIL",2.5' ]]
	[[ $(score '.mutants[2].first_kill | .verdict, .seconds' | xargs) == "HANG 4" ]]
	[[ $(score '.mutants[3].why') == *"error: broken" && $(score '.mutants[4].why') == "does not apply" ]]
	[[ $(score '.control | .runs, (.alarms | length)' | xargs) == "2 0" ]]
	# What is not in fs/xfs/ is left out; the control has all of it.
	grep -q -- '--fail-fast .*-x ext4$' "$RINGWEDGE_CACHE"/mutants/*/arguments
	[[ $(grep -hcv -- '-x ext4' "$RINGWEDGE_CACHE"/mutants/*/arguments | paste -sd+ | bc) == 2 ]]

	[[ $(sed -n '/^## Survivors/,/^## All/p' "$RINGWEDGE_DOCS/mutants.md" | grep -c '^- ') == 3 ]]
	grep -q '^- \*\*02-survivor\*\* (survived): the title of 02-survivor. for a reason.$' "$RINGWEDGE_DOCS/mutants.md"
	[[ $(grep -o '^| \[0[0-9]' "$RINGWEDGE_DOCS/mutants.md" | xargs) == "| [02 | [04 | [05 | [01 | [03" ]]
	grep -q '| some-test (xfs-4k `second` FAIL) | 2.5 |  | killed |$' "$RINGWEDGE_DOCS/mutants.md"
}

@test "what was built and run is not built and run again, but for what has changed" {
	need_kernel_tools
	make_suite
	mutant 01-found three bug
	mutant 02-survivor two 2
	mutants
	[[ $(builds) == 4 && $(runs) == 4 ]] # without a patch, two with, and without again
	mutants
	[[ $status == 0 && $(builds) == 4 && $(runs) == 4 ]]
	sed -i 's/title of/better title of/' "$RINGWEDGE_MUTANTS/01-found.patch"
	mutants
	[[ $(runs) == 4 && $(score '.mutants[0].title') == "the better title of 01-found" ]]
	mutant 02-survivor two zwei
	mutants
	[[ $(builds) == 6 && $(runs) == 5 ]]
	mutants -- --variant x
	[[ $(builds) == 6 && $(runs) == 9 ]]
}

@test "with --only, the others keep the score they have" {
	need_kernel_tools
	make_suite
	mutant 01-found three bug
	mutant 02-other two bug
	mutants
	rm -r "$RINGWEDGE_CACHE"
	mutants --only '02-*' --runs 0
	[[ $(score '.mutants[] | .verdict' | xargs) == "killed killed" && $(runs) == 1 ]]
	[[ $(score .control.runs) == 2 ]]
	mutant 01-found three other-bug
	"$TOP/mutants/score"
	[[ $(score '.mutants[] | .verdict' | xargs) == "not-run killed" ]]
}

@test "an alarm of the kernel without a patch is shown, and kills nothing" {
	need_kernel_tools
	make_suite
	echo bug >> "$TREE/fs/xfs/file.c"
	mutant 01-no-proof three 3
	mutants
	[[ $(score '.mutants[0].verdict') == survived && $(score '.control.alarms | length') == 2 ]]
	grep -q '^2 runs of the kernel without a patch, 2 alarms' "$RINGWEDGE_DOCS/mutants.md"
	grep -q '^- xfs-4k/some-test/second, 2 times: FAIL a|reason$' "$RINGWEDGE_DOCS/mutants.md"
}

@test "killed with a patch in the tree, it takes that out at the next start" {
	need_kernel_tools
	mutant 01-some three 3
	cp "$TREE/fs/xfs/file.c" "$BATS_TEST_TMPDIR/before"
	cat >> "$TREE/Makefile" << 'END'
	if grep -q 3 fs/xfs/file.c && test -e $(CURDIR)/kill-me; then rm $(CURDIR)/kill-me; \
		kill -9 `cat $(CURDIR)/pid`; fi
END
	touch "$TREE/kill-me"
	run env TREE="$TREE" bash -c 'echo $$ > "$TREE/pid"; exec "$0" --source "$TREE" --build' \
		"$TOP/mutants/run"
	[[ $status == 137 ]]
	! cmp -s "$TREE/fs/xfs/file.c" "$BATS_TEST_TMPDIR/before" || false
	eventually "$TOP/kernel/build" --source "$TREE"
	cmp "$TREE/fs/xfs/file.c" "$BATS_TEST_TMPDIR/before"
	run --separate-stderr "$TOP/mutants/run" --source "$TREE" --build
	[[ $status == 0 && $(wc -l <<< "$output") == 1 ]]
	grep -q 3 "$output"
	cmp "$TREE/fs/xfs/file.c" "$BATS_TEST_TMPDIR/before"
}

@test "a git tree with changes, and a second run at a time, are refused" {
	need_kernel_tools
	need git
	mutant 01-some three 3
	git -C "$TREE" init -q
	git -C "$TREE" add .
	git -C "$TREE" -c user.name=x -c user.email=x commit -qm x
	echo six >> "$TREE/fs/xfs/file.c"
	run --separate-stderr "$TOP/mutants/run" --source "$TREE" --build
	[[ $status == 2 && $stderr == *"has changes that are not committed"* ]]
	git -C "$TREE" checkout -q .
	flock "$RINGWEDGE_CACHE/mutants/lock" sleep 60 3>&- &
	eventually eval '! flock --nonblock "$RINGWEDGE_CACHE/mutants/lock" true'
	SAYS="another mutants/run is at work" refused "$TOP/mutants/run" --source "$TREE" --build
	kill $!
}

@test "a run without results is no verdict, and the others go on" {
	need_kernel_tools
	make_suite
	sed -i '2a grep -q none "$image" && exit 2' "$RINGWEDGE_RUNTESTS"
	mutant 01-none three none
	mutant 02-found three bug
	mutants --runs 0
	[[ $status == 2 && $stderr == *"no results"* ]]
	[[ $(score '.mutants[] | .verdict' | xargs) == "not-run killed" ]]
}

@test "--first begins with what killed it the last time, and goes on if that does not" {
	local narrowed

	need_kernel_tools
	make_suite
	mutant 01-bug three bug
	mutants --first --runs 0
	mutant 01-bug three bug-again
	mutants --first --runs 0
	narrowed=$(grep -c -- '-c xfs-4k some-test$' <(cat "$RINGWEDGE_CACHE"/mutants/*/arguments))
	[[ $narrowed == 1 && $(runs) == 2 && $(score '.mutants[0].verdict') == killed ]]
	# On another machine the score says what it was.
	rm -r "$RINGWEDGE_CACHE/mutants/records"
	mutant 01-bug three other-bug
	mutants --first --runs 0
	narrowed=$(grep -c -- '-c xfs-4k some-test$' <(cat "$RINGWEDGE_CACHE"/mutants/*/arguments))
	[[ $narrowed == 2 && $(runs) == 3 && $(score '.mutants[0].verdict') == killed ]]
	mutant 01-bug three harmless
	mutants --first --runs 0
	[[ $(runs) == 5 && $(score '.mutants[0].verdict') == survived ]]
	mutant 01-bug three bug
	mutants --first --runs 0
	# The test that killed it is no more.
	sed -i '2a case $* in *"-c xfs-4k some-test") exit 2 ;; esac' "$RINGWEDGE_RUNTESTS"
	mutant 01-bug three bug-third
	mutants --first --runs 0
	[[ $status == 0 && $(score '.mutants[0].verdict') == killed ]]
}

@test "--again says how often the variant killed that killed first" {
	need_kernel_tools
	make_suite
	sed -i 's/variant: "second"/variant: "second.one"/; s/event start 111 second/event start 111 second.one/
		s/112.5 second/112.5 second.one/' "$RINGWEDGE_RUNTESTS"
	# Not each time: three runs in one, of which one finds it.
	sed -i '2a case $* in *--iterate*) set -- "$1" "$2" "$3" "$4"; again=1 ;; esac' "$RINGWEDGE_RUNTESTS"
	sed -i 's/^\tevent run-end.*/\t[[ -v again ]] \&\& event start 115 second.one FAIL \&\& event end 116 second.one PASS\n&/' \
		"$RINGWEDGE_RUNTESTS"
	mutant 01-bug three bug
	mutants --runs 0 --again 2
	[[ $(score '.mutants[0].again | "\(.killed) of \(.runs)"') == "1 of 2" ]]
	grep -q '| 1/2 | killed |$' "$RINGWEDGE_DOCS/mutants.md"
}

@test "--first and --budget end a run, with what was found" {
	need_kernel_tools
	make_suite
	sed -i '1s/.*/slow/' "$TREE/fs/xfs/file.c"
	mutant 01-found three bug
	mutants --first --budget 2 --runs 0
	[[ $(score '.mutants[0] | .verdict, .arguments' | xargs) == "killed --first --budget 2" ]]
	grep -q -- '--until-fail' "$RINGWEDGE_CACHE"/mutants/*/arguments
}
