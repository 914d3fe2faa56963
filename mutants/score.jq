# SPDX-License-Identifier: MIT
#
# From headers and records to mutants.json (score), and from that to docs/mutants.md (table).

def cell: tostring | gsub("\\|"; "\\|") | gsub("\n"; " ");
def row: "| \(map(cell) | join(" | ")) |";
def rows(heads): (heads | row), (heads | map("---") | row), .[];
def place: "\(.config)/\(.test)/\(.variant)";

# ---- mutants/README.md: an array of headers ---------------------------------------------------------

def index:
	"<!-- SPDX-License-Identifier: MIT -->",
	"<!-- Written by mutants/score from the headers of the patches; do not edit. -->",
	"# Mutants",
	"",
	"Kernel patches (GPL-2.0-only) that put a bug back, or in, which the suite must find: `make mutants`.",
	"`../docs/mutants.md` has the score; `../new-mutant` begins another one.",
	"",
	(map([ "[\(.name)](\(.name).patch)", .title, .class, .affects ] | row) |
		rows(["mutant", "title", "class", "affects"]));

# ---- mutants.json ----------------------------------------------------------------------------------

# An alarm of the kernel without a patch is no proof against one with a patch.
def scored($alarms):
	(.found // []) as $found |
	[$found[] | select(place as $p | all($alarms[]; . != $p))] as $kills |
	(if .verdict == "killed" and $kills == [] then
		(if .complete then "survived" else "unfinished" end) else .verdict end) as $verdict |
	{
		name, patch, title, class, verdict: $verdict, why, survives,
		first_kill: ($kills | map(select(.seconds)) | min_by(.seconds)),
		kills: $kills, kernel, base, suite, arguments, complete, seconds, again
	} | with_entries(select(.value != null and .value != ""));

def score($headers; $records; $control; $before):
	def by_name: map({ key: .name, value: . }) | from_entries;
	($records | by_name) as $new |
	($before.mutants // [] | map(. + { found: .kills }) | by_name) as $old |
	(if $control != [] then {
		kernel: $control[0].kernel, base: $control[0].base, suite: $control[0].suite,
		arguments: $control[0].arguments, runs: ($control | length),
		alarms: [$control[] | .found[]], seconds: ($control | map(.seconds))
	} else $before.control end) as $base |
	[$base.alarms // [] | .[] | place] as $alarms |
	[$headers[] | . as $header |
		([$new[.name], $old[.name]] | map(select(. and .patch == $header.patch)) | .[0]) as $record |
		(($record // { verdict: "not-run" }) + ($header | { name, patch, title, class, survives })) |
		scored($alarms)] as $mutants |
	($mutants | group_by(.verdict) | map({ key: .[0].verdict, value: length }) | from_entries) as $n |
	{
		"SPDX-License-Identifier": "MIT",
		"written by": "make mutants; do not edit",
		score: ({ mutants: ($mutants | length), killed: 0, survived: 0 } + $n),
		control: $base,
		mutants: $mutants
	};

# ---- docs/mutants.md -------------------------------------------------------------------------------

def order: { survived: 0, unfinished: 1, "not-booting": 2, "not-built": 3, "not-run": 4, killed: 5 }[.verdict];

def killers:
	(.kills // []) | group_by(.test) | map(sort_by(.seconds // 1e9)) | sort_by(.[0].seconds // 1e9) |
	map("\(.[0].test) (\(.[0].config) `\(.[0].variant)` \(.[0].verdict)" +
		(if length > 1 then ", one of \(length)" else "" end) + ")") | join(", ");

def settings: "kernel \(.kernel), suite `\(.suite)`" +
	(if .arguments != "" and .arguments then ", `\(.arguments)`" else ", the default suite" end);

def survivors:
	map(select(.verdict != "killed")) |
	if . == [] then "None." else .[] |
		"- **\(.name)** (\(.verdict)): \(.title)." +
		(if .why then " \(.why | gsub("^ +"; ""))." else "" end) +
		(if .survives then " \(.survives)" else "" end)
	end;

# Which runs the verdicts are from: one line where all are alike.
def provenance:
	map(select(.suite and .suite != "")) | group_by([.kernel, .suite, .arguments]) |
	map({ text: (.[0] | settings), names: map(.name | split("-")[0]) }) |
	if length == 0 then "Nothing has been run." elif length == 1 then "All on \(.[0].text)."
	else .[] | "- \(.names | join(", ")): \(.text)" end;

def control:
	if . == null then "Not run yet." else
		"\(.runs) runs of the kernel without a patch, \(.alarms | length) alarms; " +
		"\(.seconds | add / length | round) s each. On \(settings).",
		(if .alarms == [] then empty else "" end),
		(.alarms | group_by(place) | .[] |
			"- \(.[0] | place), \(length) times: \(.[0].verdict) \(.[0].reason | gsub("\n"; " "))")
	end;

def table:
	"<!-- SPDX-License-Identifier: MIT -->",
	"<!-- Written by make mutants, do not edit. -->",
	"# The suite against kernels with a known bug",
	"",
	"**\(.score.killed) of \(.score.mutants) mutants killed**" +
		(.score | del(.mutants, .killed) | to_entries | map(select(.value > 0) | ", \(.value) \(.key)") |
			join("")) + ".",
	"`make mutants` builds a kernel for each patch in mutants/ and runs the suite on it in VMs. Killed: a",
	"FAIL or HANG that the kernel without the patch does not give. Seconds: from the start of the test",
	"program to its failing verdict, the quickest. Again: in how many of so many runs more that variant",
	"killed.",
	"",
	"## Survivors",
	"",
	(.mutants | survivors),
	"",
	"## All",
	"",
	(.mutants | sort_by(order, .name) | map([ "[\(.name)](../mutants/\(.name).patch)", .class,
		killers, (.first_kill.seconds // ""), (.again // "" | if . == "" then . else "\(.killed)/\(.runs)" end),
		.verdict ] | row) | rows(["mutant", "class", "killed by", "seconds", "again", "verdict"])),
	"",
	(.mutants | provenance),
	"",
	"## Control",
	"",
	(.control | control);
