# Two commands matter: `make demo` and `make test`. A fresh machine needs Python 3.11, pip and make.
PYTHON ?= python3
# Where everything is installed, and in which versions.
VENV_DIR ?= .venv
REQUIREMENTS ?= requirements.lock
BIN := $(VENV_DIR)/bin
PROJECTS := pyproject.toml coordinator/pyproject.toml tccctl/pyproject.toml participants/pyproject.toml
# Says that the environment holds what these ask for.
VENV := $(VENV_DIR)/.installed
# The suites start hundreds of processes, and each would compile every module.
unexport PYTHONDONTWRITEBYTECODE
# Each starts with a half of its own, because the tests of a module share what they start.
WORKERS := -n 3 --dist worksteal
# Arguments of `make demo`, for example DEMO="--orders 10000 --seed 7".
DEMO ?=
# A scenario and its arguments, for example BENCH="coordinator --mode batched --in-flight 256 --json",
# or BENCH="all --save docs/bench", which keeps the figures and draws them.
BENCH ?= all
# Python 3.11 is the oldest. The distributions of this repository are on no index.
COMPILE := $(BIN)/uv pip compile --quiet --python-version 3.11 --custom-compile-command "make lock" \
	$(foreach name,tcc tcc-coordinator tcc-demo tccctl,--no-emit-package $(name))
# Generated code refuses libraries older than its generator: this is the oldest allowed.
GENERATE := $(BIN)/uv run --quiet --no-project --isolated --python $(BIN)/python --with grpcio-tools==1.80.0 \
	python -m grpc_tools.protoc
# How many seeds `make simulate` runs, and from which one on (BASE=...; any, unless given).
SEEDS ?= 500
# Arguments of `make faults`, for example FAULTS="--times 1 --scenarios none".
FAULTS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test server lowest slow coverage lint bench explore simulate faults mutants protos baseline lock docs clean

help: ## what can be made
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: $(VENV) ## a flash sale with real processes; kills some of them; audits the books
	$(BIN)/tccd demo $(DEMO)

test: $(VENV) ## the tests, over real gRPC and real PostgreSQL
	$(BIN)/pytest $(WORKERS) -m "not slow"

bench: $(VENV) ## how fast it is, beside the least that it would take
	$(BIN)/python -m bench $(BENCH)

server: $(VENV) ## the tests of log, engine, barrier and participant on another PostgreSQL: SERVER=postgresql://...
	TCC_TEST_SERVER_URL=$(SERVER) $(BIN)/pytest $(WORKERS) -m "not slow and not mariadb" tests/log tests/engine tests/barrier tests/participant

lowest: ## make test with the oldest allowed versions of all dependencies
	$(MAKE) test VENV_DIR=.venv-lowest REQUIREMENTS=requirements.lowest

slow: $(VENV) ## the long suites
	$(BIN)/pytest $(WORKERS) -m slow --timeout 1800 --durations=40

coverage: $(VENV) ## how much of core, engine, log and barrier the tests run
	$(BIN)/pytest $(WORKERS) -m "not slow" --cov --cov-report=json:.coverage.json
	$(BIN)/python -m proof.coverage_report .coverage.json

explore: $(VENV) ## every interleaving of a small system; checks every state
	$(BIN)/python -m proof.explore

simulate: $(VENV) ## many coordinators under a simulated clock, network and log, with faults, from seeds
	$(BIN)/python -m proof.simulate --seeds $(SEEDS) $(if $(BASE),--base $(BASE))

faults: $(VENV) ## real processes, killed at every durable step, and worse
	$(BIN)/python -m proof.faults $(FAULTS)

mutants: $(VENV) ## planted bugs; each must be caught
	$(BIN)/python -m proof.mutants

lint: $(VENV) ## style, types, floors, the contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/buf lint
	$(BIN)/buf breaking --against protos/baseline.binpb

protos: $(VENV) ## generate tcc/*/v1 from protos
	$(GENERATE) -Iprotos --python_out=. --pyi_out=. --grpc_python_out=. protos/tcc/*/v1/*.proto

baseline: $(VENV) ## what later contracts are compared with: the present one (at a release)
	$(BIN)/buf build -o protos/baseline.binpb

lock: $(VENV) ## choose the newest versions that fit and the oldest allowed, and write them down
	$(COMPILE) --generate-hashes --upgrade --universal --group dev --output-file requirements.lock requirements.in
	$(COMPILE) --generate-hashes --upgrade --universal --constraints requirements.lock --no-annotate \
		--output-file deploy/requirements.lock deploy/requirements.in
	$(COMPILE) --upgrade --resolution lowest-direct --no-annotate --output-file .oldest.txt requirements.in
	$(COMPILE) --generate-hashes --upgrade --group dev --output-file requirements.lowest .oldest.txt
	rm .oldest.txt

docs: $(VENV) ## the documentation site, in site/; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean: ## remove what was made
	rm -rf .venv .venv-lowest build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage*

$(VENV): $(REQUIREMENTS) requirements.in $(PROJECTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV_DIR)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.in
	$(BIN)/python -m pip check --disable-pip-version-check
	touch $@
