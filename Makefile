# `make train` runs the embedded example and `make test` runs the tests. Both set up .venv first.

PYTHON ?= python3
SEED ?= 1
PIP := .venv/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: help train test torture lint clean

help:
	@echo "make train   distil the embedded student on a CPU in minutes; writes runs/math_tiny"
	@echo "make test    run the tests; make test ARGS=\"-m slow\" runs the long ones"
	@echo "make torture kill a run 20 times and compare it, to the bit; make torture SEED=2"
	@echo "make lint    check the code and its format with ruff"
	@echo "make clean   remove .venv and caches; keep runs/"

train: .venv/installed
	@echo "== training the embedded student: python -m gopd_jax.train --config=configs/math.py"
	@JAX_PLATFORMS=$${JAX_PLATFORMS:-cpu} .venv/bin/python -m gopd_jax.train --config=configs/math.py
	@echo "== results: runs/math_tiny (summary.json, curves.png, metrics.jsonl, samples.jsonl)"

test: .venv/installed-tests
	@echo "== running the tests: pytest $(ARGS)"
	@JAX_PLATFORMS=cpu .venv/bin/python -m pytest -n 2 --dist worksteal $(ARGS)
	@echo "== tests passed; long ones: make test ARGS=\"-m slow\""

torture: .venv/installed-tests
	@echo "== killing a run 20 times: python -m tests.torture --seed=$(SEED) $(ARGS)"
	@JAX_PLATFORMS=cpu .venv/bin/python -m tests.torture --seed=$(SEED) $(ARGS)

lint: .venv/installed-tests
	@.venv/bin/ruff check . && .venv/bin/ruff format --check .

clean:
	rm -rf .venv .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "gopd_jax needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Try: make PYTHON=python3.12 train"; exit 1; }
	@echo "== making .venv with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv .venv

.venv/installed: requirements.txt | .venv/bin/python
	@echo "== installing requirements.txt into .venv"
	@$(PIP) -r requirements.txt
	@touch $@

.venv/installed-tests: requirements.txt tests/requirements.txt | .venv/bin/python
	@echo "== installing tests/requirements.txt into .venv"
	@$(PIP) -r tests/requirements.txt
	@touch $@
