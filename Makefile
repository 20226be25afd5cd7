# Each target makes the virtual environment by itself; nothing but Python 3.11 or newer is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo web test check bench clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[pipeline,serve,dev]"
	@touch $(READY)

demo: $(READY)  ## the main job, small: paint, distil, export, measure
	$(BIN)/distillery run demo --out runs/demo

web: $(READY)  ## onnxruntime-web beside the browser's page, by npm
	$(BIN)/python -m inference.server.web.fetch

test: $(READY)  ## without network or GPU, in up to four processes
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadgroup --durations 20

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

RUN := runs/demo
bench: $(READY)  ## what all of it costs beside its peers, with the models of RUN (make demo, or another run): 40 minutes
	test -f $(RUN)/model.onnx || $(MAKE) demo
	$(BIN)/distillery export $(RUN) --format onnx,torchscript,pt2 --precision float32,float16,int8
	$(BIN)/python benchmarks/scoring.py
	$(BIN)/python benchmarks/training.py --batch-size 4
	$(BIN)/python benchmarks/painting.py
	$(BIN)/python benchmarks/reading.py
	$(BIN)/python benchmarks/exported.py $(RUN)
	$(BIN)/python benchmarks/fidelity.py $(RUN)
	$(BIN)/python benchmarks/serving.py $(RUN)/model.onnx

clean:  ## the environment and all runs
	rm -rf $(VENV) runs build *.egg-info .mypy_cache .pytest_cache .ruff_cache
