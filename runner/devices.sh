# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# No <(process substitution) here: it needs /dev/fd, which a VM without udev does not have.
#
# The devices under test, and what a dead run left of them. Sourced by runtests.sh.
#
#   SCRATCH/ringwedge-NS-PID-START/       the folder of one run, $RUN: a bind mount of itself
#       1/ outer.img -> loop -> outer/    a set: ext4 that is frozen to shut the gate
#          outer/inner.img -> loop -> inner/   and the filesystem under test
#       2/ ...                            the next set
#
# With DEVICE=null_blk the filesystem under test is on a device in memory that polls, which has no
# gate: null_blk, made in configfs under a name that says whose it is, too.
#
# There is no list of what a run has made, which could be out of date when the run is killed. The
# folder's name says whose it is (process id namespace, process id, start time), and whatever
# belongs to it is found by that name: mounts in /proc/self/mountinfo, loop devices by their
# backing file, null_blk devices by theirs, processes by RINGWEDGE_RUN in their environment. So nothing that is not below the
# folder can ever be touched, and there is no moment at which something is made but not recorded.
#
# All is mounted in the caller's mount namespace, not in one of our own: mounts of a namespace go
# when its last process goes, but a frozen or wedged filesystem stays all the same, and then no one
# could reach it to thaw it; and --keep is for looking at it. A namespace that is made while a run
# goes on (a service or container that starts) has copies of the mounts. The bind mount is shared,
# with nothing but such copies, so that what is unmounted here is unmounted there, too; where it was
# made private (unshare(1) does that) the copy holds the devices, and the run says who it is.

# Run a command that a broken kernel may never let end. $REASON says what went wrong.
# Status as of build/runner/within: the command's; 123 the kernel complained; 124 stuck, killed;
# 125 stuck and unkillable. Nothing inherits the lock on the scratch folder.
tool() {
	local lock=${CLEAN_LOCK:-9}

	REASON=$("$TOOLS/within" "$TOOL_SECONDS" "$LOG" "$@" {lock}>&-)
}

# ---- whose is it, and what belongs to it -----------------------------------------------------------

# Start time of a process in clock ticks after boot; fails when there is none or it is a zombie.
start_time() {
	local stat fields

	{ stat=$(< "/proc/$1/stat"); } 2> /dev/null || return 1
	read -ra fields <<< "${stat##*) }" # the name before it may hold blanks and brackets
	[[ ${fields[0]} != [ZX] ]] && echo "${fields[19]}"
}

