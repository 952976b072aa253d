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
"""A published Vocos becomes a vocoder that gives the same samples; anything else gets an error, and no code runs."""

import pickle
from pathlib import Path

import pytest
import torch
import yaml
from transformers import WhisperConfig
from vocos import Vocos

from flow_omni.modeling_flow_omni import convert_flow_omni
from flow_omni.modeling_flow_omni.configuration_flow_omni import FlowOmniVocoderConfig
from flow_omni.modeling_flow_omni.convert_flow_omni import load_vocos
from flow_omni.modeling_flow_omni.modeling_flow_omni_vocoder import FlowOmniVocoder


def published_config(padding="center"):
    """`config.yaml` of the published layout, at a tiny size."""
    mel = {"sample_rate": 16000, "n_fft": 64, "hop_length": 16, "n_mels": 12, "padding": padding}
    backbone = {"input_channels": 12, "dim": 16, "intermediate_dim": 24, "num_layers": 2}
    head = {"dim": 16, "n_fft": 64, "hop_length": 16, "padding": padding}
    return {
        "feature_extractor": {"class_path": "vocos.feature_extractors.MelSpectrogramFeatures", "init_args": mel},
        "backbone": {"class_path": "vocos.models.VocosBackbone", "init_args": backbone},
        "head": {"class_path": "vocos.heads.ISTFTHead", "init_args": head},
    }


def publish(folder, config=None):
    """Writes a Vocos with random weights in the published layout; returns it as the `vocos` package loads it."""
    config_path = folder / "config.yaml"
    config_path.write_text(yaml.safe_dump(config or published_config()))
    torch.manual_seed(0)
    vocos = Vocos.from_hparams(str(config_path)).eval()
    with torch.no_grad():
        for parameter in vocos.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    torch.save(vocos.state_dict(), folder / "pytorch_model.bin")
    return vocos


def change_weights(folder, change):
    path = folder / "pytorch_model.bin"
    state_dict = torch.load(path, weights_only=True)
    change(state_dict)
    torch.save(state_dict, path)


@pytest.mark.parametrize("padding", ["center", "same"])
@pytest.mark.parametrize("num_frames", [2, 50])
def test_imported_vocos_gives_the_samples_of_vocos(tmp_path, padding, num_frames):
    vocos = publish(tmp_path, published_config(padding))
    vocoder = load_vocos(tmp_path)
    mel = torch.randn(2, num_frames, 12)
    torch.testing.assert_close(vocoder(mel), vocos.decode(mel.transpose(1, 2)), atol=1e-5, rtol=0)


def test_imported_vocos_knows_the_geometry_of_its_mel(tmp_path):
    publish(tmp_path, published_config("same"))
    config = load_vocos(str(tmp_path)).config
    assert (config.sampling_rate, config.num_mel_bins, config.padding) == (16000, 12, "same")
    assert (config.n_fft, config.hop_length, config.causal) == (64, 16, False)


def test_defaults_of_vocos_hold_where_the_file_says_nothing(tmp_path):
    config = published_config()
    config["feature_extractor"]["init_args"] = {"n_fft": 64, "hop_length": 16, "n_mels": 12}
    publish(tmp_path, config)
    config = load_vocos(tmp_path).config
    assert (config.sampling_rate, config.padding) == (24000, "center")


def test_imported_vocos_saves_and_loads_as_one_of_ours(tmp_path):
    publish(tmp_path)
    vocoder = load_vocos(tmp_path)
    vocoder.save_pretrained(tmp_path / "ours")
    mel = torch.randn(1, 9, 12)
    assert torch.equal(load_vocos(tmp_path / "ours")(mel), vocoder(mel))


def test_hub_id_is_read_through_the_hub(tmp_path, monkeypatch):
    publish(tmp_path)
    asked = []

    def download(name, file_name, revision=None):
        asked.append((name, file_name, revision))
        return str(tmp_path / file_name)

    monkeypatch.setattr(importing_vocos, "hf_hub_download", download)
    assert load_vocos("someone/vocos", revision="v1").config.num_mel_bins == 12
    assert asked == [("someone/vocos", "config.yaml", "v1"), ("someone/vocos", "pytorch_model.bin", "v1")]


def _set(part, **arguments):
    def change(config):
        config[part]["init_args"].update(arguments)

    return change


