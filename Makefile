# SPDX-License-Identifier: MIT
BUILD ?= build
CC ?= cc
# Tables leave out what is zero, as the kernel does.
WARN = -Wall -Wextra -Wshadow -Werror -Wno-missing-field-initializers
CFLAGS ?= -O2 -g
ALL_CFLAGS = -std=gnu11 -D_GNU_SOURCE $(WARN) $(CFLAGS)

TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/*.c))
META := $(patsubst tests/meta/%.c,$(BUILD)/meta/%,$(wildcard tests/meta/*.c))
LIB := $(patsubst lib/%.c,$(BUILD)/lib/%.o,$(wildcard lib/*.c))

all: tests

-include runner/Makefile.inc

tests: $(TESTS) $(META)

$(BUILD)/lib/syscalls.h: | $(BUILD)/lib
	echo '#include <sys/syscall.h>' | $(CC) -E -dM - | \
	    sed -n 's/^#define __NR_\([a-z0-9_]*\) .*/{ __NR_\1, "\1" },/p' | sort > $@

$(BUILD)/lib/%.o: lib/%.c lib/ringwedge.h lib/internal.h $(BUILD)/lib/syscalls.h | $(BUILD)/lib
	$(CC) $(ALL_CFLAGS) -I$(BUILD)/lib -c -o $@ $<

$(BUILD)/librw.a: $(LIB)
	$(AR) rcs $@ $^

$(BUILD)/tests/%: tests/%.c lib/ringwedge.h $(BUILD)/librw.a | $(BUILD)/tests
	$(CC) $(ALL_CFLAGS) -Ilib -o $@ $< $(BUILD)/librw.a -luring -laio -ljansson

$(BUILD)/meta/%: tests/meta/%.c lib/ringwedge.h $(BUILD)/librw.a | $(BUILD)/meta
	$(CC) $(ALL_CFLAGS) -Ilib -o $@ $< $(BUILD)/librw.a -luring -laio -ljansson

$(BUILD)/lib $(BUILD)/tests $(BUILD)/meta:
	mkdir -p $@

clean:
	rm -rf $(BUILD)

.PHONY: all tests clean
