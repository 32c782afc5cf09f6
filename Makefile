# Two commands matter: `make demo` sets up and runs the main job, `make test` checks everything.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-hard coverage lint format docs wheel oldest bench bench-full clean

demo: .venv/installed
	$(BIN)/tombola demo

test: .venv/tested lint
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(PYTEST_FLAGS)

test-hard: .venv/tested
	$(BIN)/python -m pytest -m hard --numprocesses 2 --dist loadfile $(PYTEST_FLAGS)

lint: .venv/tested
	$(BIN)/ruff check src tests scripts examples benchmarks
	$(BIN)/ruff format --check src tests scripts examples benchmarks
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/lint-imports --no-cache

# The same, and the lines and branches that the tests reach: a third more work, so not in every `make test`.
coverage:
	$(MAKE) test PYTEST_FLAGS="--cov=tombola --cov-branch --cov-report=term:skip-covered"

# The documentation as a site below build/site, every warning an error.
docs: .venv/documented
	mkdir -p build
	$(BIN)/python -m scripts.docs.options build/options.md
	cmp build/options.md docs/options.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# A wheel, installed into a clean environment, from which the demo runs.
wheel: .venv/tested
	rm -rf build/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
	$(PYTHON) -m venv --clear build/wheel/venv
	build/wheel/venv/bin/python -m pip install --quiet build/wheel/*.whl
	cd build/wheel && venv/bin/tombola demo --out demo

# The oldest dependencies that pyproject.toml allows: resolved, installed, and a short run with them.
oldest:
	$(PYTHON) -m venv build/oldest
	build/oldest/bin/python scripts/oldest.py > build/oldest/pins.txt
	build/oldest/bin/python -m pip install --quiet --requirement build/oldest/pins.txt
	build/oldest/bin/python -m pip install --quiet --no-deps --editable .
	build/oldest/bin/python -c "import tombola.api, tombola.studies"
	build/oldest/bin/tombola run --preset digits --steps 100 --epochs 3 --milestones 2 --out build/oldest/run

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

.venv/documented: pyproject.toml .venv/installed
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	@touch $@
