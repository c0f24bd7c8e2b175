# SPDX-License-Identifier: Apache-2.0
# Everything a checkout can do, on a machine with Python 3.11 or newer and a C++20 compiler.
# `make` lists the targets. PYTHON names the Python to start from, VENV the environment to make;
# setup.py says what DIFFISO_CUDA, DIFFISO_CUDA_ARCHS, CXX and MAX_JOBS do to the build.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
export TIMEFORMAT := (%R s)

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
ARGS ?=

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
export PATH := $(abspath $(VENV))/bin:$(PATH)

.PHONY: help demo test bench check numbers format build clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

demo: build $(VENV)/.extra-pipelines ## fit, extract and change the topology of shapes; says where the pictures are
	diffiso demo $(ARGS)

test: build $(VENV)/.extra-test ## run the tests (ARGS: more arguments for pytest)
	$(PY) -m pytest $(ARGS)

bench: build $(VENV)/.extra-bench ## time the ops beside their peers (ARGS: see python -m bench --help)
	$(PY) -m bench $(ARGS)

build: $(PY) ## make the environment and build the extension in place

CHECKS := lint types cpp-format tables numbers cpp cuda bench docs
.PHONY: $(CHECKS:%=check-%) check-simt

check: $(CHECKS:%=check-%) ## run every check that is no unit test

$(CHECKS:%=check-%) check-simt: build $(VENV)/.extra-test $(VENV)/.extra-bench $(VENV)/.extra-dev

check-lint: ## ruff: rules and format
	time { $(PY) -m ruff check . && $(PY) -m ruff format --check . ; }

check-types: ## mypy, strict
	time $(PY) -m mypy

CPP_FILES = $(shell find csrc tests bench -type f -regextype egrep -regex '.*\.(h|cuh|inl|cpp|cu)')

check-cpp-format: ## clang-format
	time clang-format --dry-run -Werror $(CPP_FILES)

check-tables: ## the generated tables are what their script writes
	time $(PY) tools/generate_tables.py --check

check-numbers: ## the figures of README.md are those of the kept results
	time $(PY) -m tools.readme_numbers --check

check-cpp: ## the arithmetic core under address and undefined-behaviour sanitizers
	time { cmake -G Ninja -S . -B build/cpp -DPython3_EXECUTABLE=$(abspath $(PY)) && cmake --build build/cpp && \
	  ctest --test-dir build/cpp --output-on-failure ; }

check-cuda: ## every kernel compiles, without warnings and spills
	time $(PY) tools/check_cuda.py

check-simt: ## every kernel runs, interpreted, under address sanitizer (part of make test)
	time $(PY) tests/simt/run.py

check-bench: ## every benchmark runs, at tiny sizes
	time $(PY) -m bench --smoke --scaling

check-docs: ## the examples of README and docstrings run
	time $(PY) -m pytest tests/test_docs.py

numbers: build ## write the figures of README.md from the kept results
	$(PY) -m tools.readme_numbers

format: $(VENV)/.extra-dev ## put every file into its format
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	clang-format -i $(CPP_FILES)

clean: ## remove what builds and runs left behind, but not the environment
	rm -rf build dist *.egg-info diffiso/*.so compile_commands.json
	rm -rf .pytest_cache .mypy_cache .ruff_cache $(VENV)/.built*
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

TORCH_FITS := import sys, torch; sys.exit([*map(int, torch.__version__.split(".")[:2])] < [2, 11])
PARENT := import sys, sysconfig; sys.prefix == sys.base_prefix or print(sysconfig.get_path("purelib"))

# A torch that is there already is used, as on a machine with CUDA; an environment made from another
# environment sees that one's packages through a .pth file.
$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "diffiso needs Python 3.11 or newer: make PYTHON=python3.12"; exit 1; }
	@if $(PYTHON) -c '$(TORCH_FITS)' 2>/dev/null; then \
	  $(PYTHON) -m venv --system-site-packages $(VENV); \
	  $(PYTHON) -c '$(PARENT)' > "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/parent.pth"; \
	else \
	  $(PYTHON) -m venv $(VENV); \
	fi

$(VENV)/.torch: | $(PY)
	@$(PY) -c '$(TORCH_FITS)' 2>/dev/null \
	  || { echo "installing $(TORCH) into $(VENV)"; $(PIP) install --quiet "$(TORCH)"; }
	@$(PIP) install --quiet torch "numpy>=1.26" "setuptools>=77" "pybind11>=2.13" ninja
	@touch $@

# The name of the stamp holds the options of the build, and only the last build has one.
OPTIONS := $(shell echo '$(DIFFISO_CUDA)-$(DIFFISO_CUDA_ARCHS)' | tr -c 'A-Za-z0-9+\n' '-')
BUILT := $(VENV)/.built-$(OPTIONS)
LOG := $(VENV)/build.log
SOURCES := setup.py pyproject.toml tools/cuda_toolkit.py $(shell find csrc -type f)

build: $(BUILT)

$(BUILT): $(VENV)/.torch $(SOURCES)
	@echo "building diffiso (a minute or two; $(LOG) tells)"
	@time $(PIP) install --verbose --no-build-isolation --no-deps --editable . > $(LOG) 2>&1 \
	  || { tail -n 60 $(LOG); exit 1; }
	@grep -a 'WITHOUT CUDA' $(LOG) || true
	@rm -f $(VENV)/.built-*
	@touch $@

# diffiso is installed, so that pip adds what the extra names and leaves torch and the build alone.
$(VENV)/.extra-%: pyproject.toml | $(BUILT)
	@echo "installing what diffiso[$*] needs"
	@$(PIP) install --quiet "diffiso[$*]"
	@touch $@
