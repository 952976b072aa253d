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
"""The model: its losses, its streams, its audio encoder, and what transformers' users do with any model."""

import pytest
import torch
from tiny import AUDIO_FIELDS, AUDIO_TOKEN_ID, EOS_TOKEN_ID, spoken_prompt, tiny_config, tiny_model, training_batch
from transformers import WhisperConfig, WhisperModel
from transformers.cache_utils import DynamicCache, StaticCache

from flow_omni.modeling_flow_omni import speech_heads
from flow_omni.modeling_flow_omni.configuration_flow_omni import LANGUAGE_MODEL_FAMILIES
from flow_omni.modeling_flow_omni.modeling_flow_omni import (
    MODULE_GROUPS,
    FlowOmniAudioEncoder,
    FlowOmniForSpeechGeneration,
    corrupt_patches,
    count_parameters,
    shift_patches,
)
from flow_omni.modeling_flow_omni.speech_heads import PATCHES_PER_CODE


LOSSES = ("text_loss", "state_loss", "speech_loss", "auxiliary_loss", "ctc_loss")


# --- losses


def test_total_loss_is_the_weighted_sum_of_its_parts():
    weights = {
        "text_loss_weight": 2.0,
        "state_loss_weight": 3.0,
        "speech_loss_weight": 5.0,
        "auxiliary_loss_weight": 7.0,
        "ctc_loss_weight": 11.0,
    }
    model = tiny_model(**weights)
    output = model(**training_batch(model.config))
    expected = sum(weights[f"{name}_weight"] * output[name] for name in LOSSES)
    torch.testing.assert_close(output.loss, expected)


def test_each_part_of_the_loss_needs_only_its_own_labels(model):
    batch = training_batch(model.config)
    whole = model(**batch)
    for label, parts in [
        ("labels", ["text_loss"]),
        ("state_labels", ["state_loss"]),
        ("mel_labels", ["speech_loss", "auxiliary_loss"]),
        ("audio_labels", ["ctc_loss"]),
    ]:
        others = {name for name in ("labels", "state_labels", "mel_labels", "audio_labels") if name != label}
        output = model(**{name: value for name, value in batch.items() if name not in others})
        assert [name for name in LOSSES if output.get(name) is not None] == parts
        if label == "mel_labels":
            # the other two see the same patches
            torch.testing.assert_close(output.speech_loss, whole.speech_loss)


def test_text_loss_equals_that_of_the_full_vocabulary_head_though_it_runs_only_at_labels(model):
    batch = training_batch(model.config)
    seen = []
    hook = model.lm_head.register_forward_hook(lambda module, args, output: seen.append(args[0].shape))
    loss = model(**batch).text_loss
    hook.remove()
    assert seen == [(10, 32)]

    logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100
    )
    torch.testing.assert_close(loss, expected)


def test_state_loss_equals_the_weighted_cross_entropy(model):
    batch = training_batch(model.config)
    output = model(**batch)
    expected = torch.nn.functional.cross_entropy(
        output.state_logits[:, :-1].flatten(0, 1),
        batch["state_labels"][:, 1:].flatten(),
        torch.tensor(model.config.state_class_weights),
        ignore_index=-100,
    )
    torch.testing.assert_close(output.state_loss, expected)


def test_ctc_loss_is_the_ctc_of_cosines_between_audio_and_token_embeddings(model):
    batch = training_batch(model.config)
    loss = model(**batch).ctc_loss
    table = model.get_input_embeddings().weight
    # from their common mean; the blank comes once more, as the last symbol
    directions = torch.cat([table, table[[AUDIO_TOKEN_ID]]]) - table.mean(dim=0)
    tokens = torch.nn.functional.normalize(directions, dim=-1)
    expected = 0.0
    for row, (num_frames, transcript) in enumerate([(24, [7, 9]), (16, [11])]):
        features = batch["input_features"][row : row + 1, :, :num_frames]
        audio = torch.nn.functional.normalize(model.model.get_audio_features(features).pooler_output, dim=-1)
        log_probs = (audio @ tokens.T * 32**0.5).log_softmax(-1)
        expected += torch.nn.functional.ctc_loss(
            log_probs, torch.tensor(transcript), [len(audio)], [len(transcript)], len(table), reduction="sum"
        )
    torch.testing.assert_close(loss, expected / 3)


