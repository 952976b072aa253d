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
"""The processor turns conversations into what the model reads, in training as in use, and its answers back."""

import base64
import copy
import io
import json
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import soundfile
import torch
from messages import assistant, audio, four_tasks, inputs_of, text, user
from sounds import file_bytes, noise, tone
from tiny import AUDIO_TOKEN_ID, EOS_TOKEN_ID, PAD_TOKEN_ID, tiny_config, tiny_processor
from transformers import AutoProcessor, BatchFeature, PreTrainedTokenizerBase

from flow_omni.processing.byte_level_tokenizer import byte_level_tokenizer
from flow_omni.processing.feature_extraction_flow_omni import FlowOmniFeatureExtractor
from flow_omni.processing.processing_flow_omni import FlowOmniProcessor


# A template of somebody else's making, which knows strings only and ends its turns in its own way.
FOREIGN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] | trim + ' </s>' }}"
    "{% else %}{{ '[' + message['role'] | upper + '] ' + message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '\n[BOT]' }}{% endif %}"
)


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


def foreign_processor():
    tokenizer = byte_level_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    tokenizer.chat_template = FOREIGN_TEMPLATE
    return FlowOmniProcessor(FlowOmniFeatureExtractor(), tokenizer)


# Conversations


def test_conversation_is_rendered_with_one_placeholder_an_audio(processor):
    conversation = [
        {"role": "system", "content": "Be brief."},
        user(audio(tone()), text(" What?")),
        assistant(text("A tone.")),
        user(text("And "), text("this? "), audio(noise())),
    ]
    assert processor.apply_chat_template(conversation, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<|audio|> What?<|im_end|>\n"
        "<|im_start|>assistant\nA tone.<|im_end|>\n"
        "<|im_start|>user\nAnd this? <|audio|><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("num_samples", [160, 1280, 1281, 9999, 16000])
def test_audio_takes_as_many_steps_as_the_model_makes_of_it(processor, model, num_samples):
    inputs = inputs_of(processor, [user(audio(noise(1.0)[:num_samples]))])
    num_placeholders = int((inputs["input_ids"] == AUDIO_TOKEN_ID).sum())
    encoded = model.get_audio_features(inputs["input_features"], inputs["input_features_mask"]).pooler_output
    assert num_placeholders == len(encoded) == -(-num_samples // 1280)


def test_audio_is_taken_from_wherever_it_lies(processor, tmp_path):
    samples = (noise() * 32768).astype(np.int16)
    path, contents = tmp_path / "noise.wav", file_bytes(samples)
    path.write_bytes(contents)
    expected = inputs_of(processor, [user(audio(samples))])
    decoder = SimpleNamespace(
        get_all_samples=lambda: SimpleNamespace(data=torch.from_numpy(samples)[None], sample_rate=16000)
    )
    items = [
        audio(torch.from_numpy(samples)),
        audio(path),
        audio(str(path)),
        audio(contents),
        audio(io.BytesIO(contents)),
        audio(decoder),
        audio({"array": samples, "sampling_rate": 16000}),
        audio({"bytes": contents, "path": None}),
        audio(None, path=str(path), url=None),
        {"type": "audio", "path": path},
        {"type": "audio", "bytes": contents, "path": "unused.wav"},
        {"type": "audio", "array": samples, "sampling_rate": 16000, "path": None},
        {"type": "audio", "base64": base64.b64encode(contents).decode()},
        {"type": "audio", "url": f"data:audio/wav;base64,{base64.b64encode(contents).decode()}"},
    ]
    for item in items:
        inputs = inputs_of(processor, [user(item)])
        assert all(torch.equal(inputs[name], expected[name]) for name in expected), item


def test_audio_column_of_a_dataset_is_taken(processor, tmp_path):
    soundfile.write(tmp_path / "tone.wav", tone(), 16000)
    table = datasets.Dataset.from_dict({"audio": [str(tmp_path / "tone.wav")]})
    table = table.cast_column("audio", datasets.Audio(decode=False))
    inputs = inputs_of(processor, [user(audio(table[0]["audio"]))])
    assert torch.equal(
        inputs["input_features"], inputs_of(processor, [user(audio(tmp_path / "tone.wav"))])["input_features"]
    )


def test_rate_of_an_array_is_that_of_its_item_or_of_the_call(processor):
    by_item = inputs_of(processor, [user(audio(tone(0.5, 48000), sampling_rate=48000))])
    by_call = inputs_of(processor, [user(audio(tone(0.5, 48000)))], sampling_rate=48000)
    by_option = inputs_of(processor, [user(audio(tone(0.5, 48000)))], processor_kwargs={"sampling_rate": 48000})
    by_audio_kwargs = inputs_of(
        processor, [user(audio(tone(0.5, 48000)))], processor_kwargs={"audio_kwargs": {"sampling_rate": 48000}}
    )
    for inputs in (by_call, by_option, by_audio_kwargs):
        assert torch.equal(inputs["input_features"], by_item["input_features"])
    assert inputs["input_features"].shape == inputs_of(processor, [user(audio(tone(0.5)))])["input_features"].shape


def test_file_is_not_resampled_by_the_rate_of_arrays(processor, tmp_path):
    soundfile.write(tmp_path / "tone.wav", tone(), 16000)
    inputs = inputs_of(processor, [user(audio(tmp_path / "tone.wav"))], sampling_rate=48000)
    assert torch.equal(
        inputs["input_features"], inputs_of(processor, [user(audio(tmp_path / "tone.wav"))])["input_features"]
    )


def test_string_and_list_contents_are_the_same(processor):
    listed = [user(text("Hello"), " there")]
    plain = [{"role": "user", "content": "Hello there"}]
    assert torch.equal(inputs_of(processor, listed)["input_ids"], inputs_of(processor, plain)["input_ids"])


def test_conversation_of_the_caller_is_left_as_it_was(processor):
    conversation = [
        user(audio(tone()), text("Hm?"), "Well?"),
        assistant(text("Yes."), audio(tone())),
        user(text("Ah.")),
    ]
    before = copy.deepcopy(conversation)
    inputs_of(processor, conversation)
    processor.prepare_training_inputs([conversation[:2]])
    np.testing.assert_equal(conversation, before)


def test_of_an_earlier_answer_only_the_text_is_kept(processor):
    """Its sound is not even read: the file may be gone."""
    spoken = [user(text("Hi")), assistant({"type": "audio", "path": "gone.wav"}, text("Hello.")), user(text("Hm."))]
    written = [user(text("Hi")), assistant(text("Hello.")), user(text("Hm."))]
    assert torch.equal(inputs_of(processor, spoken)["input_ids"], inputs_of(processor, written)["input_ids"])


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
    features = [feature for row in rows for feature in row.get("input_features", [])]
    for feature, padded, mask in zip(features, batch["input_features"], batch["input_features_mask"], strict=False):
        assert torch.equal(padded[:, : feature.shape[-1]][:, : int(mask.sum())], feature[:, : int(mask.sum())])
    assert [int(mask.sum()) for mask in batch["input_features_mask"]] == [16, 32, 24]


def test_final_message_can_be_continued(processor):
    conversation = [user(text("Count.")), assistant(text("One, two,"))]
    rendered = processor.apply_chat_template(conversation, continue_final_message=True)
    assert rendered.endswith("assistant\nOne, two,")


def test_assistant_tokens_are_masked(processor):
    conversation = [user(text("Ja?")), assistant(text("Ja.")), user(text("So?")), assistant(text("Nein."))]
    inputs = inputs_of(processor, conversation, add_generation_prompt=False, return_assistant_tokens_mask=True)
    masked = inputs["input_ids"][0][torch.as_tensor(inputs["assistant_masks"][0]).bool()]
    assert processor.decode(masked) == "Ja.<|im_end|>Nein.<|im_end|>"


def test_placeholders_can_be_rendered_first_and_filled_later(processor):
    rendered = processor.apply_chat_template([user({"type": "audio"}, text("What?"))], add_generation_prompt=True)
    inputs = processor(text=rendered, audio=tone(0.5, 8000), sampling_rate=8000)
    expected = inputs_of(processor, [user(audio(tone(0.5, 8000), sampling_rate=8000), text("What?"))])
    assert all(torch.equal(inputs[name], expected[name]) for name in expected)


@pytest.mark.parametrize("nested", [False, True])
def test_call_takes_stereo_lists_and_nested_lists(processor, nested):
    stereo = np.stack([tone(), tone()])
    audios = [stereo, tone().tolist(), torch.from_numpy(tone())]
    inputs = processor(text=["<|audio|>", "<|audio|><|audio|>"], audio=[audios[:1], audios[1:]] if nested else audios)
    assert inputs["input_features"].shape[0] == 3
    torch.testing.assert_close(inputs["input_features"][0], inputs["input_features"][1])
    assert (inputs["input_ids"] == AUDIO_TOKEN_ID).sum(dim=1).tolist() == [7, 14]


def test_names_of_the_inputs_are_complete(processor):
    inputs = inputs_of(processor, [user(audio(tone()))])
    assert set(inputs) == set(processor.model_input_names)


@pytest.mark.parametrize(("return_tensors", "kind"), [("pt", torch.Tensor), ("np", np.ndarray)])
def test_tensors_are_of_the_kind_asked_for(processor, return_tensors, kind):
    inputs = inputs_of(processor, [[user(audio(tone()))], [user(text("Hi"))]], return_tensors=return_tensors)
    assert isinstance(inputs, BatchFeature)
    assert all(isinstance(value, kind) for value in inputs.values())


def test_tensors_are_the_default(processor):
    inputs = processor.apply_chat_template([user(audio(tone()))], tokenize=True, return_dict=True)
    assert all(isinstance(value, torch.Tensor) for value in inputs.values())


def test_control_tokens_of_users_can_be_read_as_text(processor, monkeypatch):
    conversation = [user(audio(tone()), text("What are <|audio|> and <|im_end|>?"))]
    if hasattr(processor.tokenizer, "_mark_chat_inputs"):
        input_ids = inputs_of(processor, conversation, sanitize_control_tokens=True)["input_ids"][0].tolist()
        assert input_ids.count(AUDIO_TOKEN_ID) == 7 and input_ids.count(EOS_TOKEN_ID) == 1
        monkeypatch.delattr(PreTrainedTokenizerBase, "_mark_chat_inputs")
    with pytest.raises(ValueError, match="update transformers"):
        inputs_of(processor, conversation, sanitize_control_tokens=True)


# Chat templates


def test_language_models_own_format_is_kept_to_the_character():
    processor = foreign_processor()
    plain = [
        {"role": "user", "content": " Hi \n"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "PLACE"},
    ]
    listed = [user(text(" Hi "), text("\n")), assistant(text("Hello.")), user({"type": "audio"})]
    tokenizer = byte_level_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    expected = tokenizer.apply_chat_template(
        plain, chat_template=FOREIGN_TEMPLATE, add_generation_prompt=True, tokenize=False
    )
    assert processor.apply_chat_template(listed, add_generation_prompt=True) == expected.replace("PLACE", "<|audio|>")


def test_prompt_has_one_token_of_beginning():
    processor = foreign_processor()
    input_ids = inputs_of(processor, [user(text("Hi"))])["input_ids"][0].tolist()
    assert input_ids.count(processor.tokenizer.bos_token_id) == 1


def test_answer_ends_as_the_chat_template_ends_it():
    processor = foreign_processor()
    assert processor.answer_end_token_id == processor.tokenizer.convert_tokens_to_ids("</s>")
    assert tiny_processor().answer_end_token_id == EOS_TOKEN_ID


def test_answer_without_an_end_in_the_template_ends_with_the_tokenizers():
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message.role + ': ' + message.content + '\n' }}{% endfor %}"
    )
    processor = FlowOmniProcessor(FlowOmniFeatureExtractor(), tokenizer)
    assert processor.answer_end_token_id == tokenizer.eos_token_id


