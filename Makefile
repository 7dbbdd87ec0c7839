# On a fresh machine with Python 3.11 or newer, git and make:
#   make train     makes phantom videos, trains a temporal detector, evaluates it and prints the table
#   make test      lint, import contracts, types and the test suite
#   make test-all  the same, and the tests that take minutes: thousands of frames, longer training of every model
#   make docs      builds the documentation into site/ and checks it
#   make drill     kills runs 20 times, resumes them, and compares them with runs that were not interrupted

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export ULTRAVID_DATASETS ?= datasets
# a process for each core; by default those files come last that have few tests, though some of them take longest
IN_PROCESSES := --numprocesses logical --dist loadfile --no-loadscope-reorder

.PHONY: install train test test-all lint contracts types pytest docs drill clean

install: $(VENV)/.installed

$(VENV)/.installed: requirements.lock setup.py
	@$(PYTHON) -c 'import sys; sys.exit(f"ultravid needs Python 3.11 or newer, {sys.executable} is {sys.version.split()[0]}; name another with PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

train: install
	$(BIN)/python tools/make_phantom.py --output $(ULTRAVID_DATASETS)/phantom
	# 600 of the config's 900 iterations, so that all of it stays well under ten minutes on 2 cores
	$(BIN)/python tools/lazyconfig_train.py --config-file projects/basicdet/configs/phantom.py train.max_iter=600

test: lint contracts types pytest

# the empty expression replaces pyproject.toml's, which deselects the marker slow_models
test-all: lint contracts types install
	$(BIN)/pytest $(IN_PROCESSES) -m ""

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

contracts: install
	$(BIN)/lint-imports

types: install
	$(BIN)/mypy

pytest: install
	$(BIN)/pytest $(IN_PROCESSES)

# an environment of its own, without torch and the package: a minute from nothing
docs: .venv-docs/.installed
	.venv-docs/bin/python docs/build_site.py

.venv-docs/.installed: requirements-docs.lock
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.lock
	touch $@

drill: install
	$(BIN)/python tools/resume_drill.py --kills 20 --ranks 1,2 --workers 0,1,2,3

clean:
	rm -rf $(VENV) .venv-docs site .cache outputs build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
