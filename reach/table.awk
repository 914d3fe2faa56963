# SPDX-License-Identifier: MIT
#
# docs/reach.md from what was recorded. Reads, told apart by KIND=... between the files (reach/table):
#
#   sites    FILE LINE FUNCTION of each call of inode_dio_wait() in the source
#   why      TAB-separated: a function or a way, and why it is not reached
#   frames   of addr2line -a -f -i: an address, then a function and a line for each inlined level
#   record   CONFIG TEST, then a line of runner/record.c
#   norecord CONFIG TEST: nothing is known of that run
#
# Variables: kernel, command, wrappers (of inode_dio_wait(), in headers).

BEGIN {
	split("inode_dio_wait|" wrappers, part, "|")
	for (i in part)
		is_wrapper[part[i]] = 1
	# Those that must be; others are added as they come.
	expect("starts", "inline, io-wq, SQPOLL, aio")
	expect("ends", "inline, workqueue, caller, error")
}

function expect(kind, list, part, n, i) {
	n = split(list, part, ", ")
	for (i = 1; i <= n; i++) {
		named(kind, part[i])
		expected[kind, part[i]] = 1
	}
}

function named(kind, name) {
	if (!((kind, name) in ways)) {
		ways[kind, name] = 1
		names[kind, ++nr_names[kind]] = name
	}
}

# A list without doubles.
function add(set, key, item) {
	if (!index(", " set[key] ", ", ", " item ", "))
		set[key] = set[key] (set[key] == "" ? "" : ", ") item
}

function has(name, i) {
	for (i = 1; i <= depth; i++)
		if (func_of[i] == name)
			return i
	return 0
}

function way(kind, name) {
	named(kind, name)
	add(reached, kind SUBSEP name SUBSEP fs, test)
}

# Who calls inode_dio_wait(), and has anything been in flight?
function saw_wait(at, i) {
	for (i = at + 1; func_of[i] in is_wrapper;)
		i++
	if (!(line_of[i] in is_site))
		add(elsewhere, func_of[i] " (" line_of[i] ")", test)
	else if (has("init_wait_var_entry"))
		add(waited, line_of[i], test)
	else
		add(idle, line_of[i], test)
}

function saw_start() {
	if (has("io_wq_submit_work"))
		way("starts", "io-wq")
	else if (has("io_sq_thread"))
		way("starts", "SQPOLL")
	else if (has("io_submit_one") || has("__x64_sys_io_submit"))
		way("starts", "aio")
	else if (has("io_submit_sqes"))
		way("starts", "inline")
	else if (has("io_req_task_submit"))
		way("starts", "task_work")
	else
		way("starts", "system call")
}

# It may have interrupted anything: only what is called by what counts.
function saw_end(at) {
	if (func_of[at + 1] == "iomap_dio_deferred_complete")
		way("ends", "caller")
	else if (func_of[at + 1] != "iomap_dio_complete_work")
		way("ends", "submission")
	else if (func_of[at + 2] == "process_one_work")
		way("ends", "workqueue")
	else
		way("ends", "inline")
}

function saw_stack(first, i, k, at) {
	depth = 0
	for (i = first; i <= NF; i++)
		for (k = 1; k <= nr_frames[$i]; k++) {
			func_of[++depth] = frame_func[$i, k]
			line_of[depth] = frame_line[$i, k]
		}
	func_of[depth + 1] = line_of[depth + 1] = func_of[depth + 2] = ""
	if (has("lo_rw_aio") && !has("iomap_dio_complete_work"))
		return # the device's, not the test's
	if ((at = has("inode_dio_wait")))
		saw_wait(at)
	else if ((at = has("iomap_dio_complete")))
		saw_end(at)
	else if (has("__iomap_dio_rw"))
		saw_start()
}

KIND == "sites" {
	site[++nr_sites] = $1 ":" $2
	is_site[$1 ":" $2] = 1
	site_func[nr_sites] = $3
}

KIND == "why" {
	split($0, part, "\t")
	why[part[1]] = part[2]
}

KIND == "frames" && /^0x/ {
	address = $1
	sub(/^0x0*/, "", address)
	next
}

# The function's name, then its line; a site's path begins where the source tree does.
KIND == "frames" && !half {
	half = $1
	sub(/\..*/, "", half) # the compiler's: .isra.0
	next
}

