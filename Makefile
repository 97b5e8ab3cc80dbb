# make demo     the same word in different sentences, as elmo-english sees it
# make compare  a published checkpoint, converted, loaded and compared with TensorFlow's outputs
# make test     all tests
# make lint     style and types
# Each sets up .venv by itself on first use, and again when pyproject.toml or constraints.txt change.

PYTHON ?= python3
VENV := .venv
# What `make compare` leaves.
MODEL := models/elmo-tiny-reference
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
# Twice quiet: errors only.
INSTALL := $(PIP) install --quiet --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo compare test lint format clean

help:
	@sed -n 's/^# //p' Makefile

demo: $(VENV)/.installed
	@$(VENV)/bin/python examples/word_senses.py

compare: $(VENV)/.installed
	@reference=$$($(VENV)/bin/python -m tests.reference) && $(VENV)/bin/python examples/compare.py "$$reference" $(MODEL)

test: $(VENV)/.installed
	@$(VENV)/bin/python -m pytest $(ARGS)

lint: $(VENV)/.linters
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/codespell README.md CHANGELOG.md CONTRIBUTING.md docs elmo_hf tests conversion examples benchmarks model_cards
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/python .ci/hub_file_rules.py

format: $(VENV)/.linters
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) .venv-oldest build dist *.egg-info

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Setting up $(VENV): PyTorch, transformers and the test tools, two to three minutes, once ..."
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) --editable '.[test]'
	@touch $@

$(VENV)/.linters: $(VENV)/.installed
	@echo "Adding ruff, mypy, codespell and others to $(VENV) ..."
	@$(INSTALL) --editable '.[lint]'
	@touch $@
