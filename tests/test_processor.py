# Copyright 2026 The Flow-Omni authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The processor turns conversations into inputs and training examples, and outputs into answers; it refuses bad input."""

import copy
import json
import pickle

import numpy as np
import pytest
import soundfile
import torch
from sounds import noise, tone
from tiny import AUDIO_TOKEN_ID, EOS_TOKEN_ID, PAD_TOKEN_ID, byte_level_tokenizer, tiny_config, tiny_processor
from transformers import AutoProcessor, BatchFeature, WhisperFeatureExtractor

from flow_omni.processing import audio_io
from flow_omni.processing.feature_extraction_flow_omni import FlowOmniFeatureExtractor
from flow_omni.processing.processing_flow_omni import FlowOmniProcessor


# A template that takes strings only, and ends turns in its own way.
FOREIGN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] | trim + ' </s>' }}"
    "{% else %}{{ '[' + message['role'] | upper + '] ' + message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '\n[BOT]' }}{% endif %}"
)


def user(*items):
    return {"role": "user", "content": list(items)}


def assistant(*items):
    return {"role": "assistant", "content": list(items)}


def text(words):
    return {"type": "text", "text": words}


def audio(source, **fields):
    return {"type": "audio", "audio": source, **fields}


HI, HO = user(text("Hi")), assistant(text("Ho"))
ANSWER = audio(noise(0.3, 8000), sampling_rate=8000)
FOUR_TASKS = [
    [user(audio(tone())), assistant(text("A tone."), ANSWER)],
    [user(audio(noise())), assistant(text("Noise."))],
    [user(text("Read aloud: one two")), assistant(text("one two"), ANSWER)],
    [
        *({"role": "system", "content": "Be brief."}, HI, assistant(text("Ho"), audio("deleted.wav"))),
        *(user(text("Hm")), {"role": "assistant", "content": "Yes?"}),
    ],
]


def inputs_of(processor, conversation, **kwargs):
    kwargs = {"add_generation_prompt": True, "return_tensors": "pt"} | kwargs
    return processor.apply_chat_template(conversation, tokenize=True, return_dict=True, **kwargs)


def processor_with(chat_template):
    tokenizer = byte_level_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    tokenizer.chat_template = chat_template
    return FlowOmniProcessor(FlowOmniFeatureExtractor(), tokenizer)


def assert_same(inputs, expected):
    assert set(inputs) == set(expected)
    assert all(torch.equal(inputs[name], expected[name]) for name in expected)


def assert_refused(call, cases):
    for arguments, message in cases:
        with pytest.raises((ValueError, TypeError, OSError), match=message):
            call(arguments)


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


# Conversations


def test_conversation_is_rendered_with_one_placeholder_per_audio(processor):
    first, second = audio(tone(0.5, 8000)), audio(noise(0.5, 8000))
    conversation = [user(first, text(" What?")), assistant(text("A tone.")), user(text("And "), "this? ", second)]
    conversation.insert(0, {"role": "system", "content": "Be brief."})
    rendered = processor.apply_chat_template(conversation, add_generation_prompt=True)
    assert rendered == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<|audio|> What?<|im_end|>\n"
        "<|im_start|>assistant\nA tone.<|im_end|>\n"
        "<|im_start|>user\nAnd this? <|audio|><|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    # placeholders may be rendered first and filled later
    inputs = processor(text=rendered, audio=[first["audio"], second["audio"]], sampling_rate=8000)
    assert_same(inputs_of(processor, conversation, processor_kwargs={"sampling_rate": 8000}), inputs)
    unchanged = copy.deepcopy(conversation)
    inputs_of(processor, conversation)
    np.testing.assert_equal(conversation, unchanged)


