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
"""The vocoder: its inverse transform inverts, rows do not see each other, the future stays out of a causal one."""

import pytest
import torch
from torch import nn

from flow_omni.modeling_flow_omni.configuration_flow_omni import FlowOmniVocoderConfig
from flow_omni.modeling_flow_omni.modeling_flow_omni_vocoder import (
    FlowOmniVocoder,
    FlowOmniVocoderInverseSTFT,
    frames_from_spectrum,
    hann_window,
    overlap_add,
)
from flow_omni.processing.feature_extraction_flow_omni import MelSpectrogram


TINY = {
    "num_mel_bins": 10,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "sampling_rate": 8000,
    "n_fft": 32,
    "hop_length": 8,
}


def tiny_vocoder(**options):
    """A seeded vocoder whose biases and scales are random too, so that no mistake hides behind a zero."""
    torch.manual_seed(0)
    vocoder = FlowOmniVocoder(FlowOmniVocoderConfig(**(TINY | options))).eval()
    with torch.no_grad():
        for parameter in vocoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return vocoder


def random_mel(batch_size=1, num_frames=20, seed=1):
    return torch.randn(batch_size, num_frames, TINY["num_mel_bins"], generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("padding", ["center", "same"])
@pytest.mark.parametrize(("n_fft", "hop_length"), [(32, 8), (32, 16), (36, 10), (64, 2)])
def test_inverse_transform_gives_back_the_waveform_of_a_forward_transform(n_fft, hop_length, padding):
    """A hop that does not divide the window is the case that overlapping by reshaping gets wrong first."""
    torch.manual_seed(0)
    config = FlowOmniVocoderConfig(n_fft=n_fft, hop_length=hop_length, padding=padding)
    istft = FlowOmniVocoderInverseSTFT(config)
    waveform = torch.randn(2, istft.num_samples(40), dtype=torch.float64)
    padded = nn.functional.pad(waveform, (istft.num_trimmed_samples, istft.num_trimmed_samples), mode="reflect")
    window = hann_window(n_fft).double()
    spectrum = torch.stft(padded, n_fft, hop_length, window=window, center=False, return_complex=True).transpose(1, 2)
    frames = frames_from_spectrum(spectrum.abs().log(), spectrum.angle(), window)
    torch.testing.assert_close(istft.double()(frames), waveform)


def test_overlap_add_sums_frames_at_every_hop():
    frames = torch.tensor([[[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]])
    assert overlap_add(frames, hop_length=2).tolist() == [[1.0, 2.0, 13.0, 20.0, 30.0]]
    assert overlap_add(frames[:, :0], hop_length=2).tolist() == [[0.0]]


@pytest.mark.parametrize("options", [{}, {"padding": "same"}, {"causal": True}, {"causal": True, "kernel_size": 4}])
def test_number_of_samples_is_foretold(options):
    vocoder = tiny_vocoder(**options)
    for num_frames in range(5):
        assert vocoder(random_mel(2, num_frames)).shape == (2, vocoder.num_samples(num_frames))


@pytest.mark.parametrize("padding", ["center", "same"])
@pytest.mark.parametrize("options", [{}, {"causal": True, "num_lookahead_frames": 2}])
def test_row_of_a_padded_batch_equals_the_row_alone(options, padding):
    """Without zeros before every convolution, what the first one makes of the padding leaks back into the row."""
    vocoder = tiny_vocoder(padding=padding, **options)
    mel = random_mel(4, 20)
    lengths = torch.tensor([20, 13, 1, 0])
    for row, length in enumerate(lengths):
        mel[row, length:] = float("nan")
    waveforms = vocoder(mel, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = vocoder(mel[row : row + 1, :length])[0]
        torch.testing.assert_close(waveforms[row, : len(alone)], alone)
        assert len(alone) == vocoder.num_samples(lengths)[row]
        assert (waveforms[row, len(alone) :] == 0).all()


def test_full_lengths_change_nothing():
    vocoder = tiny_vocoder()
    mel = random_mel(2)
    torch.testing.assert_close(vocoder(mel, [20, 20]), vocoder(mel))


@pytest.mark.parametrize("num_lookahead_frames", [0, 2])
def test_causal_vocoder_hears_no_further_than_its_lookahead(num_lookahead_frames):
    vocoder = tiny_vocoder(causal=True, num_lookahead_frames=num_lookahead_frames, padding="center")
    mel, changed = random_mel(), random_mel()
    changed[:, 10:] += 1.0
    first_frame = 10 - num_lookahead_frames
    first_sample = first_frame * TINY["hop_length"] - TINY["n_fft"] // 2 + 1  # a Hann window starts with a zero
    is_equal = vocoder(mel)[0] == vocoder(changed)[0]
    assert is_equal[:first_sample].all()
    assert not is_equal[first_sample]


def test_gradient_reaches_every_parameter_and_the_mel():
    vocoder = tiny_vocoder(causal=True, num_lookahead_frames=1).train()
    mel = random_mel(2).requires_grad_()
    vocoder(mel, torch.tensor([20, 7])).square().sum().backward()
    for name, parameter in vocoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
    assert (mel.grad[0] != 0).any(-1).all()
    assert (mel.grad[1, 7:] == 0).all()


def test_magnitudes_beyond_the_bound_leave_the_gradient_finite():
    """`exp` before the bound overflows, and its gradient is `0 * inf`."""
    vocoder = tiny_vocoder()
    with torch.no_grad():
        vocoder.head.out.bias[:3] = 200.0
    waveform = vocoder(random_mel())
    assert waveform.isfinite().all()
    waveform.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in vocoder.parameters())


def test_a_batch_is_overfitted_by_its_mel_loss():
    """The loss that a vocoder trains on goes through its waveform and back into the mel-spectrogram."""
    torch.manual_seed(0)
    vocoder = FlowOmniVocoder(FlowOmniVocoderConfig(**TINY))
    mel_spectrogram = MelSpectrogram(8000, n_fft=32, hop_length=8, num_mel_bins=10)
    mel = mel_spectrogram(torch.sin(torch.arange(400) * torch.tensor([[0.2], [0.9]])))
    optimizer = torch.optim.AdamW(vocoder.parameters(), lr=1e-2)
    losses = []
    for _ in range(200):
        loss = nn.functional.l1_loss(mel_spectrogram(vocoder(mel)), mel)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_save_and_load_give_the_same_samples(tmp_path):
    vocoder = tiny_vocoder(causal=True, num_lookahead_frames=3, padding="same")
    vocoder.save_pretrained(tmp_path)
    loaded = FlowOmniVocoder.from_pretrained(tmp_path)
    assert loaded.config.to_dict() == vocoder.config.to_dict() | {"_name_or_path": loaded.config._name_or_path}
    assert torch.equal(loaded(random_mel()), vocoder(random_mel()))
    others = {path.suffix for path in tmp_path.iterdir() if path.name != "config.json"}
    # the code travels with the weights
    assert others == {".safetensors", ".py"}


def test_what_a_checkpoint_lacks_is_initialised_as_in_a_fresh_model(tmp_path):
    """`from_pretrained` builds on the meta device: whatever `_init_weights` forgets comes out as garbage."""
    vocoder = tiny_vocoder()
    kept = {"backbone.embed.weight": vocoder.backbone.embed.weight}
    vocoder.save_pretrained(tmp_path, state_dict=kept)
    loaded = FlowOmniVocoder.from_pretrained(tmp_path)
    assert torch.equal(loaded.backbone.embed.weight, vocoder.backbone.embed.weight)
    assert torch.equal(loaded.head.istft.window, hann_window(32))
    assert torch.equal(loaded.backbone.convnext[1].gamma, torch.full((16,), 0.5))
    assert (loaded.backbone.convnext[0].norm.weight == 1).all()
    assert (loaded.backbone.convnext[0].dwconv.bias == 0).all()
    assert 0 < loaded.head.out.weight.std() < 0.03


def test_bf16_weights_still_give_fp32_sound():
    """The window, the magnitudes and the phases in bf16 would be heard: only weights and blocks may be rounded."""
    vocoder = tiny_vocoder().bfloat16()
    waveform = vocoder(random_mel())
    assert waveform.dtype == torch.float32
    rounded_weights = tiny_vocoder()
    rounded_weights.load_state_dict({name: tensor.float() for name, tensor in vocoder.state_dict().items()})
    rounded_weights.head.istft.window = hann_window(32)
    hidden_states = torch.randn(1, 9, 16).bfloat16()
    torch.testing.assert_close(vocoder.head(hidden_states), rounded_weights.head(hidden_states.float()))
    error = waveform - rounded_weights(random_mel())
    assert error.square().mean() < 1e-2 * waveform.square().mean()


def test_autocast_leaves_the_head_in_fp32():
    vocoder = tiny_vocoder()
    hidden_states = torch.randn(1, 9, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        waveform = vocoder.head(hidden_states)
        assert vocoder(random_mel()).dtype == torch.float32
    torch.testing.assert_close(waveform, vocoder.head(hidden_states))


@pytest.mark.parametrize("lengths", [None, torch.tensor([20, 5])])
def test_forward_compiles_without_a_graph_break(lengths):
    vocoder = tiny_vocoder()
    compiled = torch.compile(vocoder, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(random_mel(2), lengths), vocoder(random_mel(2), lengths))


@pytest.mark.parametrize(
    "mel", [torch.zeros(1, 10, 20), torch.zeros(20, 10), torch.zeros(1, 20, 10, dtype=torch.long), torch.tensor(0.0)]
)
def test_mel_of_another_shape_or_type_is_refused(mel):
    with pytest.raises(ValueError, match=r"num_mel_bins=10\), mel bands last"):
        tiny_vocoder()(mel)


def test_lengths_must_be_one_for_each_row():
    with pytest.raises(ValueError, match="one number of frames for each row"):
        tiny_vocoder()(random_mel(2), torch.tensor([3, 4, 5]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_fft": 33}, r"`n_fft` \(33\) must be even"),
        ({"hop_length": 17}, r"`hop_length` \(17\) may be at most half of `n_fft` \(32\)"),
        ({"hop_length": 7, "padding": "same"}, r"`hop_length` \(7\) must be even"),
        ({"kernel_size": 4}, r"`kernel_size` \(4\) must be odd"),
        ({"num_lookahead_frames": 2}, "set `causal=True`"),
        ({"num_lookahead_frames": 7, "causal": True}, r"between 0 and `kernel_size - 1` \(6\)"),
        ({"num_lookahead_frames": -1, "causal": True}, r"\(-1\) must lie between 0"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"padding": "valid"}, "padding"),
        ({"hiden_size": 64}, "did you mean `hidden_size`"),
    ],
)
def test_impossible_configuration_is_refused(options, message):
    with pytest.raises(Exception, match=message):
        FlowOmniVocoderConfig(**(TINY | options))


def test_published_size_is_the_default():
    with torch.device("meta"):
        vocoder = FlowOmniVocoder(FlowOmniVocoderConfig())
    assert vocoder.num_parameters() == 13_531_650
    assert vocoder.streaming_latency_frames == 29
