# make demo: train and test all four stages on scikit-learn's images, 8 to 9 minutes on two cores with bfloat16.
# make demo-full: the same with longer trainings and higher scores, under an hour.
# make demo-v2: BEiT v2 on the same images, taught by the models of make demo or of the package, about 9 minutes.
# make lint: ruff and mypy. make test: the tests.
# make test-long: the slow tests that make test leaves out, under 40 minutes on two cores.
# make docs: the documentation site, in build/docs.
# Each creates the virtual environment .venv if it is missing or older than setup.cfg, and installs what it needs.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-test
INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable

.PHONY: demo demo-full demo-v2 docs lint test test-long

demo: $(STAMP)
	$(VENV)/bin/beit-mm demo

demo-full: $(STAMP)
	$(VENV)/bin/beit-mm demo --full

demo-v2: $(STAMP)
	$(VENV)/bin/beit-mm demo --v2

docs: $(TEST_STAMP)
	$(VENV)/bin/python -m sphinx -q -W --keep-going docs build/docs
	@echo "open build/docs/index.html"

lint: $(TEST_STAMP)
	$(VENV)/bin/ruff check beit_mm tools tests configs docs/conf.py
	$(VENV)/bin/ruff format --check beit_mm tools tests docs/conf.py
	$(VENV)/bin/mypy

test: $(TEST_STAMP)
	$(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

test-long: $(TEST_STAMP)
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist worksteal -m long

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[demo]'
	touch $@

$(TEST_STAMP): $(STAMP)
	$(INSTALL) '.[demo,test]'
	touch $@
