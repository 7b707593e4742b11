# `make compare` runs the main job, `make lint` the linters.
# `make test` runs the tests, of the exhaustive ones a sample drawn by a seed; `make sweep` runs every case of every test.
# Each makes .venv and installs what it needs there, from the pins in constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt

.PHONY: test-torch test-pytorch test-gpu compare test sweep lint bench mutants replay docs docs-serve clean

compare: $(VENV)/.installed
	$(BIN)/piste compare digits --out piste-compare --fresh --jobs 2 --budget 80s

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2

sweep: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --sweep

# The core suites on another version of torch, in an environment of its own:
#   make test-torch VERSION=2.9.1 [PYTHON=python3.12]
TORCH_VENV = .venv-torch-$(VERSION)
TORCH_PIP = $(TORCH_VENV)/bin/python -m pip --disable-pip-version-check install -q
test-torch:
	@test -n "$(VERSION)" || { echo "Give the version of torch: make test-torch VERSION=2.9.1"; exit 2; }
	test -x $(TORCH_VENV)/bin/python || $(PYTHON) -m venv $(TORCH_VENV)
	$(TORCH_PIP) torch==$(VERSION)
	grep -v "^torch==" constraints.txt > $(TORCH_VENV)/constraints.txt
	$(TORCH_PIP) -c $(TORCH_VENV)/constraints.txt -e ".[test]"
	$(TORCH_VENV)/bin/python -m pytest -n 2 tests/optim tests/losses tests/engine

# PyTorch's own tests of optimizers, schedulers and losses, with Piste's classes in PyTorch's place
test-pytorch: $(VENV)/.installed-dev
	@test -n "$(CHECKOUT)" || { echo "Give a clone of PyTorch: make test-pytorch CHECKOUT=../pytorch"; exit 2; }
	$(BIN)/python -m tests.pytorch $(CHECKOUT)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# torch first and alone: the pin decides which build every later package finds installed.
$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Installing Piste and its requirements into $(VENV) (once, a minute or two) ..."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e ".[compare]"
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e ".[dev]"
	touch $@

mutants: $(VENV)/.installed-dev
	$(BIN)/python -m tests.mutants

# The documentation site in build/site: a page that is missing, a broken link or code that fails ends the build.
docs: $(VENV)/.installed-docs
	$(BIN)/python -m mkdocs build --strict

docs-serve: $(VENV)/.installed-docs
	$(BIN)/python -m mkdocs serve --livereload

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP) -e ".[docs]"
	touch $@

# Compare the source of every kernel with that of another commit: make replay BASE=<commit>
replay: $(VENV)/.installed-dev
	$(BIN)/python -m tests.replay $(BASE)

# On a machine with a GPU: compare every optimizer and loss with the eager backend. Nothing is installed, so no network is
# needed: Python has torch, Triton, Numba and pytest, and is that of .venv if there is one. Nearly all of the time goes into
# compiling kernels, which several processes do at once where pytest-xdist is installed:
#   make test-gpu TESTS="tests/gpu/device -n 8"
# With compute-sanitizer:
#   make test-gpu RUN="compute-sanitizer --error-exitcode 1" TESTS="tests/gpu/device -k 'in_double or losses_and or that_reduce'"
TESTS ?= tests/gpu
test-gpu:
	PYTHONPATH=src:. $(RUN) $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m pytest $(TESTS)

bench: $(VENV)/.installed-dev
	$(BIN)/python -m bench optim

clean:
	rm -rf $(VENV)
