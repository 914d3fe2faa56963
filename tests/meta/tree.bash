# SPDX-License-Identifier: MIT
#
# A kernel source tree of a few files, whose image is what the one source file says; a cache and
# mutants of its own.

make_tree() {
	unset KSRC RINGWEDGE_RUNTESTS
	export RINGWEDGE_CACHE=$BATS_TEST_TMPDIR/cache RINGWEDGE_TARBALL=$BATS_TEST_TMPDIR/none.tar.xz
	export RINGWEDGE_MUTANTS=$BATS_TEST_TMPDIR/mutants RINGWEDGE_DOCS=$BATS_TEST_TMPDIR/docs
	TREE=$BATS_TEST_TMPDIR/tree
	mkdir -p "$RINGWEDGE_MUTANTS" "$RINGWEDGE_DOCS" "$TREE/init" "$TREE/fs/xfs"
	touch "$TREE/Kconfig"
	printf 'one\ntwo\nthree\nfour\nfive\n' > "$TREE/fs/xfs/file.c"
	cat > "$TREE/Makefile" << 'END'
VERSION = 6
PATCHLEVEL = 12
allnoconfig:
	mkdir -p $(O)/include/config && cp $(KCONFIG_ALLCONFIG) $(O)/.config
	echo 6.12.0-fake > $(O)/include/config/kernel.release
bzImage:
	! grep -q broken fs/xfs/file.c || { echo "fs/xfs/file.c:1: error: broken" >&2; false; }
	mkdir -p $(O)/arch/x86/boot && cp fs/xfs/file.c $(O)/arch/x86/boot/bzImage
	echo map > $(O)/System.map
	echo built >> $(O)/builds
END
}

# How often was it built?
builds() {
	cat "$RINGWEDGE_CACHE"/build/*/builds | wc -l
}

need_kernel_tools() {
	run "$TOP/kernel/build" --source "$BATS_TEST_TMPDIR/nowhere"
	[[ $output != *"missing: "* ]] || skip "needs ${output#*missing: }"
}