def test_ctc_loss_leaves_out_audio_without_transcript_or_with_more_tokens_than_positions(model):
    batch = training_batch(model.config)
    batch["audio_labels"] = torch.tensor([[7, 9], [-100, -100]])
    first_alone = model(**batch).ctc_loss * 2
    batch["audio_labels"] = torch.tensor([[7, 9, -100], [1, 2, 3]])  # three tokens at two positions
    torch.testing.assert_close(model(**batch).ctc_loss * 5, first_alone)
    batch["audio_labels"] = torch.full((2, 2), -100)
    assert model(**batch).ctc_loss == 0.0


def test_ctc_loss_trains_the_adapter_and_not_the_token_embeddings(model):
    model(**training_batch(model.config)).ctc_loss.backward()
    assert model.model.audio_adapter.layers[0].weight.grad.abs().sum() > 0
    assert model.get_input_embeddings().weight.grad is None
    model.zero_grad()


def test_padding_behind_a_rows_patches_is_never_read(model):
    batch = training_batch(model.config)
    expected = model(**batch).loss
    batch["mel_labels"][1, 2] = 1e4
    torch.testing.assert_close(model(**batch).loss, expected)


def test_evaluation_losses_repeat_and_training_losses_do_not():
    model = tiny_model()
    batch = training_batch(model.config)
    assert torch.equal(model(**batch).loss, model(**batch).loss)
    model.train()
    assert not torch.equal(model(**batch).loss, model(**batch).loss)


def test_batch_without_speech_has_a_speech_loss_of_zero_that_can_be_differentiated(model):
    batch = training_batch(model.config)
    batch["speech_states"] = torch.zeros_like(batch["speech_states"])
    output = model(**batch)
    assert output.speech_loss.item() == output.auxiliary_loss.item() == 0.0
    assert torch.isfinite(output.loss)
    output.loss.backward()


def test_every_parameter_but_the_vocoders_learns():
    for head_type, prediction_type in (("flow", "data"), ("flow", "velocity"), ("residual_vq", "data")):
        speech = {"head_type": head_type, "prediction_type": prediction_type, "condition_dropout": 0.5}
        model = tiny_model(speech=speech).train()
        model(**training_batch(model.config)).loss.backward()
        without_gradient = {
            name
            for name, parameter in model.named_parameters()
            if parameter.grad is None or not parameter.grad.abs().sum() > 0
        }
        # a key's bias has no effect on attention, and the bias of a tiny batch may miss
        without_gradient = {name for name in without_gradient if "k_proj.bias" not in name}
        assert without_gradient == {name for name, _ in model.named_parameters() if name.startswith("vocoder.")}


def test_every_parameter_belongs_to_one_group_of_modules():
    for head_type in ("flow", "residual_vq"):
        model = tiny_model(speech={"head_type": head_type})
        for name, _ in model.named_parameters():
            assert sum(name.startswith(prefixes) for prefixes in MODULE_GROUPS.values()) == 1, name
        model.vocoder.requires_grad_(False)
        counts = count_parameters(model)
        assert sum(number for number, _ in counts.values()) == model.num_parameters()
        assert counts["vocoder"] == (model.vocoder.num_parameters(), 0)
        assert all(number == trainable > 0 for group, (number, trainable) in counts.items() if group != "vocoder")


def test_each_codebook_lowers_the_error_of_the_quantizer():
    model = tiny_model(speech={"head_type": "residual_vq"})
    patches = torch.randn(64, model.config.speech_config.patch_size)
    quantizer = model.speech_head.quantizer
    quantizer.fit(patches, generator=torch.Generator().manual_seed(0))
    residual = [(patches - quantizer(quantizer.encode(patches))[:, :levels].sum(dim=1)).norm() for levels in (1, 2, 3)]
    assert patches.norm() > residual[0] > residual[1] > residual[2]
    with pytest.raises(ValueError, match="Got 3 patches for codebooks of 16 codes"):
        quantizer.fit(patches[:3])


