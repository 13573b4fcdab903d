# prodrome: the few commands of a checkout. `make` alone explains them.

PYTHON ?= python3
BIN := .venv/bin
UV := $(or $(wildcard .venv/bin/uv),uv)
CONTAINERS := receive relay bridge exporter stage deidentify score
PEERS := dcmtk dicom3tools prometheus strace
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-parts check bench bench-deid bench-receive bench-s3 bench-scoring chaos chaos-receive fuzz fuzz-deid peers docs release lock clean python-3.11 java-17

help: ## Show this
	@echo "prodrome: DICOM in, risk predictions out. Targets:"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22
	@echo
	@echo "First time: make demo. Everything stays in .venv/ (programs) and .prodrome/ (jars, data, logs);"
	@echo "the command is $(BIN)/prodrome, and \`$(BIN)/prodrome down\` stops what a demo started."
	@echo "After a change: make check while you work (seconds), make test before you commit (minutes)."

setup: .venv/stamp ## Make .venv with the locked dependencies and the command prodrome; quick when nothing changed

demo: setup java-17 ## Start everything on this machine and follow two synthetic exams to their predictions
	$(BIN)/prodrome demo

test: setup java-17 ## Check, then all tests, with real Kafka and Cassandra
	@# Two lanes, of which each waits for real parts much of the time: what needs the whole system, and all else.
	@log=$$(mktemp); $(BIN)/python -m infra.stack.gateway & build=$$!; \
	setsid $(MAKE) --no-print-directory test-parts >$$log 2>&1 & parts=$$!; \
	stop="kill -- -$$parts; kill $$build; rm -f $$log"; trap "$$stop; exit 1" INT TERM; \
	$(MAKE) --no-print-directory check || { eval "$$stop"; exit 1; }; \
	$(BIN)/pytest -m house tests/system --durations=20; system=$$?; \
	wait $$parts; rest=$$?; cat $$log; rm -f $$log; exit $$((system ? system : rest))

test-parts:
	@nice $(BIN)/pytest tests/unit --durations=10; unit=$$?; \
	$(BIN)/pytest -m 'not house' tests/integration tests/contract tests/system --durations=20; rest=$$?; exit $$((unit ? unit : rest))

check: setup ## Format, lint, types and import rules; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup java-17 ## Measure on this machine, beside the figures to reach
	$(BIN)/prodrome bench --quick

bench-deid: setup ## De-identification beside other tools, which it installs for itself: some minutes
	$(BIN)/prodrome bench-deid

bench-receive: setup ## The DICOM door beside DCMTK and pynetdicom, in pairs: half an hour
	$(BIN)/prodrome bench-receive

bench-s3: setup java-17 ## The S3 door beside a plain loop, a backfill beside live images: a quarter of an hour
	$(BIN)/prodrome bench-s3

bench-scoring: setup java-17 ## Scoring beside the bare runtime, preparation, batches, time to the answer: ten minutes
	$(BIN)/prodrome bench-scoring

chaos: setup java-17 ## Break everything in turn under load, full counts: hours; SCALE=0.1 for a tenth, ONLY=f6 for a row
	PRODROME_CHAOS_SCALE=$(or $(SCALE),1) $(BIN)/pytest -m chaos -rP $(if $(ONLY),-k "$(ONLY)") tests/system/chaos

chaos-receive: setup ## The same for the door alone, an hour and a half; SCALE=0.1 for a tenth
	PRODROME_CHAOS_SCALE=$(or $(SCALE),1) $(BIN)/pytest -m chaos -rP \
		$(addprefix tests/system/chaos/test_,fault_door.py attacks.py sync_order.py)

fuzz: setup ## The PDU path under streams that nobody would send, an hour; SECONDS=60 for less
	PRODROME_FUZZ_SECONDS=$(or $(SECONDS),3600) $(BIN)/pytest -rP --timeout=0 tests/unit/receiver/test_fuzz.py

fuzz-deid: setup ## De-identification under datasets that nobody would send, an hour; SECONDS=60 for less
	PRODROME_FUZZ_SECONDS=$(or $(SECONDS),3600) $(BIN)/pytest -rP --timeout=0 tests/unit/deid/test_deid_fuzz.py

peers: ## Install what tests talk to or work with (Debian, as root): dcmtk, dicom3tools, prometheus, strace
	@if command -v dcmsend >/dev/null && command -v dciodvfy >/dev/null && command -v prometheus >/dev/null \
	&& command -v strace >/dev/null; then exit 0; \
	elif [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq $(PEERS); \
	else echo "peers of the tests are missing: sudo apt-get install $(PEERS)" >&2; exit 2; fi

docs: setup ## Write the generated pages of docs/ and the JSON Schemas anew
	$(BIN)/python -m schemas.generate
	$(BIN)/python -m commands.docs
	$(BIN)/python -m infra.monitoring.generate
	$(BIN)/python -m commands.deploy

release: setup ## Freeze the contract of this version in schemas/releases, once a version
	$(BIN)/python -m schemas.release

lock: setup ## Write requirements.lock and those of the containers anew from pyproject.toml, versions kept where they may be
	@command -v $(UV) >/dev/null || { echo "uv is missing: $(BIN)/pip install uv" >&2; exit 2; }
	$(UV) pip compile pyproject.toml --extra dev --generate-hashes --no-emit-index-url --no-header \
	    --universal --quiet --output-file requirements.lock
	for role in $(CONTAINERS); do \
	  $(UV) pip compile --group pyproject.toml:$$role --constraint requirements.lock --generate-hashes \
	    --no-emit-index-url --no-annotate --no-header --python-platform linux --python-version 3.11 --quiet \
	    --output-file infra/deploy/requirements/$$role.lock || exit 1; done
	$(UV) pip compile pyproject.toml --constraint requirements.lock --generate-hashes \
	    --no-emit-index-url --no-annotate --no-header --python-platform linux --python-version 3.11 --quiet \
	    --output-file infra/deploy/requirements/operator.lock

clean: ## Remove .venv, caches and build products; jars and data under .prodrome/ stay
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The lock holds setuptools too, so that building the project itself downloads nothing that is not locked.
.venv/stamp: requirements.lock pyproject.toml | python-3.11
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@

python-3.11:
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	echo "Python 3.11 or later is missing (or its venv): apt-get install python3-venv, or set PYTHON" >&2; exit 2; }

java-17:
	@[ -x "$$JAVA_HOME/bin/java" ] || command -v java >/dev/null || ls /usr/lib/jvm/java-17-*/bin/java >/dev/null 2>&1 || { \
	echo "Java 17 is missing: apt-get install openjdk-17-jdk-headless, or set JAVA_HOME" >&2; exit 2; }
	@command -v mvn >/dev/null || [ -d .prodrome/lib/cassandra ] || { \
	echo "Maven is missing (it fetches Kafka and Cassandra): apt-get install maven" >&2; exit 2; }
