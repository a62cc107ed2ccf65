# Everything runs in .venv, which each target brings up to date by itself: Python and make are enough.

VENV := .venv
BIN := $(VENV)/bin
# The first interpreter that can run this project; `make PYTHON=/path/to/python …` chooses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& { echo "$$p"; break; }; done)
# The tests mostly wait for processes to start and leases to end: run some side by side.
# Each begins with tests of its own and helps the others at the end: what tests of a file or a
# directory share is started once, not by each process.
PYTEST_ARGS ?= --numprocesses 3 --dist worksteal
# The host pins honcho-ai to 2.2.0, which the environment has. What talks to Honcho is also tested
# with this one.
HONCHO_NEWEST := 2.7.0
HONCHO_TESTS = $(shell grep -rl --include='test_*.py' 'pytest\.mark\.honcho' tests)

.DEFAULT_GOAL := help
.PHONY: help demo test chaos lint docs format bench bench-full up flower install clean

help:  ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: install  ## Send a conversation through the queue, kill a worker in the middle, count what arrived.
	$(BIN)/hermes-tasks demo

up: install  ## Run a broker and a worker in the foreground; without HONCHO_URL, a demonstration of them.
	$(BIN)/hermes-tasks up $(if $(HONCHO_URL),,--demo)

flower: install  ## Run Flower on http://127.0.0.1:5555: its tab Sessions shows what `make up` does.
	$(BIN)/celery -A hermes_tasks flower --address=127.0.0.1

test: lint docs $(VENV)/honcho-$(HONCHO_NEWEST)  ## Lint, check types, build the documentation, run every test.
	PYTHONPATH=$(CURDIR)/$(VENV)/honcho-$(HONCHO_NEWEST) $(BIN)/python -m pytest -m honcho $(HONCHO_TESTS) $(PYTEST_ARGS)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

chaos: install  ## Hurt a whole deployment for a minute and count what arrived: [SEED=…] [SECONDS=…] [RUNS=…].
	$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(SECONDS),--seconds $(SECONDS)) $(if $(RUNS),--runs $(RUNS))

lint: install  ## Check format, lint and types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# NO_MKDOCS_2_WARNING: Material's note about its successor, which is no warning about these pages.
docs: install  ## Build the documentation into site/; any warning is an error.
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo "site/index.html is the documentation"

format: install  ## Format the code and fix what ruff can fix.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.benched  ## Measure side by side with what a user would pick instead, 10 minutes; the page is build/benchmarks.md.
	$(BIN)/python -m benchmarks --page build

bench-full: $(VENV)/.benched  ## The same with every size and contender, an hour and a half; the page is docs/benchmarks.md.
	$(BIN)/python -m benchmarks --full --page docs

install: $(VENV)/.installed

# Installed again only when what is to be installed has changed.
$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: Python 3.11, 3.12 or 3.13 with its venv module is needed" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev]'
	@touch $@

# The contenders of the benchmarks.
$(VENV)/.benched: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev,bench]'
	@touch $@

$(VENV)/honcho-$(HONCHO_NEWEST): $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
		--target $@ honcho-ai==$(HONCHO_NEWEST)
	@touch $@

clean:  ## Remove what the targets made.
	rm -rf $(VENV) build dist site .hypothesis .mypy_cache .pytest_cache .ruff_cache