KIND == "frames" {
	k = ++nr_frames[address]
	frame_func[address, k] = half
	half = ""
	$0 = $1
	sub(/^.*\/fs\//, "fs/")
	frame_line[address, k] = $0
}

KIND ~ /record$/ {
	fs = $1
	sub(/-.*/, "", fs)
	if (!(fs in is_fs)) {
		is_fs[fs] = 1
		fs_name[++nr_fs] = fs
	}
	test = $2
	if (KIND == "record")
		recorded[$1, test] = 1
	add(all, "tests", test)
	add(all, "configs", $1)
	add(run, $1, test)
}

# Unless another run has it.
KIND == "norecord" && !(($1, $2) in recorded) {
	add(lost, "lost", $1 "/" $2)
}

KIND == "record" && $3 == "lost" {
	add(lost, "lost", $1 "/" $2)
}

KIND == "record" && $3 == "stack" {
	saw_stack(5)
}

KIND == "record" && $3 == "ret" {
	way("ends", "error")
	add(errno, fs, $4)
}

# ---- what is written ---------------------------------------------------------------------------

function explain(name, text) {
	if (name in why)
		return text "; " why[name]
	return text "; **why is not known yet**"
}

function missing(i, text) {
	text = group_of(site[i])
	if (text != "VFS" && !(text in is_fs))
		return "nothing was run on " text
	text = lost["lost"] != "" ? "**unknown**" : "**not reached**"
	if (site[i] in idle)
		text = text ", entered with nothing in flight by " idle[site[i]]
	return explain(site_func[i], text)
}

function group_of(file, part) {
	split(file, part, "/")
	return part[3] == "" ? "VFS" : part[2]
}

function print_sites(i, group, text) {
	for (i = 1; i <= nr_sites; i++) {
		group = group_of(site[i])
		if (!(group in total))
			group_name[++nr_groups] = group
		total[group]++
		done[group] += (site[i] in waited)
		nr_done += (site[i] in waited)
	}
	for (i = 1; i <= nr_groups; i++)
		text = text (i > 1 ? ", " : "") group_name[i] " " done[group_name[i]] " of " total[group_name[i]]
	printf "**%d of %d call sites reached**: %s.\n", nr_done, nr_sites, text
	if (lost["lost"] != "")
		printf "\nEvents were lost, and what is not seen may have been reached: %s.\n", lost["lost"]
	print "\n| call site | in | reached by |\n| --- | --- | --- |"
	for (i = 1; i <= nr_sites; i++)
		printf "| %s | `%s` | %s |\n", site[i], site_func[i],
			site[i] in waited ? waited[site[i]] : missing(i)
}

# All tests, or a few, by name; else how many.
function brief(list, part, n) {
	n = split(list, part, ", ")
	return n > 4 ? n " tests" : list
}

# It is explained, once, when it is so on all filesystems.
function never(kind, name, first, text, i) {
	text = lost["lost"] != "" ? "**unknown**" : "**never**"
	for (i = 1; i <= nr_fs; i++)
		if ((kind, name, fs_name[i]) in reached)
			first = 0
	return first ? explain(kind " " name, text) : text
}

function print_ways(kind, i, k, text, cell) {
	text = "\n| " kind " |"
	for (k = 1; k <= nr_fs; k++)
		text = text " " fs_name[k] " |"
	print text
	gsub(/[^|\n]+/, " --- ", text)
	print substr(text, 2)
	for (i = 1; i <= nr_names[kind]; i++) {
		text = "| " names[kind, i] " |"
		for (k = 1; k <= nr_fs; k++) {
			cell = ""
			if ((kind, names[kind, i], fs_name[k]) in reached)
				cell = brief(reached[kind, names[kind, i], fs_name[k]])
			if (names[kind, i] == "error" && cell != "")
				cell = cell ": " errno[fs_name[k]]
			if (cell == "" && (kind, names[kind, i]) in expected)
				cell = never(kind, names[kind, i], k == 1)
			text = text " " cell " |"
		}
		print text
	}
}

END {
	n = split(all["configs"], part, ", ")
	for (i = 1; i <= n; i++)
		text = text (i > 1 ? ", " : "") part[i] " (" split(run[part[i]], tests, ", ") ")"
	print "<!-- SPDX-License-Identifier: MIT -->"
	print "<!-- Written by make reach, do not edit. -->"
	print "# Where the suite waits for direct I/O\n"
	printf "Linux %s, %d tests; on %s.\n\n", kernel, split(all["tests"], tests, ", "), text
	print_sites()
	print "\nA call site is a call of inode_dio_wait() in the source. It is reached when a test was in it while"
	print "i_dio_count was not 0: then, and only then, inode_dio_wait() calls init_wait_var_entry(), and ftrace"
	print "recorded the stack there. What the loop device does for itself does not count."
	for (key in elsewhere)
		printf "\nCalled from a place that is not in the list: %s, by %s.\n", key, elsewhere[key]
	print "\n## How a direct I/O starts\n"
	print "Who calls iomap_dio_rw(): the task in io_uring_enter() (inline), a worker of io-wq, the ring's own thread"
	print "(SQPOLL), io_submit() (aio), task_work, or a system call that waits for it."
	print_ways("starts")
	print "\n## How it ends\n"
	print "Who calls iomap_dio_complete(): the end of the bio, in interrupt context (inline), a workqueue, the ring's"
	print "owner (caller: IOCB_DIO_CALLER_COMP), or the submission itself, which has waited or failed. Error: with any"
	print "result below 0."
	print_ways("ends")
}
