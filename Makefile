# Everything a newcomer runs: `make demo` (install, then short real runs) and `make test` (install, then all tests).
PYTHON ?= python3
ENGINE ?= llama_cpp
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test slow notebooks pictures dashboard history clean help
help:
	@echo "make demo       install and run short real experiments on the embedded model"
	@echo "make test       install and run all tests (make slow: the heavier ones too)"
	@echo "make notebooks  install Jupyter and open the notebooks"
	@echo "make dashboard  open the dashboard;  make history: open the MLflow UI"

demo: $(VENV)/demo
	$(BIN)/lab demo --engine $(ENGINE)

test: $(VENV)/test $(VENV)/browser
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

slow: $(VENV)/scale $(VENV)/browser
	$(BIN)/python -m pytest -m slow

notebooks: $(VENV)/notebooks
	$(BIN)/jupyter lab notebooks

dashboard history: $(VENV)/demo
	$(BIN)/lab $@

# Pictures of the README and the figures inside the notebooks, made from real runs.
pictures: $(VENV)/test $(VENV)/browser $(VENV)/notebooks
	$(BIN)/python -m lab.notebook execute
	$(BIN)/python tests/bench/pictures.py

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "The workbench needs Python 3.11 or newer and '$(PYTHON)' is not; install one and run: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

ifeq ($(ENGINE),scripted)
$(VENV)/demo: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing without llama.cpp (no compiler needed) ..."
	@$(PIP) $$($(BIN)/python -c 'import tomllib; print(*(d.replace(" ", "") for d in tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"] if "llama-cpp" not in d and "llm-" not in d))'
	@$(PIP) --no-deps -e .
else
$(VENV)/demo: $(BIN)/python pyproject.toml constraints.txt | compiler
	@echo "Installing (compiling llama.cpp takes 3 to 7 minutes the first time; pip keeps the result) ..."
	@$(PIP) -e .
	@touch $@
endif

$(VENV)/test: $(VENV)/demo
	@echo "Installing what the tests need ..."
	@$(PIP) -e '.[test,notebooks]'
	@touch $@

# Ray, and a PostgreSQL and an object store of its own for the tests of many machines.
$(VENV)/scale: $(VENV)/test
	@$(PIP) -e '.[test,notebooks,scale]'
	@touch $@

$(VENV)/notebooks: $(VENV)/demo
	@$(PIP) -e '.[notebooks,pictures]'
	@touch $@

# The browser tests drive a Chromium that is there, else Debian's, else the one Playwright brings.
$(VENV)/browser: $(VENV)/test
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || { \
	  echo "Installing Chromium for the browser tests ..."; \
	  { command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } \
	  || $(BIN)/playwright install chromium \
	  || { echo "No Chromium could be installed; install one (Debian: apt-get install chromium) and run make test again."; exit 1; }; }
	@touch $@

.PHONY: compiler
compiler:
	@command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || { \
	  echo "llama.cpp needs a C++ compiler and none is on the PATH; install one (Debian: apt-get install g++), or see the workbench without it: make demo ENGINE=scripted"; exit 1; }
