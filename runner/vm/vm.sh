# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# Which kernel is booted, and with what. Sourced by runtests.sh; running it is vm.c.
#
# A guest's / is the host's, over 9p and read-only, under an overlay in the guest's memory. A kernel
# without 9p gets it by virtiofs, which takes root and two daemons more: the files are not what
# takes the time.

# shellcheck source=runner/cache.sh
. "$TOP/runner/cache.sh"

# What a guest needs before it can see the host's files, and what the tests use after that.
GUEST_MODULES=(virtio_pci 9pnet_virtio 9p virtiofs overlay loop crc32c_generic crc32c-intel crc16 xfs ext4
	btrfs f2fs null_blk)

# Sets IMAGE, MAP and KERNEL_CONFIG ('' where there is none).
find_kernel() {
	local kernel=$1 dir

	if [[ ! $kernel ]]; then
		kernel=$(known_kernels | head -n 1)
		[[ $kernel ]] || die "--vm: no kernel yet: make deps-vm (a packaged one), make kernel (one of" \
			"your own), or name one"
	fi
	[[ -e $kernel ]] || die "--vm $kernel: no such file or folder"
	IMAGE=$(realpath "$kernel")
	if [[ -d $IMAGE ]]; then
		dir=$IMAGE
		for IMAGE in "$dir/arch/x86/boot/bzImage" "$dir/bzImage" ''; do
			[[ -f $IMAGE ]] && break
		done
		[[ $IMAGE ]] || die "--vm $kernel: no arch/x86/boot/bzImage there: is it built, for x86?"
		KERNEL_CONFIG=$dir/.config MAP=$dir/System.map
		[[ -e $KERNEL_CONFIG ]] || KERNEL_CONFIG=$dir/config
	else
		dir=${IMAGE%/*}
		KERNEL_CONFIG=$dir/config MAP=$dir/System.map
		if [[ ${IMAGE##*/} == vmlinuz-* ]]; then
			KERNEL_CONFIG=$dir/config-${IMAGE##*/vmlinuz-} MAP=$dir/System.map-${IMAGE##*/vmlinuz-}
		fi
	fi
	[[ -r $IMAGE ]] || die "--vm $IMAGE: cannot be read"
	[[ -r $KERNEL_CONFIG ]] || KERNEL_CONFIG=''
	[[ -r $MAP && $(stat -c %s "$MAP") -gt 4096 ]] || MAP='' # Debian's says only where it is
}

# Sets MODULES: lib/modules/VERSION of the image, or '' when there is none, and so none is needed.
find_modules() {
	local version=${IMAGE##*/vmlinuz-} base

	MODULES=$VM_MODULES
	if [[ $MODULES ]]; then
		[[ -d $MODULES/kernel ]] || die "--modules $MODULES: no lib/modules/VERSION: it has no kernel/ in it"
		return
	fi
	for base in "${IMAGE%/boot/*}" ''; do
		MODULES=$base/lib/modules/$version
		[[ $version != "$IMAGE" && -d $MODULES/kernel ]] && return
	done
	MODULES=''
}

# Print the files of the modules that the guest needs, in the order in which they can be loaded.
needed_modules() {
	local base=$1/base version=${MODULES##*/} module

	# An unpacked package has no modules.dep yet.
	mkdir -p "$base/lib/modules/$version" &&
		ln -s "$(realpath "$MODULES")"/* "$base/lib/modules/$version/" &&
		rm -f "$base/lib/modules/$version"/modules.{dep,alias,symbols,softdep,devname,*.bin} &&
		depmod -b "$base" "$version" 2> /dev/null || return
	for module in "${GUEST_MODULES[@]}"; do
		modprobe -S "$version" -d "$base" --show-depends "$module" 2> /dev/null
	done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++'
}

# Make $1/initramfs: init.c, and the modules.
make_initramfs() {
	local dir=$1/initramfs.d file number=0

	mkdir -p "$dir/modules" "$dir/dev" && cp "$TOOLS/vm/init" "$dir/init" || return
	if [[ $MODULES ]]; then
		while read -r file; do
			printf -v number '%04d' "$((10#$number))"
			echo "${file##*/}" > "$dir/modules/$number.name"
			case $file in
			*.xz) xz -dc "$file" ;;
			*.zst) zstd -dcq "$file" ;;
			*.gz) gzip -dc "$file" ;;
			*) cat "$file" ;;
			esac > "$dir/modules/$number.ko" || return
			number=$((10#$number + 1))
		done <<< "$(needed_modules "$1")"
	fi
	(cd "$dir" && find . | cpio --quiet -o -H newc) > "$1/initramfs" || return
	rm -rf "$dir" "$1/base"
}

# KVM where the processor has it and QEMU can use it; a stock guest cannot run on every /dev/kvm.
choose_accel() {
	case $VM_ACCEL in
	kvm | tcg) ;;
	'')
		VM_ACCEL=tcg
		if [[ -w /dev/kvm ]] && grep -qwE 'vmx|svm' /proc/cpuinfo &&
			echo '{"execute":"qmp_capabilities"}{"execute":"quit"}' |
			timeout 10 qemu-system-x86_64 -accel kvm -nodefaults -display none -S -qmp stdio \
				> /dev/null 2>&1; then
			VM_ACCEL=kvm
		fi
		;;
	*) die "--accel takes kvm or tcg, not \"$VM_ACCEL\"" ;;
	esac
}

