# One vocabulary for people, hooks and CI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
# DVC stops for a user who has no name, as in some containers; for one without, this is the number.
export USER ?= $(shell id -un 2>/dev/null)
# Several test processes share the cores: one thread each.
TEST_THREADS := OMP_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help install repro test test-slow coverage check bench format lock ui

help: ## Show what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(VENV)/.installed ## Make .venv and install stpp with all it needs

$(VENV)/.installed: pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

repro: install ## Run ST++ (what has changed of it) and show what came out
	@stpp check
	dvc repro
	@stpp show

test: install ## The tests, in minutes
	$(TEST_THREADS) pytest -n 2

test-slow: install ## Whole runs and random kills
	$(TEST_THREADS) pytest -n 2 --dist worksteal -m slow

coverage: install ## The lines of stpp that no test of `make test` runs, in processes of their own, too
	$(TEST_THREADS) pytest -n 2 --cov=stpp --cov-report=term-missing:skip-covered

check: install ## Lint, format and types
	ruff check .
	ruff format --check .
	mypy

bench: install ## How fast, as ratios to plain code: a table, and benchmarks.json; ten minutes on an idle machine
	python benchmarks

format: install ## Put the code into its form
	ruff check --fix .
	ruff format .
	stpp schema

lock: install ## Write requirements.lock anew: newer versions within pyproject.toml's bounds
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --extra dev --generate-hashes --no-annotate \
		--custom-compile-command 'make lock' --output-file requirements.lock pyproject.toml

ui: install ## Open the MLflow UI on http://127.0.0.1:5000
	@case "$${MLFLOW_TRACKING_URI:=sqlite:///mlflow.db}" in http*) \
	printf 'the MLflow UI is at %s\n' "$$MLFLOW_TRACKING_URI" | sed -E 's,://.*@,://,; s,[?#].*,,';; *) \
	MLFLOW_BACKEND_STORE_URI="$$MLFLOW_TRACKING_URI" mlflow ui --host 127.0.0.1 --port 5000 --workers 1;; esac
