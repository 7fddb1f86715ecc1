# make demo | test | lint | bench: each sets up what it needs in .venv first, from a machine with python3 (>= 3.11) only.
# The install is editable, so it is repeated only when a file that says what to install has changed.

PYTHON ?= python3
VENV := .venv
# Bytecode is left to the first import: torch and transformers have thousands of modules that nobody here imports.
PIP_INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
INSTALLED_FROM := setup.cfg pyproject.toml constraints.txt

.PHONY: help demo test lint format bench bench-gpu tables clean

help:
	@echo "make demo    write BERT and five models built on it, reduced, and compare them"
	@echo "make test    run the tests"
	@echo "make lint    ruff and mypy"
	@echo "make format  let ruff rewrite what it can"
	@echo "make bench   run the benchmarks and record their rows (a quarter of an hour, 30 GB of disk)"
	@echo "make bench-gpu    the same for a GPU, on a machine that has one"
	@echo "make tables  put the recorded rows into README.md"

demo: $(VENV)/installed-base
	$(VENV)/bin/weighbridge demo

test: $(VENV)/installed-test
	$(VENV)/bin/python -m pytest $(ARGS)

# mypy looks at a regular install, because it does not follow the import hook of an editable one; so a package that
# setup.cfg forgets to list is found out here too.
lint: $(VENV)/installed-lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	rm -rf build
	$(PIP_INSTALL) --no-deps --target build/typed .
	cd build/typed && $(CURDIR)/$(VENV)/bin/mypy --config-file $(CURDIR)/setup.cfg --cache-dir $(CURDIR)/.mypy_cache -p weighbridge

format: $(VENV)/installed-lint
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/installed-bench
	$(VENV)/bin/python -m pytest benchmarks --benchmark-only $(ARGS)

bench-gpu: $(VENV)/installed-test
	$(VENV)/bin/python benchmarks/gpu/run.py $(ARGS)

tables: $(VENV)/installed-base
	$(VENV)/bin/python benchmarks/render.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks demo-checkpoints

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-base: $(INSTALLED_FROM) | $(VENV)/bin/python
	$(PIP_INSTALL) -e .
	touch $@

# test, lint and bench are extras of setup.cfg; each brings the package's own dependencies as well. Several at once, as
# in `make .venv/installed-lint,test`, take little longer than one.
comma := ,
$(VENV)/installed-%: $(INSTALLED_FROM) | $(VENV)/bin/python
	$(PIP_INSTALL) -e '.[$*]'
	touch $(sort $@ $(addprefix $(VENV)/installed-,$(subst $(comma), ,$*)))
