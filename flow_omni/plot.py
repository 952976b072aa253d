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
"""A plot of an answer: its mel-spectrogram over its speech states and text tokens, on one axis of positions."""

import math
import os
import warnings
from collections.abc import Sequence

import torch

from .modeling_flow_omni.configuration_flow_omni import FlowOmniConfig
from .processing.files import atomic_write


INCHES_PER_POSITION, MIN_WIDTH, MAX_WIDTH = 0.1, 8.0, 24.0
# Tokens closer than this would overlap.
MIN_INCHES_PER_TOKEN = 0.11
STATES = {"pad": "#e4e4e4", "start": "#f2b134", "generating": "#4c78a8", "stop": "#c8473d"}
VISIBLE_WHITESPACE = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥"})


def plot_answer(
    path: str | os.PathLike,
    patches: Sequence[torch.Tensor],
    states: Sequence[int],
    tokens: Sequence[str],
    config: FlowOmniConfig,
) -> None:
    """
    Plots an answer into a png, svg or pdf file: `patches` are the log-mel patches `(frames_per_step, num_mel_bins)` of
    the `generating` positions, `states` the speech state of each position, `tokens` the decoded text token of each
    position, empty where there is none.
    """
    # not pyplot, which needs a display and keeps figures alive
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    num_positions = max(len(states), len(tokens), 1)
    width = min(max(MIN_WIDTH, num_positions * INCHES_PER_POSITION + 1.0), MAX_WIDTH)
    figure = Figure(figsize=(width, 4.2), layout="constrained")
    mel_axes, state_axes = figure.subplots(2, 1, sharex=True, height_ratios=(12, 1))
    _plot_mel(figure, mel_axes, patches, states, config)

    if states:
        colors = dict(zip(config.state_ids, map(to_rgb, STATES.values())))
        band = [[colors[state] for state in states]]
        state_axes.imshow(band, extent=(0, len(states), 0, 1), aspect="auto", interpolation="nearest")
    state_axes.set(xlim=(0, num_positions), ylim=(0, 1), yticks=[], ylabel="state\ntext", xlabel="position")
    stride, positions = math.ceil(MIN_INCHES_PER_TOKEN * num_positions / width), []
    for position, token in enumerate(tokens):
        if token and (not positions or position - positions[-1] >= stride):
            positions.append(position)
    labels = [tokens[position].translate(VISIBLE_WHITESPACE) for position in positions]
    # `parse_math`: a dollar sign does not start a formula
    state_axes.set_xticks(
        [position + 0.5 for position in positions],
        labels,
        fontsize=7,
        rotation=90 if any(len(label) > 1 for label in labels) else 0,
        parse_math=False,
    )
    handles = [Patch(color=color, label=name) for name, color in STATES.items()]
    figure.legend(handles=handles, loc="outside lower right", ncols=4, fontsize=8, frameon=False)
    with atomic_write(path) as temporary, warnings.catch_warnings():
        # characters that the font lacks are drawn as boxes
        warnings.simplefilter("ignore")
        figure.savefig(temporary, dpi=150)


def _plot_mel(figure, axes, patches: Sequence[torch.Tensor], states: Sequence[int], config: FlowOmniConfig) -> None:
    """The mel-spectrogram, each patch over the position that generated it."""
    speech = config.speech_config
    axes.set(ylabel="mel band", ylim=(0, speech.num_mel_bins), facecolor="#f7f7f7")
    axes.tick_params(bottom=False, labelbottom=False)
    rate = speech.steps_per_second
    seconds = axes.secondary_xaxis("top", functions=(lambda position: position / rate, lambda second: second * rate))
    seconds.set_xlabel("seconds")
    if not patches:
        axes.text(0.5, 0.5, "no speech", transform=axes.transAxes, ha="center", va="center", color="#888888")
        return
    mel = torch.full((len(states), speech.frames_per_step, speech.num_mel_bins), torch.nan)
    mel[torch.tensor(states) == config.generating_state_id] = torch.stack(list(patches)).float()
    extent = (0, len(states), 0, speech.num_mel_bins)
    options = {"origin": "lower", "aspect": "auto", "interpolation": "nearest", "cmap": "magma"}
    image = axes.imshow(mel.flatten(0, 1).T.numpy(), extent=extent, vmin=speech.mel_floor, **options)
    figure.colorbar(image, ax=axes, label="log magnitude", pad=0.01)
