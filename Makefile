# On a machine with Python 3.11+ and make, `make run` and `make test` do everything.
#
#   VENV=dir             another virtual environment than .venv; one that exists is used as it is
#   PYTHON=python3.12    the interpreter that creates it
#   PIP_EXTRA_ARGS=...   more arguments for pip, such as an index with CPU-only wheels of torch
#   SOAK_SECONDS=60 SOAK_CONNECTIONS=200    how long and how hard `make soak` is
#   ARGS=...             more arguments for the command: make run ARGS="--port 9000"
#   BENCH=latency        what `make bench` measures: latency throughput serve style loop flops

PYTHON ?= python3
VENV ?= .venv
PIP_EXTRA_ARGS ?=
ARGS ?=
SOAK_SECONDS ?= 60
SOAK_CONNECTIONS ?= 200
BENCH ?= latency
BIN := $(VENV)/bin

.PHONY: run test soak large check bench overhead evaluate clean

run: $(VENV)/.installed
	$(BIN)/atelier serve $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(ARGS)

soak: $(VENV)/.installed-dev
	SOAK_SECONDS=$(SOAK_SECONDS) SOAK_CONNECTIONS=$(SOAK_CONNECTIONS) $(BIN)/python -m pytest -s tests/test_http_soak.py $(ARGS)

# Infinity-2B at its true size, of random weights: 20 GB of disk, 12 GB of memory, minutes. TMPDIR says where.
large: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m large -s tests/test_released_large.py $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed
	$(BIN)/atelier bench $(BENCH) $(ARGS)

overhead: $(VENV)/.installed-dev
	$(BIN)/python -m service.bench.overhead $(ARGS)

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
