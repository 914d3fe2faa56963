#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# kernel/build, on a source tree of a few files.
#
# shellcheck disable=SC2154 # run sets $output, $stderr and $status

bats_require_minimum_version 1.5.0
load common.bash
load tree.bash

setup() {
	make_tree
}

# Only the tools that are named, but for one.
path_without() {
	local tool dir=$BATS_TEST_TMPDIR/bin

	mkdir -p "$dir"
	for tool in bash cat chmod cmp cp cut dirname basename env find flock gcc getopt grep head ld make \
		mkdir mv nproc patch printf realpath rm sed sha256sum stat tail flex bison bc; do
		[[ $tool == "$1" ]] || ln -sf "$(command -v $tool)" "$dir/$tool"
	done
	echo "$dir"
}

@test "what is missing for a kernel build is named in one line" {
	local tool

	need_kernel_tools
	for tool in gcc flex bison bc patch; do
		SAYS="missing: $tool: make deps-kernel" refused env "PATH=$(path_without $tool)" \
			"$TOP/kernel/build" --source "$TREE"
		rm -r "${BATS_TEST_TMPDIR:?}/bin"
	done
}

@test "a source that is none is refused in one line" {
	need_kernel_tools
	SAYS="no such directory" refused "$TOP/kernel/build" --source "$BATS_TEST_TMPDIR/nowhere"
	SAYS="not the top of a kernel source tree" refused "$TOP/kernel/build" --source "$TREE/fs"
	SAYS="make deps-kernel" refused "$TOP/kernel/build"
	touch "$TREE/.config"
	SAYS="mrproper" refused "$TOP/kernel/build" --source "$TREE"
}

@test "a kernel is built once, and again when source or options have changed" {
	need_kernel_tools
	run --separate-stderr make -s -C "$TOP" kernel KSRC="$TREE" M=x
	echo "$stderr"
	[[ $status == 0 && $output == "$RINGWEDGE_CACHE/kernels/6.12.0-fake/bzImage" ]]
	cmp "$output" "$TREE/fs/xfs/file.c"
	[[ $(< "${output%/*}/release") == 6.12.0-fake && -s ${output%/*}/System.map ]]
	grep -q CONFIG_XFS_FS=y "${output%/*}/config"
	! grep -q PROVE_LOCKING "${output%/*}/config" || false
	[[ $(builds) == 1 ]]

	run --separate-stderr "$TOP/kernel/build" --source "$TREE"
	[[ $status == 0 && $stderr == "nothing to do: 6.12.0-fake is built" && $(builds) == 1 ]]

	echo six >> "$TREE/fs/xfs/file.c"
	"$TOP/kernel/build" --source "$TREE"
	[[ $(builds) == 2 ]]
	rm "$RINGWEDGE_CACHE/kernels/6.12.0-fake/bzImage"
	"$TOP/kernel/build" --source "$TREE"
	[[ $(builds) == 3 ]]
	run --separate-stderr make -s -C "$TOP" kernel KSRC="$TREE" DEBUG=1 OUT="$BATS_TEST_TMPDIR/out dir"
	[[ $output == "$BATS_TEST_TMPDIR/out dir/bzImage" && $(builds) == 4 ]]
	grep -q CONFIG_PROVE_LOCKING=y "$BATS_TEST_TMPDIR/out dir/config"
}

@test "a kernel that does not build is exit status 1, with the error" {
	need_kernel_tools
	echo broken >> "$TREE/fs/xfs/file.c"
	run --separate-stderr "$TOP/kernel/build" --source "$TREE"
	[[ $status == 1 && $stderr == *"error: broken"* && ! $output ]]
}