def test_codebooks_of_many_patches_are_fitted_to_some_of_them(monkeypatch):
    """On all, k-means takes minutes; the first ones would all be of one recording."""
    quantizer = tiny_model(speech={"head_type": "residual_vq"}).speech_head.quantizer
    num_codebooks, num_codes, patch_size = quantizer.codebooks.shape
    # two far places, one after the other, and much more of them than is drawn
    patches = 0.1 * torch.randn(40 * PATCHES_PER_CODE * num_codes, patch_size)
    patches[len(patches) // 2 :] += 5.0
    num_points = []

    def counted(points, *arguments):
        num_points.append(len(points))
        return k_means(points, *arguments)

    k_means = speech_heads._k_means
    monkeypatch.setattr(speech_heads, "_k_means", counted)
    codebooks = []
    for seed in (0, 0, 1):
        quantizer.fit(patches, generator=torch.Generator().manual_seed(seed))
        codebooks.append(quantizer.codebooks.detach().clone())
    assert num_points == [num_codes * PATCHES_PER_CODE] * num_codebooks * 3
    assert torch.equal(codebooks[0], codebooks[1]) and not torch.equal(codebooks[0], codebooks[2])
    some = patches[::97]
    error = some - quantizer(quantizer.encode(some)).sum(dim=1)
    assert error.square().mean() < 0.1**2


# --- the streams


def test_teacher_forcing_reads_what_generation_would_feed_back(model):
    """`mel_labels` and the `previous_patches` of generation give the same condition for every patch."""
    batch = training_batch(model.config)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "input_features", "input_features_mask")}
    forced = model(**batch)
    patches = model.prepare_patches(batch["mel_labels"], batch["speech_states"])
    previous = shift_patches(patches)
    stepwise = model(**inputs, speech_states=batch["speech_states"], previous_patches=previous)
    torch.testing.assert_close(forced.condition, stepwise.condition)
    is_generating = batch["speech_states"] == model.config.generating_state_id
    assert torch.equal(previous[:, 1:][is_generating[:, :-1]], patches[is_generating])
    assert previous[:, 1:][~is_generating[:, :-1]].abs().sum() == 0


def test_previous_patches_replace_the_targets_as_input_and_not_as_targets(model):
    """Scheduled sampling: the model reads patches of its own, and still learns the targets."""
    batch = training_batch(model.config)
    forced = model(**batch)
    patches = model.prepare_patches(batch["mel_labels"], batch["speech_states"])
    torch.testing.assert_close(model(**batch, previous_patches=shift_patches(patches)).loss, forced.loss)
    predicted = shift_patches(model.predict_patches(forced.condition, batch["speech_states"]))
    scheduled = model(**batch, previous_patches=predicted)
    unforced = {name: value for name, value in batch.items() if name != "mel_labels"}
    torch.testing.assert_close(scheduled.condition, model(**unforced, previous_patches=predicted).condition)
    is_generating = batch["speech_states"] == model.config.generating_state_id
    losses, _ = model.speech_head(scheduled.condition[is_generating], patches[is_generating])
    torch.testing.assert_close(scheduled.speech_loss, losses.mean())


def test_predicted_patches_are_the_most_typical_ones_without_gradient():
    for head_type in ("flow", "residual_vq"):
        model = tiny_model(speech={"head_type": head_type})
        batch = training_batch(model.config)
        condition = model(**batch).condition
        predicted = model.predict_patches(condition, batch["speech_states"])
        assert not predicted.requires_grad
        is_generating = batch["speech_states"] == model.config.generating_state_id
        assert torch.equal((predicted != 0).any(dim=-1), is_generating)
        noise = torch.stack([model.speech_head.draw_noise(None, "cpu") for _ in range(int(is_generating.sum()))])
        expected = model.speech_head(condition[is_generating], noise=noise, num_steps=1, temperature=0.0)
        torch.testing.assert_close(predicted[is_generating], expected)