def test_answer_ends_as_a_template_says_that_is_set_later():
    processor = tiny_processor()
    assert processor.answer_end_token_id == EOS_TOKEN_ID
    processor.chat_template = "{% for message in messages %}{{ message.content + '<|endoftext|>' }}{% endfor %}"
    assert processor.answer_end_token_id == processor.tokenizer.convert_tokens_to_ids("<|endoftext|>") != EOS_TOKEN_ID


def test_tokenizer_without_chatml_ends_its_turns_with_its_own_end():
    tokenizer = byte_level_tokenizer()
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary["added_tokens"] = [
        token for token in vocabulary["added_tokens"] if not token["content"].startswith("<|im_")
    ]
    bare = type(tokenizer)(
        tokenizer_object=tokenizer.backend_tokenizer.from_str(json.dumps(vocabulary)), eos_token="<|endoftext|>"
    )
    config = tiny_config(audio_token_id=bare.convert_tokens_to_ids("<|audio|>"))
    processor = FlowOmniProcessor.from_parts(bare, config)
    assert processor.apply_chat_template([user(text("Hi")), assistant(text("Ho"))]).endswith("Ho<|endoftext|>\n")
    assert processor.answer_end_token_id == bare.eos_token_id


def test_several_named_templates_all_read_audio():
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = {"default": "{{ messages[0].content }}", "loud": "{{ messages[0].content | upper }}"}
    processor = FlowOmniProcessor(FlowOmniFeatureExtractor(), tokenizer)
    conversation = [user(text("hi "), {"type": "audio"})]
    assert processor.apply_chat_template(conversation) == "hi <|audio|>"
    assert processor.apply_chat_template(conversation, chat_template="loud") == "HI <|AUDIO|>"


