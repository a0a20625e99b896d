# Every target makes and fills .venv when it needs to. `make` alone prints this list.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
# The first python that is 3.11 or newer; `make run PYTHON=/path/to/python` overrides it.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
PIP := $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt
APP_STAMP := $(VENV)/.filled-app
DEV_STAMP := $(VENV)/.filled-dev
# Threads of the tests: two keep the results of a run equal and a small machine usable.
export OMP_NUM_THREADS ?= 2
FAST_TESTS := $(wildcard $(addprefix tests/test_,$(addsuffix .py,\
	request routing decompose flow sampler guidance mixture events records packs golden_schemas docs repository)))

.PHONY: help run test test-fast test-all lint fix typecheck golden shots train bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

run: $(APP_STAMP) ## serve the app on http://127.0.0.1:7860
	$(PY) app.py

test: $(DEV_STAMP) ## the tests, without the slow ones
	$(PY) -m pytest

test-fast: $(DEV_STAMP) ## contracts, mathematics and documents only, in under a minute
	$(PY) -m pytest $(FAST_TESTS)

test-all: $(DEV_STAMP) ## every test this machine can run, the slow ones too
	$(PY) -m pytest -m "not gpu"

lint: $(DEV_STAMP) ## style, types, import contracts and spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/typos
	$(BIN)/lint-imports --no-logo
	@$(MAKE) typecheck

fix: $(DEV_STAMP) ## format, and mend what ruff and typos can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/typos --write-changes

typecheck: $(DEV_STAMP) ## types alone
	@rm -f moe_pipeline/ui/*.pyi  # gradio writes them beside its component classes; mypy would read them instead
	$(BIN)/mypy

golden: $(DEV_STAMP) ## rewrite tests/golden/ from the code: look at the diff before you commit it
	$(PY) -m pytest -m "not gpu" --update-golden
	@git status --short tests/golden

shots: $(DEV_STAMP) ## the README's pictures of the page, from the shipped pack (needs Chromium)
	$(PY) -m tests.ui.shots

train: $(DEV_STAMP) ## train the pack from nothing: hours on two cores, resumable (runs/train.sh has the knobs)
	PY=$(PY) bash runs/train.sh

bench: $(APP_STAMP) ## measure latency, first preview, cold start and memory on this machine
	$(PY) -m moe_pipeline bench

clean: ## remove .venv, caches and outputs; weights, data and checkpoints stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .gradio out outputs test-artifacts
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# The stamps are newer than the requirement files only when everything in them is installed.
$(PY):
	@test -n "$(PYTHON)" || { echo "MoEverse needs Python 3.11 or newer with venv and pip (on Debian and Ubuntu: apt install python3 python3-venv)." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(APP_STAMP): requirements.txt constraints.txt | $(PY)
	@echo "Filling $(VENV) with what runs the app: minutes the first time, seconds later."
	$(PIP) -r requirements.txt
	@touch $@

$(DEV_STAMP): requirements-dev.txt $(APP_STAMP)
	$(PIP) -r requirements-dev.txt
	@touch $@
