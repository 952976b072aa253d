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
"""Draws `streams.svg`, the picture of the two parallel streams: `python docs/draw_streams.py [FILE]` (needs matplotlib)."""

import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle


INK, FAINT, EDGE = "#1f2933", "#8a94a0", "#c3cad2"
HEARD, TEXT, STATE, PATCH = "#dcefe3", "#e3ecfa", "#fdf0d5", "#fbe1dc"
MODEL, HEADS = "#eef0f3", "#e4dff5"

# An answer of four text tokens and a delay of three, as `leading_layout` lays it out.
PROMPT = ["user", "♪", "♪", "♪", "assist."]
ANSWER = ["It", "is", "Par", "is.", "eos", "pad", "pad", "pad", "pad"]
STATES = ["pad", "pad", "pad", "start", "gen", "gen", "gen", "gen", "stop"]
NUM_STEPS = len(PROMPT) + len(ANSWER)
FIRST = len(PROMPT)

ROWS = {"text": 2.05, "state": 1.3, "previous": 0.55}
MODEL_BOTTOM, MODEL_TOP = 3.1, 3.75
SPEECH_BOTTOM, SPEECH_TOP = 4.2, 4.85
HEAD_BOTTOM, HEAD_TOP = 5.3, 5.8
PATCHES = 6.2
VOCODER, WAVE = 7.25, 7.95


def box(axes, column: float, row: float, label: str, fill: str, width: float = 0.86, height: float = 0.56, **text):
    shape = FancyBboxPatch(
        (column + (1 - width) / 2, row),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=0.09",
        fc=fill,
        ec=EDGE,
        lw=0.8,
    )
    axes.add_patch(shape)
    style = {"ha": "center", "va": "center", "color": INK, "fontsize": 9.5} | text
    axes.text(column + 0.5, row + height / 2 - 0.015, label, **style)


def block(axes, left: float, right: float, bottom: float, top: float, label: str, color: str):
    """A part of the model, as wide as the steps it works on."""
    box(axes, left, bottom, "", color, width=right - left, height=top - bottom)
    axes.patches[-1].set_x(left)
    axes.text(
        (left + right) / 2, (bottom + top) / 2 - 0.015, label, ha="center", va="center", color=INK, fontsize=10.5
    )


def arrow(axes, start: tuple[float, float], end: tuple[float, float]):
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=8, color=FAINT, lw=1))


def bracket(axes, left: float, right: float, note: str):
    style = {"arrowstyle": "|-|,widthA=0.25,widthB=0.25", "color": FAINT, "lw": 0.8}
    axes.annotate("", (right, 0.28), (left, 0.28), arrowprops=style)
    axes.text((left + right) / 2, 0.03, note, ha="center", va="center", color=FAINT)


def patch(axes, column: int, row: float, seed: int, height: float = 0.72):
    """Four frames of a mel-spectrogram: smooth random columns, the lower bands the louder."""
    rng = np.random.default_rng(seed)
    bands = np.linspace(1, 0, 9)[:, None]
    frames = 0.75 * bands + 0.35 * np.abs(np.sin(7 * bands + rng.uniform(0, 6) + 0.5 * np.arange(4))) - 0.1
    left, width, rise = column + 0.07, 0.86 / 4, height / 9
    colors = matplotlib.colormaps["magma"](0.12 + 0.78 * frames.clip(0, 1))
    for band in range(9):
        for frame in range(4):
            corner = (left + frame * width, row + band * rise)
            # a little larger than its place, so that no seams show
            axes.add_patch(Rectangle(corner, width + 0.012, rise + 0.008, fc=colors[band, frame], lw=0))


def label(axes, row: float, title: str, note: str = ""):
    axes.text(-0.25, row + 0.06, title, ha="right", va="center", color=INK, fontsize=10.5, fontweight="bold")
    axes.text(-0.25, row - 0.21, note, ha="right", va="center", color=FAINT, fontsize=8.5)


