#!/bin/bash
# SPDX-License-Identifier: MIT
#
# What `make check` does. Each step is one test with a title; the harness's own tests (TAP) and the
# suite (results.json) are counted variant by variant. The last line sums up:
# N passed, N failed, N skipped.

set -u
cd "$(dirname "$0")/.." || exit 2

OUT=build/check
rm -rf "$OUT"
mkdir -p "$OUT" || exit 2
passed=0 failed=0 skipped=0
left_out=()

say() {
	printf '%-7s %s\n' "$1" "$2"
}

# step TITLE COMMAND...: quiet when it succeeds
step() {
	local title=$1 log
	shift
	log=$OUT/$(tr -c 'a-z0-9\n' - <<< "$title").log
	if "$@" > "$log" 2>&1; then
		passed=$((passed + 1))
		say PASS "$title"
	else
		failed=$((failed + 1))
		say FAIL "$title ($log)"
		head -n 30 "$log"
	fi
}

leave_out() {
	skipped=$((skipped + 1))
	left_out+=("$1: $2")
	say SKIP "$1: $2"
}

files() {
	git ls-files -co --exclude-standard -- "$@"
}

have() {
	command -v "$1" > /dev/null
}

# ---- lint ----------------------------------------------------------------------------------------------

formatted() {
	files '*.c' '*.h' | xargs clang-format --dry-run -Werror
}

# Which dialect a file is in, its first line says; bats files are bats.
shell_is_clean() {
	files | while read -r f; do
		case $f in
		*.bats) printf '%s\0' "$f" ;;
		*) head -c 64 "$f" | head -n 1 | grep -aqE '^#!.*(ba)?sh$' && printf '%s\0' "$f" ;;
		esac
	done | xargs -0 shellcheck -x
	# Parts that are sourced have no first line.
	files '*/*.sh' | xargs shellcheck -x -s bash
}

no_mark_left() {
	# In two parts, so that this line is not one of them.
	! files | grep -v '^docs/' | xargs grep -nE "TO""DO:|FIX""ME|XX""X:|FILL""-IN"
}

licensed() {
	! files | grep -vE '\.(json|patch)$' | xargs grep -L 'SPDX-License-Identifier: ' | grep .
}

readme_is_short() {
	[[ $(wc -l < README.md) -le 120 ]]
}

# Every test says what it is, under the name of its file.
described() {
	local test
	for test in build/tests/*; do
		"$test" --describe | jq -e --arg name "${test##*/}" \
			'.name == $name and (.summary | length > 20) and (.variants | length > 0)' || {
			echo "$test"
			return 1
		}
	done
	for test in tests/*.c; do
		[[ -x build/tests/$(basename "$test" .c) ]] || return 1
	done
}

configs_read() {
	local conf
	for conf in configs/*.conf; do
		build/runner/config "$conf" || return 1
	done
}

# ---- builds --------------------------------------------------------------------------------------------

build() {
	make -s -j"$(nproc)" "$@" all
}

SANITIZE='-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all'

# ---- the suite -----------------------------------------------------------------------------------------

# Says why not. A dry run is not enough: whether there are loop devices is found by trying.
can_run() {
	[[ $(id -u) == 0 ]] || {
		echo "needs root"
		return 1
	}
	losetup --find > /dev/null 2>&1 || {
		echo "needs loop devices"
		return 1
	}
	mkdir -p "$OUT/mount"
	mount -t tmpfs ringwedge-check "$OUT/mount" 2> /dev/null || {
		echo "needs to be allowed to mount"
		return 1
	}
	umount "$OUT/mount"
}

# count RESULTS_DIR TITLE STATUS
count_results() {
	local p f s
	if ! read -r p f s < <(jq -r '.counts | [.PASS, .FAIL + .HANG + .BROKEN + .NOTRUN,
		.SKIP + .XFAIL] | @tsv' "$1/results.json"); then
		failed=$((failed + 1))
		say FAIL "$2: no results.json"
		return
	fi
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
	if ! jq -e '.unexpected_skips == []' "$1/results.json" > /dev/null; then
		failed=$((failed + 1))
		say FAIL "$2: skips that configs/ does not expect: see $1/results.json"
	elif (($3 == 0 && f == 0)); then
		say PASS "$2: $p passed, $s skipped or expected to fail"
	else
		((f)) || failed=$((failed + 1))
		say FAIL "$2: exit status $3, $p passed, $f failed, $s skipped"
	fi
}

count_tap() {
	local p f s
	p=$(grep -cE '^ok ' "$1")
	s=$(grep -cE '^ok .* # skip' "$1")
	f=$(grep -cE '^not ok ' "$1")
	passed=$((passed + p - s)) failed=$((failed + f)) skipped=$((skipped + s))
	if (($2 == 0)); then
		say PASS "$3: $((p - s)) passed, $s skipped"
	else
		((f)) || failed=$((failed + 1))
		say FAIL "$3: $((p - s)) passed, $f failed, $s skipped ($1)"
		grep -A 12 -E '^not ok ' "$1" | head -n 60
	fi
	while read -r line; do
		left_out+=("$line")
	done < <(sed -n 's/^ok [0-9]* \(.*\) # skip \(.*\)/\1: \2/p' "$1")
}

# ---- all of it -----------------------------------------------------------------------------------------

step "gcc builds it without a warning" build
if have clang; then
	step "clang builds it without a warning" build BUILD=build/clang CC=clang
else
	leave_out "clang builds it without a warning" "no clang"
fi
step "it builds with address and undefined behaviour sanitizers" \
	build BUILD=build/sanitized CFLAGS="$SANITIZE"
if have clang-format; then
	step "the C code is formatted" formatted
else
	leave_out "the C code is formatted" "no clang-format"
fi
if have shellcheck; then
	step "shellcheck finds nothing" shell_is_clean
else
	leave_out "shellcheck finds nothing" "no shellcheck"
fi
step "no mark of unfinished work is left" no_mark_left
step "every file has its licence" licensed
step "the README is at most 120 lines" readme_is_short
step "every test describes itself" described
step "every configuration can be read" configs_read

make -s check-meta > "$OUT/meta.log" 2>&1
count_tap "$OUT/meta.tap" $? "the harness proves itself"

if why=$(can_run); then
	RINGWEDGE_TESTS=build/sanitized/tests ./runtests.sh -c xfs-4k -c ext4-4k -o "$OUT/sanitized" \
		--variant '*.plain.same' --variant '*.fixed.other' --variant '*.aio.same' \
		> "$OUT/sanitized.log" 2>&1
	count_results "$OUT/sanitized" "the suite under the sanitizers" $?
	./runtests.sh -o "$OUT/suite" 2>&1 | tee "$OUT/suite.log"
	count_results "$OUT/suite" "the suite" "${PIPESTATUS[0]}"
else
	leave_out "the suite" "$why"
fi

echo
for line in ${left_out[@]+"${left_out[@]}"}; do
	echo "left out: $line"
done
echo "$passed passed, $failed failed, $skipped skipped"
((failed == 0))
