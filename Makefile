# Two commands are enough: `make serve` and `make test`. Everything lives in .venv; nothing needs root.
PYTHON ?= python3
# The CPU build is much smaller than the default one on Linux: see README, "Installing".
TORCH ?= torch==2.13.0
HOST ?= 127.0.0.1
PORT ?= 8000
URL ?= http://$(HOST):$(PORT)
USERS ?= 8
SECONDS ?= 30

BIN := .venv/bin
STAMP := .venv/.set-up
GPU_BIN := .venv-gpu/bin
GPU_STAMP := .venv-gpu/.set-up
NATIVE := $(wildcard kernels/native/*.?pp kernels/*/native/*.?pp)

.PHONY: help setup serve test test-gpu check sanitize load faults soak clean

help:
	@echo "make serve   set up, get real data, train if there is no model, serve on http://$(HOST):$(PORT) (HOST, PORT to change)"
	@echo "make test    set up, then lint, types, import arrows and the whole test suite"
	@echo "make test-gpu  the kernels for GPUs: in Triton's interpreter, or on the device where there is one (a gigabyte of packages)"
	@echo "make setup   create .venv with the pinned dependencies (quick when nothing changed)"
	@echo "make sanitize  the compiled kernels under the address and undefined-behavior sanitizers, then SECONDS of random calls"
	@echo "make load    load-test a running service at URL for SECONDS with USERS clients"
	@echo "make faults  break the service on purpose, at length; each fault's figure ends up in build/faults.md"
	@echo "make soak    SECONDS (1800) under half of the load, then 100 model versions in turn; a report and a plot in docs/results"
	@echo "make clean   remove .venv and caches; data/ and artifacts/ stay"

setup: $(STAMP)

$(STAMP): requirements/lock.txt pyproject.toml setup.py build_backend.py $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/lock.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(STAMP)

serve: setup
	$(BIN)/dare demo --host $(HOST) --port $(PORT)

test: check
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --cov --cov-report=term:skip-covered

# A venv of its own: Triton is a gigabyte that nobody else needs.
test-gpu: $(GPU_STAMP)
	$(GPU_BIN)/python -m pytest --confcutdir tests/kernels/gpu tests/kernels/gpu

$(GPU_STAMP): requirements/gpu-test.txt
	test -x $(GPU_BIN)/python || $(PYTHON) -m venv .venv-gpu
	$(GPU_BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/gpu-test.txt
	$(GPU_BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	@touch $(GPU_STAMP)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Not part of `make test`: a minute or two.
sanitize: setup
	$(BIN)/python -m tests.kernels.native.sanitize --seconds $(SECONDS)

load: setup
	mkdir -p build
	$(BIN)/locust -f loadtest/locustfile.py --headless --host $(URL) --users $(USERS) --spawn-rate $(USERS) --run-time $(SECONDS)s \
		--html build/load.html --json-file build/load --only-summary
	@echo "HTML report: build/load.html"

faults: setup
	mkdir -p build
	DARE_FAULTS_REPORT=build/faults.md $(BIN)/python -m pytest tests/service -m "faults or not faults"

# What make serve has made, or ARTIFACTS and DATA of your own. SECONDS given on the command line overrides.
ARTIFACTS ?= artifacts
DATA ?= data/complete-journey
soak: SECONDS = 1800
soak: setup
	$(BIN)/python -m tests.service.soak --artifacts $(ARTIFACTS) --data $(DATA) --seconds $(SECONDS)

clean:
	rm -rf .venv .venv-gpu build .mypy_cache .ruff_cache .pytest_cache .coverage*