def test_placeholders_are_as_many_as_the_model_needs(processor, model):
    for num_samples in (160, 1280, 1281, 9999, 16000):
        inputs = inputs_of(processor, [user(audio(noise(1.0)[:num_samples]))])
        encoded = model.get_audio_features(inputs["input_features"], inputs["input_features_mask"]).pooler_output
        assert int((inputs["input_ids"] == AUDIO_TOKEN_ID).sum()) == len(encoded) == -(-num_samples // 1280)


def test_each_audio_is_loaded_and_checked_once(processor, monkeypatch, tmp_path):
    soundfile.write(tmp_path / "noise.wav", noise(0.5, 44100), 44100)
    counts = dict.fromkeys(("read_file", "to_mono", "check_scale", "resample"), 0)

    def counted(name, function):
        def call(*args):
            counts[name] += 1
            return function(*args)

        return call

    for name in counts:
        monkeypatch.setattr(audio_io, name, counted(name, getattr(audio_io, name)))
    conversation = [user(audio(tmp_path / "noise.wav")), HO, user(audio(tone()), text("?"))]
    inputs_of(processor, conversation)
    assert counts == {"read_file": 1, "to_mono": 2, "check_scale": 2, "resample": 2}
    processor.encode_training_example([*conversation, assistant(text("Yes."), ANSWER)])
    assert counts == {"read_file": 2, "to_mono": 5, "check_scale": 5, "resample": 5}


def test_sampling_rate_of_an_array_is_in_its_item_or_the_call(processor, tmp_path):
    array = tone(0.5, 48000)
    expected = inputs_of(processor, [user(audio(array, sampling_rate=48000))])
    for options in ({"sampling_rate": 48000}, {"audio_kwargs": {"sampling_rate": 48000}}):
        assert_same(inputs_of(processor, [user(audio(array))], processor_kwargs=options), expected)
    assert_same(inputs_of(processor, [user(audio(array))], sampling_rate=48000), expected)
    soundfile.write(tmp_path / "tone.wav", tone(), 16000)  # a file has its own
    file = [user({"type": "audio", "path": tmp_path / "tone.wav"})]
    assert_same(inputs_of(processor, file, sampling_rate=48000), inputs_of(processor, file))


def test_only_the_text_of_earlier_answers_is_read(processor):
    spoken = [HI, assistant({"type": "audio", "path": "deleted.wav"}, text("Hello.")), user(text("Hm."))]
    written = [HI, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Hm."}]
    assert_same(inputs_of(processor, spoken), inputs_of(processor, written))


def test_batch_is_padded_on_the_left_and_keeps_the_order_of_its_audios(processor):
    conversations = [
        [user(text("Hello"))],
        [user(audio(tone(0.1)), text("x")), assistant(text("y")), user(audio(noise(0.3)))],
        [user(audio(noise(0.2, seed=1)))],
    ]
    batch = inputs_of(processor, conversations)
    for index, conversation in enumerate(conversations):
        mask = batch["attention_mask"][index].bool()
        assert torch.equal(batch["input_ids"][index][mask], inputs_of(processor, conversation)["input_ids"][0])
        assert mask.tolist() == sorted(mask.tolist())
        assert set(batch["input_ids"][index][~mask].tolist()) <= {PAD_TOKEN_ID}
    masks = [mask.bool() for mask in batch["input_features_mask"]]
    assert [int(mask.sum()) for mask in masks] == [16, 32, 24]
    for padded, mask, waveform in zip(batch["input_features"], masks, [tone(0.1), noise(0.3), noise(0.2, seed=1)]):
        alone = processor.feature_extractor(waveform, return_tensors="pt")["input_features"][0]
        assert torch.equal(padded[:, mask], alone)


def test_call_takes_stereo_lists_and_nested_lists(processor):
    audios = [np.stack([tone(), tone()]), tone().tolist(), torch.from_numpy(tone())]
    for audio_argument in (audios, [audios[:1], audios[1:]]):
        inputs = processor(text=["<|audio|>", "<|audio|><|audio|>"], audio=audio_argument)
        assert inputs["input_features"].shape[0] == 3
        torch.testing.assert_close(inputs["input_features"][0], inputs["input_features"][1])
        assert (inputs["input_ids"] == AUDIO_TOKEN_ID).sum(dim=1).tolist() == [7, 14]


def test_inputs_are_tensors_of_the_kind_asked_for(processor):
    kinds = {"pt": torch.Tensor, "np": np.ndarray, "auto": torch.Tensor}
    for return_tensors, kind in kinds.items():
        inputs = inputs_of(processor, [[user(audio(tone()))], [HI]], return_tensors=return_tensors)
        assert isinstance(inputs, BatchFeature) and set(inputs) == set(processor.model_input_names)
        assert all(isinstance(value, kind) for value in inputs.values())


def test_final_message_can_be_continued_and_assistant_tokens_masked(processor):
    conversation = [user(text("Ja?")), assistant(text("Ja.")), user(audio(tone())), assistant(text("Nein."))]
    assert processor.apply_chat_template(conversation, continue_final_message=True).endswith("assistant\nNein.")
    inputs = inputs_of(processor, conversation, add_generation_prompt=False, return_assistant_tokens_mask=True)
    masked = inputs["input_ids"][0][torch.as_tensor(inputs["assistant_masks"][0]).bool()]
    assert processor.decode(masked) == "Ja.<|im_end|>Nein.<|im_end|>"


def test_control_tokens_of_users_can_be_read_as_text(processor):
    conversation = [user(audio(tone()), text("What are <|audio|> and <|im_end|>?"))]
    input_ids = inputs_of(processor, conversation, sanitize_control_tokens=True)["input_ids"][0].tolist()
    assert input_ids.count(AUDIO_TOKEN_ID) == 7 and input_ids.count(EOS_TOKEN_ID) == 1


def test_tasks_write_their_conversations(processor):
    for arguments, items in (
        (("ask", "Why?"), [text("Why?")]),
        (("ask", None, "q.wav"), [audio("q.wav")]),
        (("ask", "Who?", "q.wav"), [audio("q.wav"), text("Who?")]),
        (("say", "a {text} {0}"), [text("Read aloud: a {text} {0}")]),
        (("transcribe", None, "q.wav"), [audio("q.wav"), text("Transcribe the speech.")]),
    ):
        assert processor.make_conversation(*arguments) == [user(*items)]
    cases = [
        (("shout", "Hi"), "The task is 'shout': it must be one of ask, say, transcribe"),
        (("ask",), "'ask' got no input: pass `text` or `audio`"),
        (("say", None, "a.wav"), "'say' got audio: pass `text`"),
        (("transcribe", "Hi"), "'transcribe' got text: pass `audio`"),
        (("say", "Hi", "a.wav"), "'say' got text and audio: pass `text`"),
    ]
    assert_refused(lambda arguments: processor.make_conversation(*arguments), cases)


# Chat templates


def test_format_of_the_language_model_is_kept_to_the_character():
    processor = processor_with(FOREIGN_TEMPLATE)
    conversation = [user(text(" Hi "), text("\n")), assistant(text("Hello.")), user({"type": "audio"})]
    rendered = processor.apply_chat_template(conversation, add_generation_prompt=True)
    assert rendered == "<s>[USER]  Hi \n Hello. </s>[USER] <|audio|>\n[BOT]"
    assert inputs_of(processor, [HI])["input_ids"][0].tolist().count(processor.tokenizer.bos_token_id) == 1


def test_answer_ends_as_the_chat_template_ends_it():
    without_end = "{% for message in messages %}{{ message.content + '\n' }}{% endfor %}"
    for processor in (processor_with(FOREIGN_TEMPLATE), processor_with(without_end)):
        assert processor.answer_end_token_id == processor.tokenizer.convert_tokens_to_ids("</s>")
    processor = tiny_processor()
    assert processor.answer_end_token_id == EOS_TOKEN_ID
    processor.chat_template = "{% for message in messages %}{{ message.content + '<|endoftext|>' }}{% endfor %}"
    assert processor.answer_end_token_id == PAD_TOKEN_ID
    processor.chat_template, processor.tokenizer.eos_token = without_end, None
    with pytest.raises(ValueError, match="end it with a special token"):
        _ = processor.answer_end_token_id


def test_tokenizer_without_chatml_ends_turns_with_its_end_of_sequence():
    tokenizer = byte_level_tokenizer()
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary["added_tokens"] = [token for token in vocabulary["added_tokens"] if "<|im_" not in token["content"]]
    backend = tokenizer.backend_tokenizer.from_str(json.dumps(vocabulary))
    bare = type(tokenizer)(tokenizer_object=backend, eos_token="<|endoftext|>")
    processor = FlowOmniProcessor.from_parts(bare, tiny_config(audio_token_id=bare.convert_tokens_to_ids("<|audio|>")))
    assert processor.apply_chat_template([HI, HO]).endswith("Ho<|endoftext|>\n")
    assert processor.answer_end_token_id == bare.eos_token_id


def test_all_named_templates_take_audio_items():
    processor = processor_with({"default": "{{ messages[0].content }}", "loud": "{{ messages[0].content | upper }}"})
    templates = {None: "hi <|audio|>", "loud": "HI <|AUDIO|>", "{{ messages[0].content }}!": "hi <|audio|>!"}
    for template, rendered in templates.items():
        conversation = [user(text("hi "), {"type": "audio"})]
        assert processor.apply_chat_template(conversation, chat_template=template) == rendered


# Answers


def generate_output(**changes):
    prompt, answer = torch.tensor([[104, 105], [PAD_TOKEN_ID, 104]]), torch.tensor([[79, 107], [78, 111]])
    ends = torch.tensor([[EOS_TOKEN_ID, PAD_TOKEN_ID, PAD_TOKEN_ID]] * 2)
    output = {
        "sequences": torch.cat([prompt, answer, ends], dim=1),
        "speech_states": torch.zeros(2, 5, dtype=torch.long),
        "audio": [torch.tensor([0.5, -0.5], dtype=torch.bfloat16), torch.zeros(0)],
    }
    return BatchFeature(output | changes)


def test_answers_come_without_their_prompts(processor):
    spoken, written = processor.post_process_generation(generate_output())
    assert spoken["text"] == "Ok" and written["text"] == "No"
    assert spoken["audio"].dtype == np.float32 and spoken["audio"].tolist() == [0.5, -0.5]
    assert written["audio"] is None and spoken["sampling_rate"] == 8000
    without_vocoder = processor.post_process_generation(generate_output(audio=None), skip_special_tokens=False)
    assert [answer["audio"] for answer in without_vocoder] == [None, None]
    assert without_vocoder[0]["text"] == "Ok<|im_end|><|endoftext|><|endoftext|>"


def test_token_ids_are_decoded_as_the_tokenizer_does(processor):
    ids = processor.tokenizer("Größe <|audio|>").input_ids
    assert processor.decode(ids) == "Größe <|audio|>"
    assert processor.decode(ids, skip_special_tokens=True) == "Größe "
    assert processor.batch_decode([ids, ids[:1]]) == ["Größe <|audio|>", "G"]


def test_pipelines_get_the_output_they_ask_for(processor):
    output, post_process = generate_output(), processor.post_process_multimodal_output
    assert post_process(output) == post_process(output, generation_mode="auto") == ["hiOk", "hNo"]
    assert post_process(output["sequences"], generation_mode="text") == ["hiOk", "hNo"]
    waveforms = post_process(output, generation_mode="audio")
    assert [waveform.tolist() for waveform in waveforms] == [[0.5, -0.5], []]
    silent = [(case, "no audio") for case in (output["sequences"], generate_output(audio=None))]
    assert_refused(lambda output: post_process(output, generation_mode="audio"), silent)
    with pytest.raises(ValueError, match="unexpected generation_mode=image"):
        post_process(output, generation_mode="image")


# Building and saving


def test_saving_keeps_everything_and_saving_again_the_same(tmp_path):
    processor = FlowOmniProcessor(
        FlowOmniFeatureExtractor(feature_size=128, adapter_stack_size=2, frames_per_step=8),
        byte_level_tokenizer(),
        speech_delay=5,
        max_audio_seconds=12.5,
        task_prompts={"say": "朗读：{text}", "transcribe": "转写语音。"},
    )
    processor.chat_template = processor.chat_template.replace("assistant\\n' }}", "assistant, kindly\\n' }}")
    processor.save_pretrained(tmp_path / "first")
    for loaded in (FlowOmniProcessor, AutoProcessor):
        loaded = loaded.from_pretrained(tmp_path / "first")
        assert type(loaded) is FlowOmniProcessor
        loaded.save_pretrained(tmp_path / "second")
        for path in (tmp_path / "first").glob("[!t]*"):  # transformers writes the tokenizer's files
            assert (tmp_path / "second" / path.name).read_bytes() == path.read_bytes()
        assert loaded.chat_template == processor.chat_template
        assert (loaded.max_audio_seconds, loaded.speech_delay, loaded.frames_per_step) == (12.5, 5, 8)
        assert loaded.make_conversation("say", "你好") == [user(text("朗读：你好"))]
        assert loaded.task_prompts["ask"] == ""
        conversation = [user(audio(tone()), text("Größe?"))]
        assert_same(inputs_of(loaded, conversation), inputs_of(processor, conversation))
    # tokenizer and processor share one file for their template, which is not extended twice
    assert FlowOmniProcessor(FlowOmniFeatureExtractor(), loaded.tokenizer).chat_template == processor.chat_template


def test_processor_can_be_sent_to_worker_processes(processor):
    copied = pickle.loads(pickle.dumps(processor))
    ours, theirs = (each.encode_training_example(FOUR_TASKS[0]) for each in (processor, copied))
    assert torch.equal(ours["mel_labels"], theirs["mel_labels"])
    assert torch.equal(ours["input_ids"], theirs["input_ids"])


def test_parts_give_the_geometry_of_the_model():
    config = tiny_config(audio={"num_mel_bins": 128}, speech={"speech_delay": 7}, adapter_stack_size=2)
    processor = FlowOmniProcessor.from_parts(byte_level_tokenizer(), config, max_audio_seconds=30)
    extractor = processor.feature_extractor
    assert (extractor.feature_size, processor.adapter_stack_size, processor.speech_delay) == (128, 2, 7)
    assert (extractor.speech_n_fft, extractor.speech_hop_length, extractor.speech_num_mel_bins) == (256, 64, 20)
    assert processor.frames_per_step == 2 and processor.sampling_rate == 8000
    assert processor.max_audio_seconds == 30 and extractor.speech_padding == "center"


def test_parts_add_the_audio_token_and_set_the_padding():
    tokenizer = byte_level_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|tool|>"]})
    tokenizer.pad_token = None
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "right"
    config = tiny_config(audio_token_id=len(tokenizer))
    processor = FlowOmniProcessor.from_parts(tokenizer, config, audio_token="<|sound|>")
    assert processor.audio_token_id == len(tokenizer) - 1
    assert {"<|tool|>", "<|sound|>"} <= set(tokenizer.all_special_tokens)
    inputs = inputs_of(processor, [[HI], [user(audio(tone()))]])
    assert (inputs["input_ids"][1] == processor.audio_token_id).sum() == 7
    assert inputs["input_ids"][0, 0] == EOS_TOKEN_ID and inputs["attention_mask"][0, 0] == 0
    processor.prepare_training_inputs(FOUR_TASKS)


def test_bad_parts_are_refused(tmp_path):
    parts = {"feature_extractor": FlowOmniFeatureExtractor(), "tokenizer": byte_level_tokenizer()}
    cases = [
        ({"feature_extractor": WhisperFeatureExtractor()}, "not a `FlowOmniFeatureExtractor`"),
        ({"audio_token": "<|sound|>"}, r"lacks `<\|sound\|>`"),
        ({"task_prompts": {"sing": "la"}}, "must be among ask, say, transcribe"),
        ({"task_prompts": {"say": "Read."}}, r"must contain {text}"),
    ]
    assert_refused(lambda arguments: FlowOmniProcessor(**(parts | arguments)), cases)
    WhisperFeatureExtractor().save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    assert_refused(FlowOmniProcessor.from_pretrained, [(tmp_path, "other models' processors cannot be loaded")])
    with pytest.raises(
        ValueError, match="in the tokenizer is 259, but `audio_token_id` of the config is 5: set the latter"
    ):
        FlowOmniProcessor.from_parts(byte_level_tokenizer(), tiny_config(audio_token_id=5))


# Training examples


def test_training_example_is_the_prompt_of_inference_and_the_answer(processor):
    for conversation, answer in zip(FOUR_TASKS, ["A tone.", "Noise.", "one two", "Yes?"], strict=True):
        example, prompt = processor.encode_training_example(conversation), inputs_of(processor, conversation[:-1])
        length = prompt["input_ids"].shape[1]
        assert torch.equal(example["input_ids"][:length], prompt["input_ids"][0])
        assert (example["labels"][:length] == -100).all() and (example["state_labels"][:length] == -100).all()
        assert processor.decode(example["labels"][example["labels"] != -100]) == answer + "<|im_end|>"
        for ours, theirs in zip(example["input_features"], prompt.get("input_features", []), strict=True):
            assert torch.equal(ours, theirs)
        if len(conversation[-1]["content"]) == 2:
            patches = processor.feature_extractor.extract_mel(noise(0.3, 8000))
            assert torch.equal(example["mel_labels"][: len(patches)], patches)
            assert int((example["speech_states"] == 2).sum()) == len(example["mel_labels"])
        else:
            assert "mel_labels" not in example and not example["speech_states"].any()


def test_speech_shorter_than_its_text_ends_in_silence(processor):
    words = "a much longer text than anybody could ever say in a tenth of a second"
    spoken = assistant(text(words), audio(noise(0.1, 8000), sampling_rate=8000))
    example = processor.encode_training_example([user(text("Speak!")), spoken])
    patches = processor.feature_extractor.extract_mel(noise(0.1, 8000))
    num_patches = int((example["speech_states"] == 2).sum())
    assert len(patches) < num_patches == len(example["mel_labels"]) == len(words) - processor.speech_delay
    silence = processor.feature_extractor.silent_patches(num_patches - len(patches))
    assert torch.equal(example["mel_labels"][len(patches) :], silence)


def test_batch_of_training_examples_is_padded_on_the_right(processor):
    examples = [processor.encode_training_example(conversation) for conversation in FOUR_TASKS]
    batch = processor.prepare_training_inputs(FOUR_TASKS)
    streams = {"input_ids": PAD_TOKEN_ID, "labels": -100, "speech_states": 0, "state_labels": -100}
    assert set(batch) == {*streams, "attention_mask", "input_features", "input_features_mask", "mel_labels"}
    for index, example in enumerate(examples):
        length = len(example["input_ids"])
        assert batch["attention_mask"][index].tolist() == [1] * length + [0] * (batch["input_ids"].shape[1] - length)
        for name, value in streams.items():
            assert torch.equal(batch[name][index, :length], example[name])
            assert (batch[name][index, length:] == value).all()
        patches = example.get("mel_labels", torch.zeros(0))
        assert torch.equal(batch["mel_labels"][index, : len(patches)], patches.reshape(-1, 2, 20))
    features = [feature for example in examples for feature in example["input_features"]]
    assert len(batch["input_features"]) == len(features) == 2
    for padded, mask, feature in zip(batch["input_features"], batch["input_features_mask"], features):
        assert torch.equal(padded[:, mask.bool()], feature)
    examples[1]["audio_labels"] = [torch.tensor([5, 6])]
    assert processor.collate(examples)["audio_labels"].tolist() == [[-100, -100], [5, 6]]
    # inputs that no example has are left out
    assert set(processor.prepare_training_inputs([HI, HO])) == {*streams, "attention_mask"}


def test_model_computes_a_loss_of_what_the_processor_prepares(processor, model):
    with torch.no_grad():
        output = model(**processor.prepare_training_inputs(FOUR_TASKS))
    assert torch.isfinite(output.loss) and output.loss > 0


def test_timed_words_come_shortly_before_they_are_spoken(processor):
    conversation = [user(text("Speak!")), assistant(text("one two"), audio(noise(1.0, 8000), sampling_rate=8000))]
    times = [("one", 0.2), ("two", 0.6, 0.9)]
    example = processor.encode_training_example(conversation, text_layout="timed", word_times=times)
    states, input_ids = example["speech_states"].tolist(), example["input_ids"].tolist()
    first_patch, patches_per_second = states.index(2), 8000 / (64 * 2)
    start = len(inputs_of(processor, conversation[:-1])["input_ids"][0])
    for word, onset in (("one ", 0.2), ("two", 0.6)):
        position = input_ids.index(ord(word[0]), start)
        assert bytes(input_ids[position : position + len(word)]).decode() == word
        assert position == first_patch + int(onset * patches_per_second) - (processor.speech_delay + 1)
    gap = example["labels"][start : input_ids.index(ord("o"), start)]
    assert len(gap) > 0 and (gap == PAD_TOKEN_ID).all()
    batch = processor.prepare_training_inputs([conversation], text_layout="timed", word_times=[times])
    assert torch.equal(batch["input_ids"][0], example["input_ids"])
    # text answers stay as they are
    timed, leading = (processor.encode_training_example([HI, HO], layout) for layout in ("timed", "leading"))
    assert torch.equal(timed["input_ids"], leading["input_ids"])


# Bad input


def test_bad_audio_is_refused_with_its_number(processor, tmp_path):
    soundfile.write(tmp_path / "hour.wav", np.zeros(3600 * 1000, np.int16), 1000)
    for source, message in (
        (np.zeros(0), "empty waveform"),
        (b"garbage", "Cannot decode"),
        ("nowhere.wav", "no audio file at 'nowhere.wav'"),
        (17, "type `int"),
        ({"file": "a.wav"}, r"keys \['file'\]"),
        (tmp_path / "hour.wav", r"3600\.0 s of audio: at most 600 s are accepted.*raise `max_audio_seconds`"),
    ):
        with pytest.raises((ValueError, TypeError, OSError), match=message) as raised:
            inputs_of(processor, [user(audio(tone())), HO, user(audio(source))])
        assert raised.value.__notes__ == ["This is audio 2 of 2."]
        with pytest.raises((ValueError, TypeError, OSError), match=message):
            processor.encode_training_example([HI, assistant(text("Ho"), audio(source))])


def test_bad_calls_are_refused(processor):
    cases = [
        ({}, "at least one input"),
        ({"text": 17}, "must be a string or list of strings"),
        ({"text": "a", "images": [1]}, "Got `images` or `videos`"),
        ({"text": "<|audio|>", "audio": tone(), "sampling_rate": 16}, "`sampling_rate` is 16"),
        ({"text": "<|audio|>", "audio": noise(2.0), "truncation": True, "max_length": 3}, "truncation"),
        ({"text": "<|audio|>" * 3, "audio": [tone()] * 2}, "Found total 3 <.audio.> tokens and 2 audio inputs"),
        ({"text": "<|audio|>" * 2, "audio": [tone()] * 3}, "Found total 2 <.audio.> tokens and 3 audio inputs"),
        ({"text": "<|audio|>"}, "Found 1 <.audio.> tokens in the text but no audio"),
        ({"text": "hi", "audio": tone()}, "Found total 0 <.audio.> tokens and 1 audio inputs"),
    ]
    assert_refused(lambda arguments: processor(**arguments), cases)


def test_bad_conversations_are_refused(processor):
    reserved = r"has `<\|audio\|>` in its text, which stands for audio"
    cases = [
        *((empty, "conversation is empty") for empty in ([], [[]])),
        *((value, f"conversation of the type `{type(value).__name__}`") for value in ("Hi", HI, None)),
        (["Hi"], "Message 0 is Hi: write it as"),
        ([{"content": "Hi"}], "Message 0 is {'content': 'Hi'}: write it as {'role': …, 'content': …}"),
        ([HI, {"role": "usr", "content": "Hi"}], "Message 1 is {'role': 'usr'.* one of the roles system"),
        *(([{"role": "user", "content": value}], "`content` of the type") for value in (None, 17)),
        *(([user(item)], "has the item") for item in (17, {"text": "Hi"}, {"type": "image", "path": "a.png"})),
        *(([user(item)], "has the item") for item in ({"type": "text", "content": "Hi"}, text(17))),
        ([user({"type": "audio"})], "must hold its audio under exactly one of audio, array"),
        ([HI, assistant({"type": "audio", "path": "a.wav"}), HI], r"Message 1 \(assistant\) has audio and no text"),
        *(([{"role": role, "content": "<|audio|>?"}, HI], reserved) for role in ("user", "system", "assistant")),
        *(([{"role": role, "content": [text("<|audio|>?")]}, HI], reserved) for role in ("user", "assistant")),
    ]
    assert_refused(lambda conversation: inputs_of(processor, conversation), cases)


def test_bad_training_conversations_are_refused(processor):
    spoken = [HI, assistant(text("one two"), audio(tone(0.5, 8000), sampling_rate=8000))]
    timed = {"text_layout": "timed"}
    cases = [
        (([HI], {}), r"1 message\(s\) ends with the role 'user'"),
        (([HO], {}), "at least one must come before it"),
        (([HI, HI], {}), "the last message must be the assistant's answer"),
        (([HI, "Ho"], {}), "The answer is Ho: write it as"),
        (([], {}), "conversation is empty"),
        (([spoken, spoken], {}), "several conversations for one example"),
        (([HI, assistant(audio(tone()))], {}), r"The answer \(assistant\) has audio and no text"),
        (([HI, assistant(text("a<|audio|>"))], {}), r"The answer \(assistant\) has `<.audio.>` in its text"),
        (([HI, assistant(text("a<|im_end|>b"))], {}), "contains `<.im_end.>`, which ends an answer"),
        (([HI, assistant(text("a"), audio(tone()), audio(tone()))], {}), "2 audio items"),
        ((spoken, {"text_layout": "diagonal"}), 'choose "leading" or "timed"'),
        *(((spoken, timed | times), "no `word_times`") for times in ({}, {"word_times": []})),
        ((spoken, timed | {"word_times": [("one", 0.1), ("two", 100.0)]}), "lie within the speech"),
    ]
    assert_refused(lambda arguments: processor.encode_training_example(arguments[0], **arguments[1]), cases)
    with pytest.raises(ValueError, match="word times of 2 answers for 1"):
        processor.prepare_training_inputs([spoken], **timed, word_times=[None, None])


def test_texts_to_read_end_in_the_end_of_an_answer():
    processor = tiny_processor()
    end = processor.answer_end_token_id
    ids = processor.answer_ids(["ab", "c"])
    assert ids.tolist() == [[97, 98, end], [99, end, end]]
    assert torch.equal(processor.answer_ids("c"), ids[1:, :2])
