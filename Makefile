# What a developer or a newcomer can run. Every target first makes `.venv` with everything in it; a fresh Debian with
# Python 3.11 (with venv), g++ and make is enough: cmake and ninja come from PyPI. With libsqlite3-dev, which is optional,
# the C++ reader of the catalogue and the example of embedding are built and tested as well.

PYTHON ?= python3
JOBS ?= $(shell nproc)
BIN := .venv/bin
NATIVE := CMakeLists.txt setup.py pyproject.toml $(shell find csrc -type f)
CMAKE := $(BIN)/cmake -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja
CPP_FILES = $(shell find csrc tests/cpp tests/cuda_on_cpu examples -name "*.cpp" -o -name "*.h" -o -name "*.cu" -o -name "*.cuh")

.PHONY: setup demo test test-all test-gpu test-cpp lint format bench sanitize fuzz clean
.DEFAULT_GOAL := setup

setup: .venv/.installed

.venv/.locked: requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	@# PyPI's own torch is the CUDA build, which does not load without its CUDA libraries: then, and only then, get those.
	$(BIN)/python -c 'import torch' || $(BIN)/python -m pip install "$$(grep '^torch==' requirements.lock)"
	touch $@

.venv/.installed: .venv/.locked $(NATIVE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@

demo: setup
	$(BIN)/python -m mome_tools.demo

test: setup test-cpp
	$(BIN)/python -m pytest -q -m "not slow and not gpu"

test-all: setup test-cpp
	$(BIN)/python -m pytest -q

# The tests that need a GPU, on a machine that has one, with nvcc 12.4 or newer. Says on one line what is missing.
test-gpu: setup
	@$(BIN)/python -m tests.devices --driver
	MOME_CUDA=on $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@$(BIN)/python -m tests.devices
	$(BIN)/python -m pytest -q -m gpu

test-cpp: setup
	$(CMAKE) -S . -B build/cpp -DCMAKE_BUILD_TYPE=Release
	$(BIN)/cmake --build build/cpp -j $(JOBS)
	$(BIN)/ctest --test-dir build/cpp --output-on-failure -j $(JOBS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict mome_store tools
	$(BIN)/clang-format --dry-run -Werror $(CPP_FILES)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP_FILES)

# Every figure that has a bar, with its peers; about half an hour on an idle machine. Goes on when a bar is missed.
bench: setup
	failed=; for what in fetch apply route generate store tune pool; do \
	    $(BIN)/mome bench $$what --save docs/results || failed="$$failed $$what"; \
	done; test -z "$$failed" || { echo "bars missed by:$$failed"; exit 1; }

# The C++ tests once under AddressSanitizer with UBSan and once under ThreadSanitizer.
sanitize: setup
	for kind in address thread; do \
	    $(CMAKE) -S . -B build/$$kind -DCMAKE_BUILD_TYPE=RelWithDebInfo -DMOME_SANITIZE=$$kind && \
	    $(BIN)/cmake --build build/$$kind -j $(JOBS) && \
	    $(BIN)/ctest --test-dir build/$$kind --output-on-failure -j $(JOBS) || exit 1; \
	done

# Fuzzes what parses untrusted bytes, each for FUZZ_SECONDS; wants clang++, which nothing else does.
FUZZ_SECONDS ?= 60
fuzz: setup
	@command -v clang++ > /dev/null || { echo "make fuzz needs clang++ (Debian: clang)"; exit 1; }
	$(CMAKE) -S . -B build/fuzz -DCMAKE_CXX_COMPILER=clang++ -DMOME_FUZZ=ON -DMOME_BUILD_TESTS=OFF
	$(BIN)/cmake --build build/fuzz --target fuzzers -j $(JOBS)
	$(BIN)/python -m tests.fuzz.run build/fuzz $(FUZZ_SECONDS)

clean:
	rm -rf .venv build dist *.egg-info mome_store/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
