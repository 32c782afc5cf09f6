# Two commands matter: `make demo` sets up and runs the main job, `make test` checks everything.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-hard lint format bench bench-full clean

demo: .venv/installed
	$(BIN)/tombola demo

test: .venv/tested lint
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test-hard: .venv/tested
	$(BIN)/python -m pytest -m hard

lint: .venv/tested
	$(BIN)/ruff check src tests scripts examples benchmarks
	$(BIN)/ruff format --check src tests scripts examples benchmarks
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/lint-imports --no-cache

format: .venv/tested
	$(BIN)/ruff check --fix src tests scripts examples benchmarks
	$(BIN)/ruff format src tests scripts examples benchmarks

# Ratios measured side by side; nothing else should run meanwhile.
bench: .venv/tested
	$(BIN)/python -m benchmarks.run benchmarks/results/quick.json

bench-full: .venv/tested
	$(BIN)/python -m benchmarks.run benchmarks/results/full.json --full

clean:
	rm -rf .venv demo build

.venv/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "tombola needs Python 3.11 or later; try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	@touch $@

# The stamps make a second call install nothing.
.venv/installed: pyproject.toml .venv/python
	@echo "Installing tombola and PyTorch into .venv: some minutes, several GB ..."
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/tested: pyproject.toml .venv/installed
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	@touch $@
