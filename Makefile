# `make help` lists the targets. Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format docs clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

install: $(STAMP) ## make .venv with the library and its tools

$(STAMP): setup.py pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("mildnet needs Python 3.11 to 3.13" if not (3, 11) <= sys.version_info[:2] <= (3, 13) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[beam,cpu,debug,descriptors,hub,hyperdash,kerascv,kerashub,milvus,notebook,pretrained,serve,tune,vertex,wandb,dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[annoy]" \
		|| echo "Annoy was not built (it needs a C++ compiler): its index is not available."
	touch $@

demo: $(STAMP) ## train, evaluate, export, index and search on generated products
	$(BIN)/python execute.py --local --config synthetic --yes

test: $(STAMP) ## run all tests, two files at a time
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(STAMP) ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## mend the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) ## run every code block of README and guides
	$(BIN)/python -m pytest tests/test_docs.py

clean: ## remove .venv and caches, never runs or data
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache *.egg-info
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
