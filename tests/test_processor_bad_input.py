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
"""Whatever is wrong with a user's input, the error names it, gives the rule, and says what to do."""

import numpy as np
import pytest
import soundfile
import torch
from sounds import file_bytes, noise, tone
from tiny import tiny_config, tiny_processor
from transformers import WhisperFeatureExtractor

from flow_omni.processing.byte_level_tokenizer import byte_level_tokenizer
from flow_omni.processing.feature_extraction_flow_omni import FlowOmniFeatureExtractor
from flow_omni.processing.processing_flow_omni import FlowOmniProcessor


HI = {"role": "user", "content": "Hi"}


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


def user(*items):
    return [{"role": "user", "content": list(items)}]


def heard(source, **fields):
    return user({"type": "audio", "audio": source, **fields})


def prepare(processor, conversation, **kwargs):
    return processor.apply_chat_template(
        conversation, add_generation_prompt=True, tokenize=True, return_dict=True, **kwargs
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros(0), "empty waveform"),
        (np.array([np.nan] * 1600), "1600 of 1600 samples are NaN"),
        (np.zeros(1), "at least 10 ms"),
        (np.zeros((1, 1, 1600)), r"shape \(1, 1, 1600\)"),
        (np.zeros(1600, np.int64), "type `int64`"),
        (tone() * 32768, "Divide 16-bit samples by 32768"),
        (b"garbage", "Cannot decode"),
        (file_bytes(tone())[:20], "Cannot decode"),
        ("nowhere.wav", "no audio file at 'nowhere.wav'"),
        ({"text": "hm"}, "must hold `array`"),
        (17, "type `int"),
        (np.zeros(16000 * 601, np.int8), r"601\.0 s of audio: at most 600 s are accepted"),
    ],
)
def test_audio_that_is_none_is_refused_and_found(processor, source, message):
    conversation = [HI, {"role": "assistant", "content": "Ho"}, *heard(source)]
    with pytest.raises((ValueError, TypeError, OSError), match=message) as raised:
        prepare(processor, conversation)
    assert raised.value.__notes__ == ["The audio is in Message 2 (user)."]
    with pytest.raises((ValueError, TypeError, OSError), match=message):
        processor(text="<|audio|>", audio=[source])


@pytest.mark.parametrize("source", [np.zeros(1600), np.clip(tone() * 9, -1, 1)])
def test_silence_and_clipping_are_accepted(processor, source):
    assert torch.isfinite(prepare(processor, heard(source))["input_features"]).all()


def test_hour_long_file_is_refused_by_its_header(processor, tmp_path, monkeypatch):
    path = tmp_path / "hour.wav"
    soundfile.write(path, np.zeros(3600 * 1000, np.int16), 1000)
    monkeypatch.setattr(soundfile.SoundFile, "read", None)
    with pytest.raises(ValueError, match=r"3600\.0 s of audio.*raise `max_audio_seconds`"):
        prepare(processor, heard(path))
    answer = {"role": "assistant", "content": [{"type": "text", "text": "Ho"}, {"type": "audio", "path": path}]}
    with pytest.raises(ValueError, match=r"3600\.0 s of audio"):
        processor.encode_training_example([HI, answer])


