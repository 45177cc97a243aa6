# Each verb is one command; CONTRIBUTING.md says what to do when one of them fails.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CATALOG ?= catalog
PROJECT ?= examples/fashion_mnist/recipes.yaml
WEIGHTS := examples/fashion_mnist/weights.safetensors

.PHONY: serve build report load test check format clean

serve: $(CATALOG)/catalog.json  ## train, build and measure what is missing, then serve on 127.0.0.1:8000
	$(BIN)/paretoserve up --catalog $(CATALOG)

build: $(INSTALLED) $(WEIGHTS)  ## build and measure every variant anew
	$(BIN)/paretoserve build $(PROJECT) --catalog $(CATALOG)

report: $(CATALOG)/catalog.json  ## the report cards, as a table
	$(BIN)/paretoserve report $(CATALOG)

load: $(INSTALLED)  ## load the running service with a mix of SLO classes
	$(BIN)/paretoserve load

test: $(INSTALLED)  ## everything that needs no GPU
	$(BIN)/python -m pytest

check: $(INSTALLED)  ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## forget the environment, the trained weights and the catalog
	rm -rf $(VENV) $(CATALOG) $(WEIGHTS)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip -c constraints.txt
	$(BIN)/pip install --progress-bar on -c constraints.txt -e '.[dev]'
	touch $@

$(WEIGHTS): | $(INSTALLED)
	$(BIN)/python -m examples.fashion_mnist.train

$(CATALOG)/catalog.json: | $(INSTALLED) $(WEIGHTS)
	$(BIN)/paretoserve build $(PROJECT) --catalog $(CATALOG)
