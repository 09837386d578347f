# make up    sets everything up and runs the product
# make test  sets everything up and runs every check
# Both need Python 3.11 or newer and nothing else; all that they install comes from the package index, by hash.

PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
RUNTIME := $(VENV)/installed-runtime
DEV := $(VENV)/installed-dev
# More arguments for the product, such as: make up ARGS="--port 9000"
ARGS ?=
# Of load on each line of the benchmark's table
BENCH_SECONDS ?= 10
PROTOS = $(patsubst proto/%,--path %,$(shell find proto/orch8cloud -name '*.proto'))

.DEFAULT_GOAL := help
.PHONY: help up bench test chaos check format lint types generate generated protos pytest baseline lock clean

help: ## Show what can be made
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 18

up: $(RUNTIME) ## Set everything up and run the product (more: make up ARGS="--help")
	@exec $(BIN)/orch8-cloud up $(ARGS)

bench: $(DEV) ## Measure the gateway against bare Envoy, and run events (shorter: make bench BENCH_SECONDS=2)
	@$(BIN)/python -m bench --seconds $(BENCH_SECONDS) $(ARGS)
	@$(BIN)/python -m bench.ingest --seconds $(BENCH_SECONDS)
	@$(BIN)/python -m bench.events --seconds $(BENCH_SECONDS)

test: check pytest ## Set everything up and run every check

chaos: $(DEV) ## Prove "at once" and "once" for minutes while parts are killed (CHAOS_SECONDS, CHAOS_SEED; README, "Tests")
	@CHAOS_SECONDS=$${CHAOS_SECONDS:-200} CHAOS_RESTRICTIONS=$${CHAOS_RESTRICTIONS:-1500} CHAOS_CREATES=$${CHAOS_CREATES:-1000} \
		$(BIN)/python -m pytest -q -s tests/chaos $(ARGS)

check: format lint types generated protos ## Run every check but the tests

format: $(DEV)
	@echo "== formatting" && $(BIN)/ruff format --quiet --check . || { echo "run: .venv/bin/ruff format ."; exit 1; }

lint: $(DEV)
	@echo "== lint" && $(BIN)/ruff check --quiet .

types: $(DEV)
	@echo "== types" && $(BIN)/mypy

generate: $(DEV) ## Rebuild gen/ from the protos
	@$(BIN)/python proto/generate.py

generated: $(DEV)
	@echo "== generated code is fresh" && $(BIN)/python proto/generate.py --check

protos: $(DEV)
	@echo "== buf lint" && $(BIN)/buf lint gen/descriptors.binpb --config buf.yaml $(PROTOS)
	@echo "== buf breaking" && $(BIN)/buf breaking gen/descriptors.binpb --against proto/released.binpb --config buf.yaml

baseline: $(DEV) ## Make the protos of now those that must not be broken (at a release)
	cp gen/descriptors.binpb proto/released.binpb

pytest: $(DEV)
	@echo "== tests" && $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

lock: $(DEV) ## Resolve the dependencies again, newest versions within pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --no-annotate --extra build pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --no-annotate --extra build --extra otel -c requirements.lock pyproject.toml -o requirements-otel.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --no-annotate --extra build --extra otel --extra dev -c requirements-otel.lock pyproject.toml \
		-o requirements-dev.lock

clean: ## Remove what make installed (not your data in .orch8)
	rm -rf $(VENV) build *.egg-info

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; install it, or name it: make up PYTHON=/path/to/python3"; exit 1; }
	@echo "== setting up $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(RUNTIME): requirements.lock pyproject.toml | $(BIN)/python
	@echo "== installing what the product needs (about 100 MB, a minute)"
	@$(PIP) --require-hashes -r requirements.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): requirements-dev.lock $(RUNTIME)
	@echo "== installing what the checks need"
	@$(PIP) --require-hashes -r requirements-dev.lock
	@touch $@
