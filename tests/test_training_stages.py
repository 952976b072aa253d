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
"""Stages: what a stage trains moves, all of it, and what it freezes does not; LoRA checkpoints load as what they were."""

import pytest
import torch
from tiny import tiny_model, training_batch

from flow_omni.modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from flow_omni.training.lora import LoraOptions, add_lora, load_lora, merge_lora, plain_name
from flow_omni.training.stages import freeze_for


NEW_PARTS = (
    *("model.audio_adapter.", "model.state_embedding.", "model.patch_proj."),
    *("speech_transformer.", "speech_head.", "state_head."),
)
NEVER = ("vocoder.", "model.audio_encoder.embed_positions.")


def train(model: torch.nn.Module, num_steps: int = 2) -> torch.nn.Module:
    """Some steps on batches that reach every part of the model."""
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)
    model.train()
    for seed in range(num_steps):
        optimizer.zero_grad()
        model(**training_batch(model.config, seed)).loss.backward()
        optimizer.step()
    return model.eval()


def moved(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


def snapshot(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


# half of the conditions dropped: the empty one is sure to be used
SPEECH = {"condition_dropout": 0.5}


@pytest.mark.parametrize("head_type", ["flow", "residual_vq"])
@pytest.mark.parametrize("is_tied", [True, False])
def test_align_trains_all_that_is_new_and_nothing_else(head_type, is_tied):
    model = tiny_model(speech=SPEECH | {"head_type": head_type}, text={"tie_word_embeddings": is_tied})
    before = snapshot(model)
    freeze_for(model, "align")
    train(model)
    assert moved(model, before) == {name for name in before if name.startswith(NEW_PARTS)}


@pytest.mark.parametrize("head_type", ["flow", "residual_vq"])
@pytest.mark.parametrize("is_tied", [True, False])
def test_finetune_trains_all_but_the_vocoder_and_the_positions_of_whisper(head_type, is_tied):
    model = tiny_model(speech=SPEECH | {"head_type": head_type}, text={"tie_word_embeddings": is_tied})
    before = snapshot(model)
    freeze_for(model, "finetune")
    train(model)
    # the bias of the keys shifts all scores of a query alike: its gradient is zero but for rounding
    still = set(before) - moved(model, before)
    assert {name for name in still if not name.startswith(NEVER)} <= {n for n in before if "k_proj.bias" in n}
    assert still >= {name for name in before if name.startswith(NEVER)}


EARS = ("model.audio_encoder.", "model.audio_adapter.")
VOICE = ("speech_transformer.", "speech_head.", "state_head.")


def test_understand_trains_all_but_the_voice():
    model = tiny_model(speech=SPEECH)
    before = snapshot(model)
    freeze_for(model, "understand")
    train(model)
    changed = moved(model, before)
    assert not [name for name in changed if name.startswith((*VOICE, *NEVER))]
    still = {name for name in before if not name.startswith((*VOICE, *NEVER))} - changed
    assert still <= {name for name in before if "k_proj.bias" in name}


@pytest.mark.parametrize("stage, side", [("listen", EARS), ("speak", VOICE)])
def test_listen_and_speak_train_one_side_and_nothing_else(stage, side):
    model = tiny_model(speech=SPEECH)
    before = snapshot(model)
    freeze_for(model, stage)
    train(model)
    ours = {name for name in before if name.startswith(side) and not name.startswith(NEVER)}
    changed = moved(model, before)
    assert changed <= ours
    assert {name for name in ours - changed if "k_proj.bias" not in name} == set()


def test_speak_lets_the_language_model_run_forwards_only():
    model = tiny_model()
    freeze_for(model, "speak")
    hidden_states = model.train().model(torch.zeros(1, 4, dtype=torch.long)).last_hidden_state
    assert not hidden_states.requires_grad


def test_a_stage_frees_what_another_froze():
    model = tiny_model()
    freeze_for(model, "align")
    freeze_for(model, "finetune")
    assert model.model.language_model.layers[0].mlp.up_proj.weight.requires_grad


def test_the_empty_condition_is_frozen_where_nothing_would_train_it():
    model = tiny_model(speech={"condition_dropout": 0.0})
    freeze_for(model, "finetune")
    assert not model.speech_head.empty_condition.requires_grad


def test_an_unknown_stage_is_refused():
    with pytest.raises(ValueError, match="'aline'.*'align', 'finetune', 'understand', 'listen', 'speak'"):
        freeze_for(tiny_model(), "aline")


def test_lora_is_refused_where_the_language_model_is_to_stay_as_it_is():
    with pytest.raises(ValueError, match="'speak': adapters change .* 'align', 'finetune'"):
        add_lora(tiny_model(), "speak", LoraOptions())


@pytest.mark.parametrize("stage", ["align", "finetune"])
def test_lora_trains_adapters_of_the_language_model_and_what_the_stage_trains_elsewhere(stage):
    adapted = add_lora(tiny_model(speech=SPEECH), stage, LoraOptions(rank=2))
    before = snapshot(adapted)
    train(adapted, 3)
    has_moved = moved(adapted, before)
    adapters = {name for name in before if ".lora_" in name}
    assert len(adapters) == 2 * 7 * 2  # A and B, of seven projections, in two layers
    assert all(plain_name(name).startswith("model.language_model.layers.") for name in adapters)
    full = NEW_PARTS + (("model.audio_encoder.",) if stage == "finetune" else ())
    copies = {name for name in before if ".modules_to_save." in name and plain_name(name).startswith(full)}
    copies = {name for name in copies if not plain_name(name).startswith(NEVER)}
    assert adapters <= has_moved
    assert has_moved <= adapters | copies
    assert (copies - has_moved) <= {name for name in copies if "k_proj.bias" in name}
    assert {name for name, parameter in adapted.named_parameters() if parameter.requires_grad} == adapters | copies


@pytest.fixture
def trained_lora(tmp_path):
    """The folder of a base, that of adapters trained on it, and the model itself, with statistics of its own."""
    model = tiny_model()
    model.save_pretrained(tmp_path / "base")
    adapted = add_lora(model, "align", LoraOptions(rank=2), base=tmp_path / "base")
    adapted.mel_normalizer.mean.fill_(-2.5)
    train(adapted)
    adapted.save_pretrained(tmp_path / "adapters")
    return tmp_path, adapted


def losses(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        output = model.eval()(**training_batch(model.config, seed=5))
    return torch.stack([output.text_loss, output.state_loss, output.speech_loss, output.auxiliary_loss])


def test_a_lora_checkpoint_loads_as_what_was_saved(trained_lora):
    """A checkpoint that loads as garbage is what users of peers report."""
    folder, adapted = trained_lora
    loaded = load_lora(folder / "adapters")
    assert torch.equal(losses(loaded), losses(adapted))
    assert not torch.equal(losses(loaded), losses(FlowOmniForSpeechGeneration.from_pretrained(folder / "base")))


def test_a_lora_checkpoint_holds_no_weight_of_the_language_model(trained_lora):
    from safetensors import safe_open

    with safe_open(trained_lora[0] / "adapters" / "adapter_model.safetensors", framework="pt") as weights:
        names = list(weights.keys())
    assert not [name for name in names if "language_model" in name and ".lora_" not in name]
    assert not [name for name in names if "audio_encoder" in name or "vocoder" in name]


def test_a_merged_lora_is_a_plain_checkpoint_that_says_the_same(trained_lora):
    folder, adapted = trained_lora
    expected = losses(adapted)
    merged = merge_lora(load_lora(folder / "adapters"))
    merged.save_pretrained(folder / "merged")
    assert set(merged.state_dict()) == set(tiny_model().state_dict())
    loaded = FlowOmniForSpeechGeneration.from_pretrained(folder / "merged")
    torch.testing.assert_close(losses(loaded), expected, rtol=1e-5, atol=1e-5)
    assert loaded.mel_normalizer.mean[0] == -2.5


def test_a_merged_model_can_change_its_attention(trained_lora):
    merged = merge_lora(trained_lora[1])
    merged.set_attn_implementation("eager")
    assert merged.speech_transformer.layers[0].self_attn.config._attn_implementation == "eager"


def test_a_lora_checkpoint_on_another_base_is_refused(trained_lora):
    other = tiny_model(speech={"num_hidden_layers": 2})
    with pytest.raises(ValueError, match="speech_transformer.*Pass that one"):
        load_lora(trained_lora[0] / "adapters", base=other)


def test_adapters_on_top_of_adapters_load_as_what_was_trained(trained_lora, tmp_path):
    """transformers loads a folder of adapters as a model, with adapters in it that the next ones would replace."""
    first = trained_lora[0] / "adapters"
    second = add_lora(merge_lora(load_lora(first)), "align", LoraOptions(rank=2), base=first)
    train(second)
    second.save_pretrained(tmp_path / "second")
    merged = merge_lora(load_lora(tmp_path / "second")).state_dict()
    expected = merge_lora(second).state_dict()
    assert all(torch.equal(merged[name], weight) for name, weight in expected.items())


def test_lora_on_layers_that_are_not_there_is_refused():
    with pytest.raises(ValueError, match="names qkv_proj.*down_proj"):
        add_lora(tiny_model(), "align", LoraOptions(target_modules=("qkv_proj",)))
