# Needs Python 3.11 to 3.14 with venv, and make. `make help` lists the targets.
#
#   ARGS=...             more arguments for the command: make run ARGS="--port 9000"
#   PYTHON=python3.12    the interpreter that creates the virtual environment
#   VENV=dir             another virtual environment than .venv; an existing one is used as it is
#   TORCH_BACKEND=cpu    with uv: the build of PyTorch to install; auto (the default) detects the GPU
#   UV=                  install with pip even where uv is on PATH
#   PIP_EXTRA_ARGS=...   more arguments for the installer, such as an index with CPU builds of PyTorch
#   BENCH=latency        what `make bench` measures: latency throughput serve style loop flops counts fleet
#   ONLY=golden,memory   which parts of `make gpu`: golden golden-bf16 kernels memory throughput profile compiled graphs
#   SOAK_SECONDS=600 SOAK_CONNECTIONS=200   how long (on either store) and how hard `make soak` is

PYTHON ?= python3
VENV ?= .venv
UV ?= $(shell command -v uv)
TORCH_BACKEND ?= auto
PIP_EXTRA_ARGS ?=
ARGS ?=
BENCH ?= latency
ONLY ?=
SOAK_SECONDS ?= 600
SOAK_CONNECTIONS ?= 200
BIN := $(VENV)/bin
# Processes with a thread each: the tests' tensors are too small for more threads to pay. Three for the fast tests, of
# which many wait.
IN_PARALLEL = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --dist loadfile

ifeq ($(UV),)
CREATE_VENV = $(PYTHON) -m venv $(VENV)
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check $(PIP_EXTRA_ARGS)
else
CREATE_VENV = $(UV) venv --quiet --seed --python $(PYTHON) $(VENV)
# PyPI's PyTorch for Linux brings gigabytes of CUDA libraries; uv takes the CPU build where there is no GPU.
INSTALL = $(UV) pip install --python $(BIN)/python $(addprefix --torch-backend=,$(TORCH_BACKEND)) $(PIP_EXTRA_ARGS)
endif

.DEFAULT_GOAL := help
.PHONY: help run test test-quick check docs screenshots bench overhead evaluate gpu soak large package lock clean

help:  ## List the targets
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.installed  ## Serve on http://127.0.0.1:8000; installs everything the first time
	$(BIN)/atelier serve $(ARGS)

test: $(VENV)/.installed-dev  ## Run all tests: minutes; a real server, a real Valkey, real HTTP
	$(IN_PARALLEL) -n 2 $(ARGS)

test-quick: $(VENV)/.installed-dev  ## Run the fast tests, a minute and a half on two cores, before each commit
	$(IN_PARALLEL) -n 3 -m "not slow and not large" $(ARGS)

check: $(VENV)/.installed-dev  ## Check format, lint, types and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed-dev  ## Build the documentation into build/docs; a broken link or anchor fails
	$(BIN)/zensical build --strict --clean
	$(BIN)/python -m pytest tests/docs/test_links.py

screenshots: $(VENV)/.installed-dev  ## Take the documentation's pictures of the playground; needs chromium
	$(BIN)/python -m tests.support.screenshots

bench: $(VENV)/.installed  ## Measure speed on this machine
	$(BIN)/atelier bench $(BENCH) $(ARGS)

overhead: $(VENV)/.installed-dev  ## Measure what the service adds to the model's time
	$(BIN)/python -m service.bench.overhead $(ARGS)

evaluate: $(VENV)/.installed-dev  ## Judge what nano draws; make evaluate ARGS=paper makes the paper's tables
	$(BIN)/atelier evaluate $(or $(ARGS),nano)

# Installs nothing: a machine with a GPU may have no network. It needs torch, transformers, numpy, Pillow, safetensors.
gpu:  ## See all that needs an NVIDIA GPU in 9 minutes: build/gpu/report.md
	$(or $(wildcard $(BIN)/python),$(PYTHON)) -m service.bench.gpu $(addprefix --only ,$(ONLY)) $(ARGS)

soak: $(VENV)/.installed-dev  ## Run ill-behaved and hostile clients for ten minutes over a store that keeps dying, twice
	SOAK_SECONDS=$(SOAK_SECONDS) SOAK_CONNECTIONS=$(SOAK_CONNECTIONS) $(BIN)/python -m pytest -s tests/test_soak.py $(ARGS)

large: $(VENV)/.installed-dev  ## Run Infinity-2B at its true size, random weights: 20 GB of disk in TMPDIR, 12 GB of memory
	$(BIN)/python -m pytest -m large -s tests/model/checkpoints/test_released_large.py $(ARGS)

package: $(VENV)/.installed-dev  ## Build the sdist and the wheel into dist/
	$(BIN)/python -m build

lock:  ## Renew deploy/requirements.lock, the versions in the container image; needs uv
	@test -n "$(UV)" || { echo "make lock needs uv on PATH: pip install uv" >&2; exit 1; }
	$(UV) pip compile --quiet --universal --python-version 3.11 --upgrade --no-annotate \
	    --custom-compile-command "make lock" --output-file deploy/requirements.lock pyproject.toml

clean:  ## Remove .venv, caches and everything that was built
	rm -rf .venv build dist *.egg-info .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -rf .schemathesis
	find service tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make a second run start at once; they are renewed when pyproject.toml changes.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "Installing Atelier and PyTorch into $(VENV); this takes minutes the first time."
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	@echo "Installing Atelier, PyTorch and the development tools into $(VENV); this takes minutes the first time."
	$(INSTALL) -e ".[dev]"
	@touch $@ $(VENV)/.installed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Atelier needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Choose another with make PYTHON=...")'
	@echo "Creating the virtual environment $(VENV)."
	$(CREATE_VENV)
