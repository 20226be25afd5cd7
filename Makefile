# Each target makes the virtual environment by itself; nothing but Python 3.11 or newer is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo web test check clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[pipeline,serve,dev]"
	@touch $(READY)

demo: $(READY)  ## the main job, small: paint, distil, export, measure
	$(BIN)/distillery run demo --out runs/demo

web: $(READY)  ## onnxruntime-web beside the browser's page, by npm
	$(BIN)/python -m inference.web.fetch

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## the environment and all runs
	rm -rf $(VENV) runs build *.egg-info .mypy_cache .pytest_cache .ruff_cache
