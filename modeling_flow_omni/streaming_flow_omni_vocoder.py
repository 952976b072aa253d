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
"""Streaming as a contract: mel frames go in as they come, and the samples that come out join to the whole waveform."""

import torch
from torch import nn

from .inverse_stft import overlap_add


class PastFrames:
    """
    What stands around the frames of a convolution in a stream: before them the frames that it saw last (zeros at the
    start), after them nothing, until `is_last`, when the zeros follow that end a whole utterance.

    A convolution that looks ahead thus answers for frames that came earlier, and at the end for all that are left.
    Each frame is computed once, in every layer: nothing is computed again for context.
    """

    def __init__(self):
        self.is_last = False
        self._past: dict[nn.Module, torch.Tensor] = {}

    def surround(self, convolution: nn.Module, frames: torch.Tensor) -> torch.Tensor:
        past = self._past.get(convolution)
        if past is None:
            past = frames.new_zeros(frames.shape[0], convolution.num_past_frames, frames.shape[2])
        surrounded = torch.cat([past, frames], dim=1)
        if self.is_last:
            return nn.functional.pad(surrounded, (0, 0, 0, convolution.num_future_frames))
        num_kept = min(convolution.num_past_frames + convolution.num_future_frames, surrounded.shape[1])
        self._past[convolution] = surrounded[:, surrounded.shape[1] - num_kept :]
        return surrounded


class VocoderStream:
    """
    One utterance (or a batch of equally long ones) on its way through a [`FlowOmniVocoder`]; see its `stream`.

    `push` returns the samples that no later frame can change, which may be none; `finish` returns the rest. All of
    them in a row are `vocoder(mel)` of all the frames in a row, however they were cut. No gradient flows.

    As a context manager it makes sure that `finish` is not forgotten, which would lose the end of the speech.
    """

    def __init__(self, vocoder, batch_size: int = 1):
        if batch_size < 1:
            raise ValueError(f"`batch_size` is {batch_size}: a stream carries at least one utterance.")
        self.vocoder = vocoder
        self.batch_size = batch_size
        self.reset()

    def reset(self):
        """Forgets all that was pushed, for an utterance that was interrupted. The stream can then start anew."""
        self.num_frames = 0
        self.is_finished = False
        self._past = PastFrames()
        # windows and their envelope, summed over the frames so far, for the samples that later frames reach into too
        self._overlap: torch.Tensor | None = None
        self._num_samples_to_trim = self.vocoder.head.istft.num_trimmed_samples

    @torch.no_grad()
    def push(self, mel: torch.Tensor) -> torch.Tensor:
        """Takes the next frames, `(batch_size, num_frames, num_mel_bins)`; returns `(batch_size, num_samples)`."""
        if self.is_finished:
            raise RuntimeError(
                f"This stream was finished after {self.num_frames} frames and takes no more: start another with "
                "`vocoder.stream()`, or call `reset()`."
            )
        mel = self.vocoder.check_mel(mel)
        if mel.shape[0] != self.batch_size:
            raise ValueError(
                f"Got a mel of {mel.shape[0]} rows in a stream of {self.batch_size}: a stream keeps its rows to the "
                f"end. Start it with `vocoder.stream(batch_size={mel.shape[0]})`."
            )
        self.num_frames += mel.shape[1]
        ready, self._overlap = self._add(mel)
        return self._normalize(ready)

    @torch.no_grad()
    def finish(self) -> torch.Tensor:
        """Ends the utterance; returns its last samples, `(batch_size, num_samples)`."""
        if self.is_finished:
            raise RuntimeError(f"This stream was finished already, after {self.num_frames} frames.")
        self.is_finished = self._past.is_last = True
        no_frames = self.vocoder.backbone.embed.weight.new_zeros(self.batch_size, 0, self.vocoder.config.num_mel_bins)
        ready, rest = self._add(no_frames)
        waveform = torch.cat([ready, rest], dim=1)
        self._past = self._overlap = None
        return self._normalize(waveform[:, : waveform.shape[1] - self.vocoder.head.istft.num_trimmed_samples])

    def _add(self, mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Overlaps the frames that these mel frames complete with what is there. Returns the sums that are complete, and
        those that later frames reach into; the envelope rides along as one more row.
        """
        istft = self.vocoder.head.istft
        frames = self.vocoder.head.frames(self.vocoder.backbone(mel, self._past))
        envelope = istft.exact_window().square().expand(1, frames.shape[1], -1).to(frames.dtype)
        sums = overlap_add(torch.cat([frames, envelope]), istft.hop_length)
        if self._overlap is not None:
            sums = sums + nn.functional.pad(self._overlap, (0, sums.shape[1] - self._overlap.shape[1]))
        return sums.tensor_split([frames.shape[1] * istft.hop_length], dim=1)

    def _normalize(self, sums: torch.Tensor) -> torch.Tensor:
        """Cuts what is left to cut at the start, then divides the windows by their envelope."""
        num_trimmed = min(self._num_samples_to_trim, sums.shape[1])
        self._num_samples_to_trim -= num_trimmed
        sums = sums[:, num_trimmed:]
        return sums[:-1] / sums[-1:]

    def __enter__(self) -> "VocoderStream":
        return self

    def __exit__(self, exception_type, exception, traceback):
        if exception_type is not None:
            self.reset()
        elif self.num_frames and not self.is_finished:
            raise RuntimeError(
                f"A stream was left with {self.num_frames} frames in it and no end: the last samples are lost. Call "
                "`finish()` for them, or `reset()` to give them up."
            )
