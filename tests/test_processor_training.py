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
"""Training examples: prompts as in inference, the targets, the patches, the timed layout, and batches of them."""

import pickle

import numpy as np
import pytest
import soundfile
import torch
from messages import assistant, audio, four_tasks, inputs_of, text, user
from sounds import noise, tone
from tiny import PAD_TOKEN_ID, tiny_processor


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


def test_prompt_of_a_training_example_is_that_of_inference(processor):
    for conversation in four_tasks():
        example = processor.encode_training_example(conversation)
        prompt = inputs_of(processor, conversation[:-1])
        length = prompt["input_ids"].shape[1]
        assert torch.equal(example["input_ids"][:length], prompt["input_ids"][0])
        assert (example["labels"][:length] == -100).all() and (example["state_labels"][:length] == -100).all()
        assert len(example["input_features"]) == len(prompt.get("input_features", []))
        for ours, theirs in zip(example["input_features"], prompt.get("input_features", [])):
            assert torch.equal(ours, theirs)


def test_target_is_the_answer_and_its_end(processor):
    for conversation, answer in zip(four_tasks(), ["A tone.", "Noise.", "one two", "Yes?"], strict=True):
        labels = processor.encode_training_example(conversation)["labels"]
        assert processor.decode(labels[labels != -100]) == answer + "<|im_end|>"


def test_spoken_answer_has_the_patches_of_its_positions(processor):
    example = processor.encode_training_example(four_tasks()[0])
    patches = processor.feature_extractor.extract_mel(noise(0.3, 8000))
    assert torch.equal(example["mel_labels"][: len(patches)], patches)
    assert int((example["speech_states"] == 2).sum()) == len(example["mel_labels"])


def test_text_answer_has_no_speech(processor):
    example = processor.encode_training_example(four_tasks()[1])
    assert "mel_labels" not in example
    assert not example["speech_states"].any()


def test_speech_shorter_than_its_text_ends_in_silence(processor):
    words = "a much longer text than anybody could ever say in a tenth of a second"
    example = processor.encode_training_example(
        [user(text("Speak!")), assistant(text(words), audio(noise(0.1, 8000), sampling_rate=8000))]
    )
    patches = processor.feature_extractor.extract_mel(noise(0.1, 8000))
    num_patches = int((example["speech_states"] == 2).sum())
    assert len(patches) < num_patches == len(example["mel_labels"]) == len(words) - processor.speech_delay
    silence = processor.feature_extractor.silent_patches(num_patches - len(patches))
    assert torch.equal(example["mel_labels"][len(patches) :], silence)


def test_batch_of_training_examples_is_padded_on_the_right(processor):
    examples = [processor.encode_training_example(conversation) for conversation in four_tasks()]
    batch = processor.prepare_training_inputs(four_tasks())
    assert set(batch) == {
        *("input_ids", "attention_mask", "labels", "speech_states", "state_labels"),
        *("input_features", "input_features_mask", "mel_labels"),
    }
    padding_values = {"input_ids": PAD_TOKEN_ID, "labels": -100, "speech_states": 0, "state_labels": -100}
    for index, example in enumerate(examples):
        length = len(example["input_ids"])
        assert batch["attention_mask"][index].tolist() == [1] * length + [0] * (batch["input_ids"].shape[1] - length)
        for name, value in padding_values.items():
            assert torch.equal(batch[name][index, :length], example[name])
            assert (batch[name][index, length:] == value).all()
        patches = example.get("mel_labels", torch.zeros(0))
        assert torch.equal(batch["mel_labels"][index, : len(patches)], patches.reshape(-1, 2, 20))
    features = [feature for example in examples for feature in example["input_features"]]
    assert len(batch["input_features"]) == len(features) == 2
    for padded, mask, feature in zip(batch["input_features"], batch["input_features_mask"], features):
        assert torch.equal(padded[:, mask.bool()], feature)


def test_transcripts_of_the_audios_are_collated(processor):
    examples = [processor.encode_training_example(conversation) for conversation in four_tasks()]
    examples[1]["audio_labels"] = [torch.tensor([5, 6])]
    assert processor.collate(examples)["audio_labels"].tolist() == [[-100, -100], [5, 6]]


def test_inputs_that_no_example_has_are_left_out(processor):
    batch = processor.prepare_training_inputs([user(text("Hi")), assistant(text("Ho"))])
    assert set(batch) == {"input_ids", "attention_mask", "labels", "speech_states", "state_labels"}
    assert batch["input_ids"].shape[0] == 1


def test_model_computes_a_loss_of_what_the_processor_prepares(processor, model):
    with torch.no_grad():
        output = model(**processor.prepare_training_inputs(four_tasks()))
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


def test_timed_layout_does_not_change_text_answers(processor):
    conversation = [user(text("Hi")), assistant(text("Ho"))]
    timed = processor.encode_training_example(conversation, text_layout="timed")
    assert torch.equal(timed["input_ids"], processor.encode_training_example(conversation)["input_ids"])


def test_processor_can_be_sent_to_worker_processes(processor):
    copied = pickle.loads(pickle.dumps(processor))
    conversation = four_tasks()[0]
    ours, theirs = processor.encode_training_example(conversation), copied.encode_training_example(conversation)
    assert torch.equal(ours["mel_labels"], theirs["mel_labels"])
    assert torch.equal(ours["input_ids"], theirs["input_ids"])


def test_bad_training_conversations_are_refused(processor, tmp_path):
    soundfile.write(tmp_path / "hour.wav", np.zeros(3600 * 1000, np.int16), 1000)

    def answered(*items):
        return [user(text("Hi")), assistant(*items)]

    spoken = answered(text("one two"), audio(tone(0.5, 8000), sampling_rate=8000))
    timed = {"text_layout": "timed"}
    for conversation, options, message in (
        ([user(text("Hi"))], {}, r"1 message\(s\) ends with the role 'user'"),
        ([assistant(text("Ho"))], {}, "at least one must come before it"),
        ([user(text("Hi")), user(text("Hi"))], {}, "the last message must be the assistant's answer"),
        ([user(text("Hi")), "Ho"], {}, "The answer is of the type `str`"),
        ([], {}, "conversation is empty"),
        ([spoken, spoken], {}, "several conversations for one example"),
        (answered(audio(tone())), {}, r"The answer \(assistant\) has audio and no text"),
        (answered(text("a<|audio|>")), {}, r"The answer \(assistant\) has `<.audio.>` in its text"),
        (answered(text("a<|im_end|>b")), {}, "contains `<.im_end.>`, which ends an answer"),
        (answered(text("a"), audio(tone()), audio(tone())), {}, "2 audio items"),
        (answered(text("a"), audio(np.zeros(3))), {}, "at least 10 ms"),
        (answered(text("a"), audio(tmp_path / "hour.wav")), {}, r"3600\.0 s of audio: at most 600 s"),
        (spoken, {"text_layout": "diagonal"}, 'choose "leading" or "timed"'),
        (spoken, timed, "got no `word_times`"),
        (spoken, timed | {"word_times": []}, "`word_times` is empty"),
        (spoken, timed | {"word_times": [("three", 0.1)]}, "'three' of `word_times` is not in"),
        (spoken, timed | {"word_times": [("one", 0.1), ("two", 100.0)]}, "must lie within the speech"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            processor.encode_training_example(conversation, **options)
    with pytest.raises(ValueError, match="word times of 2 answers for 1"):
        processor.prepare_training_inputs([spoken], **timed, word_times=[None, None])
