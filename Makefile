# Every target first makes the virtual environment it runs in: once, and again when the
# requirements change. Choose the interpreter with `make test PYTHON=python3.11`.
PYTHON ?= python3
VENV   ?= .venv

BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
EXTRAS := dev,train,cluster,docking,docs

.PHONY: help install demo test lint format check numbers site

help:
	@echo "make demo     64 molecules from the base and from a steered flow, compared, in demo/"
	@echo "make test     the test suite"
	@echo "make lint     formatting, lint and types, changing nothing"
	@echo "make format   format and mend what can be mended"
	@echo "make check    lint and test"
	@echo "make site     the documentation, build/site/index.html"
	@echo "make numbers  write the numbers of README and docs anew from the result files"
	@echo "make install  only the virtual environment, $(VENV)/"

install: $(READY)

# The constraints make this the tested environment; pip alone would take the newest of everything.
$(READY): pyproject.toml constraints.txt
	@echo "Installing molflowctl into $(VENV)/ (a few minutes, once)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[$(EXTRAS)]"
	$(BIN)/python -m pip check
	@touch $@

demo: $(READY)
	$(BIN)/molflowctl demo -o demo/

test: $(READY)
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

site: $(READY)
	$(BIN)/python docs/build.py

numbers: $(READY)
	$(BIN)/python benchmarks/published.py

check: lint test
