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
"""Line plots as SVG text, small and without a library; colours come from the style sheet of the page that they stand in."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape


# All sizes are in units of the picture, which the page scales.
WIDTH, HEIGHT = 300, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 38
NUM_TICKS = 4
# Values of which the largest is so many times the smallest stand on a logarithmic axis.
LOG_RATIO = 8
# Within the width of a place, the lines keep so far apart that whiskers can be told.
SPREAD = 3.0
# Narrower than this, the words below two places touch each other.
WIDTH_PER_LETTER = 5.4


@dataclass(frozen=True)
class Point:
    """A value at a place of the axis, with the ends of its interval, where there is one."""

    place: float | str | None
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """One line of a plot."""

    label: str
    points: Sequence[Point]


@dataclass(frozen=True)
class LinePlot:
    """
    A plot: what is measured, over what.

    Args:
        title (`str`): Read to those who cannot see it, and shown when pointed at.
        axis (`str`): What the places are.
        places (`Sequence`): Numbers, words, or `None`, in the order in which they stand from left to right.
        series (`Sequence[Series]`): At most as many as the page has colours are told by them.
        value_words, tick_words, place_words (`Callable`): Values, round values and places in words.
        from_zero (`bool`): Whether 0 is to be seen.
        ceiling (`float`, *optional*): What no value can exceed, and is to be seen.
    """

    title: str
    axis: str
    places: Sequence[float | str | None]
    series: Sequence[Series]
    value_words: Callable[[float], str]
    tick_words: Callable[[float], str]
    place_words: Callable[[float | str | None], str]
    from_zero: bool = True
    ceiling: float | None = None


def draw(plot: LinePlot) -> str:
    """The plot as an `<svg>` element."""
    columns = positions(plot.places, WIDTH - LEFT - RIGHT)
    ticks = ticks_of(plot)
    low, high = ticks[0], ticks[-1]

    def x(place: float | str | None, shift: float = 0.0) -> float:
        return LEFT + columns[plot.places.index(place)] + shift

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low))

    parts = [*_rows(plot, ticks, y), *_columns(plot, x)]
    for index, series in enumerate(plot.series):
        shift = SPREAD * (index - (len(plot.series) - 1) / 2)
        parts += _line(plot, index, series, lambda place, shift=shift: x(place, shift), y)
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description_of(plot))}">'
        f"{''.join(parts)}</svg>"
    )


def description_of(plot: LinePlot) -> str:
    """The plot in words, for those who hear it."""
    lines = []
    for series in plot.series:
        values = ", ".join(f"{plot.place_words(one.place)}: {plot.value_words(one.value)}" for one in series.points)
        lines.append(f"{series.label} – {values}" if series.label else values)
    return f"{plot.title} over {plot.axis}. {'; '.join(lines)}."


def positions(places: Sequence[float | str | None], width: float) -> list[float]:
    """
    Where each place stands between 0 and `width`. Numbers stand in proportion, of which those of very different size by
    their logarithms; words, and numbers out of order, evenly. `None` in front of numbers has a slot of its own.
    """
    if len(places) == 1:
        return [width / 2]
    has_slot = places[0] is None
    numbers = list(places[has_slot:])
    even = [width * (index + 0.5) / len(places) for index in range(len(places))]
    if len(numbers) < 2 or not all(isinstance(one, int | float) for one in numbers):
        return even
    if sorted(numbers) not in (numbers, numbers[::-1]) or min(numbers) == max(numbers):
        return even
    if min(numbers) > 0 and max(numbers) / min(numbers) >= LOG_RATIO:
        numbers = [math.log(one) for one in numbers]
    margin = width / len(places) / 2
    start = margin + has_slot * width / len(places)
    scale = (width - margin - start) / (numbers[-1] - numbers[0])
    return [margin] * has_slot + [start + (one - numbers[0]) * scale for one in numbers]


def ticks_of(plot: LinePlot) -> list[float]:
    """Round values that span all points with their intervals."""
    points = [point for series in plot.series for point in series.points]
    ends = [end for point in points for end in (point.value, point.low, point.high) if end is not None]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    if plot.from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if plot.ceiling is not None:
        high = max(high, plot.ceiling)
    return round_ticks(low, high, plot.ceiling)


def round_ticks(low: float, high: float, ceiling: float | None = None) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten, from at most `low` to at least `high`."""
    if high - low < 1e-9:
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
        if ceiling is not None and high > ceiling:
            low, high = ceiling - (high - low), ceiling
    power = 10.0 ** math.floor(math.log10((high - low) / NUM_TICKS))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if (high - low) / (factor * power) <= NUM_TICKS + 0.5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def _rows(plot: LinePlot, ticks: Sequence[float], y: Callable[[float], float]) -> list[str]:
    parts = []
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        words = escape(plot.tick_words(tick))
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y(tick) + 3.5:.1f}" text-anchor="end">{words}</text>')
    return parts


def _columns(plot: LinePlot, x: Callable[[float | str | None], float]) -> list[str]:
    bottom, free_from = HEIGHT - BOTTOM, -math.inf
    parts = [f'<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>']
    for place in plot.places:
        parts.append(f'<line class="base" x1="{x(place):.1f}" x2="{x(place):.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        words = plot.place_words(place)
        half = WIDTH_PER_LETTER * len(words) / 2
        # a place whose words would run into those of the last one stays without
        if x(place) - half >= free_from:
            parts.append(
                f'<text class="tick" x="{x(place):.1f}" y="{bottom + 15}" text-anchor="middle">{escape(words)}</text>'
            )
            free_from = x(place) + half
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(
        f'<text class="axis" x="{middle:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(plot.axis)}</text>'
    )
    return parts


def _line(
    plot: LinePlot, index: int, series: Series, x: Callable[[float | str | None], float], y: Callable[[float], float]
) -> list[str]:
    """The line of one series, its whiskers, and its points, which say their values when they are pointed at."""
    points = sorted(series.points, key=lambda point: plot.places.index(point.place))
    # the way from the question as it is to the least change is no measured slope
    drawn = [point for point in points if point.place is not None]
    whole = " ".join(f"{x(point.place):.1f},{y(point.value):.1f}" for point in drawn)
    # between words there is nothing
    kind = "line dashed" if any(isinstance(point.place, str) for point in points) else "line"
    parts = [f'<polyline class="{kind}" points="{whole}"/>'] if len(drawn) > 1 else []
    if len(drawn) < len(points) and drawn:
        ends = " ".join(f"{x(point.place):.1f},{y(point.value):.1f}" for point in points[:2])
        parts.append(f'<polyline class="line dashed" points="{ends}"/>')
    for point in points:
        left, top = x(point.place), y(point.value)
        words = f"{plot.place_words(point.place)}: {plot.value_words(point.value)}"
        if point.low is not None and point.high is not None:
            span = f'y1="{y(point.low):.1f}" y2="{y(point.high):.1f}"'
            parts.append(f'<line class="whisker" x1="{left:.1f}" x2="{left:.1f}" {span}/>')
            words += f" ({plot.value_words(point.low)} to {plot.value_words(point.high)})"
        label = f"{series.label}, " if series.label else ""
        parts.append(
            f'<circle class="point" cx="{left:.1f}" cy="{top:.1f}" r="3"><title>{escape(label + words)}</title></circle>'
        )
    return [f'<g class="series s{index % 6}">', *parts, "</g>"]
