# `make train` runs the embedded example and `make test` runs the tests. Both set up .venv first,
# with the exact versions of requirements.lock.

PYTHON ?= python3
SEED ?= 1
DEVICE ?=
PIP := .venv/bin/python -m pip --quiet --quiet --disable-pip-version-check --no-input
INSTALL := $(PIP) install --progress-bar off --constraint requirements.lock
LOCK := build/lock/bin/python -m pip --quiet --quiet --disable-pip-version-check --no-input
# What pip brings by itself, or torch for a GPU that the tests do not use.
UNLOCKED := '^(pip|triton|nvidia-.*|cuda-.*)=='

.PHONY: help train test faults torture lint lock clean

# Which JAX `make train` installs, what JAX_PLATFORMS becomes, and why.
ifneq ($(filter train,$(MAKECMDGOALS)),)
PICKED := $(shell scripts/device.sh "$(DEVICE)")
ifeq ($(PICKED),)
$(error no device to train on)
endif
JAX := $(firstword $(PICKED))
PLATFORMS := $(word 2,$(PICKED))
REASON := $(wordlist 3,99,$(PICKED))
endif

# JAX passes over a GPU that it cannot see and takes the CPU; that must not go unnoticed.
FOUND := import jax, sys; sys.exit(jax.default_backend() == "cpu" and \
	"error: $(JAX): JAX found only the CPU; expected a working driver, or DEVICE=cpu")

help:
	@echo "make train   distil the embedded student in minutes; writes runs/math_tiny"
	@echo "             DEVICE=cpu|cuda|cuda12|cuda13|tpu; without it, what the machine has"
	@echo "make test    run the tests on the CPU; make test ARGS=\"-m slow\" runs the long ones"
	@echo "make faults  run the tests of docs/reliability.md; make faults ARGS=--slow runs all of them"
	@echo "make torture kill a run 20 times and compare it, to the bit; make torture SEED=2"
	@echo "make lint    check the code and its format with ruff"
	@echo "make lock    write the newest allowed versions to requirements.lock"
	@echo "make clean   remove .venv and caches; keep runs/"

train: .venv/installed-$(JAX)
	@echo "== device: $(JAX) ($(REASON))"
	@$(if $(filter-out cpu,$(JAX)),JAX_PLATFORMS=$(PLATFORMS) .venv/bin/python -c '$(FOUND)')
	@echo "== training the embedded student: python -m gopd_jax.train --config=configs/math.py"
	@JAX_PLATFORMS=$(PLATFORMS) .venv/bin/python -m gopd_jax.train --config=configs/math.py
	@echo "== results: runs/math_tiny (summary.json, curves.png, metrics.jsonl, samples.jsonl)"

test: .venv/installed-tests
	@echo "== running the tests: pytest $(ARGS)"
	@JAX_PLATFORMS=cpu .venv/bin/python -m pytest -n 2 --dist worksteal $(ARGS)
	@echo "== tests passed; long ones: make test ARGS=\"-m slow\""

faults: .venv/installed-tests
	@JAX_PLATFORMS=cpu .venv/bin/python -m tests.faults $(ARGS)

torture: .venv/installed-tests
	@echo "== killing a run 20 times: python -m tests.torture --seed=$(SEED) $(ARGS)"
	@JAX_PLATFORMS=cpu .venv/bin/python -m tests.torture --seed=$(SEED) $(ARGS)

lint: .venv/installed-tests
	@.venv/bin/ruff check . && .venv/bin/ruff format --check .

# Afterwards: make test, and commit the file with what it changes.
lock:
	@rm -rf build/lock && $(PYTHON) -m venv build/lock
	@$(LOCK) install --progress-bar off -r tests/requirements.txt
	@$(LOCK) freeze --all > build/lock/pins
	@{ sed -n '/^#/p' requirements.lock; grep -Ev $(UNLOCKED) build/lock/pins | sed 's/+cpu$$//'; } \
		> build/lock/new
	@mv build/lock/new requirements.lock && rm -rf build/lock
	@echo "== wrote requirements.lock; now run make test"

clean:
	rm -rf .venv .pytest_cache .ruff_cache build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "gopd_jax needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Try: make PYTHON=python3.12 train"; exit 1; }
	@echo "== making .venv with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv .venv

.venv/installed-cpu: requirements.txt requirements.lock | .venv/bin/python
	@echo "== installing requirements.txt into .venv"
	@$(INSTALL) -r requirements.txt
	@touch $@

# JAX loads one CUDA plugin, so that of another CUDA is removed first.
.venv/installed-cuda12 .venv/installed-cuda13: requirements.txt requirements.lock | .venv/bin/python
	@echo "== installing requirements.txt and $(@:.venv/installed-%=jax[%]) into .venv: some GB"
	@rm -f .venv/installed-cuda12 .venv/installed-cuda13
	@$(PIP) uninstall --yes jax-cuda12-plugin jax-cuda12-pjrt jax-cuda13-plugin jax-cuda13-pjrt
	@$(INSTALL) -r requirements.txt "$(@:.venv/installed-%=jax[%])"
	@touch $@

.venv/installed-tpu: requirements.txt requirements.lock | .venv/bin/python
	@echo "== installing requirements.txt, jax[tpu] and gcsfs into .venv"
	@$(INSTALL) -r requirements.txt "jax[tpu]" gcsfs
	@touch $@

.venv/installed-tests: requirements.lock requirements.txt tests/requirements.txt | .venv/bin/python
	@echo "== installing tests/requirements.txt into .venv"
	@$(INSTALL) -r tests/requirements.txt
	@touch $@
