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
"""The vocoder: inverse transform, padded batches, gradients, precision, and streams whose chunks join to the whole."""

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


TINY = {
    "num_mel_bins": 10,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "sampling_rate": 8000,
    "n_fft": 32,
    "hop_length": 8,
}
VARIANTS = (
    {"causal": True},
    {"causal": True, "num_lookahead_frames": 2},
    {"causal": True, "num_lookahead_frames": 6},
    {"causal": True, "kernel_size": 4, "num_lookahead_frames": 1},
    {"causal": False},
    # a hop that does not divide the window, and one of half a window
    {"causal": True, "n_fft": 36, "hop_length": 10},
    {"causal": False, "n_fft": 32, "hop_length": 16},
)


def tiny_vocoder(**options):
    """A seeded vocoder whose biases and scales are random too, so that no mistake hides behind a zero."""
    torch.manual_seed(0)
    vocoder = FlowOmniVocoder(FlowOmniVocoderConfig(**(TINY | options))).eval()
    with torch.no_grad():
        for parameter in vocoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return vocoder


def all_variants():
    for padding in ("center", "same"):
        for options in VARIANTS:
            yield tiny_vocoder(**options, padding=padding)


def random_mel(batch_size=1, num_frames=20, seed=1):
    return torch.randn(batch_size, num_frames, TINY["num_mel_bins"], generator=torch.Generator().manual_seed(seed))


def stream_in_chunks(vocoder, mel, chunk_sizes):
    with vocoder.stream() as stream:
        chunks = [stream.push(chunk) for chunk in mel.split(chunk_sizes, dim=1)]
        chunks.append(stream.finish())
    return torch.cat(chunks, dim=1)


# --- the inverse transform


def test_inverse_transform_inverts_the_forward_transform():
    """A hop that does not divide the window is the case that overlapping by reshaping gets wrong first."""
    for padding in ("center", "same"):
        for n_fft, hop_length in ((32, 8), (32, 16), (36, 10), (64, 2)):
            config = FlowOmniVocoderConfig(n_fft=n_fft, hop_length=hop_length, padding=padding)
            istft = FlowOmniVocoderInverseSTFT(config)
            waveform = torch.randn(2, istft.num_samples(40), dtype=torch.float64)
            padded = nn.functional.pad(waveform, (istft.num_trimmed_samples,) * 2, mode="reflect")
            window = hann_window(n_fft).double()
            spectrum = torch.stft(padded, n_fft, hop_length, window=window, center=False, return_complex=True)
            spectrum = spectrum.transpose(1, 2)
            frames = frames_from_spectrum(spectrum.abs().log(), spectrum.angle(), window)
            torch.testing.assert_close(istft.double()(frames), waveform)


