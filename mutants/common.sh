# SPDX-License-Identifier: MIT
#
# Sourced by mutants/run, mutants/score and new-mutant: what stands in a mutant's file.

FIELDS=(Title Class History Affects Expose Observe Base)

# field FILE NAME: its text in one line, '' when it is not there. It goes on in indented lines.
field() {
	awk -v name="$2" '
		/^--- / { exit }
		/^[A-Z][a-z]+(:| \()/ { on = match($0, "^" name "(:| )"); sub(/^[A-Z][a-z]+:? */, "") }
		on && NF { sub(/^ +/, ""); text = text (text == "" ? "" : " ") $0 }
		END { print text }' "$1"
}

# The patch without its header: what the image depends on.
diff_of() {
	sed -n '/^--- /,$p' "$1"
}

files_of() {
	sed -n 's,^+++ b/\([^[:space:]]*\).*,\1,p' "$1"
}

# Says what is wrong with the file; with a source tree, also whether it applies.
check_mutant() {
	local file=$1 source=${2-} name

	[[ -f $file ]] || {
		echo "no such file"
		return 1
	}
	[[ ${file##*/} =~ ^[0-9]{2,3}(-[a-z0-9]+)+\.patch$ ]] ||
		echo "is not named NUMBER-kebab-case.patch"
	head -n 1 "$file" | grep -qx 'SPDX-License-Identifier: GPL-2.0-only' ||
		echo "the first line is not: SPDX-License-Identifier: GPL-2.0-only"
	for name in "${FIELDS[@]}"; do
		[[ $(field "$file" "$name") ]] || echo "has no $name:"
	done
	! grep -q 'FILL''-IN' "$file" || echo "is not filled in"
	if [[ ! $(files_of "$file") ]]; then
		echo "has no patch with a/ and b/"
	elif files_of "$file" | grep -qE '(^|/)\.\.(/|$)'; then
		echo "patches files outside of the tree"
	elif [[ $source ]] && ! patch -s -f -p1 --dry-run -d "$source" < "$file" > /dev/null 2>&1; then
		if patch -s -f -R -p1 --dry-run -d "$source" < "$file" > /dev/null 2>&1; then
			echo "is in $source already"
		else
			echo "does not apply to $source"
		fi
	fi
}
