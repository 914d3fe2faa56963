#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# --bisect-packages on packages of real kernels, booted: needs what `make kernel` needs, and QEMU.
#
# shellcheck disable=SC2154 # run sets $output, $lines, $stderr and $status

bats_require_minimum_version 1.5.0
load ../meta/common.bash

# package VERSION [IMAGE]
package() {
	local dir=$BATS_TEST_TMPDIR/$1

	mkdir -p "$dir/DEBIAN" "$dir/boot"
	printf '%s: %s\n' Package "linux-image-$1-amd64" Version "$1" Architecture amd64 \
		Maintainer "ringwedge <ringwedge@localhost>" Description "a kernel" > "$dir/DEBIAN/control"
	[[ ! ${2-} ]] || cp "$2" "$dir/boot/vmlinuz-$1-amd64"
	dpkg-deb --root-owner-group -Znone -b "$dir" "$DEBS/linux-image-$1-amd64_$1_amd64.deb" > /dev/null
}

@test "--bisect-packages names the first of five packages that hangs, one of which has no kernel" {
	local tool good bad began

	for tool in dpkg-deb gcc flex bison bc qemu-system-x86_64; do
		need "$tool"
	done
	[[ -e ${RINGWEDGE_TARBALL:-/usr/src/linux-source-6.12.tar.xz} ]] || skip "needs linux-source-6.12"
	good=$("$TOP/kernel/build")
	bad=$("$TOP/mutants/run" --build --only '01-*')
	DEBS=$BATS_TEST_TMPDIR/debs
	mkdir "$DEBS"
	package 6.12.9 "$good"
	package 6.12.10 "$good"
	package 6.12.11
	package 6.12.12 "$bad"
	package 6.12.13 "$bad"
	began=$SECONDS
	run --separate-stderr "$TOP/runtests.sh" --bisect-packages "$DEBS" falloc-dio -c xfs-4k \
		--variant punch-hole.plain.same --signature "HANG inode_dio_wait"
	printf '%s\n%s\n' "$output" "$stderr"
	[[ $status == 0 && $stderr == *"(6.12.11) is not testable: no boot/vmlinuz in it"* ]]
	[[ ${lines[0]} == "First bad package: linux-image-6.12.12-amd64_6.12.12_amd64.deb (6.12.12)" ]]
	[[ ${lines[1]} == "Last good one:     linux-image-6.12.10-amd64_6.12.10_amd64.deb (6.12.10)" ]]
	grep -q "stack .*inode_dio_wait" "${stderr##*report in }"
	echo "# $((SECONDS - began)) s for $(grep -c ') is ' <<< "$stderr") packages" >&3
}
