# make demo: train and test all four stages on scikit-learn's images, 20 to 50 minutes on two cores.
# make lint: ruff and mypy. make test: the tests.
# make test-long: the slow tests that make test leaves out, under 40 minutes on two cores.
# make docs: the documentation site, in build/docs.
# Each creates the virtual environment .venv if it is missing or older than setup.cfg.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: demo docs lint test test-long

demo: $(STAMP)
	$(VENV)/bin/python tools/demo

docs: $(STAMP)
	$(VENV)/bin/python -m sphinx -q -W --keep-going docs build/docs
	@echo "open build/docs/index.html"

lint: $(STAMP)
	$(VENV)/bin/ruff check beit_mm tools tests configs docs/conf.py
	$(VENV)/bin/ruff format --check beit_mm tools tests docs/conf.py
	$(VENV)/bin/mypy

test: $(STAMP)
	$(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

test-long: $(STAMP)
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist worksteal -m long

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[demo,test]'
	touch $@
