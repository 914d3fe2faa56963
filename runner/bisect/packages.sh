# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# The search of a bisection over a folder of packaged kernels (Debian's .deb files). Sourced by
# bisect.sh.

# unpack_package FILE FOLDER: sets KERNEL and MODULES ('' if it has none), or REASON.
unpack_package() {
	local member dir version

	rm -rf "$2"
	mkdir -p "$2" || exit 2
	if command -v dpkg-deb > /dev/null; then
		dpkg-deb -x "$1" "$2"
	else
		member=$(ar t "$1" | grep -m 1 '^data\.tar') && ar p "$1" "$member" |
			case $member in
			*.xz) xz -dc ;;
			*.zst) zstd -dc ;;
			*.gz) gzip -dc ;;
			*) cat ;;
			esac | tar -x -C "$2"
	fi 2> "$2/log" || {
		REASON="cannot be unpacked: $(tail -n 1 "$2/log")"
		return 1
	}
	KERNEL=$(compgen -G "$2/boot/vmlinuz-*" | head -n 1)
	[[ $KERNEL ]] || {
		REASON="no boot/vmlinuz in it: not the package with the kernel"
		return 1
	}
	version=${KERNEL##*/vmlinuz-} MODULES=''
	for dir in "$2"/{,usr/}lib/modules/"$version"; do
		[[ -d $dir/kernel ]] && MODULES=$dir
	done
	return 0
}

package_version() {
	local version

	version=$(dpkg-deb -f "$1" Version 2> /dev/null)
	[[ $version ]] || {
		version=${1##*/} version=${version#*_} version=${version%_*}
		version=${version//%3[aA]/:}
	}
	echo "$version"
}

is_older() {
	if command -v dpkg > /dev/null; then
		dpkg --compare-versions "$1" lt "$2"
	else
		[[ $1 != "$2" && $(printf '%s\n' "$1" "$2" | sort -V | head -n 1) == "$1" ]]
	fi
}

# Sets PACKAGE and VERSION, oldest first.
list_packages() {
	local file version i

	PACKAGE=() VERSION=()
	for file in "$1"/linux-image-*.deb; do
		[[ -e $file && $file != *-dbg_* ]] || continue
		version=$(package_version "$file")
		for ((i = ${#PACKAGE[@]}; i > 0; i--)); do
			is_older "$version" "${VERSION[i - 1]}" || break
			PACKAGE[i]=${PACKAGE[i - 1]} VERSION[i]=${VERSION[i - 1]}
		done
		PACKAGE[i]=$file VERSION[i]=$version
	done
}

# Sets FOUND[$1] to the outcome and SAID[$1] to why.
try_package() {
	local step

	printf -v step '%s/%03d-%s' "$STATE" $(($1 + 1)) "$(basename "${PACKAGE[$1]}" .deb)"
	OUTCOME=untold CLEAN=0
	if unpack_package "${PACKAGE[$1]}" "$step/package"; then
		run_kernel "$step" "$KERNEL" "$MODULES"
	else
		LINE=$REASON
	fi
	rm -rf "$step/package"
	FOUND[$1]=$OUTCOME SAID[$1]=$LINE STEP[$1]=$step
	printf '%s\n' "$OUTCOME" "$CLEAN" "$LINE" > "$step/verdict"
	say "ringwedge: $(package_name "$1") is $(word_of "$OUTCOME"): $LINE"
}

package_name() {
	echo "$(basename "${PACKAGE[$1]}") (${VERSION[$1]})"
}

# The one nearest to the middle between $1 and $2 that is not known to be untestable; or fails.
pick() {
	local middle=$((($1 + $2) / 2)) away i

	for ((away = 0; away < $2 - $1; away++)); do
		for i in $((middle - away)) $((middle + away)); do
			((i > $1 && i < $2)) && [[ ! ${FOUND[i]-} ]] && echo "$i" && return
		done
	done
	return 1
}

write_package_report() {
	local good=$1 bad=$2 i

	printf 'First bad package: %s\nLast good one:     %s\n' "$(package_name "$bad")" \
		"$(package_name "$good")"
	((bad - good > 1)) && printf 'The %d between them could not be tested.\n' $((bad - good - 1))
	printf 'Found with ringwedge (%s), looking for %s\n\n' "$TESTED" "${SIGNATURE:-any failure}"
	read_verdict "${STEP[bad]}" &&
		printf 'It failed in run %d:\n\n' $((CLEAN + 1)) &&
		"$TOOLS/bisect/verdict" evidence --signature "$SIGNATURE" "${STEP[bad]}/run-$((CLEAN + 1))"
	printf '\nAll that were tested:\n'
	for ((i = 0; i < ${#PACKAGE[@]}; i++)); do
		[[ ! ${FOUND[i]-} ]] ||
			printf '  %-12s %s\n      %s\n' "$(word_of "${FOUND[i]}")" "$(package_name "$i")" "${SAID[i]}"
	done
}

bisect_packages() {
	local good=0 bad middle

	[[ -d $PACKAGE_DIR ]] || die "--bisect-packages $PACKAGE_DIR: no such folder"
	list_packages "$PACKAGE_DIR"
	((${#PACKAGE[@]} > 1)) || die "--bisect-packages $PACKAGE_DIR: needs two linux-image-*.deb, or more"
	bad=$((${#PACKAGE[@]} - 1))
	TESTED=$(printf '%q ' "${PASSED[@]}" -- "${BISECT_TESTS[@]}")
	STATE=$CACHE/bisect/packages-$(realpath "$PACKAGE_DIR" | sha256sum | cut -c 1-8)
	mkdir -p "$STATE" && exec 9> "$STATE.lock" || exit 2
	flock --nonblock 9 || die "--bisect-packages $PACKAGE_DIR: another run is at work on it"
	rm -rf "${STATE:?}"/*
	FOUND=() SAID=() STEP=()
	be_fast

	# The newest that can be tested must be bad, the oldest good: else there is nothing to find.
	for (( ; bad > 0; bad--)); do
		try_package "$bad"
		[[ ${FOUND[bad]} != untold ]] && break
	done
	for (( ; good < bad; good++)); do
		try_package "$good"
		[[ ${FOUND[good]} != untold ]] && break
	done
	((good < bad)) || die "--bisect-packages: there are no two that can be tested"
	if [[ ${FOUND[bad]} != bad || ${FOUND[good]} != good ]]; then
		say "--bisect-packages: nothing to find: the newest, $(package_name "$bad"), is ${FOUND[bad]}," \
			"the oldest, $(package_name "$good"), is ${FOUND[good]}"
		exit 1
	fi
	while middle=$(pick "$good" "$bad"); do
		try_package "$middle"
		[[ ${FOUND[middle]} == bad ]] && bad=$middle
		[[ ${FOUND[middle]} == good ]] && good=$middle
	done
	write_package_report "$good" "$bad" > "$STATE/report.txt"
	head -n 3 "$STATE/report.txt" | grep -v '^Found'
	say "ringwedge: report in $STATE/report.txt"
	exit 0
}