def test_patches_are_corrupted_in_training_only_and_for_the_speech_transformer_only_without_clean_context():
    for clean_context in (True, False):
        model = tiny_model(speech={"patch_noise": 1.0, "patch_dropout": 0.5, "clean_context": clean_context})
        batch, seen = training_batch(model.config), {}
        for name, module in (("language_model", model.model), ("speech_transformer", model.speech_transformer)):
            module.patch_proj.register_forward_pre_hook(
                lambda module, args, name=name, seen=seen: seen.__setitem__(name, args[0].clone())
            )
        model.eval()(**batch)
        assert torch.equal(seen["language_model"], seen["speech_transformer"])
        clean = seen["speech_transformer"]
        # those of the call, too
        for patches in ({}, {"previous_patches": clean}):
            model.train()(**batch, **patches)
            assert not torch.equal(seen["language_model"], clean)
            assert torch.equal(seen["speech_transformer"], clean if clean_context else seen["language_model"])


def test_each_row_in_training_lacks_its_own_fraction_of_its_patches():
    config = tiny_config(speech={"patch_noise": 0.0, "patch_dropout": 0.8}).speech_config
    patches = torch.randn(200, 500, config.patch_size)
    corrupted = corrupt_patches(patches, config)
    is_kept = corrupted.abs().sum(dim=-1) > 0
    assert torch.equal(corrupted[is_kept], patches[is_kept])
    fractions = 1.0 - is_kept.float().mean(dim=-1)
    assert fractions.min() < 0.1 and fractions.max() > 0.7
    assert fractions.mean().item() == pytest.approx(0.4, abs=0.04)


def test_a_position_depends_on_no_later_patch(model):
    batch = training_batch(model.config)
    expected = model(**batch)
    batch["mel_labels"][:, 1] += 1.0
    output = model(**batch)
    step = int((batch["speech_states"][0] == model.config.generating_state_id).nonzero()[1])
    torch.testing.assert_close(output.condition[:, : step + 1], expected.condition[:, : step + 1])
    assert not torch.allclose(output.condition[:, step + 1], expected.condition[:, step + 1])


def test_new_speech_inputs_leave_the_text_of_the_language_model_exactly_as_it_was():
    torch.manual_seed(0)
    model = FlowOmniForSpeechGeneration(tiny_config()).eval()
    input_ids = torch.randint(0, 250, (2, 9))
    states = torch.randint(0, 4, (2, 9))
    patches = torch.randn(2, 9, model.config.speech_config.patch_size)
    expected = model.lm_head(model.model.language_model(input_ids).last_hidden_state)
    assert torch.equal(model(input_ids, speech_states=states, previous_patches=patches).logits, expected)


