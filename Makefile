# The commands of the project; people, git hooks and CI use the same ones.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
# DVC stops if the user has no name, as in some containers. Then this is the user's number.
export USER ?= $(shell id -un 2>/dev/null)
# Without caches, every start of Python compiles torch, MLflow and DVC again; tests and DVC start it hundreds of times.
unexport PYTHONDONTWRITEBYTECODE
# Several test processes share the cores, so each uses one thread.
TEST_THREADS := OMP_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help install repro test test-slow tools coverage check bench format lock ui

help: ## Show these commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(VENV)/.installed ## Create .venv, and install stpp and its dependencies

$(VENV)/.installed: pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --require-hashes --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --no-deps --no-build-isolation --editable .
	# Importing compiles what stpp uses. pip would compile all 20,000 modules.
	$(BIN)/python -c 'import dvc.commands.repro, dvc.stage.run, mlflow.store.tracking.sqlalchemy_store; from stpp.stages import evaluate, report, train'
	@touch $@

repro: install ## Run the stages of ST++ whose inputs have changed, and show the results
	@stpp check
	dvc repro
	@stpp show

test: install ## Run the tests; takes minutes
	$(TEST_THREADS) pytest -n 2

test-slow: install ## Run the slow tests: whole runs and random kills
	$(TEST_THREADS) pytest -n 2 --dist worksteal -m slow

tools: install ## Test tasks and exports of annotation tools with the tools' own code, in .venv/tools; takes minutes
	$(PYTHON) -m venv $(VENV)/tools
	$(VENV)/tools/bin/pip install --quiet --disable-pip-version-check labelme==5.11.4 datumaro==1.13.12 label-studio-sdk==2.1.2
	pytest -m slow tests/deploy/test_tasks.py -k own_code

coverage: install ## Run the tests, and list the lines of stpp that none of them runs, also in subprocesses
	$(TEST_THREADS) pytest -n 2 --cov=stpp --cov-report=term-missing:skip-covered

check: install ## Check lint, format and types
	ruff check .
	ruff format --check .
	mypy

bench: install ## Measure the speed as ratios to plain code; prints a table, writes benchmarks.json, takes ten minutes
	python benchmarks

format: install ## Format the code, and write params.schema.json
	ruff check --fix .
	ruff format .
	stpp schema

lock: install ## Write requirements.lock with the newest versions within pyproject.toml's bounds
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --extra dev --generate-hashes --no-annotate \
		--custom-compile-command 'make lock' --output-file requirements.lock pyproject.toml

ui: install ## Start the MLflow UI, on port 5000 or the next free one
	@stpp ui
