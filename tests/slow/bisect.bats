#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# git bisect run on a history of real kernels, booted: needs a kernel's source, what builds it, and
# QEMU. The source, 1.7 GB, and what is built stay in the cache, for the next time.

bats_require_minimum_version 1.5.0
load ../meta/common.bash

. "$BATS_TEST_DIRNAME/../../runner/cache.sh"
TARBALL=${RINGWEDGE_TARBALL:-/usr/src/linux-source-6.12.tar.xz}
TREE=$CACHE/bisect-proof/linux-source-6.12
SIGNATURE="HANG inode_dio_wait"

setup_file() {
	local tool

	for tool in git gcc flex bison bc qemu-system-x86_64; do
		need "$tool"
	done
	[[ -e $TARBALL ]] || skip "needs $TARBALL"
	export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
	export GIT_AUTHOR_NAME=ringwedge GIT_AUTHOR_EMAIL=ringwedge@localhost
	export GIT_COMMITTER_NAME=ringwedge GIT_COMMITTER_EMAIL=ringwedge@localhost
	export GIT_AUTHOR_DATE='2020-01-01 00:00:00 +0000' GIT_COMMITTER_DATE='2020-01-01 00:00:00 +0000'
	[[ -e $TREE/.git/refs/tags/import ]] || import_source
	cd "$TREE" || return
	git bisect reset > /dev/null 2>&1 || true
	git reset -q --hard
	git checkout -q --detach import
	make_history
}

import_source() {
	rm -rf "$TREE"
	mkdir -p "$TREE"
	tar -C "$TREE" --strip-components=1 -xf "$TARBALL"
	cd "$TREE" || return
	git init -q
	git config gc.auto 0
	git -c core.looseCompression=0 add -Af .
	git commit -q -m "Debian's linux-source-6.12"
	git tag import
}

# In files of all parts of the kernel, which every configuration builds.
HARMLESS=(fs/readdir.c mm/mempool.c lib/hexdump.c kernel/groups.c block/ioprio.c fs/stack.c
	fs/xfs/xfs_message.c fs/ext4/bitmap.c io_uring/nop.c lib/bitmap.c fs/iomap/iter.c kernel/range.c
	mm/interval_tree.c fs/xfs/xfs_error.c io_uring/statx.c lib/ctype.c fs/filesystems.c fs/utimes.c
	drivers/block/loop.c net/9p/error.c)

harmless() {
	local file=${HARMLESS[nr % ${#HARMLESS[@]}]}

	echo "/* Commit $nr changes nothing that runs. */" >> "$file"
	git commit -q -a -m "${file%.c}: a comment"
}

# 24 commits. The first that git looks at, in the middle, has another bug of the same test: older than
# the one that is looked for, and blamed if it were taken for that.
make_history() {
	local nr

	for ((nr = 2; nr <= 24; nr++)); do
		case $nr in
		12)
			git apply "$TOP"/mutants/07-*.patch
			git commit -q -a -m "another bug of the same call"
			;;
		13)
			git apply -R "$TOP"/mutants/07-*.patch
			echo 'static int does_not_build(void) { return not_declared; }' >> fs/filesystems.c
			git commit -q -a -m "mends that, and does not build"
			;;
		14)
			sed -i '/does_not_build/d' fs/filesystems.c
			git commit -q -a -m "builds again"
			;;
		15)
			git apply "$TOP"/mutants/01-*.patch
			git commit -q -a -m "the bug"
			git tag -f the-bug > /dev/null
			;;
		17)
			{
				echo 'static int __init does_not_boot(void) { panic("does not boot"); }'
				echo 'late_initcall(does_not_boot);'
			} >> fs/filesystems.c
			git commit -q -a -m "does not boot"
			;;
		18)
			sed -i '/does_not_boot/d' fs/filesystems.c
			git commit -q -a -m "boots again"
			;;
		*) harmless ;;
		esac
	done
	git tag -f tip > /dev/null
}

@test "git bisect run names the commit that made fallocate hang, among 24 of which three cannot be tested" {
	local report=.git/ringwedge-bisect/report.txt subject began=$SECONDS bug

	cd "$TREE"
	[[ $(git rev-list --count tip) == 24 ]]
	bug=$(git rev-parse the-bug)
	git bisect start tip import
	git bisect run "$TOP/runtests.sh" --bisect falloc-dio -c xfs-4k --variant punch-hole.plain.same \
		--signature "$SIGNATURE" 2>&1 3>&- | tee "$BATS_TEST_TMPDIR/output"
	grep -q "$bug is the first bad commit" "$BATS_TEST_TMPDIR/output"
	echo "# $((SECONDS - began)) s for $(find .git/ringwedge-bisect/steps/* -maxdepth 0 | wc -l) steps" >&3
	cat $report
	grep -qx "  commit $bug" $report
	grep -q "HANG   xfs-4k/falloc-dio/punch-hole.plain.same: HANG after .* D in inode_dio_wait < xfs_file_fallocate" $report
	grep -q "stack .*inode_dio_wait" $report
	sed '1,/^Could not be tested/d' $report | grep -qF '("another bug of the same call")'
	[[ ! $(git status --porcelain) ]]
	# Past these git may not have come.
	for subject in 13-"does not build" 17-"does not boot"; do
		git checkout -q "tip~$((24 - ${subject%%-*}))"
		run "$TOP/runtests.sh" --bisect falloc-dio -c xfs-4k --variant punch-hole.plain.same
		echo "$output"
		[[ $status == 125 && $output == *"not testable: "*"${subject#*-}"* ]]
	done
}

@test "--bisect-check says that the ends are right, and how often the bad one fails" {
	cd "$TREE"
	run "$TOP/runtests.sh" --bisect-check --runs 2 tip import falloc-dio -c xfs-4k \
		--variant punch-hole.plain.same
	echo "$output"
	[[ $status == 0 && $output == *"tip fails in 2 of 2 runs (\"HANG in inode_dio_wait*(fallocate)\")"* ]]
	run "$TOP/runtests.sh" --bisect-check --runs 1 the-bug~1 import falloc-dio -c xfs-4k \
		--variant punch-hole.plain.same
	[[ $status == 1 ]]
}
