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
"""The processor turns conversations into the model's inputs and the model's outputs into answers, and refuses bad input."""

import copy
import json

import numpy as np
import pytest
import soundfile
import torch
from messages import assistant, audio, four_tasks, inputs_of, text, user
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
HI = user(text("Hi"))


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


def processor_of(chat_template, **special_tokens):
    tokenizer = byte_level_tokenizer()
    tokenizer.add_special_tokens(special_tokens)
    tokenizer.chat_template = chat_template
    return FlowOmniProcessor(FlowOmniFeatureExtractor(), tokenizer)


def assert_same(inputs, expected):
    assert set(inputs) == set(expected)
    assert all(torch.equal(inputs[name], expected[name]) for name in expected)


def assert_refused(call, cases):
    for arguments, message in cases:
        with pytest.raises((ValueError, TypeError, OSError), match=message):
            call(arguments)


# Conversations


def test_conversation_is_rendered_with_one_placeholder_per_audio(processor):
    conversation = [
        {"role": "system", "content": "Be brief."},
        user(audio(tone()), text(" What?")),
        assistant(text("A tone.")),
        user(text("And "), "this? ", audio(noise())),
    ]
    rendered = processor.apply_chat_template(conversation, add_generation_prompt=True)
    assert rendered == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<|audio|> What?<|im_end|>\n"
        "<|im_start|>assistant\nA tone.<|im_end|>\n"
        "<|im_start|>user\nAnd this? <|audio|><|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    # placeholders may be rendered first and filled later
    inputs = processor(text=rendered, audio=[tone(0.5, 8000), noise(0.5, 8000)], sampling_rate=8000)
    conversation[1] = user(audio(tone(0.5, 8000)), text(" What?"))
    conversation[3] = user(text("And "), "this? ", audio(noise(0.5, 8000)))
    assert_same(inputs_of(processor, conversation, processor_kwargs={"sampling_rate": 8000}), inputs)