def test_overlap_add_sums_frames_at_every_hop():
    frames = torch.tensor([[[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]])
    assert overlap_add(frames, hop_length=2).tolist() == [[1.0, 2.0, 13.0, 20.0, 30.0]]
    assert overlap_add(frames[:, :0], hop_length=2).tolist() == [[0.0]]


# --- whole utterances


def test_number_of_samples_follows_from_the_number_of_frames():
    for vocoder in all_variants():
        for num_frames in range(5):
            assert vocoder(random_mel(2, num_frames)).shape == (2, vocoder.num_samples(num_frames))


def test_row_of_a_padded_batch_equals_the_row_alone():
    """Without zeros before every convolution, the first one's output at the padding leaks back into the row."""
    lengths = torch.tensor([20, 13, 1, 0])
    for padding in ("center", "same"):
        for options in ({}, {"causal": True, "num_lookahead_frames": 2}):
            vocoder, mel = tiny_vocoder(padding=padding, **options), random_mel(4, 20)
            for row, length in enumerate(lengths):
                mel[row, length:] = float("nan")
            waveforms = vocoder(mel, lengths)
            for row, length in enumerate(lengths.tolist()):
                alone = vocoder(mel[row : row + 1, :length])[0]
                torch.testing.assert_close(waveforms[row, : len(alone)], alone)
                assert len(alone) == vocoder.num_samples(lengths)[row]
                assert (waveforms[row, len(alone) :] == 0).all()
    torch.testing.assert_close(vocoder(random_mel(2), [20, 20]), vocoder(random_mel(2)))


def test_causal_vocoder_sees_no_further_than_its_lookahead():
    mel, changed = random_mel(), random_mel()
    changed[:, 10:] += 1.0
    for num_lookahead_frames in (0, 2):
        vocoder = tiny_vocoder(causal=True, num_lookahead_frames=num_lookahead_frames, padding="center")
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


def test_save_and_load_give_the_same_samples(tmp_path):
    vocoder = tiny_vocoder(causal=True, num_lookahead_frames=3, padding="same")
    vocoder.save_pretrained(tmp_path)
    loaded = FlowOmniVocoder.from_pretrained(tmp_path)
    assert loaded.config.to_dict() == vocoder.config.to_dict() | {"_name_or_path": loaded.config._name_or_path}
    assert torch.equal(loaded(random_mel()), vocoder(random_mel()))


def test_missing_weights_are_initialised_as_in_a_fresh_model(tmp_path):
    """`from_pretrained` builds on the meta device: whatever `_init_weights` forgets is uninitialised memory."""
    vocoder = tiny_vocoder()
    vocoder.save_pretrained(tmp_path, state_dict={"backbone.embed.weight": vocoder.backbone.embed.weight})
    loaded = FlowOmniVocoder.from_pretrained(tmp_path)
    assert torch.equal(loaded.backbone.embed.weight, vocoder.backbone.embed.weight)
    assert torch.equal(loaded.head.istft.window, hann_window(32))
    assert torch.equal(loaded.backbone.convnext[1].gamma, torch.full((16,), 0.5))
    assert (loaded.backbone.convnext[0].norm.weight == 1).all()
    assert (loaded.backbone.convnext[0].dwconv.bias == 0).all()
    assert 0 < loaded.head.out.weight.std() < 0.03


def test_bf16_weights_still_give_fp32_audio():
    """The window, the magnitudes and the phases in bf16 would be audible: only weights and blocks may be rounded."""
    vocoder = tiny_vocoder().bfloat16()
    waveform = vocoder(random_mel())
    assert waveform.dtype == torch.float32
    rounded_weights = tiny_vocoder()
    rounded_weights.load_state_dict({name: tensor.float() for name, tensor in vocoder.state_dict().items()})
    rounded_weights.head.istft.window = hann_window(32)
    hidden_states = torch.randn(1, 9, 16).bfloat16()
    torch.testing.assert_close(vocoder.head(hidden_states), rounded_weights.head(hidden_states.float()))
    streamed = stream_in_chunks(vocoder, random_mel(), [4] * 5)
    assert streamed.dtype == torch.float32
    for other in (rounded_weights(random_mel()), streamed):
        assert (waveform - other).square().mean() < 1e-2 * waveform.square().mean()


def test_autocast_leaves_the_head_in_fp32():
    vocoder = tiny_vocoder()
    hidden_states = torch.randn(1, 9, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        waveform = vocoder.head(hidden_states)
        assert vocoder(random_mel()).dtype == torch.float32
    torch.testing.assert_close(waveform, vocoder.head(hidden_states))


@pytest.mark.slow
def test_forward_compiles_without_a_graph_break():
    vocoder = tiny_vocoder()
    compiled = torch.compile(vocoder, fullgraph=True, backend="aot_eager")
    for lengths in (None, torch.tensor([20, 5])):
        torch.testing.assert_close(compiled(random_mel(2), lengths), vocoder(random_mel(2), lengths))


def test_mel_of_another_shape_or_type_is_refused():
    vocoder = tiny_vocoder(causal=True)
    whole = random_mel(num_frames=8)
    for mel in (
        torch.zeros(1, 10, 20),
        torch.zeros(20, 10),
        torch.zeros(1, 20, 10, dtype=torch.long),
        torch.tensor(0.0),
    ):
        with pytest.raises(ValueError, match=r"num_mel_bins=10\), mel bands last"):
            vocoder(mel)
        # a stream is left as it was
        with vocoder.stream() as stream:
            first = stream.push(whole[:, :4])
            with pytest.raises(ValueError, match="num_mel_bins=10"):
                stream.push(mel)
            waveform = torch.cat([first, stream.push(whole[:, 4:]), stream.finish()], dim=1)
        torch.testing.assert_close(waveform, vocoder(whole), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="one number of frames for each row"):
        vocoder(random_mel(2), torch.tensor([3, 4, 5]))


def test_published_size_is_the_default():
    with torch.device("meta"):
        vocoder = FlowOmniVocoder(FlowOmniVocoderConfig())
    assert vocoder.num_parameters() == 13_531_650
    assert vocoder.streaming_latency_frames == 29


# --- streams


def test_chunks_of_a_stream_join_to_the_whole():
    chunkings = ([1] * 30, [4] * 10, [7, 1, 0, 12, 3, 1], [20], [1], [2], [3], [1, 1], [1, 2], [0])
    for vocoder in all_variants():
        for chunk_sizes in chunkings:
            mel = random_mel(num_frames=sum(chunk_sizes))
            with torch.no_grad():
                streamed, whole = stream_in_chunks(vocoder, mel, chunk_sizes), vocoder(mel)
            torch.testing.assert_close(streamed, whole, atol=1e-5, rtol=1e-4, msg=f"{vocoder.config} {chunk_sizes}")


def test_stream_lags_behind_by_its_latency_and_no_more():
    for vocoder in all_variants():
        num_samples, stream = 0, vocoder.stream()
        for num_frames in range(1, 31):
            num_samples += stream.push(random_mel(num_frames=1)).shape[1]
            num_hops_ahead = num_samples / vocoder.config.hop_length - (num_frames - vocoder.streaming_latency_frames)
            assert num_samples == 0 or 0 <= num_hops_ahead < 1


def test_stream_computes_each_frame_once_in_every_layer():
    """Computing a window of context again for each chunk would be right too, and many times slower."""
    vocoder = tiny_vocoder()
    num_computed = []
    for block in vocoder.backbone.convnext:
        block.pwconv1.register_forward_hook(lambda module, args, output: num_computed.append(output.shape[1]))
    stream_in_chunks(vocoder, random_mel(num_frames=24), [1] * 24)
    assert sum(num_computed) == 24 * len(vocoder.backbone.convnext)


def test_stream_keeps_no_gradient_and_only_the_frames_it_needs():
    stream = tiny_vocoder().stream()
    for _ in range(3):
        chunk = stream.push(random_mel(num_frames=40))
    assert all(past.shape[1] == 6 for past in stream._context._past.values())
    assert stream._overlap.shape == (2, 32 - 8)
    assert chunk.shape[1] > 0 and not chunk.requires_grad


def test_stream_takes_one_utterance_and_no_frames_after_its_end():
    with tiny_vocoder().stream() as stream:
        with pytest.raises(ValueError, match="3 rows: a stream carries one utterance"):
            stream.push(random_mel(3))
        stream.push(random_mel(num_frames=5))
        stream.finish()
    with pytest.raises(RuntimeError, match="finished after 5 frames"):
        stream.push(random_mel(num_frames=1))
    with pytest.raises(RuntimeError, match="finished already"):
        stream.finish()


def test_leaving_a_stream_without_its_end_is_an_error_unless_another_one_is_raised():
    with pytest.raises(RuntimeError, match=r"5 frames without its end.*`finish\(\)`"):
        with tiny_vocoder().stream() as stream:
            stream.push(random_mel(num_frames=5))
    with pytest.raises(KeyError, match="of the caller"):
        with tiny_vocoder().stream() as stream:
            stream.push(random_mel(num_frames=5))
            raise KeyError("of the caller")
    with tiny_vocoder().stream() as stream:
        assert stream.num_frames == 0
