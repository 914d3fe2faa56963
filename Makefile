# SPDX-License-Identifier: MIT
#
#   make              build tests, library and runner (BUILD=DIR, CC=..., CFLAGS=...)
#   make deps run     install what is missing, build, run the full suite on this kernel
#   make deps check   the same for everything `make check` does: format, lint, builds with both
#                     compilers and sanitizers, the harness's own tests, the suite
#   make run ARGS=... options for runtests.sh; make run-vm: the same, in a virtual machine
#   make deps-vm      install what runtests.sh --vm takes, fetch Debian's kernel for a VM
#   make deps-kernel kernel [KSRC=DIR] [DEBUG=1] [OUT=DIR]   build a kernel for a VM (kernel/build)
#   make mutants [M=GLOB] [FIRST=1] [AGAIN=N] [RUNS=N] [ARGS=...]   score the suite (mutants/run)
#   make reach [KSRC=DIR] [ARGS=...]  which places that wait for direct I/O tests reach (reach/run)
#   make check-slow   what boots kernels or builds them, with what deps-vm and deps-kernel install
#   make clean

BUILD ?= build
CC = gcc
CFLAGS ?= -O2 -g
# Tables leave out what is zero, as the kernel's do.
WARN = -Wall -Wextra -Wshadow -Werror -Wno-missing-field-initializers
ALL_CFLAGS = -std=gnu11 -D_GNU_SOURCE $(WARN) $(CFLAGS)

TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/*.c))
META := $(patsubst tests/meta/%.c,$(BUILD)/meta/%,$(wildcard tests/meta/*.c))
LIB := $(patsubst lib/%.c,$(BUILD)/lib/%.o,$(wildcard lib/*.c))

all: suite $(META)

# What runtests.sh needs.
suite: $(TESTS)
	@rm -f $(filter-out $(TESTS),$(wildcard $(BUILD)/tests/*)) # tests that are no more

include runner/Makefile.inc
-include tests/meta/Makefile.inc

# The names of the system calls, for the watchdog: as this machine's headers number them.
$(BUILD)/lib/syscalls.h: | $(BUILD)/lib
	echo '#include <sys/syscall.h>' | $(CC) -E -dM - | \
	    sed -n 's/^#define __NR_\([a-z0-9_]*\) .*/{ __NR_\1, "\1" },/p' | sort > $@.new
	mv $@.new $@

$(BUILD)/lib/%.o: lib/%.c lib/ringwedge.h lib/internal.h $(BUILD)/lib/syscalls.h
	$(CC) $(ALL_CFLAGS) -I$(BUILD)/lib -c -o $@ $<

$(BUILD)/librw.a: $(LIB)
	$(AR) rcs $@ $^

$(BUILD)/tests/%: tests/%.c lib/ringwedge.h $(BUILD)/librw.a | $(BUILD)/tests
	$(CC) $(ALL_CFLAGS) -Ilib -o $@ $< $(BUILD)/librw.a -luring -laio -ljansson

$(BUILD)/meta/%: tests/meta/%.c lib/ringwedge.h lib/internal.h $(BUILD)/librw.a | $(BUILD)/meta
	$(CC) $(ALL_CFLAGS) -Ilib -o $@ $< $(BUILD)/librw.a -luring -laio -ljansson

$(BUILD)/lib $(BUILD)/tests $(BUILD)/meta:
	mkdir -p $@

# One after another: nothing can be built before it is installed.
ifneq ($(filter deps%,$(MAKECMDGOALS)),)
.NOTPARALLEL:
endif

deps:
	@runner/deps $(if $(filter check,$(MAKECMDGOALS)),check,run)

deps-vm:
	@runner/deps vm && kernel/package

deps-kernel:
	@runner/deps kernel

# DIR may hold anything but a quote.
kernel:
	@kernel/build $(if $(KSRC),--source '$(KSRC)') $(if $(filter-out 0,$(DEBUG)),--debug) \
	    $(if $(OUT),--out '$(OUT)')

mutants: suite
	@mutants/run $(if $(KSRC),--source '$(KSRC)') $(if $(M),--only '$(M)') $(if $(RUNS),--runs '$(RUNS)') \
	    $(if $(FIRST),--first) $(if $(AGAIN),--again '$(AGAIN)') -- $(ARGS)

reach: suite
	@reach/run $(if $(KSRC),--source '$(KSRC)') $(if $(ARGS),-- $(ARGS))

run: all
	./runtests.sh $(ARGS)

run-vm: all
	./runtests.sh --vm $(ARGS)

check:
	@runner/check.sh

clean:
	rm -rf $(BUILD)

.PHONY: all deps deps-vm deps-kernel kernel mutants reach run run-vm check clean suite
