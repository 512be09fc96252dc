# Two commands do everything on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test test-all lint ui

run: .venv/ready
	$(BIN)/python -m harness run architectures/s6_gap.py

# Worksteal, so that no process is left alone with the last long tests.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

# Every behaviour, in about ten minutes on two idle cores.
test: lint
	$(PYTEST)

# What `make test` leaves out: real clusters and servers, kills, a pretended GPU, long trainings.
test-all: .venv/ready
	$(PYTEST) -m "thorough and not soak"

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ui: .venv/ready
	$(BIN)/python -m harness ui

# The environment, made again whenever what it holds changes.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "Python 3.11 to 3.13 is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	@echo "installing into .venv: some minutes, and 7 GB, most of it torch's CUDA libraries"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@
