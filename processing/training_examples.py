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
"""Training examples, encoded one by one (in workers) and joined into batches that are padded on the right."""

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from .parallel_streams import IGNORED, ParallelStreams, SpeechState


def as_example(
    streams: ParallelStreams, input_features: Sequence[torch.Tensor], patches: torch.Tensor | None
) -> dict[str, torch.Tensor | list[torch.Tensor]]:
    """
    One example: the streams `(num_steps,)`, the features of each heard audio `(feature_size, num_frames)`, and the mel
    patches `(num_patches, frames_per_step, num_mel_bins)` of a spoken answer.
    """
    names = ("input_ids", "labels", "speech_states", "state_labels")
    example = {name: torch.tensor(getattr(streams, name), dtype=torch.long) for name in names}
    example["input_features"] = list(input_features)
    if patches is not None:
        example["mel_labels"] = patches
    return example


def collate_examples(examples: Sequence[dict], pad_token_id: int) -> dict[str, torch.Tensor]:
    """
    A batch of examples, as the model's `forward` takes it: streams `(batch_size, num_steps)`, the audios of all rows one
    after another, `mel_labels` `(batch_size, max_patches, frames_per_step, num_mel_bins)`, and of examples that have
    `audio_labels` (the tokens said in each of their audios) these `(num_audios, max_labels)`. What no example has is left
    out.
    """
    if len(examples) == 0:
        raise ValueError("Got no examples: a batch holds at least one.")
    fillers = {
        "input_ids": pad_token_id,
        "labels": IGNORED,
        "speech_states": int(SpeechState.PAD),
        "state_labels": IGNORED,
    }
    batch = {
        name: pad_sequence([example[name] for example in examples], batch_first=True, padding_value=filler)
        for name, filler in fillers.items()
    }
    lengths = torch.tensor([len(example["input_ids"]) for example in examples])
    batch["attention_mask"] = (torch.arange(batch["input_ids"].shape[1]) < lengths[:, None]).long()

    audios = [features for example in examples for features in example["input_features"]]
    if audios:
        batch["input_features"] = pad_sequence([features.T for features in audios], batch_first=True).mT.contiguous()
        num_frames = torch.tensor([features.shape[-1] for features in audios])
        batch["input_features_mask"] = (torch.arange(int(num_frames.max())) < num_frames[:, None]).long()

    if any("audio_labels" in example for example in examples):
        nothing = torch.zeros(0, dtype=torch.long)
        transcripts = [
            transcript
            for example in examples
            for transcript in example.get("audio_labels", [nothing] * len(example["input_features"]))
        ]
        batch["audio_labels"] = pad_sequence(transcripts, batch_first=True, padding_value=IGNORED)

    spoken = [example["mel_labels"] for example in examples if "mel_labels" in example]
    if spoken:
        nothing = spoken[0].new_zeros(0, *spoken[0].shape[1:])
        batch["mel_labels"] = pad_sequence(
            [example.get("mel_labels", nothing) for example in examples], batch_first=True
        )
    return batch