@pytest.mark.parametrize(("num_audios", "num_placeholders"), [(2, 3), (3, 2), (0, 1), (1, 0)])
def test_placeholders_and_audios_must_be_as_many(processor, num_audios, num_placeholders):
    message = (
        f"Got {num_audios} waveforms for {num_placeholders} `<.audio.>` placeholders: .* Pass one per placeholder"
    )
    with pytest.raises(ValueError, match=message):
        processor(text="<|audio|>" * num_placeholders, audio=[tone()] * num_audios or None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "neither `text` nor `audio`"),
        ({"text": 17}, "`text` is 17"),
        ({"text": []}, r"`text` is \[\]"),
        ({"text": [["a"]]}, "pass a string or a list of strings"),
        ({"text": "a", "images": [1]}, "Got `images`: this model reads text and hears audio"),
        ({"text": "<|audio|>", "audio": tone(), "sampling_rate": 16}, "`sampling_rate` is 16"),
    ],
)
def test_calls_that_cannot_be_are_refused(processor, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        processor(**arguments)


def test_truncation_into_an_audio_is_refused(processor):
    with pytest.raises(ValueError, match="truncation"):
        processor(text="<|audio|>", audio=noise(2.0), truncation=True, max_length=3)


@pytest.mark.parametrize(
    ("conversation", "message"),
    [
        ([], "conversation is empty"),
        ([[]], "conversation is empty"),
        ("Hi", "conversation of the type `str`"),
        (HI, "conversation of the type `dict`"),
        (None, "conversation of the type `NoneType`"),
        (["Hi"], "Message 0 is of the type `str`"),
        ([{"content": "Hi"}], r"Message 0 \(None\) has no `role` \(keys: \['content'\]\)"),
        ([HI, {"role": "usr", "content": "Hi"}], r"Message 1 \(usr\) has the role 'usr': it must be one of system"),
        ([{"role": "user"}], "has no `content`"),
        ([{"role": "user", "content": None}], "has no `content`"),
        ([{"role": "user", "content": 17}], "content of the type `int`"),
        (user(17), "an item without a `type`.*17"),
        (user({"text": "Hi"}), r"an item without a `type` \(keys: \['text'\]\)"),
        (user({"type": "image", "path": "a.png"}), "an item of the type 'image': only `text` and `audio`"),
        (user({"type": "text", "content": "Hi"}), "a text item without a string under `text`"),
        (user({"type": "text", "text": 17}), "a text item without a string under `text`"),
        (user({"type": "audio"}), "must hold its audio under exactly one of `audio`, `array`"),
        (user({"type": "audio", "file": "a.wav"}), r"keys \['file', 'type'\]"),
        (user({"type": "audio", "path": "a.wav", "url": "http://b"}), "exactly one of"),
        (user({"type": "audio", "base64": "%%%"}), "base64"),
        ([HI, {"role": "assistant", "content": [{"type": "audio", "path": "a.wav"}]}, HI], "has audio and no text"),
    ],
)
def test_conversations_that_cannot_be_are_refused(processor, conversation, message):
    with pytest.raises((ValueError, TypeError), match=message):
        prepare(processor, conversation)


@pytest.mark.parametrize("content", ["What is <|audio|>?", [{"type": "text", "text": "What is <|audio|>?"}]])
@pytest.mark.parametrize("role", ["user", "system", "assistant"])
def test_placeholder_in_somebodys_text_is_not_taken_for_audio(processor, role, content):
    with pytest.raises(ValueError, match=r"holds `<\|audio\|>` in its text, which stands for audio"):
        prepare(processor, [{"role": role, "content": content}, *heard(tone())])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("shout", "Hi"), "The task is 'shout': it must be one of ask, say, transcribe"),
        (("ask",), "'ask' got nothing to work on: pass `text` or `audio`"),
        (("say", None, "a.wav"), "'say' got nothing to work on: pass `text`"),
        (("transcribe", "Hi"), "'transcribe' got nothing to work on: pass `audio`"),
        (("say", "Hi", "a.wav"), "'say' takes no `audio`"),
        (("transcribe", "Hi", "a.wav"), "'transcribe' takes no `text`"),
    ],
)
def test_tasks_without_what_they_need_are_refused(processor, arguments, message):
    with pytest.raises(ValueError, match=message):
        processor.make_conversation(*arguments)


def answered(*items):
    return [HI, {"role": "assistant", "content": list(items)}]


SPOKEN = answered(
    {"type": "text", "text": "one two"}, {"type": "audio", "array": tone(0.5, 8000), "sampling_rate": 8000}
)


