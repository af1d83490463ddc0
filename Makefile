# Each target sets itself up on a fresh machine: Debian, Ubuntu or macOS with Python 3.11 or later.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' && echo $$p && break; done)
VENV ?= .venv
BIN = $(VENV)/bin
ENV ?= envs/crm.yaml
MODEL ?= smollm2-135m-instruct
WORKERS ?= 3
RUNS ?= $(patsubst %/,%,$(wildcard runs/*/))

.PHONY: help install model train test campaign servers mutants check docs bench clean

help:            ## show this
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

install: $(BIN)/.installed  ## create .venv and install everything

$(BIN)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed: install it, or run make PYTHON=/path/to/python3"; exit 3; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,analysis,docs,test]'
	@touch $@

model: install   ## fetch the small model once into ~/.cache/envgym
	$(BIN)/envgym fetch $(MODEL)

train: model     ## train a small model on the CRM: before, after, adapter
	$(BIN)/envgym train $(ENV) $(SET)

test: model      ## run every test, by several workers: half of the time is waiting
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup --no-loadscope-reorder $(ARGS)

campaign: install  ## minutes of faults and load: killed owners, hostile tools, an engine that restarts, a soak, podman
	$(BIN)/python -m pytest -m campaign $(ARGS)

servers: model   ## run the tests with real vLLM (CPU build) and llama.cpp, each in an environment of its own: 2 GB, once
	$(BIN)/python -m tests.servers.environments
	$(BIN)/python -m pytest -m servers tests/servers $(ARGS)

mutants: install ## break each of the thirty traps on purpose and see its tests fail: make mutants TRAPS="9 15"
	$(BIN)/python -m tests.mutants $(TRAPS)

check: install   ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: install    ## build the documentation site into site/
	$(BIN)/python -m mkdocs build --strict

bench: install   ## draw the learning curve of the runs in runs/ and print their held-out table
	@test -n "$(RUNS)" || { echo "no run in runs/ yet: make train first"; exit 3; }
	$(BIN)/python benchmarks/learning_curve.py $(RUNS) --out runs/curve.png

clean:           ## remove the virtual environment (the model stays in its cache)
	rm -rf $(VENV)
