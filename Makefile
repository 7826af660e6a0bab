# Two commands on a fresh machine: `make demo` and `make test`. Each makes .venv itself when it is missing.
#   make venv        .venv with the nsx command
#   make demo        sample capture -> poses -> training with a live viewer -> orbit.mp4, metrics   (ARGS=--no-viewer NSX_DEMO_MINUTES=2)
#   make test        lint, types, wheel check and every test that can run here
#   make test-fast   lint and the tests that take moments
#   make bench       kernel and training ratios against the reference
#   make lint        ruff and mypy
#   make fuzz        damaged inputs for every reader, 20,000 each   (ARGS="--count 2000 --only ply images")
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
PIP_ARGS ?=
ARGS ?=
export NSX_SHARED ?= ../shared
export PIP_DISABLE_PIP_VERSION_CHECK = 1

# Byte code is written on first import: compiling all of torch at install time would cost half a minute.
INSTALL = $(BIN)/python -m pip install --quiet --no-compile -c constraints.txt $(PIP_ARGS)
# Tests run on one thread: their results and times then do not depend on the machine's load.
TEST_ENV = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
# Two files of tests at a time, each on one thread; ARGS="-n 0" runs them one after the other.
AT_ONCE = -n 2 --dist loadfile

.PHONY: venv venv-dev demo test test-fast fuzz bench lint wheel-check clean

venv: $(VENV)/.installed
venv-dev: $(VENV)/.installed-dev

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: no python3 found. Install Python 3.10 or newer." >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: $(PYTHON) is older than 3.10. Run make PYTHON=/path/to/python3.11." >&2; exit 2; }
	"$(PYTHON)" -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (once; some minutes on a slow line)"
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV), with the tools for development (once; some minutes on a slow line)"
	$(INSTALL) -e ".[dev]"
	@touch $@ $(VENV)/.installed

demo: venv
	$(BIN)/nsx demo $(ARGS)

bench: venv
	$(BIN)/nsx bench cpu $(ARGS)

lint: venv-dev
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint wheel-check
	$(TEST_ENV) $(BIN)/python -m pytest $(AT_ONCE) $(ARGS)

test-fast: venv-dev
	$(BIN)/ruff check .
	$(TEST_ENV) $(BIN)/python -m pytest $(AT_ONCE) -m "not slow and not browser" $(ARGS)

fuzz: venv-dev
	$(TEST_ENV) $(BIN)/python -m tests.reliability.fuzz_driver $(ARGS)

# Build the wheel, install it alone into a fresh environment that borrows the dependencies, run nsx outside the checkout.
wheel-check: venv-dev
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/wheel .
	$(BIN)/python -m venv --without-pip build/wheel/venv
	$(BIN)/python -m pip --python build/wheel/venv/bin/python install --quiet --no-deps --no-index build/wheel/*.whl
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$(build/wheel/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/borrowed.pth"
	cd / && "$(CURDIR)/build/wheel/venv/bin/python" -c 'import nerfstudio_ext as n; assert "/wheel/venv/" in n.__file__, n.__file__'
	cd / && "$(CURDIR)/build/wheel/venv/bin/python" -c 'from nerfstudio_ext.kernels.cuda_launch import ENTRIES, sources; assert {e.file for e in ENTRIES.values()} <= set(sources()), sources()'
	cd / && "$(CURDIR)/build/wheel/venv/bin/nsx" --help > /dev/null
	@echo "wheel: installs, imports and runs outside the checkout"

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
