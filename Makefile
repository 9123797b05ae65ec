# `make demo` and `make test` do all the set-up they need in .venv.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
CONFIG ?= configs/quadratic_lstm.yaml
# Further options of the demo's training, such as ARGS="--trainer.max_epochs 1"
ARGS ?=

.PHONY: install demo test test-slow test-reliability lint format bench docs audit clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

demo: install  ## train an LSTM optimizer on quadratics, then compare it on problems nobody trained on
	$(BIN)/l2l fit --config $(CONFIG) $(ARGS)
	$(BIN)/l2l test --config $(CONFIG) --ckpt_path best

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

test-slow: install  ## the experiments behind the README's numbers, some 20 minutes
	$(BIN)/python -m pytest -m slow

test-reliability: install  ## kills, full disks, lost processes, strangers' files and bad configurations in full numbers
	L2L_RELIABILITY=full OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "slow or not slow" tests/reliability --timeout 7200

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

# An environment of its own, for its dependencies are not the project's. --strict: what the service does not know is no
# success, as where the network leads to a mirror without advisories.
audit:  ## known vulnerabilities of the versions in constraints.txt; needs a network that reaches PyPI's advisories
	test -x .audit/bin/pip-audit || { $(PYTHON) -m venv .audit && .audit/bin/pip install --quiet pip-audit; }
	@.audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r constraints.txt >.audit/report 2>&1; \
	status=$$?; cat .audit/report; \
	if grep -qE "could not be audited|ConnectionError|ServiceError|Max retries" .audit/report; then \
		echo "audit: the service with the advisories cannot be reached from here; nothing was found out."; \
	fi; exit $$status

clean:
	rm -rf .venv .audit build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