def draw_inputs(axes):
    """What every step reads: a text token, a speech state, the patch of the step before."""
    for column, token in enumerate(PROMPT + ANSWER):
        is_pad = token == "pad"
        color = HEARD if token == "♪" else "white" if is_pad else TEXT
        box(axes, column, ROWS["text"], token, color, color=FAINT if is_pad else INK)
        state = "pad" if column < FIRST else STATES[column - FIRST]
        box(
            axes,
            column,
            ROWS["state"],
            state,
            "white" if state == "pad" else STATE,
            color=FAINT if state == "pad" else INK,
        )
        arrow(axes, (column + 0.5, ROWS["text"] + 0.62), (column + 0.5, MODEL_BOTTOM - 0.05))
        is_read = column > FIRST and STATES[column - FIRST - 1] == "gen"
        if is_read:
            number = STATES[: column - FIRST].count("gen")
            box(axes, column, ROWS["previous"], f"m$_{number}$", PATCH)
        else:
            axes.text(column + 0.5, ROWS["previous"] + 0.27, "–", ha="center", va="center", color=FAINT)
    label(axes, ROWS["text"] + 0.32, "text", "♪ heard speech")
    label(axes, ROWS["state"] + 0.32, "speech state", "pad, start, generating, stop")
    label(axes, ROWS["previous"] + 0.32, "previous patch", "the three are summed")
    bracket(axes, 0, FIRST, "question")
    bracket(axes, FIRST, NUM_STEPS, "answer, one step at a time")


def draw_outputs(axes):
    """What generating steps bring forth, and where it goes."""
    left, right = 0.07, NUM_STEPS - 0.07
    block(axes, left, right, MODEL_BOTTOM, MODEL_TOP, "causal language model: writes the next text token", MODEL)
    block(axes, left, right, SPEECH_BOTTOM, SPEECH_TOP, "speech transformer: chooses the next speech state", HEADS)
    generating = [FIRST + index for index, state in enumerate(STATES) if state == "gen"]
    left, right = generating[0] + 0.07, generating[-1] + 0.93
    block(axes, left, right, HEAD_BOTTOM, HEAD_TOP, "flow head: noise to patch", HEADS)
    block(axes, left, right, VOCODER, VOCODER + 0.5, "vocoder, as they come", HEADS)
    for column in range(NUM_STEPS):
        arrow(axes, (column + 0.5, MODEL_TOP + 0.03), (column + 0.5, SPEECH_BOTTOM - 0.03))
    for number, column in enumerate(generating, start=1):
        arrow(axes, (column + 0.5, SPEECH_TOP + 0.03), (column + 0.5, HEAD_BOTTOM - 0.03))
        arrow(axes, (column + 0.5, HEAD_TOP + 0.03), (column + 0.5, PATCHES - 0.03))
        patch(axes, column, PATCHES, seed=number)
        axes.text(column + 0.9, PATCHES + 0.58, f"m$_{number}$", ha="right", va="center", color="white", fontsize=9)
        arrow(axes, (column + 0.5, PATCHES + 0.75), (column + 0.5, VOCODER - 0.03))
    time = np.linspace(0, 1, 600)
    loudness = np.sin(np.pi * time) ** 0.6 * (0.35 + 0.65 * np.sin(9 * time) ** 2)
    axes.plot(left + time * (right - left), WAVE + 0.33 + 0.28 * loudness * np.sin(260 * time), color=INK, lw=0.7)
    label(axes, PATCHES + 0.38, "mel patches", "4 frames each, 43 ms")
    label(axes, WAVE + 0.3, "sound")


def main(path: Path):
    figure = Figure(figsize=(12.2, 7.2))
    axes = figure.subplots()
    axes.set(xlim=(-3.1, NUM_STEPS + 0.15), ylim=(-0.2, 8.65))
    axes.axis("off")
    draw_inputs(axes)
    draw_outputs(axes)
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.995)
    # without a date and with a fixed salt, the same picture is the same file
    with matplotlib.rc_context({"svg.hashsalt": "flow-omni"}):
        figure.savefig(path, facecolor="white", metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("streams.svg"))