# Tasks


def test_tasks_write_their_conversations(processor):
    assert processor.make_conversation("ask", "Why?") == [user(text("Why?"))]
    assert processor.make_conversation("ask", audio="q.wav") == [user(audio("q.wav"))]
    assert processor.make_conversation("ask", "Who?", "q.wav") == [user(audio("q.wav"), text("Who?"))]
    assert processor.make_conversation("say", "a {text} {0}") == [user(text("Read aloud: a {text} {0}"))]
    assert processor.make_conversation("transcribe", audio="q.wav") == [
        user(audio("q.wav"), text("Transcribe the speech."))
    ]


def test_prompts_of_the_tasks_can_be_in_another_language(tmp_path):
    processor = FlowOmniProcessor(
        FlowOmniFeatureExtractor(),
        byte_level_tokenizer(),
        task_prompts={"say": "朗读：{text}", "transcribe": "转写语音。"},
    )
    processor.save_pretrained(tmp_path)
    loaded = FlowOmniProcessor.from_pretrained(tmp_path)
    assert loaded.make_conversation("say", "你好") == [user(text("朗读：你好"))]
    assert loaded.task_prompts["ask"] == ""


# Training examples


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


@pytest.mark.parametrize("method", ["decode", "batch_decode"])
def test_answers_are_decoded_without_their_prompts(processor, method):
    spoken, written = getattr(processor, method)(generate_output())
    assert spoken["text"] == "Ok" and written["text"] == "No"
    assert spoken["audio"].dtype == np.float32 and spoken["audio"].tolist() == [0.5, -0.5]
    assert written["audio"] is None
    assert spoken["sampling_rate"] == 8000


