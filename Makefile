# Sets up a virtual environment and runs the two commands of the README, and a few more.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo test check bench clean

demo: $(READY)
	@$(BIN)/usbip-vudc demo

test: check
	@$(BIN)/pytest

check: $(READY)
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

bench: $(READY)
	@$(BIN)/python -m bench

clean:
	rm -rf $(VENV) .bench-venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist

$(READY): pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "no virtual environment: apt install python3-venv"; exit 1; }
	@echo "installing into $(VENV)..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,fat,kernel,lab]'
	@touch $(READY)