def _set_class(part, class_path):
    def change(config):
        config[part]["class_path"] = class_path

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set_class("feature_extractor", "vocos.feature_extractors.EncodecFeatures"), "EncodecFeatures: only MelSpec"),
        (_set_class("backbone", "vocos.models.VocosResNetBackbone"), "only VocosBackbone is supported"),
        (_set_class("head", "vocos.heads.IMDCTSymExpHead"), "only ISTFTHead is supported"),
        (_set_class("head", None), "names no class for its `head`"),
        (_set("backbone", adanorm_num_embeddings=4), "adanorm_num_embeddings=4"),
        (_set("feature_extractor", f_max=8000), "sets f_max, which Vocos's MelSpectrogramFeatures does not have"),
        (_set("head", padding="same"), "`feature_extractor.padding` is 'center' but `head.padding` is 'same'"),
        (_set("head", hop_length=8), "`feature_extractor.hop_length` is 16 but `head.hop_length` is 8"),
        (_set("backbone", input_channels=80), "n_mels` is 12 but `backbone.input_channels` is 80"),
        (_set("backbone", num_layers="two"), "cannot be built.*num_hidden_layers"),
        (lambda config: config["backbone"]["init_args"].pop("dim"), "does not say its dim"),
        (lambda config: config["backbone"].update(init_args=[1]), "are no mapping"),
        (lambda config: config.pop("head"), "names no class for its `head`"),
    ],
)
def test_any_other_vocos_is_refused_by_its_configuration(tmp_path, change, message):
    publish(tmp_path)
    config = published_config()
    change(config)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=f"(?s){message}"):
        load_vocos(tmp_path)


@pytest.mark.parametrize("text", ["- a\n- list\n", "", "{unclosed", "!!python/object/apply:os.getcwd []"])
def test_file_that_is_no_configuration_is_refused(tmp_path, text):
    publish(tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"config\.yaml (is not YAML|holds \w+, not the parts)"):
        load_vocos(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("backbone.norm.bias"), "backbone.norm.bias is missing"),
        (lambda weights: weights.update(extra=torch.zeros(1)), "extra is not a part of it"),
        (
            lambda weights: weights.update({"head.out.bias": torch.zeros(3)}),
            r"head.out.bias has the shape \(3,\) instead of \(66,\)",
        ),
        (lambda weights: weights.update({"head.istft.window": torch.ones(64)}), "not Hann's"),
        (lambda weights: weights.update(epoch=3), "more than a plain dictionary of tensors"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, message):
    """Loaded leniently, a missing tensor stays random and the speech becomes noise."""
    publish(tmp_path)
    change_weights(tmp_path, change)
    with pytest.raises(ValueError, match=message):
        load_vocos(tmp_path)


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.95])
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_weights_are_one_clear_error(tmp_path, kept, zipped):
    publish(tmp_path)
    path = tmp_path / "pytorch_model.bin"
    torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ValueError, match=r"pytorch_model\.bin could not be read.*Download it again"):
        load_vocos(tmp_path)


class _Attack:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, 2))])
def test_code_in_a_pickle_is_not_run(tmp_path, save):
    publish(tmp_path)
    trace = tmp_path / "trace"
    save({"head.out.bias": _Attack(trace)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="could not be read"):
        load_vocos(tmp_path)
    assert not trace.exists()


def save_own(folder):
    config = FlowOmniVocoderConfig(num_mel_bins=4, hidden_size=8, intermediate_size=8, num_hidden_layers=1)
    vocoder = FlowOmniVocoder(config)
    vocoder.save_pretrained(folder)
    return vocoder


def test_own_vocoder_that_lacks_a_tensor_is_refused(tmp_path):
    """`from_pretrained` warns and fills the gap with random weights."""
    vocoder = save_own(tmp_path)
    weights = vocoder.state_dict()
    del weights["head.out.weight"]
    vocoder.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match="lacks head.out.weight"):
        load_vocos(tmp_path)


def test_own_vocoder_with_truncated_weights_is_refused(tmp_path):
    save_own(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="could not be loaded"):
        load_vocos(tmp_path)


def test_own_vocoder_without_weights_is_refused(tmp_path):
    save_own(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="could not be loaded"):
        load_vocos(tmp_path)


def test_checkpoint_of_another_kind_is_refused(tmp_path):
    WhisperConfig(d_model=8).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="of the type 'whisper', not 'flow_omni_vocoder'"):
        load_vocos(tmp_path)


def test_folder_without_a_vocoder_is_refused(tmp_path):
    with pytest.raises(OSError, match=r"There is no vocoder at .*`config\.yaml` and `pytorch_model\.bin`"):
        load_vocos(tmp_path)


def test_damaged_configuration_of_our_own_is_refused(tmp_path):
    save_own(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(OSError, match="configuration is damaged"):
        load_vocos(tmp_path)


def test_file_in_place_of_a_folder_is_refused(tmp_path):
    publish(tmp_path)
    with pytest.raises(ValueError, match="is a file: pass the folder"):
        load_vocos(tmp_path / "pytorch_model.bin")


def test_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(OSError, match="neither a folder here nor a model on the Hub"):
        load_vocos(tmp_path / "nowhere")
