# SPDX-License-Identifier: MIT
#
# What a run of the suite found, from its results.json ($results) and journal.jsonl ($journal).
# A kill is a FAIL or a HANG that is not a known bug, with an event of its own: what merely did not
# end, because the run was ended, is none. Its seconds are counted from the start of its test, to which
# a run comes twice.

def key: "\(.config)/\(.test)";
def variant_key: "\(key)/\(.variant)";

# When the program was started that ran it, or that had run when it was found.
def begun($journal; $at):
	key as $key | ($journal | map(select(.config and .time <= $at and key == $key))) as $events |
	def times($event): $events | map(select(.event == $event).time);
	(times("start") | max // 0) as $last |
	(times("test-end") | map(select(. <= $last)) | max // 0) as $since |
	times("start") | map(select(. >= $since)) | min;

($journal | map(select((.event == "end" or .event == "check") and
		(.verdict == "FAIL" or .verdict == "HANG"))) |
	group_by(variant_key) | map({ key: (.[0] | variant_key), value: .[0].time }) |
	from_entries) as $ended |
$results[0] as $r |
def boot_failure: .reason // "" | startswith("boot failure");
{
	found: ([$r.tests[] as $t | $t.variants[] | . + { config: $t.config, test: $t.test } |
		select((.verdict == "FAIL" or .verdict == "HANG") and $ended[variant_key] and (boot_failure | not)) |
		{ config, test, variant, verdict, reason,
		  seconds: (begun($journal; $ended[variant_key]) as $begun | if $begun then
			($ended[variant_key] - $begun) * 10 | round / 10 else null end),
		  at: $ended[variant_key] }] | sort_by(.at) | map(del(.at))),
	boots: ([$r.tests[].variants[] | select(boot_failure)] == []),
	complete: ($r.complete and ([$r.tests[].variants[] | select(.verdict == "NOTRUN")] == []) and ($journal | map(select(.event == "run-end" and .interrupted)) | length) == 0),
	kernel: ($journal | map(select(.event == "guest") | .kernel) | .[0] // $r.kernel // ""),
	seconds: (($journal | map(select(.event == "run-start" or .event == "run-end").time) | (max - min)) |
		round)
}
