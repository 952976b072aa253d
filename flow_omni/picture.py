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
"""A picture of an answer: its mel-spectrogram above the two streams that it came from, on one axis of steps."""

import math
import os
import warnings
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import torch

from .modeling_flow_omni.configuration_flow_omni import FlowOmniConfig


INCHES_PER_STEP, MIN_WIDTH, MAX_WIDTH = 0.1, 8.0, 24.0
# Narrower than this, neighbouring tokens would be written over each other.
MIN_INCHES_PER_TOKEN = 0.09
STATE_NAMES = ("pad", "start", "generating", "stop")
STATE_COLORS = ("#e4e4e4", "#f2b134", "#4c78a8", "#c8473d")
# How whitespace is shown among the tokens, where it would be nothing.
VISIBLE = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥"})


def check_matplotlib() -> None:
    """Raises where pictures cannot be drawn, which is better known before the work than after it."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'Pictures are drawn by matplotlib, which is not installed: `pip install "flow-omni[train]"`, or `pip install '
            "matplotlib`."
        ) from error


def draw_answer(
    path: str | os.PathLike,
    patches: Sequence[torch.Tensor],
    states: Sequence[int],
    tokens: Sequence[str],
    config: FlowOmniConfig,
) -> None:
    """
    Draws an answer into a file, which appears when it is complete.

    Args:
        path (`str` or `os.PathLike`):
            Where to; its suffix says what kind of picture (png, svg, pdf).
        patches (`Sequence[torch.Tensor]`):
            What was spoken, one `(frames_per_step, num_mel_bins)` for each `generating` step.
        states (`Sequence[int]`):
            The speech state of every step.
        tokens (`Sequence[str]`):
            The text of the first steps, token by token; an empty one is not shown.
        config (`FlowOmniConfig`):
            Of the model that answered.
    """
    check_matplotlib()
    # no pyplot: it would look for a display, and keep the figure alive
    from matplotlib.figure import Figure

    num_steps = max(len(states), len(tokens), 1)
    width = min(max(MIN_WIDTH, num_steps * INCHES_PER_STEP + 1.0), MAX_WIDTH)
    figure = Figure(figsize=(width, 4.6), layout="constrained")
    mel_axes, text_axes, state_axes = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": [6, 1.6, 0.5]})
    mel_axes.set_xlim(0, num_steps)
    _draw_mel(figure, mel_axes, patches, states, config)
    _draw_tokens(text_axes, tokens, inches_per_step=width / num_steps)
    _draw_states(state_axes, states, config)
    _explain_states(figure)
    steps_per_second = config.speech_config.steps_per_second
    state_axes.set_xlabel(f"step ({steps_per_second:.1f} a second)")
    seconds = mel_axes.secondary_xaxis(
        "top", functions=(lambda step: step / steps_per_second, lambda second: second * steps_per_second)
    )
    seconds.set_xlabel("seconds")
    _save(figure, Path(path))


def _draw_mel(figure, axes, patches: Sequence[torch.Tensor], states: Sequence[int], config: FlowOmniConfig) -> None:
    """The mel-spectrogram, each patch over the step that it was generated at."""
    speech_config = config.speech_config
    axes.set_ylabel("mel band")
    axes.set_ylim(0, speech_config.num_mel_bins)
    axes.set_facecolor("#f7f7f7")
    if len(patches) == 0:
        axes.text(0.5, 0.5, "no speech", transform=axes.transAxes, ha="center", va="center", color="#888888")
        return
    generating = [step for step, state in enumerate(states) if state == config.generating_state_id]
    first = generating[0]
    image = axes.imshow(
        torch.cat(list(patches)).T.numpy(),
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        cmap="magma",
        extent=(first, first + len(patches), 0, speech_config.num_mel_bins),
        vmin=speech_config.mel_floor,
    )
    # `imshow` sets the limits to its own extent
    axes.set_xlim(0, len(states))
    figure.colorbar(image, ax=axes, label="log magnitude", pad=0.01)


def _draw_tokens(axes, tokens: Sequence[str], inches_per_step: float) -> None:
    """The text, each token under its step; where they are too dense to read, only every so many."""
    axes.set_ylabel("text", rotation=0, ha="right", va="center")
    axes.set_yticks([])
    axes.set_ylim(0, 1)
    is_spelt = all(len(token) <= 1 for token in tokens)
    stride = math.ceil(MIN_INCHES_PER_TOKEN / inches_per_step)
    for step in range(0, len(tokens), stride):
        axes.text(
            step + 0.5,
            0.5,
            tokens[step].translate(VISIBLE),
            fontsize=8 if is_spelt else 7,
            rotation=0 if is_spelt else 90,
            ha="center",
            va="center",
            # a dollar sign is a dollar sign here, not the start of a formula
            parse_math=False,
            clip_on=True,
        )
    axes.axvline(len(tokens), color="#888888", linewidth=0.8, linestyle=":")


def _draw_states(axes, states: Sequence[int], config: FlowOmniConfig) -> None:
    """The speech states as a band, one colour each."""
    axes.set_ylabel("state", rotation=0, ha="right", va="center")
    axes.set_yticks([])
    axes.set_ylim(0, 1)
    colors = dict(zip(config.state_ids, STATE_COLORS))
    step = 0
    for state, group in groupby(states):
        length = len(list(group))
        axes.axvspan(step, step + length, color=colors[state], linewidth=0)
        step += length


def _explain_states(figure) -> None:
    """The names of the states' colours, below everything else."""
    from matplotlib.patches import Patch

    handles = [Patch(color=color, label=name) for name, color in zip(STATE_NAMES, STATE_COLORS)]
    figure.legend(handles=handles, loc="outside lower right", ncols=4, fontsize=8, frameon=False)


def _save(figure, path: Path) -> None:
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}.unfinished{path.suffix}")
    try:
        with warnings.catch_warnings():
            # of letters that the font lacks, which it shows as boxes
            warnings.simplefilter("ignore")
            figure.savefig(unfinished, dpi=150)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


__all__ = ["check_matplotlib", "draw_answer"]
