# Everything runs in a virtual environment, $(VENV), made on first use.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help demo ladder bench faults fuzz notebook test clean

help: ## Show this list.
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 16
	@echo "  PYTHON=...    the Python (3.11 or newer) that makes the environment; now $(PYTHON)"

demo: $(VENV)/installed ## Train without and with adaptation on generated data, compare the scores.
	$(RUN) main.py --config=configs/toy.py:source_only --workdir=runs/toy_source_only
	$(RUN) main.py --config=configs/toy.py --workdir=runs/toy
	@$(RUN) -m ass_jax.evaluation.compare_runs runs/toy_source_only runs/toy

ladder: $(VENV)/installed ## Train every variant on generated data, over several seeds; plot the scores.
	$(RUN) -m benchmarks.ladder.train

bench: $(VENV)/installed ## Measure speed and memory, beside PyTorch where it is installed; write docs/performance*.md.
	$(RUN) -m benchmarks.speed.suite

faults: $(VENV)/installed-tests ## Provoke every fault that training survives; measure what happens.
	$(RUN) -m benchmarks.faults.table

fuzz: $(VENV)/installed-tests ## Look for wrong numbers at random sizes, for ten minutes.
	$(RUN) -m benchmarks.parity.fuzz --minutes=10

notebook: $(VENV)/installed-tests ## Run the notebook's cells at a small size.
	$(RUN) -m pytest -q tests/test_notebook.py

test: $(VENV)/installed-tests ## Check the style and run the tests.
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(RUN) -m pytest -q -n 2 --dist worksteal

clean: ## Remove the environment, the caches and the runs of the demo; other runs stay.
	rm -rf $(VENV) .pytest_cache .ruff_cache runs/toy runs/toy_source_only

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing)." >&2; \
	  echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing the libraries into $(VENV), once; this takes a few minutes."

# Stamps: an install that fails half-way is repeated, an unchanged one is not.
$(VENV)/installed: requirements.txt | $(RUN)
	$(RUN) -m pip install --quiet --requirement requirements.txt
	@touch $@

$(VENV)/installed-tests: tests/requirements.txt requirements.txt | $(RUN)
	$(RUN) -m pip install --quiet --requirement tests/requirements.txt
	@touch $@
