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
"""LoRA: adapters train beside the other modules, resume, and are saved apart and merged."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny import tiny_model
from training_tools import ALL_BUT_VOCODER, DROPOUT, assert_same_weights, encoded_examples, make_trainer, weights_of

from flow_omni.modeling_flow_omni.modeling_flow_omni import MODULE_GROUPS, FlowOmniForSpeechGeneration
from flow_omni.training.lora import add_lora, save_and_merge_lora
from flow_omni.training.trainer import save_final


ALIGN = ["audio_adapter", "speech_inputs", "speech_decoder"]
FIELDS = {"r": 2, "lora_alpha": 4}


def lora_trainer(folder, fields=FIELDS, **options):
    model = tiny_model(**DROPOUT)
    tuner = add_lora(model, fields, base="base")
    return make_trainer(folder, model, learning_rate=1e-2, **options), tuner


@pytest.mark.parametrize("modules", [ALIGN, ALL_BUT_VOCODER])
def test_adapters_train_and_the_language_model_under_them_does_not(tmp_path, modules):
    trainer, _ = lora_trainer(tmp_path, trainable_modules=modules)
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    changed = {name for name, weight in trainer.model.named_parameters() if not torch.equal(weight, before[name])}
    language_model = {name for name in changed if name.startswith(MODULE_GROUPS["language_model"])}
    assert language_model == {name for name in before if ".lora_" in name}
    others = tuple(prefix for name in modules if name != "language_model" for prefix in MODULE_GROUPS[name])
    assert {name for name in before if name.startswith(others)} - changed <= {
        "model.audio_encoder.embed_positions.weight",
        "speech_head.empty_condition",
    }
    assert not any(".lora_" in name for name in before if "language_model" not in name)


def test_a_run_with_adapters_resumes_to_the_bit_and_with_others_not_at_all(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "ema_decay": 0.9, "trainable_modules": ALIGN}
    whole, _ = lora_trainer(tmp_path, **options)
    whole.train()
    resumed, _ = lora_trainer(tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_same_weights(weights_of(whole.model), weights_of(resumed.model))
    plain = make_trainer(tmp_path, tiny_model(**DROPOUT), **options)
    with pytest.raises(ValueError, match="does not fit the model.*the LoRA options of the run|averages other weights"):
        plain.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    wider, _ = lora_trainer(tmp_path, {"r": 4}, **options)
    with pytest.raises((ValueError, RuntimeError), match="size mismatch|does not fit"):
        wider.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_adapters_are_saved_apart_and_merged_into_a_plain_checkpoint(tmp_path):
    trainer, tuner = lora_trainer(tmp_path / "run", trainable_modules=ALIGN)
    trainer.train()
    model = trainer.model.eval()
    batch = trainer.data_collator(encoded_examples(1)[:1])
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = model(**inputs).logits
    save_and_merge_lora(model, tuner, tmp_path / "adapters")
    save_final(trainer)
    merged = FlowOmniForSpeechGeneration.from_pretrained(tmp_path / "run").eval()
    with torch.no_grad():
        torch.testing.assert_close(merged(**inputs).logits, expected, rtol=1e-4, atol=1e-4)
    assert set(merged.state_dict()) == set(tiny_model().state_dict())
    merged.set_attn_implementation("eager")
    with torch.no_grad():
        torch.testing.assert_close(merged(**inputs).logits, expected, rtol=1e-4, atol=1e-4)

    config = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    assert (config["r"], config["base_model_name_or_path"]) == (2, "base")
    weights = load_file(tmp_path / "adapters" / "adapter_model.safetensors")
    assert weights and all(".lora_" in name for name in weights)
    base = tiny_model(**DROPOUT)
    adapted = PeftModel.from_pretrained(base.model.language_model, tmp_path / "adapters").merge_and_unload()
    for name, weight in adapted.state_dict().items():
        torch.testing.assert_close(weight, merged.model.language_model.state_dict()[name], msg=name)


def test_wrong_fields_are_refused():
    with pytest.raises(ValueError, match="`lora` has a field that peft.LoraConfig does not have.*rank"):
        add_lora(tiny_model(), {"rank": 2})
    with pytest.raises(ValueError, match="not found in the base model"):
        add_lora(tiny_model(), {"r": 2, "target_modules": ["nothing"]})