def test_placeholders_are_as_many_as_the_model_needs(processor, model):
    for num_samples in (160, 1280, 1281, 9999, 16000):
        inputs = inputs_of(processor, [user(audio(noise(1.0)[:num_samples]))])
        encoded = model.get_audio_features(inputs["input_features"], inputs["input_features_mask"]).pooler_output
        assert int((inputs["input_ids"] == AUDIO_TOKEN_ID).sum()) == len(encoded) == -(-num_samples // 1280)


def test_each_audio_is_loaded_and_checked_once(processor, monkeypatch, tmp_path):
    soundfile.write(tmp_path / "noise.wav", noise(0.5, 44100), 44100)
    counts = dict.fromkeys(("read_file", "to_mono", "check_scale", "resample"), 0)

    def count(name, function):
        def counted(*args):
            counts[name] += 1
            return function(*args)

        return counted

    for name in counts:
        monkeypatch.setattr(audio_io, name, count(name, getattr(audio_io, name)))
    conversation = [user(audio(tmp_path / "noise.wav")), assistant(text("Noise.")), user(audio(tone()), text("?"))]
    inputs_of(processor, conversation)
    assert counts == {"read_file": 1, "to_mono": 2, "check_scale": 2, "resample": 2}
    answer = assistant(text("Yes."), audio(noise(0.3, 8000), sampling_rate=8000))
    processor.encode_training_example([*conversation, answer])
    assert counts == {"read_file": 2, "to_mono": 5, "check_scale": 5, "resample": 5}


def test_sampling_rate_of_an_array_is_in_its_item_or_the_call(processor, tmp_path):
    array = tone(0.5, 48000)
    expected = inputs_of(processor, [user(audio(array, sampling_rate=48000))])
    for options in ({"sampling_rate": 48000}, {"audio_kwargs": {"sampling_rate": 48000}}):
        assert_same(inputs_of(processor, [user(audio(array))], processor_kwargs=options), expected)
    assert_same(inputs_of(processor, [user(audio(array))], sampling_rate=48000), expected)
    # a file has its own
    soundfile.write(tmp_path / "tone.wav", tone(), 16000)
    file = [user(audio(tmp_path / "tone.wav"))]
    assert_same(inputs_of(processor, file, sampling_rate=48000), inputs_of(processor, file))


def test_conversation_is_not_changed(processor):
    conversation = [user(audio(tone()), text("Hm?"), "Well?"), assistant(text("Yes."), audio(tone())), user("Ah.")]
    before = copy.deepcopy(conversation)
    inputs_of(processor, conversation)
    processor.prepare_training_inputs([conversation[:2]])
    np.testing.assert_equal(conversation, before)


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
    rows = [inputs_of(processor, conversation) for conversation in conversations]
    for index, row in enumerate(rows):
        mask = batch["attention_mask"][index].bool()
        assert torch.equal(batch["input_ids"][index][mask], row["input_ids"][0])
        assert mask.tolist() == sorted(mask.tolist())
        assert set(batch["input_ids"][index][~mask].tolist()) <= {PAD_TOKEN_ID}
    masks = [mask.bool() for mask in batch["input_features_mask"]]
    assert [int(mask.sum()) for mask in masks] == [16, 32, 24]
    alone = [tone(0.1), noise(0.3), noise(0.2, seed=1)]
    for padded, mask, waveform in zip(batch["input_features"], masks, alone):
        assert torch.equal(
            padded[:, mask], processor.feature_extractor(waveform, return_tensors="pt")["input_features"][0]
        )


def test_call_takes_stereo_lists_and_nested_lists(processor):
    audios = [np.stack([tone(), tone()]), tone().tolist(), torch.from_numpy(tone())]
    for audio_argument in (audios, [audios[:1], audios[1:]]):
        inputs = processor(text=["<|audio|>", "<|audio|><|audio|>"], audio=audio_argument)
        assert inputs["input_features"].shape[0] == 3
        torch.testing.assert_close(inputs["input_features"][0], inputs["input_features"][1])
        assert (inputs["input_ids"] == AUDIO_TOKEN_ID).sum(dim=1).tolist() == [7, 14]


def test_inputs_are_tensors_of_the_kind_asked_for(processor):
    conversations = [[user(audio(tone()))], [HI]]
    for options, kind in (
        ({}, torch.Tensor),
        ({"return_tensors": "pt"}, torch.Tensor),
        ({"return_tensors": "np"}, np.ndarray),
    ):
        inputs = processor.apply_chat_template(conversations, tokenize=True, return_dict=True, **options)
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


# Chat templates


def test_format_of_the_language_model_is_kept_to_the_character():
    processor = processor_of(FOREIGN_TEMPLATE, bos_token="<s>", eos_token="</s>")
    conversation = [user(text(" Hi "), text("\n")), assistant(text("Hello.")), user({"type": "audio"})]
    rendered = processor.apply_chat_template(conversation, add_generation_prompt=True)
    assert rendered == "<s>[USER]  Hi \n Hello. </s>[USER] <|audio|>\n[BOT]"
    assert inputs_of(processor, [HI])["input_ids"][0].tolist().count(processor.tokenizer.bos_token_id) == 1


def test_answer_ends_as_the_chat_template_ends_it(processor):
    foreign = processor_of(FOREIGN_TEMPLATE, bos_token="<s>", eos_token="</s>")
    assert foreign.answer_end_token_id == foreign.tokenizer.convert_tokens_to_ids("</s>")
    without_end = processor_of("{% for message in messages %}{{ message.content + '\n' }}{% endfor %}")
    assert without_end.answer_end_token_id == without_end.tokenizer.eos_token_id
    # also if the template is set later
    processor = tiny_processor()
    assert processor.answer_end_token_id == EOS_TOKEN_ID
    processor.chat_template = "{% for message in messages %}{{ message.content + '<|endoftext|>' }}{% endfor %}"
    assert processor.answer_end_token_id == PAD_TOKEN_ID
    endless = processor_of("{{ messages[-1].content }}")
    endless.tokenizer.eos_token = None
    with pytest.raises(ValueError, match="end it with a special token"):
        _ = endless.answer_end_token_id


def test_tokenizer_without_chatml_ends_turns_with_its_end_of_sequence():
    tokenizer = byte_level_tokenizer()
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary["added_tokens"] = [
        token for token in vocabulary["added_tokens"] if not token["content"].startswith("<|im_")
    ]
    backend = tokenizer.backend_tokenizer.from_str(json.dumps(vocabulary))
    bare = type(tokenizer)(tokenizer_object=backend, eos_token="<|endoftext|>")
    processor = FlowOmniProcessor.from_parts(bare, tiny_config(audio_token_id=bare.convert_tokens_to_ids("<|audio|>")))
    assert processor.apply_chat_template([HI, assistant(text("Ho"))]).endswith("Ho<|endoftext|>\n")
    assert processor.answer_end_token_id == bare.eos_token_id


def test_all_named_templates_take_audio_items():
    processor = processor_of({"default": "{{ messages[0].content }}", "loud": "{{ messages[0].content | upper }}"})
    conversation = [user(text("hi "), {"type": "audio"})]
    assert processor.apply_chat_template(conversation) == "hi <|audio|>"
    assert processor.apply_chat_template(conversation, chat_template="loud") == "HI <|AUDIO|>"
    assert processor.apply_chat_template(conversation, chat_template="{{ messages[0].content }}!") == "hi <|audio|>!"


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
    assert written["audio"] is None
    assert spoken["sampling_rate"] == 8000
    without_vocoder = processor.post_process_generation(generate_output(audio=None), skip_special_tokens=False)
    assert [answer["audio"] for answer in without_vocoder] == [None, None]
    assert without_vocoder[0]["text"] == "Ok<|im_end|><|endoftext|><|endoftext|>"


def test_answers_of_the_model_are_post_processed(processor, model):
    inputs = inputs_of(processor, [[user(audio(tone()))], [HI]])
    output = model.generate(**inputs, generation_mode="speech", max_new_tokens=12, seed=0)
    answers = processor.post_process_generation(output)
    assert len(answers) == 2
    for answer, waveform in zip(answers, output.audio):
        assert isinstance(answer["text"], str)
        assert np.array_equal(answer["audio"], waveform.numpy()) if len(waveform) else answer["audio"] is None


def test_token_ids_are_decoded_as_the_tokenizer_does(processor):
    ids = processor.tokenizer("Größe <|audio|>").input_ids
    assert processor.decode(ids) == "Größe <|audio|>"
    assert processor.decode(ids, skip_special_tokens=True) == "Größe "
    assert processor.batch_decode([ids, ids[:1]]) == ["Größe <|audio|>", "G"]


def test_pipelines_get_the_output_they_ask_for(processor):
    output = generate_output()
    assert processor.post_process_multimodal_output(output) == ["hiOk", "hNo"]
    assert processor.post_process_multimodal_output(output["sequences"], generation_mode="text") == ["hiOk", "hNo"]
    waveforms = processor.post_process_multimodal_output(output, generation_mode="audio")
    assert [waveform.tolist() for waveform in waveforms] == [[0.5, -0.5], []]
    for silent in (output["sequences"], generate_output(audio=None)):
        with pytest.raises(ValueError, match="output of `generate` has no audio"):
            processor.post_process_multimodal_output(silent, generation_mode="audio")
    with pytest.raises(ValueError, match="`generation_mode` is 'image'"):
        processor.post_process_multimodal_output(output, generation_mode="image")


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


def test_template_of_a_saved_tokenizer_is_not_extended_twice(tmp_path):
    """Tokenizer and processor share one file for their template."""
    processor = tiny_processor()
    processor.save_pretrained(tmp_path)
    tokenizer = FlowOmniProcessor.from_pretrained(tmp_path).tokenizer
    assert FlowOmniProcessor.from_parts(tokenizer, tiny_config()).chat_template == processor.chat_template


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
    processor.prepare_training_inputs(four_tasks())


# Bad input


def test_bad_audio_is_refused_with_its_number(processor):
    for source, message in (
        (np.zeros(0), "empty waveform"),
        (b"garbage", "Cannot decode"),
        ("nowhere.wav", "no audio file at 'nowhere.wav'"),
        (17, "type `int"),
        ({"file": "a.wav"}, r"keys \['file'\]"),
        (np.zeros(16000 * 601, np.int8), r"601\.0 s of audio: at most 600 s are accepted.*raise `max_audio_seconds`"),
    ):
        with pytest.raises((ValueError, TypeError, OSError), match=message) as raised:
            inputs_of(processor, [user(audio(tone())), assistant(text("Ho")), user(audio(source))])
        assert raised.value.__notes__ == ["This is audio 2 of 2."]
        with pytest.raises((ValueError, TypeError, OSError), match=message):
            processor(text="<|audio|>", audio=[source])


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
    cases = [
        *((empty, "conversation is empty") for empty in ([], [[]])),
        *((value, f"conversation of the type `{type(value).__name__}`") for value in ("Hi", HI, None)),
        (["Hi"], "Message 0 is of the type `str`"),
        ([{"content": "Hi"}], r"Message 0 \(None\) has the role None \(keys: \['content'\]\)"),
        ([HI, {"role": "usr", "content": "Hi"}], r"Message 1 \(usr\) has the role 'usr'.* one of system"),
        ([{"role": "user"}], "`content` of the type `NoneType`"),
        ([{"role": "user", "content": 17}], "`content` of the type `int`"),
        ([user(17)], "has the item 17: write"),
        ([user({"text": "Hi"})], "has the item {'text': 'Hi'}"),
        ([user({"type": "image", "path": "a.png"})], "has the item {'type': 'image'"),
        ([user({"type": "text", "content": "Hi"})], "a text item without a string under `text`"),
        ([user({"type": "text", "text": 17})], "a text item without a string under `text`"),
        ([user({"type": "audio"})], "must hold its audio under exactly one of `audio`, `array`"),
        ([HI, assistant({"type": "audio", "path": "a.wav"}), HI], r"Message 1 \(assistant\) has audio and no text"),
    ]
    for role in ("user", "system", "assistant"):
        for content in ("What is <|audio|>?", [text("What is <|audio|>?")]):
            cases.append(
                ([{"role": role, "content": content}, HI], r"has `<\|audio\|>` in its text, which stands for audio")
            )
    assert_refused(lambda conversation: inputs_of(processor, conversation), cases)


def test_tasks_without_their_input_are_refused(processor):
    cases = [
        (("shout", "Hi"), "The task is 'shout': it must be one of ask, say, transcribe"),
        (("ask",), "'ask' got no input: pass `text` or `audio`"),
        (("say", None, "a.wav"), "'say' got audio: pass `text`"),
        (("transcribe", "Hi"), "'transcribe' got text: pass `audio`"),
        (("say", "Hi", "a.wav"), "'say' got text and audio: pass `text`"),
    ]
    assert_refused(lambda arguments: processor.make_conversation(*arguments), cases)


def test_bad_parts_are_refused(tmp_path):
    parts = {"feature_extractor": FlowOmniFeatureExtractor(), "tokenizer": byte_level_tokenizer()}
    cases = [
        ({"feature_extractor": WhisperFeatureExtractor()}, "not a `FlowOmniFeatureExtractor`"),
        ({"audio_token": "<|sound|>"}, r"lacks the audio token `<\|sound\|>`"),
        ({"task_prompts": {"sing": "la"}}, "must be among ask, say, transcribe"),
        ({"task_prompts": {"say": "Read."}}, r"must contain {text}"),
    ]
    assert_refused(lambda arguments: FlowOmniProcessor(**(parts | arguments)), cases)
    WhisperFeatureExtractor().save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    assert_refused(FlowOmniProcessor.from_pretrained, [(tmp_path, "other models' processors cannot be loaded")])
    cases = [
        ({"pad_state_id": 3, "stop_state_id": 0}, r"\[3, 1, 2, 0\]: the processor needs \[0, 1, 2, 3\]"),
        ({"audio_token_id": 5}, "in the tokenizer is 259, but `audio_token_id` of the config is 5: set the config's"),
    ]
    assert_refused(lambda fields: FlowOmniProcessor.from_parts(byte_level_tokenizer(), tiny_config(**fields)), cases)
