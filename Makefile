# Two commands: `make demo` trains and shows a result, `make test` runs the tests. Both make their own .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# `accelerate launch` gives a process one thread unless told otherwise.
CORES := $(shell getconf _NPROCESSORS_ONLN)
# Without these glibc hands large blocks back when they are freed, and each step faults them in again (recipes/README.md).
export MALLOC_MMAP_THRESHOLD_ ?= 1073741824
export MALLOC_TRIM_THRESHOLD_ ?= 8589934592
export THP_MEM_ALLOC_ENABLE ?= 1

.PHONY: demo test test-slow lint clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

data/streets: | $(VENV)/installed
	$(BIN)/python scripts/prepare_dataset.py streets $@

demo: $(VENV)/installed data/streets
	$(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
		--num_cpu_threads_per_process $(CORES) scripts/train.py recipes/demo.yaml --overwrite_output_dir true

test: $(VENV)/installed
	$(BIN)/python -m pytest -q

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -q -rP -m slow

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) data runs
