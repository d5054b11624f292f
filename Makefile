# The commands for developers. Each creates the virtual environment first if it is missing.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Keep compiled modules, whatever the environment says: the tests start hundreds of processes, and each would compile everything.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help venv tools check test quiet fuzz model chaos limits demo bench docs clean

help: ## list the commands
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

venv: $(STAMP) ## create the virtual environment, with pinned dependencies and the embedded servers

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "needs Python 3.11 or newer: install it, or run make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
		$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

tools: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m dwarf_nats.wire.schema --check
	$(BIN)/python -m dwarf_nats.cli.reference --check
	$(BIN)/python -m dwarf_nats.sdk.generate_sync --check

check: tools ## check format, lint, types, imports and generated files, run the fast tests
	$(BIN)/pytest -m 'not slow' -n 3

test: tools ## run everything, as CI does
	$(BIN)/pytest -n 3 --dist worksteal

quiet: $(STAMP) ## test the service with the signals between replicas off: the same results, slower
	DWARF_SIGNALS=false $(BIN)/pytest -n 2 tests/service tests/cli tests/recovery

fuzz: $(STAMP) ## send random requests, replies, graphs and conditions, TIMES=20 as many as in make test
	DWARF_FUZZ=$(or $(TIMES),20) $(BIN)/pytest -n 2 tests/fuzz
	DWARF_FUZZ=$(or $(TIMES),20) $(BIN)/pytest -n 2 -m "hypothesis and not slow"

model: $(STAMP) ## run random workflows on both databases and compare with a model: EXAMPLES=1000
	DWARF_EXAMPLES=$(or $(EXAMPLES),1000) $(BIN)/pytest -n 2 tests/model

chaos: $(STAMP) ## break real processes at random and check the results: SECONDS=600 SEED=7
	$(BIN)/python -m tests.chaos --seconds $(or $(SECONDS),180) $(if $(SEED),--seed $(SEED))

limits: $(STAMP) ## kill replicas at random while the task service counts: SECONDS=1800 SEED=7
	$(BIN)/python -m tests.chaos.limited --seconds $(or $(SECONDS),180) --shards 2 $(if $(SEED),--seed $(SEED))

demo: $(STAMP) ## run five orders through the example workflow, printed step by step
	$(BIN)/dwarf-nats demo

bench: $(STAMP) ## run the benchmarks
	$(BIN)/python -m bench

docs: $(STAMP) ## build the documentation site in build/site; a link that leads nowhere is an error
	$(BIN)/python -m docsite

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .bench-venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
