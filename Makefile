# SPDX-License-Identifier: Apache-2.0
# A thin front of Meson and Ninja. `make help` lists what there is.
SHELL := /bin/bash
BUILD ?= build
JOBS ?= $(shell nproc)
PYTHON = .deps/venv/bin/python
MESON_FLAGS ?=
ARGS ?=
ASSETS ?= $(or $(SPILLWAY_ASSETS),../shared/assets)
export SPILLWAY_ASSETS := $(abspath $(ASSETS))

.PHONY: all setup model mongo run test check check-asan check-tsan fuzz soak bench clean distclean help
all: setup
	@test -f $(BUILD)/build.ninja || meson setup $(BUILD) $(MESON_FLAGS) > /dev/null || meson setup $(BUILD) $(MESON_FLAGS)
	@ninja -C $(BUILD) -j $(JOBS) --quiet
	@ln -sfn $(BUILD)/compile_commands.json compile_commands.json

setup:
	@tools/setup

model: setup
	@tools/setup model

mongo: setup
	@tools/setup mongo

run: all model
	@exec $(BUILD)/spillway serve --model-repository var/models $(ARGS)

test: all model mongo
	@$(PYTHON) tools/run_tests.py --build $(BUILD) checks c python fuzz

# Only what takes seconds.
check: all model mongo
	@$(PYTHON) tools/run_tests.py --build $(BUILD) checks c

# gcc's sanitizers: the same tests on instrumented binaries.
check-asan: setup model mongo
	@test -f build-asan/build.ninja || meson setup build-asan -Db_sanitize=address,undefined -Db_lundef=false \
	    -Db_pie=false $(MESON_FLAGS) > /dev/null
	@ninja -C build-asan -j $(JOBS) --quiet
	@$(PYTHON) tools/run_tests.py --build build-asan --sanitizer asan c python

check-tsan: setup model mongo
	@# gcc warns that ThreadSanitizer does not model fences: ours stand beside atomics, which it does see.
	@test -f build-tsan/build.ninja || meson setup build-tsan -Db_sanitize=thread -Db_lundef=false \
	    -Db_pie=false -Dc_args=-Wno-tsan $(MESON_FLAGS) > /dev/null
	@ninja -C build-tsan -j $(JOBS) --quiet
	@$(PYTHON) tools/run_tests.py --build build-tsan --sanitizer tsan c python

# Ten minutes for each target, other inputs each time; `make test` tries the same ones each time.
fuzz: setup
	@$(PYTHON) tools/run_tests.py --fuzz-seconds 600 fuzz

# The full numbers of the fault tests: 10,000 requests under 100 kills, 1,000 crashers, memory over 24,000 requests;
# and of the jobs: kill -9 of the server 50 times.
soak: all model
	@SPILLWAY_FULL=1 SPILLWAY_BUILD=$(abspath $(BUILD)) $(PYTHON) -m pytest -s -ra tests/fault tests/jobs/test_jobs_kill.py

# Spillway and its peers side by side; docs/benchmarks.md. Wants an otherwise idle machine.
bench: all model
	@bench/peers/setup
	@SPILLWAY_BUILD=$(abspath $(BUILD)) $(PYTHON) bench/serve/run
	@SPILLWAY_BUILD=$(abspath $(BUILD)) $(PYTHON) bench/serve/run noop
	@SPILLWAY_BUILD=$(abspath $(BUILD)) $(PYTHON) bench/hop

clean:
	rm -rf $(BUILD) build-asan build-tsan build-fuzz compile_commands.json

# Also what set-up fetched; the next make goes to the network again.
distclean: clean
	rm -rf .deps .cache var

help:
	@echo 'make             install what is missing, build build/spillway'
	@echo 'make run         build, fetch the default model, serve (ARGS="--http-port 9000")'
	@echo 'make test        every test; ends with "N passed, N failed, N skipped"'
	@echo 'make check       only what takes seconds'
	@echo 'make check-asan  the tests under AddressSanitizer and UBSan; check-tsan: under ThreadSanitizer'
	@echo 'make fuzz        ten minutes for each fuzz target'
	@echo 'make soak        the fault tests at full size, an hour or so'
	@echo 'make bench       Spillway and its peers side by side (docs/benchmarks.md)'
	@echo 'make clean       remove what was built; distclean: also what was fetched'