@pytest.mark.parametrize(
    ("conversation", "options", "message"),
    [
        ([HI], {}, r"1 message\(s\) ends with 'user'"),
        ([{"role": "assistant", "content": "Ho"}], {}, "at least one must come before it"),
        ([HI, HI], {}, "the last message must be the assistant's answer"),
        ([HI, "Ho"], {}, r"2 message\(s\) ends with 'Ho'"),
        ([], {}, "conversation is empty"),
        ([SPOKEN, SPOKEN], {}, "several conversations for one example"),
        (answered({"type": "audio", "audio": tone()}), {}, "The answer has audio and no text"),
        (answered({"type": "text", "text": "a<|audio|>"}), {}, "The answer holds `<.audio.>` in its text"),
        (answered({"type": "text", "text": "a<|im_end|>b"}), {}, "holds `<.im_end.>`, which ends an answer"),
        (answered({"type": "text", "text": "a"}, *[{"type": "audio", "audio": tone()}] * 2), {}, "2 audio items"),
        (answered({"type": "text", "text": "a"}, {"type": "audio", "audio": np.zeros(3)}), {}, "at least 10 ms"),
        (SPOKEN, {"text_layout": "diagonal"}, 'choose "leading" or "timed"'),
        (SPOKEN, {"text_layout": "timed"}, "got no `word_times`"),
        (SPOKEN, {"text_layout": "timed", "word_times": []}, "`word_times` is empty"),
        (SPOKEN, {"text_layout": "timed", "word_times": [("three", 0.1)]}, "'three' of `word_times` is not in"),
        (SPOKEN, {"text_layout": "timed", "word_times": [("one", 0.1), ("two", 100.0)]}, "must lie within the speech"),
    ],
)
def test_training_conversations_that_cannot_be_are_refused(processor, conversation, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        processor.encode_training_example(conversation, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"return_tensors": "np"}, "`return_tensors` is 'np'"),
        ({"text_layout": "timed", "word_times": [None, None]}, "word times of 2 answers for 1 conversations"),
    ],
)
def test_training_batches_that_cannot_be_are_refused(processor, options, message):
    with pytest.raises(ValueError, match=message):
        processor.prepare_training_inputs([SPOKEN], **options)
    with pytest.raises(ValueError, match="no examples"):
        processor.collate([])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"feature_extractor": WhisperFeatureExtractor()}, "a `FlowOmniFeatureExtractor` is needed"),
        ({"audio_token": "<|sound|>"}, r"does not know `<\|sound\|>`"),
        ({"speech_delay": -1}, "`speech_delay` is -1"),
        ({"speech_delay": 1.5}, "`speech_delay` is 1.5"),
        ({"max_audio_seconds": 0}, "`max_audio_seconds` is 0"),
        ({"task_prompts": {"sing": "la"}}, r"keys \['sing'\]"),
        ({"task_prompts": {"say": "Read."}}, r"it must hold \{text\}"),
    ],
)
def test_processors_that_cannot_be_are_refused(arguments, message):
    parts = {"feature_extractor": FlowOmniFeatureExtractor(), "tokenizer": byte_level_tokenizer()}
    with pytest.raises((ValueError, TypeError), match=message):
        FlowOmniProcessor(**(parts | arguments))


def test_checkpoint_of_another_kind_is_refused(tmp_path):
    WhisperFeatureExtractor().save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="A checkpoint of another kind"):
        FlowOmniProcessor.from_pretrained(tmp_path)


def test_tokenizer_that_can_end_nothing_is_refused():
    tokenizer = byte_level_tokenizer()
    tokenizer.eos_token = None
    tokenizer.chat_template = "{{ messages[-1].content }}"
    with pytest.raises(ValueError, match="must end it"):
        _ = FlowOmniProcessor(FlowOmniFeatureExtractor(), tokenizer).answer_end_token_id


def test_states_that_are_numbered_otherwise_are_refused():
    config = tiny_config(pad_state_id=3, stop_state_id=0)
    with pytest.raises(ValueError, match=r"\[3, 1, 2, 0\]: the processor writes \[0, 1, 2, 3\]"):
        FlowOmniProcessor.from_parts(byte_level_tokenizer(), config)


def test_audio_token_that_the_model_numbers_otherwise_is_refused():
    with pytest.raises(
        ValueError, match="numbers `<.audio.>` 259, the config says `audio_token_id` is 5: set the config's"
    ):
        FlowOmniProcessor.from_parts(byte_level_tokenizer(), tiny_config(audio_token_id=5))


def test_output_without_sound_is_not_passed_off_as_sound(processor):
    for output in (torch.tensor([[1, 2]]), {"sequences": torch.tensor([[1, 2]]), "audio": None}):
        with pytest.raises(ValueError, match="no audio in what `generate` returned"):
            processor.post_process_multimodal_output(output, generation_mode="audio")
    with pytest.raises(ValueError, match="`generation_mode` is 'image'"):
        processor.post_process_multimodal_output(torch.tensor([[1, 2]]), generation_mode="image")
