# `make demo` and `make test` do all the set-up they need in .venv.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
CONFIG ?= configs/quadratic_lstm.yaml
# Further options of the demo's training, such as ARGS="--trainer.max_epochs 1"
ARGS ?=

.PHONY: install demo test test-slow lint format bench docs clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

demo: install  ## train an LSTM optimizer on quadratics, then compare it on problems nobody trained on
	$(BIN)/l2l fit --config $(CONFIG) $(ARGS)
	$(BIN)/l2l test --config $(CONFIG) --ckpt_path best

test: install
	$(BIN)/python -m pytest

test-slow: install  ## the experiments behind the README's numbers, some 20 minutes
	$(BIN)/python -m pytest -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install  ## inner steps a second and peak memory beside a plain loop
	$(BIN)/python -m benchmarks

docs: install  ## the site, in site/
	$(BIN)/python -m mkdocs build --strict

clean:
	rm -rf .venv build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
