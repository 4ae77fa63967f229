# One screen of commands. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup check format test demo up clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 10

setup: $(STAMP) ## create .venv with everything pinned

$(STAMP): pyproject.toml constraints.txt scripts/system-packages.sh $(wildcard tcaq_core/runtime/csrc/*)
	bash scripts/system-packages.sh
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[service,worker,client,dev]'
	# What our scores are compared with. Alone: it asks for torchvision, which does not
	# import beside a CPU build of torch and is not needed for that.
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps torch-fidelity
	touch $@

check: $(STAMP) ## format, lint, types, import contracts, migrations in step
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m migrations.check

format: $(STAMP) ## rewrite files in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: $(STAMP) ## all tests
	$(BIN)/pytest

demo: $(STAMP) ## quantize the demo model through the service; results in build/demo
	$(BIN)/python -m examples.demo

up: $(STAMP) ## server and workers on the embedded default
	$(BIN)/tcaq up

clean: ## remove what was built
	rm -rf build $(VENV)
