# Everything a newcomer and CI need: `make talk` and `make test` set up one environment by themselves, once.
#
# Where packages come from is pip's business: PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS and pip.conf are honoured
# as they are. On Linux plain PyPI has torch with CUDA (gigabytes); point pip at PyTorch's CPU wheels to save them.

PYTHON ?= python3
VENV := .venv
ARGS ?=
# of the second benchmark: its cases are not those of the first
TRAINING_ARGS ?= $(filter --quick,$(ARGS))

# Each worker has torch in memory, hence no more than four.
WORKERS := -n logical --maxprocesses 4

BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help talk test slow lint format benchmark tiny bundle clean

help:  ## Show this list
	@echo "make talk and make test are all you need. Python 3.11 or newer: make PYTHON=python3.12 talk takes another one."
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

talk: $(READY)  ## Answer the bundled spoken question: text here, speech in answer.wav, its picture in answer.png
	@$(BIN)/flow-omni ask flow_omni/assets/question.wav --output answer.wav --picture answer.png $(ARGS)

test: $(READY)  ## Run the tests (ARGS="-k vocoder" for some of them)
	$(BIN)/python -m pytest $(WORKERS) $(ARGS)

slow: $(READY)  ## Run all tests, the slow ones too
	$(BIN)/python -m pytest $(WORKERS) -m "" $(ARGS)

lint: $(READY)  ## Check style with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)  ## Let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(READY)  ## Measure speed and memory on this machine (ARGS="--quick" for the tiny model only)
	$(BIN)/python benchmarks/speed.py $(ARGS)
	$(BIN)/python benchmarks/training.py $(TRAINING_ARGS)

# The bundled checkpoint from nothing, each file from those it is made of: stopped, `make tiny` goes on where it was, and
# `make -j2 tiny` trains two parts at a time. One thread a process: two would wait for each other wherever anything else runs.
# `make tiny DATA=data/tinytalk_zh RUNS=runs/tiny_zh CORPUS="--language zh"` makes one that speaks Mandarin, and
# `make tiny DATA=data/tinytalk_people RUNS=runs/tiny_people CORPUS="--more-people piper:en_US-joe-medium"` one that has met
# one person more (docs/training.md).
# Where recipes have changed since a run was finished, it stays as it is: name another folder for RUNS.
DATA := data/tinytalk
RUNS := runs/tiny
CORPUS :=
TRAIN := OMP_NUM_THREADS=1 $(BIN)/flow-omni train
TRAIN_TWO := OMP_NUM_THREADS=1 $(BIN)/torchrun --standalone --nproc_per_node 2 -m flow_omni.training

tiny: $(RUNS)/settle/model.safetensors  ## Train the checkpoint that the package brings: speech, parts, all stages (hours)

PREPARE := $(BIN)/flow-omni prepare tinytalk $(DATA) --text-rows 300000 $(CORPUS)

# its last file
$(DATA)/words.txt: | $(READY)
	$(PREPARE)

# a corpus that is older than these parts of it goes on; one of them stands for all, lest they be made twice at a time
$(DATA)/answered_train.jsonl: | $(DATA)/words.txt
	$(PREPARE)

$(DATA)/asked_train.jsonl $(DATA)/said_train.jsonl: | $(DATA)/answered_train.jsonl ;

$(RUNS)/recognise/model.safetensors: $(DATA)/words.txt
	$(TRAIN) tiny/recognise data.train=$(DATA)/train.jsonl data.eval=$(DATA)/validation.jsonl training.output_dir=$(@D)

$(RUNS)/language/model.safetensors: $(DATA)/words.txt
	$(TRAIN) tiny/language data.train=$(DATA)/heard_text_train.jsonl data.eval=$(DATA)/heard_text_validation.jsonl \
	    training.output_dir=$(@D)

$(RUNS)/vocoder/model.safetensors: $(DATA)/words.txt
	$(TRAIN) tiny/vocoder data.train=$(DATA)/train.jsonl training.output_dir=$(@D)

$(RUNS)/parts/model.safetensors: $(foreach part,recognise language vocoder,$(RUNS)/$(part)/model.safetensors)
	$(BIN)/flow-omni init --whisper $(RUNS)/recognise/whisper --llm $(RUNS)/language --vocoder $(RUNS)/vocoder \
	    --speech-config num_hidden_layers=4 --speech-config speech_delay=6 --speech-config num_noise_draws=2 \
	    --speech-config patch_noise=1.0 --speech-config patch_dropout=1.0 --speech-config clean_context=false \
	    --config adapter_stack_size=2 --config audio_blank_token_id=95 --overwrite --output $(@D)

