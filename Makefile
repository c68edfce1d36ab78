# make demo   install, pretrain a tiny ELECTRA on Chinese text, export it, show what it has learned
# make test   install what the tests need, and run them
# make check  format, lint and types

PYTHON ?= python3
VENV ?= .venv
# Of tests; each takes some 1.5 GB, beside what it starts.
PROCESSES ?= 2
BIN := $(VENV)/bin

.PHONY: demo test slow check clean

demo: $(VENV)/demo-installed
	$(BIN)/python tools/demo.py demo

test: $(VENV)/test-installed
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

slow: $(VENV)/test-installed
	$(BIN)/python -m pytest -m slow

check: $(VENV)/test-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

$(VENV)/%-installed: pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) demo build dist
