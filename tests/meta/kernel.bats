#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# kernel/build on a source tree of a few files.
#
# shellcheck disable=SC2154 # run sets $output, $stderr and $status

bats_require_minimum_version 1.5.0
load common.bash

setup() {
	unset KSRC RINGWEDGE_RUNTESTS
	export RINGWEDGE_CACHE=$BATS_TEST_TMPDIR/cache RINGWEDGE_TARBALL=$BATS_TEST_TMPDIR/none.tar.xz
	export RINGWEDGE_MUTANTS=$BATS_TEST_TMPDIR/mutants RINGWEDGE_DOCS=$BATS_TEST_TMPDIR/docs
	TREE=$BATS_TEST_TMPDIR/tree
	mkdir "$RINGWEDGE_MUTANTS" "$RINGWEDGE_DOCS"
	make_tree
}

# Builds "images" that are what the one source file says.
make_tree() {
	mkdir -p "$TREE/init" "$TREE/fs"
	touch "$TREE/Kconfig"
	printf 'one\ntwo\nthree\nfour\nfive\n' > "$TREE/fs/file.c"
	cat > "$TREE/Makefile" << 'END'
VERSION = 6
PATCHLEVEL = 12
allnoconfig:
	mkdir -p $(O)/include/config && cp $(KCONFIG_ALLCONFIG) $(O)/.config
	echo 6.12.0-fake > $(O)/include/config/kernel.release
bzImage:
	! grep -q broken fs/file.c || { echo "fs/file.c:1: error: broken" >&2; false; }
	mkdir -p $(O)/arch/x86/boot && cp fs/file.c $(O)/arch/x86/boot/bzImage
	echo map > $(O)/System.map
	echo built >> $(O)/builds
END
}

# mutant NAME OLD NEW [FIELD-TO-LEAVE-OUT]
mutant() {
	local file=$RINGWEDGE_MUTANTS/$1.patch name

	echo "SPDX-License-Identifier: GPL-2.0-only" > "$file"
	for name in Title Class History Affects Expose Observe Base; do
		[[ $name == "${4-}" ]] || printf '%s: %s of\n  %s\n' $name $name "$1" >> "$file"
	done
	mkdir -p "$BATS_TEST_TMPDIR"/{a,b}/fs
	cp "$TREE/fs/file.c" "$BATS_TEST_TMPDIR/a/fs/file.c"
	sed "s/$2/$3/" "$TREE/fs/file.c" > "$BATS_TEST_TMPDIR/b/fs/file.c"
	(cd "$BATS_TEST_TMPDIR" && diff -u a/fs/file.c b/fs/file.c | sed 's/\t.*//') >> "$file" || true
}

builds() {
	cat "$RINGWEDGE_CACHE"/build/*/builds | wc -l
}

# Only the tools that are named, and what a shell script cannot do without.
path_without() {
	local tool dir=$BATS_TEST_TMPDIR/bin

	mkdir -p "$dir"
	for tool in bash cat chmod cmp cp cut dirname basename env find flock gcc getopt grep head ld make \
		mkdir mv nproc patch printf realpath rm sed sha256sum stat tail flex bison bc; do
		[[ $tool == "$1" ]] || ln -sf "$(command -v $tool || command -v true)" "$dir/$tool"
	done
	echo "$dir"
}

need_kernel_tools() {
	run "$TOP/kernel/build" --source "$BATS_TEST_TMPDIR/nowhere"
	[[ $output != *"missing: "* ]] || skip "needs ${output#*missing: }"
}

# ---- kernel/build ----------------------------------------------------------------------------------

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
	cmp "$output" "$TREE/fs/file.c"
	[[ $(< "${output%/*}/release") == 6.12.0-fake && -s ${output%/*}/System.map ]]
	grep -q CONFIG_XFS_FS=y "${output%/*}/config"
	! grep -q PROVE_LOCKING "${output%/*}/config" || false
	[[ $(builds) == 1 ]]

	run --separate-stderr "$TOP/kernel/build" --source "$TREE"
	[[ $status == 0 && $stderr == "nothing to do: 6.12.0-fake is built" && $(builds) == 1 ]]

	echo six >> "$TREE/fs/file.c"
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
	echo broken >> "$TREE/fs/file.c"
	run --separate-stderr "$TOP/kernel/build" --source "$TREE"
	[[ $status == 1 && $stderr == *"error: broken"* && ! $output ]]
}
