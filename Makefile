# The commands of the book. Everything happens inside this folder: packages in .venv, outputs in _build.
#
#   make book                                  executes what is stale, builds the website
#   make run P=feddf ARGS="-p alpha=0.01"      one chapter, with another parameter
#
# P names chapters (their folders under papers/, separated by spaces), ARGS is handed on to the press
# (`.venv/bin/python -m book --help`), PYTHON names the interpreter that .venv is made with, T the tests to run and
# PYTEST_ARGS what else pytest is told. Of the faults that tests plant in fedlib and must find, every third has its turn;
# FAULTS=all plants all.
#
# All of these are for the person at the keyboard: make and a shell expand them, and run what a $(...) in them says. A
# program that hands on what others have typed calls `.venv/bin/python -m book` itself, as .github/workflows/full.yml does.

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
PYTHON ?= python3 python3.13 python3.12 python3.11
P ?=
ARGS ?=
T ?= tests
PYTEST_ARGS ?=
FAULTS ?= turn

# Goldens: only cells tagged nbval-check-output are compared, in the kernel of this environment. A notebook is
# one unit of work: --dist loadscope keeps its cells on one worker.
PYTEST := FAULTS=$(FAULTS) OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(PY) -m pytest -q -n auto --dist loadscope \
	--nbval-lax --nbval-current-env --nbval-sanitize-with=tests/golden/sanitize.cfg

export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Some environments forbid Python to keep what it has compiled: then each of the hundreds of processes that import torch
# would compile it anew, for 3 to 8 seconds.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup book test run serve lab real full check bench gpu lint types format site-test zip pdf clean distclean

help:
	@echo "make book        execute every chapter that is stale (profile quick), build the website"
	@echo "make test        run all tests: equations, chapters, press, golden notebooks, website"
	@echo "make run         P=feddf ARGS=\"-p alpha=0.01\"  execute chapters with other parameters"
	@echo "make serve       show the built website on this machine"
	@echo "make zip         the built website as one archive that opens from a file;  make pdf: the book as one PDF"
	@echo "make lab         open JupyterLab in notebooks/, where each chapter is a notebook to run and to change"
	@echo "make real        execute the profile real (real data, no GPU needed), resumable; P= for some chapters"
	@echo "make full        execute the profile full (the paper's scale, wants a GPU), resumable"
	@echo "make check       compare the last quick runs with the committed evidence"
	@echo "make lint        style of code, chapters and workflows;  make types: static types;  make format: mend the style"
	@echo "make site-test   only the tests of the website, in a headless Chromium"
	@echo "make bench       how long a round takes: fedlib against its peers (12 minutes; nothing else should run)"
	@echo "make gpu         is the engine right on this GPU, and how fast; ARGS=\"--device cpu\" rehearses (90 seconds)"
	@echo "make clean       remove caches and the website; ARGS=--all removes executed chapters, too"
	@echo "make distclean   the same, and .venv"
	@echo
	@echo "All but help, gpu and clean first make .venv from requirements.txt, once."

# The stamp holds a checksum of what was installed, so that a checkout, which touches time stamps, installs nothing.
# It is written last: an interrupted installation is taken up again by the next call. Modules are compiled when they are
# imported: of 16,000 files few ever are.
setup:
	@want=`cat requirements.txt pyproject.toml | cksum`; \
	if test -x $(PY) && test "$$want" = "`cat $(STAMP) 2>/dev/null`"; then exit 0; fi; \
	if ! $(PY) -m pip --version >/dev/null 2>&1; then \
	  python=; tried=; \
	  for name in $(PYTHON); do \
	    if found=`command -v $$name 2>/dev/null` && \
	       "$$found" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	    then python="$$found"; break; fi; \
	    tried="$$tried $$name (`$$name --version 2>&1 | head -n 1`)"; \
	  done; \
	  if test -z "$$python"; then \
	    echo "make: Python 3.11 or newer is needed, none found among:$$tried." >&2; \
	    echo "Install it, or name it: make PYTHON=/path/to/python3.12 book" >&2; exit 1; \
	  fi; \
	  echo "Making $(VENV) with `"$$python" --version` ($$python)"; \
	  "$$python" -m venv --clear $(VENV) || { \
	    echo "make: no virtual environment could be made. On Debian and Ubuntu: apt-get install python3-venv" >&2; \
	    exit 1; }; \
	fi; \
	echo "Installing requirements.txt (a minute or more, by the network)"; \
	$(PY) -m pip install -qq --no-compile -r requirements.txt && \
	$(PY) -m pip install -qq --no-deps --no-build-isolation -e . && \
	echo "$$want" > $(STAMP) || { \
	  echo "make: the installation did not finish; see the message above. The next call goes on from here." >&2; exit 1; }

book: setup
	@$(PY) -m book run $(ARGS)
	@$(PY) -m book build

run: setup
	@$(PY) -m book run $(P) $(ARGS)

real full: setup
	@$(PY) -m book run $(P) --profile $@ $(ARGS)

serve: setup
	@$(PY) -m book serve $(ARGS)

zip pdf: setup
	@$(PY) -m book run
	@$(PY) -m book build
	@$(PY) -m book $@

check: setup
	@$(PY) -m book check $(ARGS)

bench: setup
	@$(PY) -m benchmarks run $(ARGS)

# A machine with a GPU may have no network: without .venv its own Python is taken, and nothing is installed.
gpu:
	@if test -x $(PY); then $(PY) -m benchmarks gpu $(ARGS); else python3 -m benchmarks gpu $(ARGS); fi

# Chapters as notebooks lie in notebooks/: what a reader has run or changed there is kept, the rest is written anew.
# JUPYTER_CONFIG_PATH adds .jupyter of this folder to the user's own settings, and changes nothing there.
lab: setup
	@$(PY) -m book edition --into notebooks
	@JUPYTER_CONFIG_PATH="$(CURDIR)/.jupyter" $(VENV)/bin/jupyter-lab --notebook-dir=. \
	  --LabApp.default_url=/lab/tree/notebooks $(ARGS)

# Golden notebooks need nothing built; tests of evidence and of the website need both commands before them.
test: setup
	@$(PY) -m book run
	@$(PY) -m book build
	@$(PYTEST) $(T) $(PYTEST_ARGS)

site-test: setup
	@$(PY) -m book run
	@$(PY) -m book build
	@$(PYTEST) tests/site $(PYTEST_ARGS)

lint: setup
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m book.lint
	@if test -x $(VENV)/bin/actionlint; then $(VENV)/bin/actionlint; \
	elif command -v actionlint >/dev/null; then actionlint; \
	else echo "actionlint is not installed: .github/workflows were not checked"; fi

types: setup
	@$(PY) -m mypy

format: setup
	@$(PY) -m ruff check --fix -q . ; $(PY) -m ruff format . && $(PY) -m book.lint --format

# The press keeps executed chapters and partial results unless told --all: they may be hours of work.
clean:
	@rm -rf build fedlib.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find benchmarks book fedlib papers tests -name __pycache__ -type d -prune -exec rm -rf {} +
	@if test -x $(PY); then $(PY) -m book clean $(ARGS); fi

distclean: clean
	@rm -rf $(VENV)
