PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test unit chaos browser screenshots mutants bench lint audit format lock wheel clean

help: ## what can be made
	@awk -F ':.*## ' '/^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ To see it work

install: $(STAMP) ## the environment, from the hashed lock file

$(STAMP): requirements-dev.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

demo: install ## the main job, on real servers of its own: 200 leads, one worker killed half-way
	$(BIN)/outbound demo

##@ To test it

# Two test processes, the longest files first: much of the time is waiting for real processes.
TWO := -n 2 --dist loadfile --no-loadscope-reorder

test: install ## every test but the long proofs
	$(BIN)/pytest $(TWO) tests/acceptance tests/browser \
		tests/docs tests/deploy tests/security tests/integration tests/unit

unit: install ## the tests that need nothing, in seconds
	$(BIN)/pytest tests/unit

chaos: install ## faults on the real processes, judged by the carrier's ledger (SEED=, LONG=1)
	-$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r tests/chaos/requirements.txt
	OUTBOUND_CHAOS_ROUNDS=$(or $(ROUNDS),$(if $(LONG),40,1)) $(BIN)/pytest $(if $(LONG),,$(TWO)) \
		tests/chaos/test_each_fault.py tests/chaos/test_every_step.py tests/chaos

browser: install ## the console in a real browser (Debian: apt-get install chromium)
	-$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r tests/browser/requirements.txt
	$(BIN)/pytest tests/browser

screenshots: install ## docs/screenshots/*.png, of real processes at work
	-$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r tests/browser/requirements.txt
	$(BIN)/pytest tests/browser/take_screenshots.py

mutants: install ## for each guard of the protocol, a test fails without it
	$(BIN)/python tests/mutants.py

bench: install ## speed beside references, some 10 minutes on a quiet machine (PART=, SIZES=, QUICK=1)
	-$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r tests/benchmarks/requirements.txt
	PYTHONPATH=tests $(BIN)/python -m benchmarks $(PART) $(SIZES) $(if $(QUICK),--quick)

##@ To work on it

lint: install ## ruff, types, and who may import whom
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests
	$(BIN)/mypy
	$(BIN)/lint-imports

audit: install ## known holes in the locked dependencies; needs the internet, and says so without it
	-$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/python tests/security/dependencies.py

format: install ## put the code in order
	$(BIN)/ruff check --fix src tests
	$(BIN)/ruff format src tests

lock: install ## write the hashed lock files anew
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --generate-hashes --universal --python-version 3.11 --no-emit-index-url --no-header --quiet --output-file requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra embedded --generate-hashes --universal --python-version 3.11 --no-emit-index-url --no-header --quiet --output-file requirements-dev.lock

wheel: install ## dist/outbound-*.whl
	$(BIN)/python -m hatchling build -t wheel

clean: ## take away what was made here
	rm -rf $(VENV) dist build .outbound .pytest_cache .mypy_cache .ruff_cache .hypothesis
