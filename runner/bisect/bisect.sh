# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# One step of `git bisect run`: build the kernel in the current directory, boot it, run the test.
# Sourced by runtests.sh. verdict.c judges the results.
#
# The tree of the user is only read: what is checked out there, with its changes of files that git
# knows, is checked out again below the cache, and built beside that. So it does not matter what has
# been built in the tree, and only files that differ from the last step are written anew.

# What a guest needs, besides what kernel/vm.config has, built in: a .config of the user's may have
# it as modules.
GUEST_NEEDS=(PCI TTY SERIAL_8250 SERIAL_8250_CONSOLE BLK_DEV_INITRD PROC_FS SYSFS TMPFS DEVTMPFS NET
	INET VIRTIO_MENU VIRTIO VIRTIO_PCI NETWORK_FILESYSTEMS NETFS_SUPPORT NET_9P NET_9P_VIRTIO 9P_FS
	OVERLAY_FS BLOCK BLK_DEV BLK_DEV_LOOP IO_URING AIO XFS_FS EXT4_FS)

BISECT='' BISECT_ENDS=() BISECT_TESTS=() BISECT_ARGV=() # from the options of runtests.sh
SIGNATURE='' RUNS='' NEEDS='' PACKAGE_DIR=''
RATE=() # failed, runs: what --bisect-check has measured
BISECT_EXIT='' CHILD='' TEE='' TREE='' TESTED=''
RUNNER=${RINGWEDGE_RUNNER:-$TOP/runtests.sh} # tests/meta/ has kernels that are none

# ---- exit status -----------------------------------------------------------------------------------

# git takes 128 and more as the end of all, and any other but 0 and 125 as "bad": a mistake of ours,
# or of the user's, must not be one. So this comes before anything else can go wrong.
bisect_guard() {
	local word

	for word; do
		[[ $word == --bi* && $word != --bisect-* ]] || continue
		trap bisect_leave EXIT
		trap 'bisect_stop 125' INT TERM HUP QUIT
		trap : PIPE
		return
	done
}

# shellcheck disable=SC2317 # from traps
bisect_leave() {
	trap '' INT TERM HUP QUIT
	[[ $BISECT_EXIT ]] || say "ringwedge: this step says nothing about the commit: 125, \"skip\"." \
		"If it is not the commit's fault, stop with ^C and \"git bisect reset\"."
	[[ $TEE ]] && exec 2> /dev/null && wait "$TEE" # before git says what it makes of it
	exit "${BISECT_EXIT:-125}"
}

# shellcheck disable=SC2317
bisect_stop() {
	trap '' INT TERM HUP QUIT
	[[ $CHILD ]] && kill -TERM -- "-$CHILD" 2> /dev/null && wait "$CHILD"
	say "ringwedge: interrupted"
	exit "$1"
}

# child LOG COMMAND...: with a process group of its own, so that a signal to us ends all of it.
child() {
	local status

	set -m
	"${@:2}" < /dev/null >> "$1" 2>&1 &
	CHILD=$!
	set +m
	wait "$CHILD"
	status=$?
	CHILD=''
	return "$status"
}

# ---- options ---------------------------------------------------------------------------------------

# From check_options. BISECT_ARGV: all options, as getopt(1) has put them in order.
bisect_options() {
	[[ $MODE == run && ! $DIR$RESULTS$KEEP$KTAP$UNTIL_FAIL && $ITERATE == 1 && ! $VM_KERNEL ]] ||
		die "--bisect: chooses kernels and folders by itself, and repeats by --runs"
	# shellcheck disable=SC2034 # for runtests.sh
	VM=1
	[[ ! $RUNS ]] || ((RUNS > 0)) || die "--runs takes 1 or more"
	PASSED=()
	set -- "${BISECT_ARGV[@]}"
	while (($#)) && [[ $1 != -- ]]; do
		case $1 in
		--bisect | --bisect-check | --bisect-report) ;;
		-q | --quiet | -v | --verbose) ;;
		--bisect-packages | --signature | --runs | --seed | --vm) shift ;;
		*) PASSED+=("$1") ;;
		esac
		shift
	done
}

