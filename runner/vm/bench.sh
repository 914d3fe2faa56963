#!/bin/bash
# SPDX-License-Identifier: MIT
#
# How long from a kernel's image to one test's verdict, against a boot that does nothing at all?
# runner/vm/bench.sh [KERNEL] [RUNS]: seconds of each, and the ratio of the medians, from one run.

set -u
cd "$(dirname "$0")/../.." || exit 2
# shellcheck source=runner/cache.sh
. runner/cache.sh
kernel=${1-} runs=${2:-5} place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

median() {
	sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

# seconds COMMAND...: of wall clock, and the command must succeed
seconds() {
	local TIMEFORMAT=%R

	{ time "$@" > "$place/output" 2>&1 || echo failed >> "$place/output"; } 2>&1
	grep -q '^failed' "$place/output" && cat "$place/output" >&2
}

# Until the verdict is in the journal; what is taken down after it does not count.
one_verdict() {
	./runtests.sh --vm "${kernel:-}" --accel tcg -o "$place/$1" -c xfs-4k --variant punch-hole.plain.same falloc-dio
}

# The same guest, whose command does nothing.
bare_boot() {
	mkdir -p "$place/bare/vm" && : > "$place/bare/journal.jsonl"
	printf 'bare\tboot\tall\tnothing\n' > "$place/plan"
	build/runner/vm/vm --results "$place/bare" --plan "$place/plan" --kernel "$1" \
		--initramfs "$place/initramfs" -- true
}

[[ -n $kernel ]] || kernel=$(known_kernels | head -n 1)
mkdir "$place/root" && cp build/runner/vm/init "$place/root/"
(cd "$place/root" && find . | cpio --quiet -o -H newc) > "$place/initramfs"
for ((i = 1; i <= runs; i++)); do
	seconds bare_boot "$kernel" >> "$place/bare.times"
	seconds one_verdict "$i" > /dev/null
	jq -s '(map(select(.event == "end"))[0].time - .[0].time) * 10 | round / 10' \
		"$place/$i/journal.jsonl" >> "$place/verdict.times"
	echo "bare boot $(tail -n 1 "$place/bare.times") s, one verdict $(tail -n 1 "$place/verdict.times") s"
done
awk -v bare="$(median < "$place/bare.times")" -v verdict="$(median < "$place/verdict.times")" \
	'BEGIN { printf "medians: bare boot %.1f s, one verdict %.1f s, ratio %.1f\n", bare, verdict, verdict / bare }'