def test_left_padding_changes_nothing(model):
    padded = spoken_prompt([24, 61], [3, 9])
    alone = spoken_prompt([24], [3])
    kept = padded["attention_mask"][0].bool()
    padded["input_ids"][0, kept] = alone["input_ids"][0]
    padded["input_features"][0, :, :24] = alone["input_features"][0]
    position_ids = (padded["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    together, single = model(**padded, position_ids=position_ids), model(**alone)
    torch.testing.assert_close(together.logits[0, kept], single.logits[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together.condition[0, kept], single.condition[0], atol=1e-5, rtol=1e-5)


def test_logits_to_keep_keeps_the_last_ones_or_those_asked_for(model):
    inputs = spoken_prompt([24], [5])
    logits = model(**inputs).logits
    torch.testing.assert_close(model(**inputs, logits_to_keep=2).logits, logits[:, -2:])
    chosen = torch.tensor([1, 4])
    torch.testing.assert_close(model(**inputs, logits_to_keep=chosen).logits, logits[:, chosen])


# --- audio encoder


@pytest.fixture(scope="module")
def whisper_pair():
    torch.manual_seed(0)
    config = WhisperConfig(**AUDIO_FIELDS)
    whisper = WhisperModel(config).eval()
    encoder = FlowOmniAudioEncoder(config).eval()
    encoder.load_state_dict(whisper.encoder.state_dict())
    return whisper, encoder


def test_encoder_equals_whispers_on_a_full_window(whisper_pair):
    whisper, encoder = whisper_pair
    features = torch.randn(1, 80, 3000)
    for implementation in ("eager", "sdpa"):
        whisper.set_attn_implementation(implementation)
        encoder.set_attn_implementation(implementation)
        with torch.no_grad():
            expected = whisper.encoder(features).last_hidden_state
            for mask in (None, torch.ones(1, 3000, dtype=torch.long)):
                output = encoder(features, attention_mask=mask).last_hidden_state
                torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)


def test_encoded_row_of_a_batch_equals_the_row_alone(whisper_pair):
    _, encoder = whisper_pair
    for lengths in ((9, 40), (24, 1), (2999, 16)):
        features = torch.randn(2, 80, max(lengths))
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        with torch.no_grad():
            together = encoder(features, attention_mask=mask).last_hidden_state
            for row, length in enumerate(lengths):
                alone = encoder(features[row : row + 1, :, :length]).last_hidden_state
                torch.testing.assert_close(together[row, : alone.shape[1]], alone[0], atol=1e-5, rtol=0)


def test_new_encoder_has_whispers_fixed_positions():
    torch.manual_seed(0)
    model = FlowOmniForSpeechGeneration(tiny_config())
    expected = WhisperModel(model.config.audio_config).encoder.embed_positions.weight
    torch.testing.assert_close(model.model.audio_encoder.embed_positions.weight, expected)


def test_long_audio_is_encoded_in_windows(whisper_pair):
    _, encoder = whisper_pair
    features = torch.randn(2, 80, 6500)
    lengths = (6500, 2000)
    mask = torch.arange(6500) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        output = encoder(features, attention_mask=mask).last_hidden_state
        windows = [encoder(features[:1, :, start : start + 3000]).last_hidden_state for start in (0, 3000, 6000)]
        short = encoder(features[1:, :, :2000]).last_hidden_state
    assert output.shape == (2, 3250, 32)
    torch.testing.assert_close(output[0], torch.cat(windows, dim=1)[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(output[1, :1000], short[0], atol=1e-5, rtol=0)
    assert output[1, 1500:].abs().sum() == 0


# --- as with any model of transformers


def test_every_family_saves_and_loads_under_every_attention_implementation(tmp_path):
    for family in LANGUAGE_MODEL_FAMILIES:
        model = tiny_model(text={"model_type": family, "bos_token_id": 0})
        model.save_pretrained(tmp_path / family)
        assert not {path.suffix for path in (tmp_path / family).iterdir()} - {".safetensors", ".json", ".py"}
        batch = training_batch(model.config)
        for implementation in ("sdpa", "eager"):
            loaded, info = FlowOmniForSpeechGeneration.from_pretrained(
                tmp_path / family, attn_implementation=implementation, output_loading_info=True
            )
            assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
            assert loaded.speech_transformer.layers[0].self_attn.config._attn_implementation == implementation
            torch.testing.assert_close(loaded(**batch).loss, model(**batch).loss, atol=1e-5, rtol=1e-4)
        assert len(loaded(**batch, output_attentions=True).attentions) == 2, family


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for use_checkpointing in (False, True):
        model = tiny_model(speech={"patch_noise": 0.0, "patch_dropout": 0.0, "condition_dropout": 0.0}).train()
        if use_checkpointing:
            model.activation_checkpointing_enable()
        torch.manual_seed(1)
        model(**training_batch(model.config)).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_bf16_keeps_the_mel_statistics_in_fp32(tmp_path):
    model = tiny_model()
    model.mel_normalizer.mean.fill_(-0.123456789)
    mean = model.mel_normalizer.mean.clone()
    model.save_pretrained(tmp_path)
    loaded = FlowOmniForSpeechGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    inputs = spoken_prompt([24], [3])
    inputs["input_features"] = inputs["input_features"].to(torch.bfloat16)
    for bf16_model in (loaded, model.to(torch.bfloat16)):
        assert bf16_model.lm_head.weight.dtype == torch.bfloat16
        assert torch.equal(bf16_model.mel_normalizer.mean, mean)
        output = bf16_model.generate(**inputs, max_new_tokens=10)
        assert output.mel.dtype == torch.float32 and torch.isfinite(output.mel).all()
        assert torch.isfinite(bf16_model(**training_batch(model.config)).loss)


def test_new_tokens_extend_both_ends_of_the_vocabulary(model):
    model = tiny_model()
    model.resize_token_embeddings(300)
    assert model.config.text_config.vocab_size == 300
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert model(torch.tensor([[299]])).logits.shape == (1, 1, 300)


def test_cache_made_by_the_user_is_extended(model):
    inputs = spoken_prompt([24], [3])
    expected = model(**inputs).logits
    for cache in (
        DynamicCache(),
        DynamicCache(config=model.config),
        StaticCache(config=model.config, max_cache_len=20),
    ):
        output = model(**inputs, cache=cache, use_cache=True)
        torch.testing.assert_close(output.logits, expected, atol=1e-5, rtol=1e-5)
        assert len(cache.layers) == 3


@pytest.mark.slow
def test_any_module_but_the_vocoder_can_be_offloaded_to_the_disk(tmp_path):
    inputs, options = spoken_prompt([24], [3]), {"max_new_tokens": 10, "seed": 0, "flow_guidance_scale": 2.0}
    offloadable = (
        "model.audio_encoder",
        "model.audio_adapter",
        "model.language_model",
        "speech_transformer",
        "lm_head",
    )
    for head_type, modules in (("flow", (*offloadable, "speech_head")), ("residual_vq", ("speech_head",))):
        model = tiny_model(speech={"head_type": head_type}, text={"tie_word_embeddings": False})
        model.save_pretrained(tmp_path)
        expected = model.generate(**inputs, **options).mel
        names = [f"model.{name}" for name, _ in model.model.named_children()]
        names += [name for name, _ in model.named_children() if name != "model"]
        for offloaded in modules:
            device_map = {name: "disk" if name == offloaded else "cpu" for name in names}
            loaded = FlowOmniForSpeechGeneration.from_pretrained(
                tmp_path, device_map=device_map, offload_folder=tmp_path / "offload"
            )
            torch.testing.assert_close(loaded.generate(**inputs, **options).mel, expected)


def test_attention_can_be_chosen_for_the_whole_model(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    model = FlowOmniForSpeechGeneration.from_pretrained(tmp_path, attn_implementation="flex_attention")
    for implementation in ("flex_attention", "sdpa", "eager"):
        model.set_attn_implementation(implementation)
        assert model.speech_transformer.layers[0].self_attn.config._attn_implementation == implementation
        assert model.model.language_model.layers[0].self_attn.config._attn_implementation == implementation
        assert model.model.audio_encoder.config._attn_implementation == implementation


# --- bad input


def test_misshapen_or_missing_inputs_are_refused(model):
    batch = training_batch(model.config)
    with pytest.raises(ValueError, match=r"\(batch_size, max_patches, frames_per_step=2, num_mel_bins=20\)"):
        model(**{**batch, "mel_labels": batch["mel_labels"].transpose(2, 3)})
    with pytest.raises(ValueError, match="A row has 3 generating positions but only 1 patches"):
        model(**{**batch, "mel_labels": batch["mel_labels"][:, :1]})
    with pytest.raises(ValueError, match="need `speech_states`"):
        model(**{**batch, "speech_states": None})
    with pytest.raises(ValueError, match="`audio_labels` are transcripts of `input_features`: pass these too"):
        model(input_ids=torch.tensor([[1, 2]]), audio_labels=torch.tensor([[1]]))
    for inputs in ({}, {"input_ids": torch.tensor([[EOS_TOKEN_ID]]), "inputs_embeds": torch.zeros(1, 1, 32)}):
        with pytest.raises(ValueError, match="exactly one"):
            model(**inputs)


def test_a_language_model_that_returns_another_cache_is_refused(monkeypatch):
    """On transformers 5.24 a cache passed under its old name was ignored, and speech never stopped."""
    model = tiny_model()
    forward = model.model.language_model.forward

    def with_own_cache(cache=None, **inputs):
        return forward(cache=DynamicCache(config=model.config.text_config), **inputs)

    monkeypatch.setattr(model.model.language_model, "forward", with_own_cache)
    with pytest.raises(ValueError, match="returned another cache"):
        model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=True)


def test_gradient_checkpointing_disables_the_cache():
    """The recomputed layers of the language model return no cache, which generation would take for a lost one."""
    model = tiny_model().train()
    model.activation_checkpointing_enable()
    output = model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=True)
    assert output.cache is None and output.logits.requires_grad
