#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# reach/table, on a source tree of a few lines and on stacks as runner/record and addr2line give them.
#
# shellcheck disable=SC2154,SC2016 # run sets $output and the like; names stand between backquotes

bats_require_minimum_version 1.5.0
load common.bash

setup() {
	need jq
	TREE=$BATS_TEST_TMPDIR/linux RESULTS=$BATS_TEST_TMPDIR/results
	export RINGWEDGE_DOCS=$BATS_TEST_TMPDIR RINGWEDGE_REACH_WHY=$BATS_TEST_TMPDIR/missing.json
	mkdir -p "$TREE"/fs/{xfs,ext4,jfs} "$TREE/include/linux" "$RESULTS"
	echo '{ "kernel": "6.12.0-fake" }' > "$RESULTS/results.json"
	echo '{ "ext4_setattr": "no test does that" }' > "$RINGWEDGE_REACH_WHY"
	cat > "$TREE/fs/inode.c" << 'END'
/* inode_dio_wait - wait
 * calls of inode_dio_wait() in a comment */
void inode_dio_wait(struct inode *inode)
END
	cat > "$TREE/include/linux/pagemap.h" << 'END'
static inline int inode_drain(struct inode *inode)
{
	inode_dio_wait(inode);
END
	cat > "$TREE/fs/xfs/file.c" << 'END'
STATIC int
xfs_exchange(
	struct inode	*a)
{
	inode_dio_wait(a);
	inode_dio_wait(b);
}
static void helper(struct inode *inode)
{
	return inode_drain(inode);
END
	cat > "$TREE/fs/ext4/inode.c" << 'END'
int ext4_setattr(struct inode *inode)
{
	if (x)
		inode_dio_wait(inode);
END
	cp "$TREE/fs/ext4/inode.c" "$TREE/fs/jfs/" # not looked at
	frame a1 init_wait_var_entry '??:?'
	frame a2 inode_dio_wait "$TREE/fs/inode.c:3"
	frame b1 xfs_exchange "$TREE/fs/xfs/file.c:5"
	frame b2 xfs_exchange "$TREE/fs/xfs/file.c:6 (discriminator 2)"
	frame b3 inode_drain "$TREE/include/linux/pagemap.h:3" helper "$TREE/fs/xfs/file.c:10" \
		xfs_setattr "$TREE/fs/xfs/file.c:99"
	frame b4 ext4_setattr "$TREE/fs/ext4/inode.c:4"
	frame b5 jfs_setattr "$TREE/fs/jfs/inode.c:4"
	frame c1 __iomap_dio_rw "$TREE/fs/iomap/direct-io.c:1"
	frame c2 io_wq_submit_work '??:?'
	frame c3 io_submit_sqes '??:?'
	frame c4 io_sq_thread '??:?'
	frame c5 __x64_sys_io_submit '??:?'
	frame c6 __x64_sys_pwrite64 '??:?'
	frame c7 lo_rw_aio.isra.0 '??:?'
	frame d1 iomap_dio_complete "$TREE/fs/iomap/direct-io.c:2"
	frame d2 iomap_dio_complete_work "$TREE/fs/iomap/direct-io.c:3"
	frame d3 process_one_work '??:?'
	frame d4 iomap_dio_complete_work "$TREE/fs/iomap/direct-io.c:3" iomap_dio_done \
		"$TREE/fs/iomap/direct-io.c:4" iomap_dio_bio_end_io "$TREE/fs/iomap/direct-io.c:5"
	frame d5 iomap_dio_deferred_complete "$TREE/fs/iomap/direct-io.c:6"
}

# frame ADDRESS (FUNCTION LINE)...: innermost first.
frame() {
	echo "0xffffffff810000$1"
	printf '%s\n' "${@:2}"
} >> "$BATS_TEST_TMPDIR/frames"

# recorded CONFIG TEST LINE...: a stack by the ends of its addresses.
recorded() {
	local dir=$RESULTS/$1/$2 line part

	mkdir -p "$dir"
	: > "$dir/stdout"
	for line in "${@:3}"; do
		if [[ $line == stack* ]]; then
			printf 'stack 7 7fffffffffffffff'
			for part in ${line#stack}; do
				printf ' ffffffff810000%s' "$part"
			done
			echo
		else
			echo "$line"
		fi
	done >> "$dir/reach.txt"
}

table() {
	run "$TOP/reach/table" --source "$TREE" --frames "$BATS_TEST_TMPDIR/frames" "$RESULTS" "$@"
	[[ $status == 0 ]]
	output=$(< "$BATS_TEST_TMPDIR/reach.md")
	printf '%s\n' "$output"
}

# row CELL...: this is a row of a table.
row() {
	local text='|' cell

	for cell; do
		text+=" $cell |"
	done
	grep -qxF -- "$text" <<< "$output"
}

@test "a call in flight is reached, an idle one is not; two in a function are told apart" {
	recorded xfs-4k one-dio 'stack a1 a2 b1' 'stack a2 b1' 'stack a2 b2' 'stack a1 a2 b3'
	recorded xfs-1k one-dio 'stack a1 a2 b1'
	recorded xfs-4k two-dio 'stack a1 a2 b1'
	recorded ext4-4k two-dio 'stack a2 b5'
	table
	[[ $output == *'**2 of 4 call sites reached**: ext4 0 of 1, xfs 2 of 3.'* ]]
	row fs/xfs/file.c:5 '`xfs_exchange`' 'one-dio, two-dio'
	row fs/xfs/file.c:6 '`xfs_exchange`' \
		'**not reached**, entered with nothing in flight by one-dio; **why is not known yet**'
	row fs/xfs/file.c:10 '`helper`' one-dio
	row fs/ext4/inode.c:4 '`ext4_setattr`' '**not reached**; no test does that'
}

@test "a filesystem that nothing was run on" {
	recorded xfs-4k one-dio 'stack a2 b1'
	table
	row fs/ext4/inode.c:4 '`ext4_setattr`' 'nothing was run on ext4'
}

@test "a call that the list does not have is named" {
	recorded xfs-4k one-dio 'stack a1 a2 b5'
	table
	[[ $output == *'not in the list: jfs_setattr (fs/jfs/inode.c:4), by one-dio.'* ]]
}

@test "what was lost is unknown, and so is a test that left no record" {
	recorded xfs-4k one-dio 'stack a1 a2 b1' lost
	recorded ext4-4k two-dio
	rm "$RESULTS/ext4-4k/two-dio/reach.txt"
	table
	[[ $output == *'may have been reached: ext4-4k/two-dio, xfs-4k/one-dio.'* ||
		$output == *'may have been reached: xfs-4k/one-dio, ext4-4k/two-dio.'* ]]
	row fs/xfs/file.c:5 '`xfs_exchange`' one-dio
	row fs/xfs/file.c:6 '`xfs_exchange`' '**unknown**; **why is not known yet**'
}

@test "a test that left no record in one run, and has one of another" {
	local first=$RESULTS

	recorded xfs-4k one-dio 'stack a1 a2 b1'
	recorded ext4-4k two-dio
	rm "$RESULTS/ext4-4k/two-dio/reach.txt"
	RESULTS=$BATS_TEST_TMPDIR/again
	recorded ext4-4k two-dio 'stack a1 a2 b4'
	RESULTS=$first
	table "$BATS_TEST_TMPDIR/again"
	[[ $output != *'may have been reached'* ]]
	row fs/ext4/inode.c:4 '`ext4_setattr`' two-dio
	row fs/xfs/file.c:6 '`xfs_exchange`' '**not reached**; **why is not known yet**'
}

@test "the ways a direct I/O starts and ends; what the loop device does is not the test's" {
	recorded xfs-4k a-dio 'stack c1 c2' 'stack d1 d2 d3' 'ret EIO 3'
	recorded ext4-4k a-dio 'stack c1 c3' 'stack c1 c5' 'stack c1 c6' 'stack d1 d4 d2 d3' 'stack d1 d5'
	recorded ext4-4k b-dio 'stack c1 c7' 'stack d1 d2 d3 c7' 'stack d1 c6' 'stack a1 a2 b4 c7'
	echo '{ "ends caller": "turned off", "starts SQPOLL": "slow" }' > "$RINGWEDGE_REACH_WHY"
	table
	row starts ext4 xfs
	row inline a-dio '**never**'
	row io-wq '**never**' a-dio
	row SQPOLL '**never**; slow' '**never**'
	row aio a-dio '**never**'
	row 'system call' a-dio ''
	row ends ext4 xfs
	row inline a-dio '**never**'
	row workqueue b-dio a-dio
	row caller a-dio '**never**'
	row error '**never**' 'a-dio: EIO'
	row fs/ext4/inode.c:4 '`ext4_setattr`' '**not reached**; **why is not known yet**'
	recorded xfs-4k a-dio 'stack c1 c3 c4'
	table
	row SQPOLL '**never**' a-dio
}

@test "nothing recorded, or no kernel source, is an error" {
	run "$TOP/reach/table" --source "$TREE" --frames "$BATS_TEST_TMPDIR/frames" "$RESULTS"
	[[ $status == 2 && $output == *"was it a run with --reach?" ]]
	recorded xfs-4k one-dio 'stack a1 a2 b1'
	run "$TOP/reach/table" --source "$RESULTS" --frames "$BATS_TEST_TMPDIR/frames" "$RESULTS"
	[[ $status == 2 && $output == *"no call of inode_dio_wait() there" ]]
}
