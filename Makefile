# make bench [SUITE=quickstart]   set up if needed, run the suite, write its report
# make report SUITE=...           the report of what has run
# make picture SUITE=peft-vs-full   the README's picture, from a real run
# make perf                       tunebench against plain scripts, side by side (over an hour, nothing beside it)
# make museum                     known regressions of libraries, found again
# make drift                      docs/drift.md: which releases of the libraries change what is computed
# make test-fast                  tests that load no model and start no process
# make test | test-all | lint     the first use of any of these makes .venv
SUITE ?= quickstart
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: bench report picture perf museum drift test test-fast test-all fetched lint setup clean
.DEFAULT_GOAL := bench

bench: $(STAMP)
	@$(BIN)/tunebench run $(SUITE) --no-answer; status=$$?; \
	if [ $$status -ne 2 ]; then $(BIN)/tunebench report $(SUITE) || exit $$?; fi; exit $$status

report: $(STAMP)
	@$(BIN)/tunebench report $(SUITE)

picture: bench
	$(BIN)/python docs/picture.py reports/$(SUITE)/index.html docs/report.png

# Steps, a suite, scoring, overhead and growth against plain scripts; writes docs/performance.md.
perf: fetched
	$(BIN)/python benchmarks/perf.py --write

# Faults of released libraries that `tunebench regress` has to find again; installs old versions from the index.
museum: $(STAMP)
	$(BIN)/python benchmarks/museum.py

# Probes the last releases of peft, transformers, trl, setfit, bitsandbytes and accelerate; installs them from the index.
drift: $(STAMP)
	$(BIN)/python benchmarks/drift.py

test-fast: $(STAMP)
	$(BIN)/python -m pytest --fast -n 3 --dist worksteal

test: fetched
	$(BIN)/python -m pytest -m "not slow" -n 3 --dist worksteal

test-all: fetched
	$(BIN)/python -m pytest -n 3 --dist worksteal

# What the tests on the real model need; the tests themselves use no network.
fetched: $(STAMP)
	@$(BIN)/tunebench fetch peft-vs-full
	@$(BIN)/tunebench fetch tests/shipped-tasks.yaml

lint: $(STAMP)
	$(BIN)/pre-commit run --all-files

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"Python 3.11 or newer is needed, this is {sys.version}"'
	$(PYTHON) -m venv $(VENV)
	@# torch first: with its pin in place, no other package asks for a newer one
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
