# Each target is one command; CONTRIBUTING.md explains what to do if one fails.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SERVING := $(VENV)/.serving
LOADING := $(VENV)/.load
DEV := $(VENV)/.dev
CATALOG ?= catalog
URL ?= http://127.0.0.1:8000
EXAMPLES ?= 1000
PROJECT ?= examples/fashion_mnist/recipes.yaml
WEIGHTS := examples/fashion_mnist/weights.safetensors
KERNELS := $(wildcard variants/runtime/kernels/source/*)
CLIENTS := .clients
MODELS := .models
PARALLEL ?= -n logical --dist loadgroup --maxprocesses 4
# Threads that wait for each other sleep: on busy cores, spinning doubles the time of training.
export OMP_WAIT_POLICY ?= passive
PYTEST = $(BIN)/python -m pytest $(PARALLEL)
PINS := tests/conformance/clients
APT := apt-get -qq -o APT::Sandbox::User=root -o Acquire::Retries=0 -o Acquire::http::Timeout=10 -o Acquire::https::Timeout=10
FETCH := --quiet --no-deps --no-compile --retries 1 --timeout 10

.PHONY: serve build report load peers fuzz zoo test unit coverage clients models check docs format clean

serve: $(CATALOG)/catalog.json  ## train, build and measure if necessary, then serve on 127.0.0.1:8000
	$(BIN)/paretoserve up --catalog $(CATALOG) --project $(PROJECT)

build: $(SERVING) $(WEIGHTS)  ## build and measure every variant again
	$(BIN)/paretoserve build $(PROJECT) --catalog $(CATALOG)

report: $(CATALOG)/catalog.json  ## print the report cards as a table
	$(BIN)/paretoserve report $(CATALOG)

load: $(LOADING)  ## run a load test with several SLO classes against the running service
	$(BIN)/paretoserve load

peers: $(LOADING) $(CATALOG)/catalog.json  ## measure Paretoserve against other model servers; needs wrk, and 1.5 GB in build/peers
	$(BIN)/python -m loadtests.peers --catalog $(CATALOG) $(PEERS)

fuzz: $(DEV)  ## fuzz the running service according to its OpenAPI document
	$(BIN)/st --config-file=tests/conformance/schemathesis.toml run $(URL)/openapi.json --max-examples=$(EXAMPLES)

zoo: $(DEV)  ## try every technique on many small networks; ZOO chooses some of them
	$(BIN)/python -m tests.zoo $(ZOO)

test: $(DEV)  ## run all tests; no GPU is needed
	@$(MAKE) --no-print-directory --keep-going clients || echo "some clients could not be fetched; their tests are skipped"
	$(PYTEST)

unit: $(DEV)  ## run the tests without Ray, clients and training, in under two minutes
	$(PYTEST) -m "not cluster and not slow"

coverage: $(DEV)  ## run all tests with coverage; fails below the minimum in pyproject.toml
	$(PYTEST) --cov --cov-report=term

clients: $(CLIENTS)/kserve/.fetched $(CLIENTS)/perf_analyzer/.fetched  ## fetch third-party clients for tests/conformance (280 MB)

$(CLIENTS)/kserve/.fetched: $(PINS)/kserve.txt | $(DEV)
	$(BIN)/python -m venv --clear --without-pip $(@D)
	$(BIN)/pip --python $(@D)/bin/python install $(FETCH) -r $<
	touch $@

# libb64 is fetched first: perf_analyzer does not run without it, so if apt fails, nothing else is
# fetched.
$(CLIENTS)/perf_analyzer/.fetched: $(PINS)/perf_analyzer.txt | $(DEV)
	rm -rf $(@D) && mkdir -p $(@D)
	cd $(@D) && { $(APT) download libb64-0d || { $(APT) update && $(APT) download libb64-0d; }; }
	cd $(@D) && dpkg-deb -x libb64-0d_*.deb libb64
	$(BIN)/pip install $(FETCH) --only-binary :all: --target $(@D)/wheels -r $<
	find $(CURDIR)/$(@D) -name libb64.so.0d -o -name libcudart.so.12 | xargs ln -s -t $(@D)/wheels/bin
	LD_LIBRARY_PATH=$(@D)/wheels/bin $(@D)/wheels/bin/perf_analyzer --version
	touch $@

models: $(DEV)  ## fetch data and weights of the other examples (320 MB) and fine-tune MiniLM (minutes)
	$(BIN)/python -m examples.fetch cifar10 minilm
	test -e $(MODELS)/minilm/weights.safetensors || $(BIN)/python -m examples.minilm.train

check: $(DEV)  ## check format, lint, spelling, types, import contracts and documentation
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

docs: $(DEV)  ## build the documentation as a website in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove environments, fetched and trained files, the catalog and the website
	rm -rf $(VENV) $(CLIENTS) $(MODELS) $(CATALOG) $(WEIGHTS) build/peers site

# Dependencies of serving; those of load tests and development are installed on demand. Installing
# compiles the kernels.
$(SERVING): pyproject.toml constraints.txt $(KERNELS)
	@$(PYTHON) scripts/install.py $(VENV)
	@touch $@

$(LOADING): $(SERVING)
	@$(PYTHON) scripts/install.py $(VENV) load
	@touch $@

# One installation has all of it.
$(DEV): pyproject.toml constraints.txt $(KERNELS)
	@$(PYTHON) scripts/install.py $(VENV) dev
	@touch $(SERVING) $(LOADING) $@

$(WEIGHTS): | $(SERVING)
	$(BIN)/python -m examples.fashion_mnist.train

$(CATALOG)/catalog.json: | $(SERVING) $(WEIGHTS)
	$(BIN)/paretoserve build $(PROJECT) --catalog $(CATALOG)