def test_answers_without_a_vocoder_have_no_audio(processor):
    assert [answer["audio"] for answer in processor.decode(generate_output(audio=None))] == [None, None]


def test_answers_of_the_model_are_decoded(processor, model):
    inputs = inputs_of(processor, [[user(audio(tone()))], [user(text("Hi"))]])
    output = model.generate(**inputs, generation_mode="speech", max_new_tokens=12, seed=0)
    answers = processor.decode(output)
    assert len(answers) == 2
    for answer, waveform in zip(answers, output.audio):
        assert isinstance(answer["text"], str)
        assert np.array_equal(answer["audio"], waveform.numpy()) if len(waveform) else answer["audio"] is None


def test_ids_are_decoded_as_the_tokenizer_does(processor):
    ids = processor.tokenizer("Größe <|audio|>").input_ids
    assert processor.decode(ids) == "Größe <|audio|>"
    assert processor.decode(ids, skip_special_tokens=True) == "Größe "
    assert processor.batch_decode([ids, ids[:1]]) == ["Größe <|audio|>", "G"]


def test_pipelines_get_the_kind_of_output_they_ask_for(processor):
    output = generate_output()
    assert processor.post_process_multimodal_output(output) == ["hiOk", "hNo"]
    assert processor.post_process_multimodal_output(output["sequences"], generation_mode="text") == ["hiOk", "hNo"]
    waveforms = processor.post_process_multimodal_output(output, generation_mode="audio")
    assert [waveform.tolist() for waveform in waveforms] == [[0.5, -0.5], []]


# Saving


