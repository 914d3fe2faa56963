# SPDX-License-Identifier: MIT
#
# Sourced by kernel/build and mutants/run: where things are kept, and the source tree.

# shellcheck source=runner/cache.sh
. "$TOP/runner/cache.sh"
TARBALL=${RINGWEDGE_TARBALL:-/usr/src/linux-source-6.12.tar.xz} # Debian's package of that name

# What a make above us was told is not for the kernel's make (M= would build a module).
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES M O V C W KBUILD_OUTPUT

# The same source, configuration and compiler give the same image, to the byte.
export KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 1970' KBUILD_BUILD_VERSION=1
export KBUILD_BUILD_USER=ringwedge KBUILD_BUILD_HOST=ringwedge LOCALVERSION=

say() {
	printf '%s\n' "$*" >&2
}

die() {
	say "${0#"$TOP"/}: $*"
	exit 2
}

has_header() {
	printf '#include <%s>\n' "$1" | gcc -E -o /dev/null - 2> /dev/null
}

# All that is missing, in one line.
need_tools() {
	local tool missing=()

	for tool in gcc make ld flex bison bc patch; do
		command -v "$tool" > /dev/null || missing+=("$tool")
	done
	if command -v gcc > /dev/null; then
		has_header gelf.h || missing+=("gelf.h (libelf)")
		has_header openssl/opensslv.h || missing+=("openssl/opensslv.h (libssl)")
	fi
	((${#missing[@]})) || return 0
	die "missing: $(printf '%s, ' "${missing[@]}" | sed 's/, $//'): make deps-kernel installs it"
}

is_kernel_tree() {
	[[ -f $1/Kconfig && -f $1/Makefile && -d $1/init ]] && grep -q '^PATCHLEVEL *=' "$1/Makefile"
}

# Sets KSRC. Without one given, Debian's source package, unpacked once.
find_source() {
	local mark

	if [[ ${1-} ]]; then
		[[ -d $1 ]] || die "KSRC=$1: no such directory"
		is_kernel_tree "$1" || die "KSRC=$1: not the top of a kernel source tree"
		KSRC=$(realpath "$1")
	else
		KSRC=$CACHE/source/$(basename "$TARBALL" .tar.xz)
		[[ -e $TARBALL ]] ||
			die "no KSRC=dir given, and no $TARBALL: make deps-kernel installs it on Debian"
		mark="$TARBALL $(stat -c '%s %Y' "$TARBALL")"
		[[ $(cat "$KSRC.unpacked" 2> /dev/null) == "$mark" ]] || unpack "$mark"
	fi
	[[ ! -e $KSRC/.config && ! -d $KSRC/include/generated ]] ||
		die "$KSRC: was built in place, and then not elsewhere: first make -C $KSRC mrproper"
}

unpack() {
	command -v xz > /dev/null || die "missing: xz: make deps-kernel installs it"
	say "unpacking $TARBALL"
	mkdir -p "$KSRC.new" || exit 2
	# With the time of now: what was built from an older package must be built again.
	tar -C "$KSRC.new" --strip-components=1 --touch -xf "$TARBALL" || die "$TARBALL: cannot be unpacked"
	rm -rf "$KSRC" && mv "$KSRC.new" "$KSRC" && echo "$1" > "$KSRC.unpacked"
}

# Where a source tree is built: one for each, whatever release it is at.
object_tree() {
	printf '%s/build/%s-%s%s\n' "$CACHE" "$(basename "$KSRC")" \
		"$(sha256sum <<< "$KSRC" | cut -c1-8)" "$1"
}

kernel_make() {
	local cc=gcc

	command -v ccache > /dev/null && cc="ccache gcc"
	make -C "$KSRC" O="$OBJECTS" CC="$cc" -j"$(nproc)" "$@" < /dev/null
}

# One build in a source tree at a time, and no mutant's patch in it: a mutants/run that was killed
# leaves one behind, and it is taken out here.
lock_source() {
	mkdir -p "$CACHE/build" || exit 2
	exec 8> "$(object_tree .lock)" || exit 2
	flock --nonblock 8 || die "$KSRC: another build, or mutants/run, is at work in it"
	undo_patch
}

undo_patch() {
	local applied

	applied=$(object_tree .applied)
	[[ -e $applied ]] || return 0
	if patch -s -f -R -p1 --dry-run -d "$KSRC" < "$applied" > /dev/null; then
		patch -s -f -R -p1 -d "$KSRC" < "$applied" || exit 2
	elif ! patch -s -f -p1 --dry-run -d "$KSRC" < "$applied" > /dev/null; then
		die "$KSRC: a patch is half applied: restore the tree, then remove $applied"
	fi
	rm "$applied"
}
