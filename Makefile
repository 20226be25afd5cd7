# Each target makes the virtual environment by itself; nothing but Python 3.11 or newer is needed. With uv on the PATH,
# uv installs, in a tenth of the time.
PYTHON ?=
# Which build of torch: an index, such as https://download.pytorch.org/whl/cpu (default: the one that pip takes, which
# on Linux brings CUDA).
TORCH_INDEX ?=
# Which build of ONNX Runtime: cpu, or gpu for CUDA. They exclude each other: the one that was there makes room.
ORT ?= cpu
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(ORT)
DEMO_READY := $(VENV)/.ready-demo-$(ORT)
UV := $(shell command -v uv 2>/dev/null)

.PHONY: setup lock demo web test check bench gpu clean

setup: $(READY)

ifdef UV
MAKE_VENV = $(UV) venv --quiet --seed $(if $(PYTHON),--python $(PYTHON)) $(VENV)
INSTALL = $(UV) pip install --python $(BIN)/python
UNINSTALL = $(UV) pip uninstall --python $(BIN)/python
else
MAKE_VENV = $(or $(PYTHON),python3) -m venv $(VENV)
INSTALL = $(BIN)/python -m pip install
UNINSTALL = $(BIN)/python -m pip uninstall --yes
endif

ifeq ($(filter $(ORT),cpu gpu),)
$(error ORT is '$(ORT)': it is cpu or gpu)
endif

# The two builds share one folder, and one that is removed takes files of the other along: neither stays.
OTHER_ORT := $(if $(filter gpu,$(ORT)),onnxruntime,onnxruntime_gpu)
MAKE_ROOM = if ls -d $(VENV)/lib/python*/site-packages/$(OTHER_ORT)-*.dist-info >/dev/null 2>&1; then \
	rm -f $(VENV)/.ready* && $(UNINSTALL) onnxruntime onnxruntime-gpu; fi

ifdef TORCH_INDEX
# Another index's torch brings its own CUDA, or none: the lock's, which goes with PyPI's, does not apply.
LOCK := $(VENV)/constraints.txt
TORCH := $(VENV)/.torch-from-$(subst /,-,$(subst :,,$(TORCH_INDEX)))

$(TORCH): constraints.txt | $(BIN)/python
	$(INSTALL) --no-deps --force-reinstall --index-url "$(TORCH_INDEX)" "$$(grep '^torch==' constraints.txt)"
	@rm -f $(VENV)/.torch-from-*
	@touch $@

$(VENV)/constraints.txt: constraints.txt | $(BIN)/python
	@grep -Ev '^(cuda|nvidia|triton)' constraints.txt > $@

else
LOCK := constraints.txt
endif

$(BIN)/python:
	$(MAKE_VENV)

$(DEMO_READY): pyproject.toml $(LOCK) $(TORCH) | $(BIN)/python
	@sed -n 's/^# to download/packages to download/p' constraints.txt
	@$(MAKE_ROOM)
	$(INSTALL) --constraint $(LOCK) --editable ".[pipeline,$(ORT)]"
	@touch $@

$(READY): pyproject.toml $(LOCK) $(TORCH) | $(BIN)/python
	@$(MAKE_ROOM)
	$(INSTALL) --constraint $(LOCK) --editable ".[pipeline,serve,dev,$(ORT)]"
	@touch $(DEMO_READY) $@

lock: | $(BIN)/python  ## constraints.txt anew, after a change of pyproject.toml; UPGRADE=1 raises all versions
	$(if $(UV),,$(BIN)/python -m pip install --quiet uv)
	$(or $(UV),$(BIN)/uv) run --quiet --script lock.py $(if $(UPGRADE),--upgrade)

demo: $(DEMO_READY)  ## the main job, small: paint, distil, export, measure
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

gpu: $(DEMO_READY)  ## what a GPU does at Stable Diffusion's size: ten minutes, the most telling first, into runs/gpu.json
	$(BIN)/python benchmarks/gpu.py

clean:  ## the environment and all runs
	rm -rf $(VENV) runs build *.egg-info .mypy_cache .pytest_cache .ruff_cache
