# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# Where kernels and results of mutants are kept, out of the source. Sourced.

# shellcheck disable=SC2034 # whoever sources it does
CACHE=${RINGWEDGE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/ringwedge}

# The kernels that can be booted without naming one, newest first.
known_kernels() {
	# shellcheck disable=SC2012 # names that we gave
	ls -t "$CACHE"/kernels/*/bzImage "$CACHE"/packages/*/boot/vmlinuz-* 2> /dev/null
}