pid_namespace() {
	local link

	link=$(readlink /proc/self/ns/pid) && link=${link//[^0-9]/}
	echo "${link:-0}"
}

# dead, alive, or foreign: made in another process id namespace, whose processes are not seen here.
owner_of() {
	local ns pid start

	IFS=- read -r ns pid start <<< "${1##*/ringwedge-}"
	if [[ $ns != "$(pid_namespace)" ]]; then
		echo foreign
	elif [[ $(start_time "$pid") == "$start" ]]; then
		echo alive
	else
		echo dead
	fi
}

# Mount points at or below the folder, innermost first.
mounts_of() {
	local point

	tac /proc/self/mountinfo | while read -r _ _ _ _ point _; do
		printf -v point '%b' "$point" # blanks are written as \040
		[[ $point/ == "$1"/* ]] && printf '%s\n' "$point"
	done
	return 0
}

# Loop devices whose image is at or below the path.
loops_of() {
	local file image

	for file in /sys/block/loop*/loop/backing_file; do
		{ read -r image < "$file"; } 2> /dev/null || continue
		if [[ $image/ == "$1"/* ]]; then
			file=${file#/sys/block/}
			echo "/dev/${file%%/*}"
		fi
	done
}

NULLB=/sys/kernel/config/nullb

# The null_blk device of a set, or those of a run: a pattern. The name of a disk has at most 31
# characters, so the numbers in the folder's are hexadecimal.
null_name() {
	local ns pid start set

	IFS=- read -r ns pid start <<< "${1##*/ringwedge-}"
	IFS=/ read -r start set <<< "$start"
	printf 'rw-%x-%x-%x-%s' "$ns" "$pid" "$start" "${set:-*}"
}

nulls_of() {
	compgen -G "$NULLB/$(null_name "$1")" | sed 's,.*/,/dev/,'
}

# The device of the filesystem under test, in a set.
disk_of() {
	loops_of "$1/outer/inner.img"
	nulls_of "$1"
}

processes_of() {
	local file

	env -u RINGWEDGE_RUN grep -slzxF "RINGWEDGE_RUN=$1" /proc/[0-9]*/environ |
		while IFS=/ read -r _ _ file _; do echo "$file"; done
}

# ---- taking down -----------------------------------------------------------------------------------

# Unmount, detach and delete all below the folder, and the folder. $REASON on failure.
tear_down() {
	local folder=$1 end=$((SECONDS + 5)) item points

	while ((SECONDS <= end)); do
		# A loop device in use goes by itself when it is let go (LO_FLAGS_AUTOCLEAR).
		for item in $(loops_of "$folder"); do
			tool losetup --detach "$item"
		done
		mapfile -t points <<< "$(mounts_of "$folder")"
		for item in "${points[@]}"; do
			[[ ! $item ]] || tool umount "$item" || [[ $? != 12[45] ]] || return 1
		done
		if [[ ! $(mounts_of "$folder") ]]; then
			for item in $(nulls_of "$folder"); do
				tool rmdir "$NULLB/${item#/dev/}"
			done
		fi
		if [[ -z $(mounts_of "$folder")$(loops_of "$folder")$(nulls_of "$folder") ]]; then
			rm -rf --one-file-system "$folder"
			return $? # without a number, in a trap, it would be the status before the trap
		fi
		sleep 0.1 # whoever holds it busy was killed, and may still be on its way out
	done
	REASON="cannot be taken down: ${REASON:-it is still in use}"
	return 1
}

# SIGKILL every process of a run and thaw its filesystems, without which some could not die.
kill_processes() {
	local folder=$1 end=$((SECONDS + 5)) pids points point name

	while ((SECONDS <= end)); do
		read -rd '' -a pids <<< "$(processes_of "$folder")"
		((${#pids[@]})) && kill -KILL "${pids[@]}" 2> /dev/null
		mapfile -t points <<< "$(mounts_of "$folder")"
		# The inner one last: its thaw writes. And both after the last process, which might have frozen it.
		for name in outer inner; do
			for point in "${points[@]}"; do
				[[ $point == */$name ]] && tool fsfreeze --unfreeze "$point"
			done
		done
		((${#pids[@]})) || return 0
		sleep 0.1
	done
	REASON="held by process ${pids[*]}, which cannot be killed: reboot the kernel"
	return 1
}

# A loop device that a test had said of that it has no cache (lib/own.c) is that for its next user, too.
put_back_caches() {
	local name

	[[ -e $1/without-cache ]] || return 0
	while read -r name; do
		[[ $name != loop* ]] || echo "write back" > "/sys/block/$name/queue/write_cache"
	done < "$1/without-cache" 2> /dev/null
	return 0
}

# Remove what dead runs left below $SCRATCH; with "all" also what --keep kept.
clean_up() {
	local folder LOG=- status=0 CLEAN_LOCK

	# One at a time: a loop device seen here could else be another run's by the time it is detached.
	exec {CLEAN_LOCK}< "$SCRATCH"
	flock --wait 60 "$CLEAN_LOCK" || die "$SCRATCH: locked for a minute by another clean-up"
	for folder in "$SCRATCH"/ringwedge-*-*-*; do
		[[ $folder =~ /ringwedge-[0-9]+-[0-9]+-[0-9]+$ && -d $folder && ! -L $folder ]] || continue
		case $(owner_of "$folder") in
		alive)
			[[ $1 == all ]] && say "left alone: $folder: its run is going on"
			continue
			;;
		foreign)
			[[ $1 == all ]] && say "left alone: $folder: made in another container"
			continue
			;;
		esac
		[[ $1 != all && -e $folder/keep ]] && continue
		if kill_processes "$folder" && put_back_caches "$folder" && tear_down "$folder"; then
			say "removed what a run left: $folder"
		else
			say "left alone: $folder: $REASON"
			status=2
		fi
	done
	exec {CLEAN_LOCK}<&-
	return "$status"
}

# ---- setting up ------------------------------------------------------------------------------------

# Make the folder of this run. In a directory given by --dir it is only a folder.
make_run_folder() {
	RUN=$SCRATCH/ringwedge-$(pid_namespace)-$$-$(start_time $$)
	mkdir "$RUN" 2> /dev/null || die "$SCRATCH: cannot make a folder there"
	export RINGWEDGE_RUN=$RUN
	[[ $DIR ]] && return

	{ mount --bind "$RUN" "$RUN" && mount --make-private "$RUN" && mount --make-shared "$RUN"; } 2> /dev/null ||
		die "mount is not permitted here: use a machine or VM of your own, or --dir DIR"
	truncate -s 1M "$RUN/probe.img"
	attach "$RUN/probe.img" 512 off ||
		die "no loop devices here ($REASON): build with CONFIG_BLK_DEV_LOOP, leave the container, or use --dir DIR"
	tool losetup --detach "$LOOP"
}

# Put an image on a loop device, $LOOP. Two runs may reach for the same free device: try again.
attach() {
	local image=$1 sector=$2 direct=$3 try

	for try in 1 2 3 4 5; do
		if tool losetup --find --sector-size "$sector" --direct-io="$direct" "$image"; then
			LOOP=$(loops_of "$image")
			[[ $LOOP ]] && return
			REASON="losetup succeeded, but no loop device has $image"
		fi
		sleep "0.$try"
	done
	return 1
}

# A step of the set-up. Returns the command's failure; a complaint of the kernel is a failure of
# the kernel's, put into the journal, but the set-up can go on.
set_up() {
	local status

	tool "$@"
	status=$?
	if ((status == 123)); then
		check devices "$1" FAIL "$REASON" "$LOG"
		return 0
	fi
	return "$status"
}

make_outer() {
	mkdir "$SET/outer" &&
		truncate -s "$((${CONF[SIZE]%M} * 5 / 4 + 64))M" "$SET/outer.img" &&
		attach "$SET/outer.img" 512 off || return
	# No journal, no lazy initialisation: nothing but the image's blocks is ever written here.
	# nobarrier: a freeze would wait for the host's disk, and nothing here has to outlive a crash.
	set_up mkfs.ext4 -q -F -O ^has_journal -m 0 -N 64 -E nodiscard,lazy_itable_init=1 "$LOOP" &&
		# lazytime: a kernel whose loop driver writes to it while it is frozen shall not complain of that.
	set_up mount -t ext4 -o noatime,lazytime,nobarrier,noinit_itable "$LOOP" "$SET/outer"
}

# The loop device of the image under test, $LOOP. Found out once a run: does the gate hold it?
attach_inner() {
	local image=$SET/outer/inner.img direct=${CONF[DIRECT_IO]}

	[[ $HOLDS == no ]] && direct=off
	attach "$image" "${CONF[SECTOR_SIZE]}" "$direct" || return
	[[ $direct == off || $HOLDS ]] && return
	tool "$TOOLS/holds" "$SET/outer" "$LOOP"
	case $? in
	0 | 123) HOLDS=yes ;;
	1)
		HOLDS=no
		say "this kernel's loop driver writes to a frozen filesystem (39d86db34e41): direct I/O of the loop devices is off"
		tool losetup --detach "$LOOP" && attach "$image" "${CONF[SECTOR_SIZE]}" off
		;;
	*) return 1 ;;
	esac
}

make_loop() {
	make_outer && truncate -s "${CONF[SIZE]}" "$SET/outer/inner.img" && attach_inner || return
	loop_is_as_asked "/sys/block/${LOOP#/dev/}" && return
	VERDICT=SKIP
	return 1
}

# A null_blk device, $LOOP, that keeps what is written in memory and has a queue to poll.
make_null() {
	local configfs=/sys/kernel/config name dir key

	name=$(null_name "$SET") VERDICT=SKIP
	modprobe -q null_blk nr_devices=0 2> /dev/null # where it is a module
	[[ ! -d $configfs ]] || mountpoint -q "$configfs" || tool mount -t configfs configfs "$configfs"
	if [[ ! -d $NULLB ]]; then
		REASON="this kernel has no null_blk (CONFIG_BLK_DEV_NULL_BLK), a device that polls"
		return 1
	fi
	dir=$NULLB/$name
	tool mkdir "$dir" || return
	for key in "size=${CONF[SIZE]%M}" "blocksize=${CONF[SECTOR_SIZE]}" memory_backed=1 poll_queues=1 power=1; do
		if ! echo "${key#*=}" 2> /dev/null > "$dir/${key%%=*}"; then
			REASON="null_blk: cannot set $key"
			return 1
		fi
	done
	LOOP=/dev/$name
	# After 5 s, which is its own, it would end what nobody has polled for.
	if [[ ! -b $LOOP ]] || ! echo 30000 > "/sys/block/$name/queue/io_timeout"; then
		REASON="null_blk: no $LOOP that polls"
		return 1
	fi
	VERDICT=BROKEN
}

# VERDICT and REASON of a mount that failed, where it is not the set-up that broke.
why_not_mounted() {
	if ! grep -qw "${CONF[FILESYSTEM]}" /proc/filesystems; then
		REASON="this kernel has no ${CONF[FILESYSTEM]}"
		VERDICT=SKIP
	elif ((CONF[BLOCK_SIZE] > $(getconf PAGE_SIZE))) && grep -qs "Function not implemented" "$LOG"; then
		REASON="this kernel has no blocks larger than its pages (Linux 6.12, CONFIG_TRANSPARENT_HUGEPAGE)"
		VERDICT=SKIP
	# EUCLEAN, EBADMSG: what mkfs has just written is not what is read, from a device that is a file of ext4.
	elif grep -qsE "Structure needs cleaning|Bad message" "$LOG"; then
		VERDICT=FAIL
	fi
}

make_inner() {
	local options status

	if [[ ! $(type -P "mkfs.${CONF[FILESYSTEM]}") ]]; then
		REASON="no mkfs.${CONF[FILESYSTEM]} here"
		VERDICT=SKIP
		return 1
	fi
	read -ra options <<< "${CONF[MKFS_OPTIONS]}"
	mkdir -p "$SET/inner" && "make_${CONF[DEVICE]%_*}" || return
	# Nothing is discarded, and no thread initialises tables or the journal behind the test's back.
	case ${CONF[FILESYSTEM]} in
	xfs)
		set_up mkfs.xfs -q -f -K -b "size=${CONF[BLOCK_SIZE]}" "${options[@]}" "$LOOP" &&
			exchange_range 1
		;;
	ext4) set_up mkfs.ext4 -q -F -b "${CONF[BLOCK_SIZE]}" "${options[@]}" \
		-E nodiscard,lazy_itable_init=1,lazy_journal_init=1 "$LOOP" ;;
	btrfs) set_up mkfs.btrfs -q -f -K -s "${CONF[BLOCK_SIZE]}" "${options[@]}" "$LOOP" ;;
	f2fs) set_up mkfs.f2fs -q -f -t 0 "${options[@]}" "$LOOP" ;; # its blocks are of 4 KiB, always
	esac || return
	options=("${CONF[MOUNT_OPTIONS]}")
	case ${CONF[FILESYSTEM]} in
	ext4) options+=(noinit_itable) ;;
	btrfs) options+=(nodiscard) ;;
	f2fs) options+=(nodiscard background_gc=off) ;;
	esac
	options=(mount -t "${CONF[FILESYSTEM]}" -o "$(IFS=,; echo "${options[*]}")" "$LOOP" "$SET/inner")
	set_up "${options[@]}"
	status=$?
	if ((status)) && [[ ${CONF[EXCHANGE_RANGE]} == on ]]; then
		exchange_range 0 && set_up "${options[@]}" # a kernel before 6.10
		status=$?
	fi
	if ((status)); then
		why_not_mounted
	else
		read_bitmaps
	fi
	return "$status"
}

