# The road from a fresh clone to numbers. `make help` explains each target.
#
# PYTHON   which Python makes .venv (default: python3), 3.11 or newer
# TORCH    what pip installs as torch, options too, e.g. TORCH="torch==2.13.0 --index-url URL" for a CUDA build
#          (default: the pin in requirements/torch.txt)
# JOBS     processes that share the tests (default: the CPUs, at most 8: each takes 2 GB)
# ARGS     passed on to the program a target runs; e.g. make bench ARGS="--batch 8"
#
# PYPROD_CUDA, PYPROD_CUDA_ARCHS, CXX: see setup.py. pip's own variables and configuration hold as ever.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
TORCH ?=
PYPROD_CUDA ?=
PYPROD_CUDA_ARCHS ?=
ARGS ?=
JOBS ?= $(shell cpus=$$(nproc); echo $$((cpus < 8 ? cpus : 8)))
BIN := .venv/bin
STAMPS := .venv/stamps
STEP := tools/step
SOURCES := setup.py pyproject.toml $(shell find csrc)  # folders too: they change when a file goes

# Whatever else is installed, torch stays the one that came first: no other package may pull a second.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint .venv/torch.txt

.NOTPARALLEL:
.PHONY: FORCE help bench bench-full gate gate-study test sanitize instructions cuda-resources gpu-check build lint format weights docs asv clean

help: ## Explain each target
	@echo "Usage: make TARGET"; echo
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1|\2/' | column -t -s '|'

bench: build ## Set up, build the kernels, measure the default candidates (6 minutes), write report.html
	@$(BIN)/pyprod bench $(ARGS)

bench-full: build ## Measure every workload over every backend at batches 1, 8 and 32 (hours)
	@$(BIN)/pyprod bench --full $(ARGS)

test: build $(STAMPS)/test ## Set up if needed, then run the whole test suite
	@$(BIN)/python -m pytest --numprocesses $(JOBS) $(ARGS)

sanitize: build $(STAMPS)/test ## Run the kernels' tests under AddressSanitizer and UBSan
	@PYPROD_SANITIZE=address,undefined PYPROD_CUDA=auto $(BIN)/python setup.py -q build_ext \
		--build-temp build/sanitize --build-lib build/sanitize
	@tools/sanitized $(BIN)/python -m pytest -q --capture=sys --numprocesses $(JOBS) tests/kernels $(ARGS)

instructions: build $(STAMPS)/test ## Count the ops' instructions under valgrind; ARGS=--check compares with results/
	@$(BIN)/python tools/instructions.py $(ARGS)

cuda-resources: build $(STAMPS)/test ## Read the CUDA kernels' registers and instructions; ARGS=--check compares with results/
	@$(BIN)/python tools/cuda_resources.py $(ARGS)

gpu-check: ## Check and measure the CUDA kernels on a GPU (9 minutes); PYTHON=python3 takes a Python that has torch
	@$(if $(filter file,$(origin PYTHON)),$(MAKE) --silent build && $(BIN)/python,$(PYTHON)) -m tools.gpu_check $(ARGS)

build: $(STAMPS)/build ## Make .venv, install the pinned packages, build csrc/

lint: build $(STAMPS)/test ## Check style, types and C++ format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@find csrc -regex '.*\.\(cpp\|h\|cu\|cuh\)' -print0 | xargs -0 $(BIN)/clang-format --dry-run -Werror

format: $(STAMPS)/test ## Format Python and C++
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@find csrc -regex '.*\.\(cpp\|h\|cu\|cuh\)' -print0 | xargs -0 $(BIN)/clang-format -i

docs: build ## Put the newest records' tables into README.md and docs/
	@$(BIN)/python tools/splice_docs.py

weights: build ## Train again the weights that the project made itself
	@$(BIN)/python -m pyprod.train $(ARGS)

gate: build ## Compare the working tree with main; ARGS='v1.2 HEAD --budget 2m' compares others
	@$(BIN)/pyprod gate $(or $(ARGS),main)

gate-study: build ## Count the gate's errors under load; ARGS="results/gate-study/NAME --runs 10"
	@$(BIN)/python -m tools.gate_study $(ARGS)

asv: build ## Measure this commit with asv
	@env $$(cat $(STAMPS)/build.choice) $(BIN)/asv run $(ARGS)

clean: ## Remove what was built; .venv too
	@rm -rf .venv build dist .asv *.egg-info pyprod/*.so .pytest_cache .mypy_cache .ruff_cache .benchmarks .hypothesis

$(STAMPS)/venv:
	@$(STEP) --check $(PYTHON)
	@$(STEP) "[1/4] making .venv" $(PYTHON) -m venv --clear .venv
	@mkdir -p $(STAMPS) && touch $@

# A choice that works holds until another is made: `make bench` after `make build TORCH=...` keeps that torch.
$(STAMPS)/torch.choice: CHOICE = $(or $(TORCH),-r requirements/torch.txt)
$(STAMPS)/torch.choice: MADE = $(TORCH)
$(STAMPS)/build.choice: CHOICE = PYPROD_CUDA=$(or $(PYPROD_CUDA),auto) PYPROD_CUDA_ARCHS=$(PYPROD_CUDA_ARCHS)
$(STAMPS)/build.choice: MADE = $(PYPROD_CUDA)$(PYPROD_CUDA_ARCHS)
$(STAMPS)/%.choice: FORCE | $(STAMPS)/venv
	@if [[ ! -e $@ || -n "$(MADE)" ]]; then cmp -s $@ - <<< "$(CHOICE)" || echo "$(CHOICE)" > $@; fi

$(STAMPS)/torch: requirements/torch.txt requirements/build.txt $(STAMPS)/torch.choice
	@: > .venv/torch.txt
	@$(STEP) "[2/4] installing torch" $(PIP) $$(cat $(STAMPS)/torch.choice) || { rm $(STAMPS)/torch.choice; exit 2; }
	@$(STEP) "      installing the build tools" $(PIP) -r requirements/build.txt
	@$(BIN)/python -m pip list --format freeze 2> /dev/null | grep -E '^torch==' > .venv/torch.txt
	@touch $@

$(STAMPS)/run: requirements/run.txt $(STAMPS)/torch
	@$(STEP) "[3/4] installing the backends and the tools" $(PIP) -r requirements/run.txt
	@touch $@

$(STAMPS)/build: $(SOURCES) $(STAMPS)/run $(STAMPS)/build.choice
	@$(STEP) "[4/4] building csrc/" env $$(cat $(STAMPS)/build.choice) \
		$(PIP) --no-build-isolation --no-deps --editable . || { rm $(STAMPS)/build.choice; exit 2; }
	@touch $@

$(STAMPS)/test: requirements/test.txt $(STAMPS)/run
	@$(STEP) "[+] installing the test tools" $(PIP) -r requirements/test.txt
	@touch $@
