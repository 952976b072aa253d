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
"""Spoken answers of an evaluation to hear and to see: in TensorBoard, where one is written."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .generation_metrics import Answer


NUM_SHOWN = 4


def show_in_tensorboard(answers: Sequence[Answer], step: int, trainer: Any) -> None:
    """Writes the first spoken answers to the TensorBoard of the Trainer, if it has one: sound, picture and text."""
    writer = tensorboard_of(trainer)
    if writer is None:
        return
    for number, answer in enumerate([answer for answer in answers if answer.is_spoken][:NUM_SHOWN]):
        name = f"{answer.task}/{number}"
        if answer.waveform is not None and len(answer.waveform) > 0:
            loudest = max(1.0, np.abs(answer.waveform).max())
            writer.add_audio(name, answer.waveform[None] / loudest, step, sample_rate=_rate(trainer))
        if answer.mel is not None and len(answer.mel) > 0:
            writer.add_image(name, picture_of(answer.mel), step, dataformats="HWC")
        heard = "" if answer.heard is None else f"\n\nheard: {answer.heard}"
        writer.add_text(name, f"expected: {answer.expected}\n\nwritten: {answer.text}{heard}", step)
    writer.flush()


def tensorboard_of(trainer: Any) -> Any | None:
    """The writer of the Trainer's own TensorBoard callback, in the main process and once training has begun."""
    callbacks = trainer.callback_handler.callbacks if trainer is not None else []
    return next(
        (callback.tb_writer for callback in callbacks if getattr(callback, "tb_writer", None) is not None), None
    )


def picture_of(mel: np.ndarray, floor: float = -7.0, ceiling: float = 3.0) -> np.ndarray:
    """
    Log-mel frames (num_frames, num_mel_bins) as a picture (height, width, 3) of bytes: low bands below, time to the right,
    the same colours in every picture.
    """
    brightness = np.clip((mel.T[::-1] - floor) / (ceiling - floor), 0.0, 1.0)
    # black, violet, orange, pale yellow
    stops = np.array([[0, 0, 4], [120, 28, 109], [237, 105, 37], [252, 255, 164]], dtype=np.float64)
    positions = np.linspace(0.0, 1.0, len(stops))
    picture = np.stack([np.interp(brightness, positions, stops[:, channel]) for channel in range(3)], axis=-1)
    # a frame is a few milliseconds: doubled, it can be seen
    return picture.round().astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)


def _rate(trainer: Any) -> int:
    return trainer.flow_omni.config.sampling_rate
