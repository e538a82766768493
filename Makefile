# On a machine with Python 3.11+ and make, `make run` and `make test` do everything.
#
#   VENV=dir             another virtual environment than .venv; one that exists is used as it is
#   PYTHON=python3.12    the interpreter that creates it
#   PIP_EXTRA_ARGS=...   more arguments for pip, such as an index with CPU-only wheels of torch
#   ARGS=...             more arguments for the command: make run ARGS="--port 9000"
#   BENCH=latency        what `make bench` measures: latency throughput serve style loop flops

PYTHON ?= python3
VENV ?= .venv
PIP_EXTRA_ARGS ?=
ARGS ?=
BENCH ?= latency
BIN := $(VENV)/bin

.PHONY: run test check bench evaluate clean

run: $(VENV)/.installed
	$(BIN)/atelier serve $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed
	$(BIN)/atelier bench $(BENCH) $(ARGS)

evaluate: $(VENV)/.installed-dev
	$(BIN)/atelier evaluate $(ARGS)

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find service tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make a second run start at once; they are renewed when pyproject.toml changes.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_EXTRA_ARGS) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_EXTRA_ARGS) -e ".[dev]"
	@touch $@ $(VENV)/.installed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Atelier needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Choose another with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
