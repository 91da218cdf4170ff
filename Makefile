# Everything runs inside .venv, which `setup` makes; CI calls the same targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH := $(shell grep '^torch==' constraints.txt)
PINS := pyproject.toml constraints.txt
CODE := $(wildcard api bench docs examples grouping service tests workers)

.PHONY: help setup demo up test test-fast fuzz chaos browser check format docs bench clean

help:  ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 14

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
		"$(PYTHON) is Python %d.%d; Cohort needs 3.11, 3.12 or 3.13. Run: make setup PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip

# torch goes first, alone, so that a failing download of the largest part is seen at once and not retried with the rest.
$(VENV)/.installed: $(PINS) | $(BIN)/python
	$(PIP) install --quiet $(TORCH) -c constraints.txt
	$(PIP) install --quiet -e '.[server]' -c constraints.txt
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install --quiet -e '.[test]' -c constraints.txt
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --quiet -e '.[test,dev]' -c constraints.txt
	@touch $@

setup: $(VENV)/.installed  ## Make .venv with Cohort in it (quick the second time).

demo: setup  ## Run the demo job from start to report.
	$(BIN)/cohort demo

up: setup  ## Serve the API and the pages, with a local Ray.
	$(BIN)/cohort up

# The browser tests drive the system's Chromium.  It is installed where that takes no question, and named where it does.
browser:
	@if command -v chromium chromium-browser google-chrome >/dev/null; then exit 0; fi; \
	install="apt-get update && apt-get install -y chromium"; \
	if ! command -v apt-get >/dev/null; then echo "No Chromium found: install one for the browser tests."; \
	elif [ "$$(id -u)" = 0 ]; then apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; \
	elif sudo -n true 2>/dev/null; then sudo apt-get update -qq && sudo DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; \
	else echo "No Chromium found. For the browser tests run: sudo sh -c '$$install'"; fi

# What fails beside another process, on few cores, is run once more alone; both outcomes are shown, and the second counts.
test: $(VENV)/.installed-test browser  ## Run every test: a real Ray, a real Chromium.
	$(BIN)/python -m pytest -n 2 --dist loadfile || $(BIN)/python -m pytest --last-failed --last-failed-no-failures none

test-fast: $(VENV)/.installed-test  ## Run the tests that need no Ray, no browser and no server.
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not ray and not browser"

fuzz: $(VENV)/.installed-test  ## Ask the API ten thousand things that nobody would (about five minutes).
	COHORT_TEST_FUZZ_CASES=10000 $(BIN)/python -m pytest tests/api/test_fuzz.py

chaos: $(VENV)/.installed-test  ## Harm real jobs on a real Ray, in every way we know (about 50 minutes).
	$(BIN)/python -m tests.chaos

check: $(VENV)/.installed-dev  ## Check format, style, types and who imports whom.
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev  ## Format the code and sort its imports.
	$(BIN)/ruff check --fix-only --select I $(CODE)
	$(BIN)/ruff format $(CODE)

docs: setup  ## Write the reference pages that follow from the code.
	$(BIN)/python -m docs.generate

bench: setup  ## Measure; see bench/README.md.
	$(BIN)/python -m bench

clean:  ## Remove build products and caches; .venv and var (your jobs) stay.
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./$(VENV) -prune -o -path ./var -prune -o -name __pycache__ -type d -print0 | xargs -0 -r rm -rf
