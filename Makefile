# make demo: the whole road on the embedded data, 20 to 45 minutes on two cores. make test: the tests.
# make test-long: the large counts of docs/reliability.md, and the longer runs of other tests, 25 minutes more.
# make test-browser: the pages of reports in headless Chromium; chromium and chromedriver must be installed.
# All make the virtual environment in .venv when it is missing or older than setup.cfg.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: demo test test-long test-browser

demo: $(STAMP)
	$(VENV)/bin/python tools/demo.py

test: $(STAMP)
	$(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-long: $(STAMP)
	$(VENV)/bin/python -m pytest -m long

test-browser: $(STAMP)
	$(VENV)/bin/python -m pytest -m browser

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[demo,test]'
	touch $@