# ext4 allocates in a submission that may not sleep, and reads the bitmap of the group for it if it has
# not yet (ext4_read_block_bitmap()): behind the gate that is a sleep. Showing all groups reads all
# bitmaps (ext4_mb_seq_groups_show()).
read_bitmaps() {
	local groups=/proc/fs/ext4/${LOOP##*/}/mb_groups

	[[ ! -r $groups ]] || cat "$groups" > /dev/null
}

# XFS_SB_FEAT_INCOMPAT_EXCHRANGE is all that the kernel asks for, and mkfs.xfs and xfs_repair before
# 6.10 do not know it: set it behind the one's back, and clear it before the other looks, in all
# superblocks, to which a resize has copied it.
exchange_range() {
	local bit=0x40 features groups=1 ag commands=()

	[[ ${CONF[EXCHANGE_RANGE]} == on ]] || return 0
	read_superblock features_incompat || return
	features=$((NUMBER & ~bit | ($1 == 1 ? bit : 0)))
	if [[ $1 == 0 ]]; then
		read_superblock agcount || return
		groups=$NUMBER
	fi
	for ((ag = 0; ag < groups; ag++)); do
		commands+=(-c "sb $ag" -c "write -d features_incompat $features")
	done
	set_up xfs_db -x "${commands[@]}" "$LOOP"
}

# A field of the superblock, in $NUMBER.
read_superblock() {
	NUMBER=$(xfs_db -r -c 'sb 0' -c "print $1" "$LOOP" 2>&1) || return
	NUMBER=${NUMBER##* }
	[[ $NUMBER == ?(0x)+([0-9a-f]) ]] || { REASON="xfs_db: $NUMBER" && return 1; }
}

# The loop driver takes some requests as hints.
loop_is_as_asked() {
	local sector direct

	read -r sector < "$1/queue/logical_block_size"
	read -r direct < "$1/loop/dio"
	if [[ $sector != "${CONF[SECTOR_SIZE]}" ]]; then
		REASON="the loop device has sectors of $sector bytes, not ${CONF[SECTOR_SIZE]}"
	elif [[ ${CONF[DIRECT_IO]} == on && $HOLDS != no && $direct != 1 ]]; then
		REASON="loop direct I/O is not possible on $SCRATCH"
	else
		return 0
	fi
	return 1
}

# Make the next set of devices, $SET, for the configuration in CONF. On failure it is taken down
# again and the reason is in the journal.
make_devices() {
	local VERDICT=BROKEN
	SET=$RUN/$((++NR_SETS))

	if make_inner; then
		LAST_TESTS=()
		return 0
	fi
	check devices set-up "$VERDICT" "$REASON" "$LOG"
	[[ $VERDICT == SKIP ]] && say "SKIP   $CONFIG: $REASON"
	tear_down "$SET" || quarantine
	SET=''
	return 1
}

# Leave the set alone for good: a task that cannot be killed holds it. Its gate is opened, or
# every sync(2) of the machine would hang.
quarantine() {
	[[ ! -d $SET/outer ]] || tool fsfreeze --unfreeze "$SET/outer"
	say "left alone: $SET: ${1:-held by a task that cannot be killed}"
	QUARANTINE+=("$SET")
	SET=''
}

# Unmount, check and take down the set. What is wrong is a failure of the test that ran last.
# Returns 1 if anything was.
release_devices() {
	local test=devices log=$LOG status=0 after=''

	if [[ $KEEP ]]; then
		KEPT+=("$SET")
		SET=''
		return 0
	fi
	((${#LAST_TESTS[@]})) && test=${LAST_TESTS[-1]}
	((${#LAST_TESTS[@]} > 1)) && after=" (after ${LAST_TESTS[*]})"
	unmount_inner "$test" "$after" || status=1
	if [[ $SET && -z $(mounts_of "$SET/inner") ]]; then
		check_filesystem "$test" "$after" || status=1
	fi
	LOG=$log
	if [[ $SET ]] && ! tear_down "$SET"; then
		check "$test" unmount BROKEN "$REASON" "$LOG"
		quarantine
		status=1
	fi
	SET=''
	return "$status"
}

# Is the unmounted filesystem gone, or does another mount namespace have a copy of the mount? Sets
# HOLDER, a process of that one.
is_gone() {
	local loop

	loop=$(disk_of "$SET")
	# In sysfs by its device, or by its identity and then its devices.
	while compgen -G "/sys/fs/${CONF[FILESYSTEM]}/${loop#/dev/}" > /dev/null ||
		compgen -G "/sys/fs/${CONF[FILESYSTEM]}/*/devices/${loop#/dev/}" > /dev/null; do
		HOLDER=$(grep -slF " $SET/inner " /proc/[0-9]*/mountinfo | head -n 1 | cut -d / -f 3)
		((SECONDS <= $1)) || return
		sleep 0.1
	done
}

# What a process, any one, has on the mounted filesystem.
user_of() {
	find /proc/[0-9]*/{fd,map_files,cwd,root,exe} -maxdepth 1 -lname "$1*" -print -quit 2> /dev/null
}

unmount_inner() {
	local test=$1 after=$2 end=$((SECONDS + 5)) status=32 HOLDER='' quarantine_reason

	while ((status == 32 && SECONDS <= end)); do # 32: busy
		tool umount "$SET/inner"
		status=$?
		((status)) && sleep 0.1 # killed tasks let go of it a moment after their death
	done
	# When no process has it, the kernel does, and should let go: rings are taken down in the background.
	end=$((SECONDS + 30))
	while ((status == 32 && SECONDS <= end)) && [[ ! $(user_of "$SET/inner") ]]; do
		sleep 1
		tool umount "$SET/inner"
		status=$?
	done
	if ((status == 0)) && ! is_gone "$end"; then
		quarantine_reason="still mounted in the mount namespace of process $HOLDER"
		check "$test" unmount BROKEN "$quarantine_reason" "$LOG"
		quarantine "$quarantine_reason"
		return 1
	fi
	case $status in
	0) check "$test" unmount PASS "" ;;
	123) check "$test" unmount FAIL "$REASON$after" "$LOG" ;;
	32)
		HOLDER=$(user_of "$SET/inner")
		if [[ $HOLDER ]]; then
			check "$test" unmount BROKEN "$REASON ($HOLDER)$after" "$LOG"
		else
			check "$test" unmount FAIL "busy 30 s after the last process has left it: $REASON$after" "$LOG"
		fi
		;;
	12[45]) check "$test" unmount HANG "$REASON$after" "$LOG" ;;
	*) check "$test" unmount BROKEN "$REASON$after" "$LOG" ;;
	esac
	((status == 125)) && quarantine
	return "$status"
}

check_filesystem() {
	local test=$1 after=$2 loop program status

	loop=$(disk_of "$SET")
	LOG=$RESULTS/$CONFIG/$test/fsck.txt
	mkdir -p "${LOG%/*}"
	case ${CONF[FILESYSTEM]} in
	xfs)
		LOOP=$loop exchange_range 0
		program=(xfs_repair -n)
		;;
	ext4) program=(e2fsck -fn) ;;
	btrfs) program=(btrfs check --check-data-csum) ;;
	f2fs) program=(fsck.f2fs --dry-run) ;;
	esac
	tool "${program[@]}" "$loop"
	status=$?
	case $status in
	0)
		check "$test" fsck PASS ""
		rm -f "$LOG"
		;;
	123) check "$test" fsck FAIL "$REASON$after" "$LOG" ;;
	12[45]) check "$test" fsck HANG "$REASON$after" "$LOG" ;;
	*) check "$test" fsck FAIL "inconsistent: ${program[*]}: exit status $status$after" "$LOG" ;;
	esac
	return "$status"
}