$(RUNS)/align/model.safetensors: $(RUNS)/parts/model.safetensors
	$(TRAIN_TWO) tiny/align model=$(<D) data.train=$(DATA)/train.jsonl data.eval=$(DATA)/validation.jsonl training.output_dir=$(@D)

$(RUNS)/finetune/model.safetensors: $(RUNS)/align/model.safetensors
	$(TRAIN_TWO) tiny/finetune model=$(<D) data.eval=$(DATA)/validation.jsonl training.output_dir=$(@D) \
	    'data.train={$(DATA)/train.jsonl: 1, $(DATA)/train_words.jsonl: 0.6, $(DATA)/text_train.jsonl: 0.2, $(DATA)/text_sums.jsonl: 0.4}'

$(RUNS)/understand/model.safetensors: $(RUNS)/finetune/model.safetensors | $(DATA)/asked_train.jsonl $(DATA)/answered_train.jsonl
	$(TRAIN_TWO) tiny/understand model=$(<D) data.eval=$(DATA)/validation.jsonl training.output_dir=$(@D) \
	    'data.train={$(DATA)/train.jsonl: 0.8, $(DATA)/asked_train.jsonl: 1, $(DATA)/answered_train.jsonl: 1, $(DATA)/text_train.jsonl: 0.15, $(DATA)/text_sums.jsonl: 0.2}'

$(RUNS)/speak/model.safetensors: $(RUNS)/understand/model.safetensors | $(DATA)/said_train.jsonl
	$(TRAIN_TWO) tiny/speak model=$(<D) data.eval=$(DATA)/validation.jsonl training.output_dir=$(@D) \
	    'data.train={$(DATA)/train.jsonl: 0.5, $(DATA)/train_words.jsonl: 0.6, $(DATA)/said_train.jsonl: 1}'

$(RUNS)/settle/model.safetensors: $(RUNS)/speak/model.safetensors
	$(TRAIN_TWO) tiny/settle model=$(<D) data.eval=$(DATA)/validation.jsonl training.output_dir=$(@D) \
	    'data.train={$(DATA)/train.jsonl: 1, $(DATA)/asked_train.jsonl: 0.5, $(DATA)/said_train.jsonl: 0.4, $(DATA)/answered_train.jsonl: 0.8, $(DATA)/text_train.jsonl: 0.25, $(DATA)/text_sums.jsonl: 0.2}'

# As it is measured, so the bundled one speaks.
$(RUNS)/evaluation/results.json: $(RUNS)/settle/model.safetensors
	$(BIN)/flow-omni evaluate $(<D) $(DATA) --output $(@D) --limit 100 --tasks transcribe,say,speech_to_speech,text_to_text \
	    --num-flow-steps 2 --flow-temperature 0.5 --end-after-repeats 3 \
	    --recogniser ctc:$(RUNS)/recognise --recogniser sphinx:$(DATA)/words.txt

bundle: $(RUNS)/evaluation/results.json  ## Measure that checkpoint, and put it into the package in place of the one there
	$(BIN)/python -m flow_omni.training.tinytalk.bundle $(RUNS)/settle flow_omni/checkpoints/tiny --results $(<D) --corpus $(DATA) \
	    --generation num_flow_steps=2 --generation flow_temperature=0.5 --generation end_after_repeats=3

clean:  ## Remove the environment, caches and answers
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache answer.wav answer.png
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so a setup that was cut off starts again, and one that is done costs nothing.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "'$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo missing), but Flow-Omni needs Python 3.11 or newer:" \
	        "name one, as in 'make PYTHON=python3.12 talk'."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "'$(PYTHON)' cannot make virtual environments: install its venv module" \
	        "(on Debian: apt install python3-venv)."; exit 1; }
	@echo "Setting up $(VENV), once: a minute or some, with what pip has to download."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@# The builders come first, pinned like all else; the sources (openai-whisper, encodec, this package) are then built
	@# with these instead of with whatever is newest that day.
	@$(PIP_INSTALL) --quiet pip setuptools wheel
	@$(PIP_INSTALL) --no-build-isolation --editable '.[dev]'
	@# PyPI's torchaudio, which vocos imports, is linked against CUDA: beside a CPU-only torch its import fails. Without its
	@# compiled files it is pure Python, the transforms that vocos uses included. Where the import works, nothing is touched.
	@$(BIN)/python -c 'import torchaudio' 2>/dev/null || rm -f $(VENV)/lib/python*/site-packages/torchaudio/lib/*.so
	@touch $@
