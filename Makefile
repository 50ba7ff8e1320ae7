# `make demo` and `make test` do all the set-up that they need; `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.qflare-installed
# What meets the interpreter itself.
OLDER := $(addprefix tests/unit/test_,contract.py features.py pacing.py trainer.py)

.PHONY: help setup demo test test-slow test-authoring test-older test-board check check-static format tcb bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## make .venv and install QFLARE with what demo and tests need

$(STAMP): pyproject.toml tools/setup.sh
	@tools/setup.sh "$(PYTHON)" "$(VENV)"
	@touch $@

demo: $(STAMP) ## train a real model on a simulated fleet of twenty devices
	@$(BIN)/qflare simulate $(ARGS)

test: $(STAMP) ## the fast tests (a few minutes)
	@$(BIN)/python -m pytest -q -n auto -m "not slow" $(ARGS)

test-slow: $(STAMP) ## the tests with real processes, faults and long runs (root installs what they use)
	@tools/slow.sh
	@$(BIN)/python -m pytest -q -n auto -m "slow and not board" $(ARGS)

test-authoring: ## build models with TensorFlow, in an environment of its own; the zoo's once more
	@[ -x $(VENV)-authoring/bin/pytest ] || { $(PYTHON) -m venv $(VENV)-authoring && \
	  $(VENV)-authoring/bin/python -m pip install -q '.[demo,authoring]' pytest pytest-timeout pytest-xdist hypothesis psutil; }
	@PYTHONPATH=. $(VENV)-authoring/bin/python -m pytest -q -n 2 tests/authoring tests/e2e/test_tutorial.py $(ARGS)

test-older: ## the trainer on tflite-runtime, where this Python has it (3.11 and older)
	@if $(PYTHON) -c 'import sys; sys.exit(sys.version_info >= (3, 12))'; then \
	  [ -x $(VENV)-older/bin/pytest ] || { $(PYTHON) -m venv $(VENV)-older && \
	    $(VENV)-older/bin/python -m pip install -q '.[edge-tflite-runtime]' pytest pytest-timeout pytest-xdist hypothesis; }; \
	  PYTHONPATH=. $(VENV)-older/bin/python -m pytest -q $(OLDER) $(ARGS); \
	else echo "tflite-runtime has no wheel for this Python: nothing to try"; fi

test-board: $(STAMP) ## the device on an emulated arm64 board with systemd (root; installs QEMU)
	@tools/board.sh
	@$(BIN)/python -m pytest -q -s -m board tests/board $(ARGS)

check: check-static test ## format, lint, types, import rules, trusted base, fast tests

check-static: $(STAMP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m enclave.measure

format: $(STAMP) ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

tcb: $(STAMP) ## the files of the trusted computing base, and what they measure
	@$(BIN)/python -m enclave.measure --lines

bench: $(STAMP) ## every benchmark, one after the other (JSON in benchmarks/results)
	@$(BIN)/python -m benchmarks

clean: ## remove what was made here
	rm -rf $(VENV) $(VENV)-authoring $(VENV)-older runs benchmarks/results .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