# Only a kernel that is known to have no 9p is worth it; then virtiofs is a must.
choose_share() {
	local program

	VIRTIOFSD=''
	[[ $KERNEL_CONFIG && $(id -u) == 0 ]] || return
	grep -qE '^CONFIG_NET_9P_VIRTIO=[ym]' "$KERNEL_CONFIG" && return
	grep -qE '^CONFIG_VIRTIO_FS=[ym]' "$KERNEL_CONFIG" || return
	for program in /usr/libexec/virtiofsd /usr/lib/virtiofsd /usr/lib/qemu/virtiofsd; do
		[[ -x $program ]] && VIRTIOFSD=$program
	done
}

# All that can be found wrong before a run begins.
prepare_vm() {
	local program

	[[ $(uname -m) == x86_64 ]] || die "--vm: only on x86_64"
	PATH=$PATH:/usr/sbin:/sbin
	find_kernel "$VM_KERNEL"
	find_modules
	for program in qemu-system-x86_64 cpio ${MODULES:+depmod xz}; do
		command -v "$program" > /dev/null || die "--vm: no $program: ./runner/deps vm installs it"
	done
	choose_accel
	choose_share
	VM_KERNEL=$IMAGE
	VM_JOURNAL=("vm_kernel=$IMAGE" "vm_accel=$VM_ACCEL")
	if [[ $KERNEL_CONFIG ]]; then
		VM_JOURNAL+=("config_sha256=$(sha256sum < "$KERNEL_CONFIG" | cut -d ' ' -f 1)")
	fi
}

# One pass over the plan. Sets FAILED, for --until-fail.
run_in_vms() {
	local folder status

	folder=$(realpath "$RESULTS")
	if ! mkdir -p "$folder/vm" || ! { [[ -e $folder/vm/initramfs ]] || make_initramfs "$folder/vm"; }; then
		die "$folder/vm: cannot make an initramfs"
	fi
	"$TOOLS/vm/vm" --results "$folder" --plan "$PLAN_FILE" --kernel "$IMAGE" \
		--initramfs "$folder/vm/initramfs" --accel "$VM_ACCEL" ${MAP:+--map "$MAP"} \
		${VIRTIOFSD:+--virtiofsd "$VIRTIOFSD"} \
		--timeout-scale "$SCALE" "${KNOWN[@]}" ${UNTIL_FAIL:+--until-fail} "${VM_OPTIONS[@]}" -- \
		env "BUILD=$BUILD" "RINGWEDGE_TESTS=$TESTS" "$TOP/runtests.sh" --seed "$RUN_SEED" \
		--timeout-scale "$SCALE" -o "$folder" "${PASSED_ON[@]}" --guest &
	SUPERVISE=$!
	wait "$SUPERVISE"
	status=$?
	SUPERVISE=''
	((status < 2)) || exit 2
	# shellcheck disable=SC2034 # runtests.sh looks at it
	((status)) && FAILED=1
}
