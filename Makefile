# Developer commands. `make` alone lists them.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

# What `make draw` draws.
DRAW ?= --res 56 --n 10 --out digits.png

# The extension is built by pip, so the environment is renewed whenever one of its sources is newer.
SOURCES = pyproject.toml setup.py CMakeLists.txt $(shell find csrc -type f)
CXX_FILES = $(shell find csrc tests/ptxemu -name '*.h' -o -name '*.cpp' -o -name '*.cu')

.DEFAULT_GOAL := help
.PHONY: help venv draw test package robustness lint format bench sanitize sanitize-address sanitize-thread arm64 ptx clean

help:  ## list the commands
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):.*## /  make \1\t/' | expand -t 16

# For users: the package alone. For developers: the tools and tests too.
$(VENV)/.installed: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e .
	touch $@

$(VENV)/.developed: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e '.[dev]'
	touch $(VENV)/.installed $@

venv: $(VENV)/.developed  ## an environment in .venv with spx (editable), its tests and its tools

draw: $(VENV)/.installed  ## draw ten digits into digits.png; DRAW="..." for other options
	$(BIN)/spx-sample $(DRAW)

test: $(VENV)/.developed  ## run the tests
	$(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist worksteal -m "not package" tests

package: $(VENV)/.developed  ## build the sdist and the wheel from nothing, and look at what is in them
	$(BIN)/python -m pytest -q -m package tests/project

robustness: $(VENV)/.developed  ## run the tests of faults that were found once, and print them as a table by kind
	$(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist worksteal -p robustness --robustness -m fault tests

lint: $(VENV)/.developed  ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)

format: $(VENV)/.developed  ## put style and formatting right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

bench: $(VENV)/.developed  ## run the benchmarks: figures in build/benchmarks.json, and as a table
	mkdir -p build
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-json build/benchmarks.json
	$(BIN)/python benchmarks/table.py build/benchmarks.json

sanitize: sanitize-address sanitize-thread  ## run the native tests under the address, undefined-behaviour and thread sanitizers

sanitize-address sanitize-thread: sanitize-%: $(VENV)/.developed
	PATH="$(abspath $(BIN)):$$PATH" PYTHON=$(abspath $(BIN))/python csrc/sanitize.sh $*

# Not linked: it shows that no file needs an x86 header. Debian and Ubuntu: apt install g++-aarch64-linux-gnu.
ARM64 ?= aarch64-linux-gnu-g++
arm64:  ## compile the C++ engine for arm64 with a cross-compiler
	for source in csrc/cpu_features.cpp $(filter-out csrc/cpu/bindings.cpp,$(wildcard csrc/cpu/*.cpp)); do \
	  echo "$$source"; $(ARM64) -std=c++17 -Wall -Wextra -Werror -ffp-contract=off -Icsrc -c $$source -o /dev/null || exit 1; \
	done

# Minutes to an hour; PTX="--quick", or names of parts.
PTX ?=
ptx: $(VENV)/.developed  ## run the CUDA and Triton kernels' PTX without a GPU (needs nvcc); tests/ptxemu/README.md
	PATH="$(abspath $(BIN)):$$PATH" $(abspath $(BIN))/python tests/ptxemu/run.py $(PTX)

clean:  ## remove what was built, and .venv
	rm -rf build dist *.egg-info spxcore/*.so $(VENV) .pytest_cache .ruff_cache .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
