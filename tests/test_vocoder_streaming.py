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
"""Streaming: however the frames are cut, the chunks join to the whole; each frame costs the same; an end is due."""

import pytest
import torch

from flow_omni.modeling_flow_omni.configuration_flow_omni import FlowOmniVocoderConfig
from flow_omni.modeling_flow_omni.modeling_flow_omni_vocoder import FlowOmniVocoder


VOCODERS = {
    "causal": {"causal": True},
    "causal with lookahead": {"causal": True, "num_lookahead_frames": 2},
    "causal that looks as far as it can": {"causal": True, "num_lookahead_frames": 6},
    "causal with an even kernel": {"causal": True, "kernel_size": 4, "num_lookahead_frames": 1},
    "published": {"causal": False},
    "hop that does not divide the window": {"causal": True, "n_fft": 36, "hop_length": 10},
    "hop of half a window": {"causal": False, "n_fft": 32, "hop_length": 16},
}


def tiny_vocoder(**options):
    torch.manual_seed(0)
    sizes = {"num_mel_bins": 10, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    geometry = {"sampling_rate": 8000, "n_fft": 32, "hop_length": 8}
    vocoder = FlowOmniVocoder(FlowOmniVocoderConfig(**(sizes | geometry | options))).eval()
    with torch.no_grad():
        for parameter in vocoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return vocoder


def random_mel(num_frames, batch_size=1):
    return torch.randn(batch_size, num_frames, 10, generator=torch.Generator().manual_seed(1))


def stream_in_chunks(vocoder, mel, chunk_sizes):
    with vocoder.stream(batch_size=mel.shape[0]) as stream:
        chunks = [stream.push(chunk) for chunk in mel.split(chunk_sizes, dim=1)]
        chunks.append(stream.finish())
    return torch.cat(chunks, dim=1)


@pytest.mark.parametrize("padding", ["center", "same"])
@pytest.mark.parametrize("options", VOCODERS.values(), ids=VOCODERS.keys())
@pytest.mark.parametrize(
    "chunk_sizes",
    [[1] * 30, [4] * 10, [7, 1, 0, 12, 3, 1, 26], [50], [1], [2], [3], [1, 1], [1, 2], [0]],
    ids=lambda sizes: "+".join(map(str, sizes[:4])),
)
def test_chunks_join_to_the_whole(options, padding, chunk_sizes):
    vocoder = tiny_vocoder(**options, padding=padding)
    mel = random_mel(sum(chunk_sizes))
    with torch.no_grad():
        torch.testing.assert_close(stream_in_chunks(vocoder, mel, chunk_sizes), vocoder(mel), atol=1e-5, rtol=1e-4)


def test_batch_streams_as_its_rows():
    vocoder = tiny_vocoder(causal=True, num_lookahead_frames=1)
    mel = random_mel(21, batch_size=3)
    batch = stream_in_chunks(vocoder, mel, [4, 4, 4, 4, 4, 1])
    for row in range(3):
        alone = stream_in_chunks(vocoder, mel[row : row + 1], [21])
        torch.testing.assert_close(batch[row : row + 1], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("padding", ["center", "same"])
@pytest.mark.parametrize("options", VOCODERS.values(), ids=VOCODERS.keys())
def test_stream_lags_behind_by_its_latency_and_no_more(options, padding):
    vocoder = tiny_vocoder(**options, padding=padding)
    hop_length = vocoder.config.hop_length
    num_samples = 0
    stream = vocoder.stream()
    for num_frames in range(1, 31):
        num_samples += stream.push(random_mel(1)).shape[1]
        num_hops_ahead = num_samples / hop_length - (num_frames - vocoder.streaming_latency_frames)
        assert num_samples == 0 or 0 <= num_hops_ahead < 1


def test_each_frame_is_computed_once_in_every_layer():
    """Computing a window of context again for each chunk would be right too, and many times slower."""
    vocoder = tiny_vocoder()
    num_computed = []
    for block in vocoder.backbone.convnext:
        block.pwconv1.register_forward_hook(lambda module, args, output: num_computed.append(output.shape[1]))
    mel = random_mel(24)
    stream_in_chunks(vocoder, mel, [1] * 24)
    assert sum(num_computed) == 24 * len(vocoder.backbone.convnext)


def test_stream_keeps_only_what_it_needs():
    vocoder = tiny_vocoder()
    stream = vocoder.stream()
    for _ in range(3):
        stream.push(random_mel(40))
    assert all(past.shape[1] == 6 for past in stream._past._past.values())
    assert stream._overlap.shape == (2, 32 - 8)


def test_stream_keeps_no_gradient():
    chunk = tiny_vocoder(causal=True).stream().push(random_mel(10))
    assert chunk.shape[1] > 0 and not chunk.requires_grad


def test_bf16_vocoder_streams_too():
    vocoder = tiny_vocoder(causal=True).bfloat16()
    mel = random_mel(20)
    waveform = stream_in_chunks(vocoder, mel, [4] * 5)
    assert waveform.dtype == torch.float32
    assert (waveform - vocoder(mel)).square().mean() < 1e-2 * waveform.square().mean()


def test_pushing_to_a_finished_stream_is_refused():
    with tiny_vocoder().stream() as stream:
        stream.push(random_mel(5))
        stream.finish()
    with pytest.raises(RuntimeError, match="finished after 5 frames"):
        stream.push(random_mel(1))
    with pytest.raises(RuntimeError, match="finished already"):
        stream.finish()


def test_leaving_a_stream_without_its_end_is_an_error():
    with pytest.raises(RuntimeError, match=r"5 frames in it and no end.*`finish\(\)`"):
        with tiny_vocoder().stream() as stream:
            stream.push(random_mel(5))


def test_stream_that_nothing_was_pushed_to_may_be_left():
    with tiny_vocoder().stream() as stream:
        assert stream.num_frames == 0


def test_error_inside_a_stream_is_not_hidden_by_its_missing_end():
    with pytest.raises(KeyError, match="of the caller"):
        with tiny_vocoder().stream() as stream:
            stream.push(random_mel(5))
            raise KeyError("of the caller")


def test_reset_stream_starts_anew():
    vocoder = tiny_vocoder(causal=True)
    mel = random_mel(12)
    with vocoder.stream() as stream:
        stream.push(random_mel(7) + 3.0)
        stream.reset()
        waveform = torch.cat([stream.push(mel), stream.finish()], dim=1)
    torch.testing.assert_close(waveform, vocoder(mel), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mel", [torch.zeros(1, 4, 9), torch.zeros(4, 10), torch.zeros(1, 4, 10, dtype=torch.int)])
def test_chunk_of_another_shape_or_type_is_refused_and_leaves_the_stream_as_it_was(mel):
    vocoder = tiny_vocoder(causal=True)
    whole = random_mel(8)
    with vocoder.stream() as stream:
        first = stream.push(whole[:, :4])
        with pytest.raises(ValueError, match="num_mel_bins=10"):
            stream.push(mel)
        waveform = torch.cat([first, stream.push(whole[:, 4:]), stream.finish()], dim=1)
    torch.testing.assert_close(waveform, vocoder(whole), atol=1e-5, rtol=1e-4)


def test_number_of_rows_may_not_change():
    with pytest.raises(ValueError, match=r"3 rows in a stream of 1.*batch_size=3"):
        tiny_vocoder().stream().push(random_mel(4, batch_size=3))
    with pytest.raises(ValueError, match="at least one utterance"):
        tiny_vocoder().stream(batch_size=0)