# can_plan OPTION...: is there anything that these and the user's options name?
can_plan() {
	"$TOOLS/plan" "$@" "${PLAN[@]}" > /dev/null
}

# --signature TEXT, or "from RESULTS"
take_signature() {
	local from=${SIGNATURE#from[: ]} lines

	if [[ $SIGNATURE == from[:\ ]* && -e $from ]]; then
		lines=$("$TOOLS/bisect/verdict" signature "$from") || exit 2
		{ read -r SIGNATURE && read -r NEEDS; } <<< "$lines"
	elif [[ $SIGNATURE == from:* ]]; then
		die "--signature $SIGNATURE: no such file or folder"
	elif [[ $SIGNATURE ]]; then
		"$TOOLS/bisect/verdict" check "$SIGNATURE" || exit 2
	fi
}

# ---- runs of the test ------------------------------------------------------------------------------

# run_once FOLDER KERNEL [MODULES]: sets OUTCOME (good, bad, untold) and LINE.
run_once() {
	local status

	rm -rf "$1" "$1.log"
	mkdir -p "${1%/*}"
	# From a folder that is not above the results, whose names are then whole.
	cd "$TOP" || exit 2
	child "$1.log" "$RUNNER" --vm="$2" ${3:+--modules "$3"} --results "$1" --seed "$SEED" --verbose \
		"${FAST[@]}" "${PASSED[@]}" -- "${BISECT_TESTS[@]}"
	cd "$OLDPWD" || exit 2
	SEED=$((SEED + 1))
	LINE=$("$TOOLS/bisect/verdict" judge --signature "$SIGNATURE" --needs "$NEEDS" "$1" 2>&1)
	status=$?
	OUTCOME=untold
	[[ $status == 0 && $LINE == clean:* ]] && OUTCOME=good
	[[ $status == 1 && $LINE == @(FAIL|HANG)* ]] && OUTCOME=bad
	[[ $OUTCOME == untold && ! -e $1/results.json ]] && LINE+=": $(tail -n 1 "$1.log")"
}

# How many clean runs make a kernel good.
enough_runs() {
	if [[ $RUNS ]]; then
		echo "$RUNS"
	elif ((${#RATE[@]})); then
		"$TOOLS/bisect/verdict" runs "${RATE[@]}"
	else
		echo 1
	fi
}

# What so many clean runs are worth.
confidence() {
	if ((${#RATE[@]})); then
		echo "clean runs: $1; by chance a bad kernel, which failed in ${RATE[0]} of ${RATE[1]}, has so" \
			"many in $("$TOOLS/bisect/verdict" miss "${RATE[@]}" "$1")"
	else
		echo "clean runs: $1"
	fi
}

# run_kernel FOLDER KERNEL [MODULES]: runs until one fails, or enough were clean. Sets OUTCOME, LINE
# and CLEAN, how many were clean. Another failure than the one that is looked for does not end it:
# that one may come in the next run.
run_kernel() {
	local nr enough other='' began

	enough=$(enough_runs)
	CLEAN=0
	for ((nr = 1; nr <= enough; nr++)); do
		began=$SECONDS
		run_once "$1/run-$nr" "${@:2}"
		say "ringwedge: run $nr of $enough, $((SECONDS - began)) s: $LINE"
		case $OUTCOME in
		good) CLEAN=$((CLEAN + 1)) ;;
		bad) return ;;
		untold)
			[[ $LINE == "another failure"* ]] || return
			other=$LINE
			;;
		esac
	done
	[[ $other ]] || {
		LINE=$(confidence "$CLEAN")
		return
	}
	OUTCOME=untold LINE=$other
}

# ---- the kernel ------------------------------------------------------------------------------------

git_tree() {
	git -C "$TREE" "$@"
}

git_path() {
	git_tree rev-parse --path-format=absolute --git-path "$1"
}

# Sets TREE, WORK (below the cache) and STATE (in .git), and holds WORK's lock.
enter_tree() {
	command -v git > /dev/null || die "needs git"
	TREE=$(git rev-parse --show-toplevel) || die "$PWD: not in a git tree"
	STATE=$(git_path ringwedge-bisect) && GIT_FOLDER=$(git rev-parse --absolute-git-dir) || exit 2
	unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_PREFIX # of the git that runs us, maybe
	[[ -f $TREE/Kconfig && -f $TREE/Makefile && -d $TREE/init ]] ||
		die "$TREE: no kernel source: run this in a kernel tree"
	WORK=$CACHE/bisect/${TREE##*/}-$(sha256sum <<< "$TREE" | cut -c 1-8)
	mkdir -p "$WORK/source" "$WORK/object" "$STATE" || die "cannot write there"
	exec 9> "$WORK/lock" || exit 2
	flock --nonblock 9 || {
		say "ringwedge: waiting for another run in $TREE"
		child /dev/null flock 9
	}
}

# The commit that HEAD is, with what was changed by hand: a fix may have to be applied to each.
tree_content() {
	local changed

	[[ ! $(git_tree ls-files --unmerged) ]] || die "$TREE: has conflicts"
	changed=$(git_tree stash create)
	[[ $changed ]] || git_tree diff-index --quiet HEAD -- || die "$TREE: cannot read its changes"
	echo "${changed:-$(git_tree rev-parse HEAD)}"
}

# check_out COMMIT
check_out() {
	rm -f "$WORK/index.lock"
	GIT_INDEX_FILE=$WORK/index git --git-dir="$GIT_FOLDER" --work-tree="$WORK/source" \
		read-tree --reset -u "$1"
}

# In a process of its own: kernel/common.sh has a die() and names of its own.
# shellcheck disable=SC2030,SC2031
make_kernel() (
	# shellcheck source=kernel/common.sh
	. "$TOP/kernel/common.sh"
	need_tools
	export CCACHE_BASEDIR=$WORK
	KSRC=$WORK/source OBJECTS=$WORK/object project=$WORK/object/ringwedge.config
	if [[ -f $TREE/.config ]]; then
		{ cat "$TREE/.config" && printf 'CONFIG_%s=y\n' "${GUEST_NEEDS[@]}"; } > "$OBJECTS/.config" &&
			kernel_make -s olddefconfig || exit 1
	else
		cp "$TOP/kernel/vm.config" "$project" &&
			kernel_make -s KCONFIG_ALLCONFIG="$project" allnoconfig || exit 1
	fi
	kernel_make -s bzImage || exit 1
)

# build COMMIT FOLDER: sets KERNEL, or REASON.
build() {
	local began=$SECONDS log=$2/build.log

	KERNEL=$WORK/object
	mkdir -p "$2"
	check_out "$1" > "$log" 2>&1 || die "cannot check out $1: see $log"
	rm -f "$KERNEL/arch/x86/boot/bzImage"
	child "$log" make_kernel
	case $? in
	0)
		say "ringwedge: built in $((SECONDS - began)) s"
		return
		;;
	2) REASON=$(tail -n 1 "$log") && die "$REASON" ;;
	esac
	REASON="does not build: $(grep -m 1 -E 'error:|\*\*\*|undefined reference' "$log" || tail -n 1 "$log")"
	return 1
}

# ---- a step ----------------------------------------------------------------------------------------

# A new bisection, begun since the last step? Then the steps of the last one are put aside.
renew_state() {
	local id

	id=$(stat -c '%i %y' "$(git_path BISECT_START)" 2> /dev/null)
	if [[ $id != "$(cat "$STATE/bisect" 2> /dev/null)" ]]; then
		rm -rf "$STATE/previous"
		mkdir -p "$STATE/previous"
		[[ -d $STATE/steps ]] && mv "$STATE/steps" "$STATE/previous/"
		[[ -e $STATE/report.txt ]] && mv "$STATE/report.txt" "$STATE/previous/"
		echo "$id" > "$STATE/bisect"
	fi
	mkdir -p "$STATE/steps"
}

# What --bisect-check found out, if it was about this test and the bad end of this bisection.
recall_check() {
	local key value log
	local -A was=()

	TESTED=$(printf '%q ' "${PASSED[@]}" -- "${BISECT_TESTS[@]}")
	[[ -e $STATE/check ]] || return 0
	while IFS='=' read -r key value; do
		was[$key]=$value
	done < "$STATE/check"
	log=$(git_tree bisect log 2> /dev/null)
	[[ ${was[tested]} == "$TESTED" && (! $log || $log == *"${was[bad]}"*) ]] || {
		say "ringwedge: --bisect-check was about other tests, options or commits: not used"
		return 0
	}
	[[ $SIGNATURE ]] || SIGNATURE=${was[signature]}
	[[ $NEEDS ]] || NEEDS=${was[needs]}
	RATE=("${was[failed]}" "${was[runs]}")
	eval "PASSED=(${was[options]})" # written by printf %q
	say "ringwedge: as --bisect-check found: ${was[failed]} of ${was[runs]} runs fail when bad;" \
		"looking for \"$SIGNATURE\"${PASSED[*]:+ with ${PASSED[*]}}"
}

# Without a signature the first failure of a test will do, and the rest need not be run.
be_fast() {
	FAST=()
	[[ $SIGNATURE ]] || FAST=(--fail-fast)
}

bisect_step() {
	local head step nr content

	enter_tree
	renew_state
	recall_check
	be_fast
	head=$(git_tree rev-parse HEAD) || exit 2
	nr=$(find "$STATE/steps" -mindepth 1 -maxdepth 1 | wc -l)
	printf -v step '%s/steps/%03d-%s' "$STATE" $((nr + 1)) "${head:0:12}"
	mkdir -p "$step" || exit 2
	exec 2> >(exec tee -i "$step/log" >&2)
	TEE=$!
	echo "$head" > "$step/commit"
	say "ringwedge: step $((nr + 1)): $(git_tree log -1 --format='%h ("%s")' "$head"), log in $step"
	OUTCOME=untold CLEAN=0
	content=$(tree_content) || exit 2
	if build "$content" "$step"; then
		run_kernel "$step" "$KERNEL"
	else
		LINE=$REASON
	fi
	printf '%s\n' "$OUTCOME" "$CLEAN" "$LINE" > "$step/verdict"
	printf '%s\n' "$TESTED" > "$STATE/tested"
	printf '%s\n' "$SIGNATURE" > "$STATE/signature"
	case $OUTCOME in
	good) BISECT_EXIT=0 ;;
	bad) BISECT_EXIT=1 ;;
	untold) BISECT_EXIT=125 ;;
	esac
	say "ringwedge: ${head:0:12} is $(word_of "$OUTCOME"): $LINE"
	report_if_found "$OUTCOME"
	exit
}

word_of() {
	case $1 in
	good | bad) echo "$1" ;;
	*) echo "not testable" ;;
	esac
}

bisect_main() {
	if [[ $BISECT != report ]]; then
		can_plan || exit 2
		take_signature
	fi
	[[ $BISECT == step ]] || trap 'bisect_stop 2' INT TERM HUP QUIT
	case $BISECT in
	step) bisect_step ;;
	check) bisect_check ;;
	packages) bisect_packages ;;
	report) bisect_report ;;
	esac
}

# shellcheck source=runner/bisect/report.sh
. "$TOP/runner/bisect/report.sh"
# shellcheck source=runner/bisect/check.sh
. "$TOP/runner/bisect/check.sh"
# shellcheck source=runner/bisect/packages.sh
. "$TOP/runner/bisect/packages.sh"