def test_saving_keeps_everything(tmp_path):
    processor = FlowOmniProcessor(
        FlowOmniFeatureExtractor(feature_size=128, adapter_stack_size=2, frames_per_step=8),
        byte_level_tokenizer(),
        speech_delay=5,
        max_audio_seconds=12.5,
        task_prompts={"ask": "Answer:"},
    )
    processor.save_pretrained(tmp_path)
    for loaded in (FlowOmniProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is FlowOmniProcessor
        assert loaded.to_dict() == processor.to_dict()
        assert loaded.chat_template == processor.chat_template
        assert loaded.max_audio_seconds == 12.5 and loaded.speech_delay == 5
        assert loaded.feature_extractor.frames_per_step == 8
        conversation = [user(audio(tone()), text("Größe?"))]
        ours, theirs = inputs_of(processor, conversation), inputs_of(loaded, conversation)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_fields_of_a_later_version_survive_loading_and_saving(tmp_path):
    tiny_processor().save_pretrained(tmp_path / "first")
    path = tmp_path / "first" / "processor_config.json"
    fields = json.loads(path.read_text()) | {"voices": ["anna", "ben"]}
    path.write_text(json.dumps(fields))
    FlowOmniProcessor.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    assert json.loads((tmp_path / "second" / "processor_config.json").read_text()) == fields


def test_reloaded_template_is_not_wrapped_again(tmp_path):
    """Tokenizer and processor share one file for their template."""
    processor = tiny_processor()
    processor.save_pretrained(tmp_path)
    tokenizer = FlowOmniProcessor.from_pretrained(tmp_path).tokenizer
    rebuilt = FlowOmniProcessor.from_parts(tokenizer, tiny_config())
    assert rebuilt.chat_template == processor.chat_template
    plain = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(plain, tokenize=False) == processor.apply_chat_template(plain)


def test_changed_template_is_kept(tmp_path):
    processor = tiny_processor()
    processor.chat_template = processor.chat_template.replace("assistant\\n' }}", "assistant, kindly\\n' }}")
    processor.save_pretrained(tmp_path)
    loaded = FlowOmniProcessor.from_pretrained(tmp_path)
    assert loaded.apply_chat_template([user(text("Hi"))], add_generation_prompt=True).endswith("assistant, kindly\n")


# Building from parts


def test_parts_give_the_geometry_of_the_model():
    config = tiny_config(audio={"num_mel_bins": 128}, speech={"speech_delay": 7}, adapter_stack_size=2)
    processor = FlowOmniProcessor.from_parts(byte_level_tokenizer(), config, max_audio_seconds=30)
    extractor = processor.feature_extractor
    assert (extractor.feature_size, processor.adapter_stack_size, processor.speech_delay) == (128, 2, 7)
    assert (extractor.speech_n_fft, extractor.speech_hop_length, extractor.speech_num_mel_bins) == (256, 64, 20)
    assert processor.frames_per_step == 2 and processor.sampling_rate == 8000
    assert processor.max_audio_seconds == 30 and extractor.speech_padding == "center"


def test_parts_add_the_audio_token_that_is_missing():
    tokenizer = byte_level_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|tool|>"]})
    config = tiny_config(audio_token_id=len(tokenizer))
    processor = FlowOmniProcessor.from_parts(tokenizer, config, audio_token="<|heard|>")
    assert processor.audio_token_id == len(tokenizer) - 1
    assert {"<|tool|>", "<|heard|>"} <= set(tokenizer.all_special_tokens)
    inputs = inputs_of(processor, [user(audio(tone()))])
    assert (inputs["input_ids"] == processor.audio_token_id).sum() == 7


def test_parts_pad_with_the_end_where_there_is_no_pad():
    tokenizer = byte_level_tokenizer()
    tokenizer.pad_token = None
    processor = FlowOmniProcessor.from_parts(tokenizer, tiny_config())
    assert processor.tokenizer.pad_token_id == EOS_TOKEN_ID
    processor.prepare_training_inputs(four_tasks())


def test_rows_are_padded_on_the_left_whatever_the_tokenizer_was_set_to():
    tokenizer = byte_level_tokenizer()
    tokenizer.padding_side = "right"
    tokenizer.init_kwargs["padding_side"] = "right"
    processor = FlowOmniProcessor.from_parts(tokenizer, tiny_config())
    mask = inputs_of(processor, [[user(text("Hi"))], [user(text("Hello"))]])["attention_mask"]
    assert mask[0, 0] == 0 and mask[0, -1] == 1


def test_byte_level_tokenizer_writes_every_language():
    tokenizer = byte_level_tokenizer()
    for words in ("Größe", "你好，世界", "हिन्दी", "🎵 \t\n\0", " two  spaces "):
        token_ids = tokenizer(words).input_ids
        assert token_ids == list(words.encode())
        assert tokenizer.decode(token_ids) == words
    assert len(tokenizer) == 260
    assert tokenizer("<|im_end|>").input_ids == [tokenizer.eos_token_id]
