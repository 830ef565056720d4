# Everything runs in .venv, which is made when it is missing; PYTHON names the Python (3.11 or later) to make it with.
# ARGS goes to the command: make test ARGS="-k ipfix"

PYTHON ?= python3
DEMO ?= 1
bin := .venv/bin
# Tests that measure, or talk to what there is once only: one after the other.
alone := tests/live tests/fuzz tests/test_image.py

.PHONY: run test check bench clean

run: .venv/.run
	$(bin)/flowagent $(if $(filter 0,$(DEMO)),run,demo) $(ARGS)

test: .venv/.dev
	$(bin)/pytest $(ARGS)

check: .venv/.dev
	$(bin)/ruff format --check
	$(bin)/ruff check
	$(bin)/mypy
	$(bin)/pytest --numprocesses 2 --dist loadfile $(addprefix --ignore ,$(alone)) $(ARGS)
	$(bin)/pytest $(alone) $(ARGS)

bench: .venv/.run
	$(bin)/python -m benchmarks $(ARGS)

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.run: pyproject.toml hatch_build.py package-lock.json
	$(PYTHON) -m venv .venv
	$(bin)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/.dev: .venv/.run
	$(bin)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@
