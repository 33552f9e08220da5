# Everything runs in a virtual environment, $(VENV), made on first use.

PYTHON ?= python3
VENV := .venv
# Of `make real`: the clone of CamVid, and further settings of its runs.
CAMVID := datasets/camvid
SETTINGS :=
RUN := $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help demo real ladder bench faults fuzz notebook test lint constraints clean

help: ## Print this list.
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 20
	@echo "  CAMVID=...        the folder of CamVid for make real; now $(CAMVID)"
	@echo "  SETTINGS=...      settings of its runs, as --config.KEY=VALUE"
	@echo "  PYTHON=...        the Python (3.11 or newer) that makes the environment; now $(PYTHON)"

demo: $(VENV)/installed ## Train on generated data without and with adaptation; compare the scores.
	$(RUN) main.py --config=configs/toy.py:source_only --workdir=runs/toy_source_only
	$(RUN) main.py --config=configs/toy.py --workdir=runs/toy
	@$(RUN) -m ass_jax.evaluation.compare_runs runs/toy_source_only runs/toy

real: REAL = --config.data.source_root="$(CAMVID)" --config.data.target_root="$(CAMVID)" $(SETTINGS)
real: $(VENV)/installed-real ## Train on CamVid, day to dusk, without and with adaptation; compare the scores.
	$(RUN) main.py --config=configs/camvid.py:source_only --workdir=runs/camvid_source_only $(REAL)
	$(RUN) main.py --config=configs/camvid.py:ass_plus --workdir=runs/camvid_plus $(REAL)
	@$(RUN) -m ass_jax.evaluation.compare_runs runs/camvid_source_only runs/camvid_plus

ladder: $(VENV)/installed ## Train every variant on generated data with several seeds; plot the scores.
	$(RUN) -m benchmarks.ladder.train

bench: $(VENV)/installed ## Measure speed and memory, also of PyTorch if it is installed; write the report.
	$(RUN) -m benchmarks.speed.suite

faults: $(VENV)/installed-tests ## Provoke every fault that training survives and measure the result.
	$(RUN) -m benchmarks.faults.table

fuzz: $(VENV)/installed-tests ## Search for wrong numbers at random sizes for ten minutes.
	$(RUN) -m benchmarks.parity.fuzz --minutes=10

notebook: $(VENV)/installed-tests ## Run the notebook's cells at a small size.
	$(RUN) -m pytest -q tests/test_notebook.py

test: lint ## Check style and types, and run the tests.
	$(RUN) -m pytest -q -n 2 --dist worksteal

lint: $(VENV)/installed-tests ## Check style and types.
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

constraints: ## Write the newest versions that install together to constraints.txt.
	$(PYTHON) -m venv --clear $(VENV)-new
	$(VENV)-new/bin/python -m pip install --quiet --editable ".[tests]"
	{ sed '/^[^#]/,$$d' constraints.txt; \
	  $(VENV)-new/bin/python -m pip freeze --exclude-editable | \
	  awk '{ print } /^tensorflow.cpu==/ { sub(/.cpu/, ""); print }'; } > constraints.new
	mv constraints.new constraints.txt
	rm -r $(VENV)-new

clean: ## Remove the environment, the caches and the runs of the demo; other runs stay.
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache runs/toy runs/toy_source_only

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing)." >&2; \
	  echo "Choose another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing the libraries into $(VENV), once; this takes a few minutes."

# Stamp files: a failed installation is repeated, an unchanged one is not.
REQUIREMENTS := pyproject.toml requirements.txt constraints.txt

$(VENV)/installed: $(REQUIREMENTS) | $(RUN)
	$(RUN) -m pip install --quiet --editable . --constraint constraints.txt
	@touch $@

$(VENV)/installed-real: $(REQUIREMENTS) | $(RUN)
	$(RUN) -m pip install --quiet --editable ".[efficientnet]" --constraint constraints.txt
	@touch $@

$(VENV)/installed-tests: $(REQUIREMENTS) | $(RUN)
	$(RUN) -m pip install --quiet --editable ".[tests]" --constraint constraints.txt
	@touch $@
