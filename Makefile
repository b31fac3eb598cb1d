# A fresh machine needs python3 (3.11 or newer, with venv), make and a C compiler.
# Every target installs what it needs into $(VENV) once, and again when pyproject.toml changes.

PYTHON ?= python3
VENV ?= .venv
# Plain `torch` brings several GB of CUDA libraries where no CPU build is offered;
# only training and its tests need it.
TORCH ?= torch==2.13.0
DEMO ?= demo

bin := $(VENV)/bin
pip := $(bin)/python -m pip --quiet --disable-pip-version-check

.PHONY: demo test test-fast bench bench-quick lint
.DELETE_ON_ERROR:

demo: $(VENV)/.installed-plot
	$(bin)/fastdiff demo --out $(DEMO)

# pytest-randomly shuffles; the closing line says the seed and how many were skipped.
test: $(VENV)/.installed-dev
	$(bin)/python -P -m pytest -n 2 $(ARGS)

# Without what compiles, trains, draws or starts processes: for the loop at the desk.
test-fast: $(VENV)/.installed-dev
	$(bin)/python -P -m pytest -n 2 -m "not slow" tests $(ARGS)

bench: $(VENV)/.installed-bench
	$(bin)/python benchmarks/report.py $(ARGS)

bench-quick: $(VENV)/.installed-bench
	$(bin)/python benchmarks/report.py --quick $(ARGS)

lint: $(VENV)/.installed-lint
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-%: pyproject.toml | $(VENV)/bin/python
	$(if $(filter dev,$*),$(pip) install '$(TORCH)')
	$(pip) install --editable '.[$*]'
	touch $@
