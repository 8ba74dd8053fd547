# Two commands: make quickstart, make test. Both build .venv first; nothing but Python >= 3.11, git and make is needed.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: quickstart test learning lint clean

quickstart: .venv/installed
	$(BIN)/valex study horizon --preset quick

test: .venv/installed-dev
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/pyright
	$(BIN)/python -m pytest -n 2 --dist loadscope --durations 25

learning: .venv/installed-dev
	$(BIN)/python -m pytest -m learning -n 2

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "valex needs Python >= 3.11: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	$(PIP) -e .
	@touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	$(PIP) -e '.[brax,minatar,offline]' pytest pytest-xdist hypothesis ruff pyright
	@touch $@ .venv/installed

clean:
	rm -rf .venv
