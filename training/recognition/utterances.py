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
"""Rows as a recogniser meets them: each side that is spoken is an utterance, and those of like length make batches."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

import numpy as np
import torch

from ...processing.feature_extraction_flow_omni import FlowOmniFeatureExtractor
from ..augmentation import Augmentation
from ..batches import BatchOptions, longest_row, too_long
from ..examples import Example, Skipped
from ..lengths import audio_seconds
from ..planned_batches import PlannedBatches
from ..row_fingerprints import digest_of
from ..rows import WRONG, audio_of, has
from ..unusable_rows import why_none_is_used
from .characters import Characters, num_frames_needed
from .modeling import IGNORED
from .options import SIDES, RecogniseOptions


# The encoder's frames are the steps of batches and of their budgets.
STEPS_PER_SECOND = 50


class Utterances(Sequence):
    """
    The spoken sides of rows that have their text, one after another, each as `id`, `side`, `audio` and `text`. Nothing is
    read before it is asked for.
    """

    def __init__(self, rows: Sequence[Mapping], sides: Sequence[str] = SIDES):
        self.rows = rows
        self.places = [
            (index, side)
            for index, row in enumerate(rows)
            for side in sides
            if has(row, side) and has(row, text_of(side))
        ]
        # lines of manifests that nothing can be made of: they are only counted
        self.wrong = [Skipped(row["id"], "wrong row", row[WRONG]) for row in rows if row.get(WRONG)]
        if not self.places:
            needs = " or ".join(f"`{side}` with its `{text_of(side)}`" for side in sides)
            raise ValueError(f"None of {len(rows)} rows has a {needs}, which a recogniser learns from.")
        mix = getattr(rows, "mix", None)
        self.mix = None if mix is None else mix.of(index for index, _ in self.places)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row_index, side = self.places[index]
        row = self.rows[row_index]
        name = row.get("id") or f"row {row_index}"
        return {
            "id": f"{name}:{_speaker(side)}",
            "side": side,
            "audio": audio_of(row, side),
            "text": row[text_of(side)],
        }

    def texts(self) -> Iterator[str]:
        """All texts, without a look at the sounds."""
        for index, side in self.places:
            yield self.rows[index][text_of(side)]

    def sides_and_texts(self) -> Iterator[tuple[str, str]]:
        """Who speaks in each utterance, and what is said."""
        return zip((side for _, side in self.places), self.texts())

    def seconds(self, index: int) -> float:
        """The length of an utterance, from its column or the header of its file."""
        row_index, side = self.places[index]
        return audio_seconds(self.rows[row_index], _speaker(side))


def text_of(side: str) -> str:
    return f"{_speaker(side)}_text"


def _speaker(side: str) -> str:
    return side.removesuffix("_audio")


@dataclass
class HeardExample(Example):
    """The features of an utterance, the classes of its characters, and its text."""

    @property
    def num_steps(self) -> int:
        return (self.inputs["input_features"].shape[1] + 1) // 2


class UtteranceBuilder:
    """
    Builds examples in the workers of a data loader, as [`ExampleBuilder`] does of other rows.

    Args:
        feature_extractor (`FlowOmniFeatureExtractor`):
            Makes the features.
        characters ([`Characters`]):
            What can be written.
        stack_size (`int`, *optional*, defaults to 1):
            That of the model: what is said faster than it can write is left out.
        options ([`RecogniseOptions`], *optional*):
            What happens to sounds before they are heard; nothing by default.
        seed, max_steps, on_error:
            As for [`ExampleBuilder`].
    """

    def __init__(
        self,
        feature_extractor: FlowOmniFeatureExtractor,
        characters: Characters,
        stack_size: int = 1,
        options: RecogniseOptions | None = None,
        seed: int = 0,
        max_steps: int | None = None,
        on_error: Literal["stop", "skip"] = "skip",
    ):
        self.processor = UtteranceCollator()
        self.feature_extractor, self.characters, self.stack_size = feature_extractor, characters, stack_size
        self.augmentation: Augmentation | None = options.augmentation if options is not None else None
        self.augmented_sides = options.augmented_sides if options is not None else []
        self.seed, self.max_steps, self.on_error = seed, max_steps, on_error

    def build(self, row: Mapping, key: Any, epoch: int = 0) -> HeardExample | Skipped:
        """The example of an utterance, or why there is none."""
        try:
            waveform = self.feature_extractor.fetch_audio(row["audio"])
        except (ValueError, TypeError, OSError, RuntimeError) as error:
            if self.on_error == "stop":
                error.add_note(f"The utterance is {row['id']}.")
                raise
            return Skipped(row["id"], "corrupt audio", " ".join(str(error).split()))
        labels = self.characters.encode(row["text"])
        if not labels:
            return Skipped(row["id"], "wrong row", f"no character of its text {row['text']!r} is known")
        if self.augmentation is not None and row["side"] in self.augmented_sides:
            waveform = self.augmentation.augment(
                waveform, self.feature_extractor.sampling_rate, key=(self.seed, epoch, key)
            )
        features = self.feature_extractor(waveform)["input_features"][0]
        example = HeardExample({"input_features": features, "labels": labels, "text": row["text"]}, row["id"], "hear")
        num_judged = ceil(example.num_steps / self.stack_size)
        if num_frames_needed(labels) > num_judged:
            message = f"{len(labels)} characters in {len(waveform) / self.feature_extractor.sampling_rate:.2f} s"
            return Skipped(row["id"], "wrong row", f"{message} are more than {num_judged} frames can tell")
        if self.max_steps is not None and example.num_steps > self.max_steps:
            message = f"it has {example.num_steps} steps, and `max_steps` is {self.max_steps}"
            return Skipped(row["id"], "too long", message)
        return example


class UtteranceCollator:
    """Joins the inputs of examples into a batch, padded on the right."""

    def collate(self, examples: Sequence[Mapping]) -> dict[str, Any]:
        num_frames = [example["input_features"].shape[1] for example in examples]
        num_mel_bins = examples[0]["input_features"].shape[0]
        features = np.zeros((len(examples), num_mel_bins, max(num_frames)), dtype=np.float32)
        labels = torch.full((len(examples), max(len(example["labels"]) for example in examples)), IGNORED)
        for row, (example, length) in enumerate(zip(examples, num_frames)):
            features[row, :, :length] = example["input_features"]
            labels[row, : len(example["labels"])] = torch.tensor(example["labels"])
        mask = torch.arange(max(num_frames)) < torch.tensor(num_frames)[:, None]
        texts = [example["text"] for example in examples]
        return {
            "input_features": torch.from_numpy(features),
            "input_features_mask": mask.long(),
            "labels": labels,
            "texts": texts,
        }


class UtteranceBatches(PlannedBatches):
    """[`PlannedBatches`] of utterances: one thing is learnt from each, and its steps are those of the encoder."""

    def __init__(self, utterances: Utterances, builder: UtteranceBuilder, options: BatchOptions):
        super().__init__(utterances, builder, options)

    def _why_none_is_used(self, skipped: Sequence[Skipped]) -> str:
        return why_none_is_used(self.rows, skipped, tasks={})

    def _measured(self) -> list[int | Skipped]:
        """The steps of each utterance, or why it cannot be measured."""
        if self._steps is None:
            self._steps = [self._measure(index) for index in range(len(self.rows))]
            self._digests = [
                digest_of({"id": side, "question_text": text} for side, text in self.rows.sides_and_texts())
            ]
        return self._steps

    def _measure(self, index: int) -> int | Skipped:
        try:
            return max(1, ceil(self.rows.seconds(index) * STEPS_PER_SECOND))
        except (ValueError, TypeError, OSError, RuntimeError) as error:
            if self.builder.on_error == "stop":
                raise
            return Skipped(f"utterance {index}", "corrupt audio", " ".join(str(error).split()))

    def _lengths(self, epoch: int, draws: Sequence[int]) -> tuple[dict[int, int], list[tuple[int, Skipped]]]:
        limit = longest_row(self.options, self.builder)
        lengths, skipped, measured = {}, list(enumerate(self.rows.wrong)), self._measured()
        for draw in draws:
            index = draw % len(self.rows)
            steps = measured[index]
            if isinstance(steps, Skipped):
                skipped.append((draw, steps))
            elif steps > limit:
                skipped.append((draw, too_long(f"utterance {index}", steps, limit)))
            else:
                lengths[draw] = steps
        return lengths, skipped
