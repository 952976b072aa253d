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
"""Plots as SVG: every point where it belongs, on axes that can be read."""

from xml.etree import ElementTree

import pytest

from flow_omni.evaluation.plots import LinePlot, Point, Series, draw, positions, round_ticks
from flow_omni.evaluation.wording import written_tick


def line_plot(places, values, **options) -> LinePlot:
    series = [Series("one", [Point(place, value, value - 0.01, value + 0.01) for place, value in zip(places, values)])]
    words = {"value_words": str, "tick_words": str, "place_words": str}
    return LinePlot(**{"title": "a < b", "axis": "x", "places": places, "series": series} | words | options)


def test_plot_is_xml_with_every_point_inside():
    svg = ElementTree.fromstring(draw(line_plot([None, 20, 10, 0], [0.1, 0.15, 0.4, 0.9])))
    width, height = map(float, svg.get("viewBox").split()[2:])
    circles = svg.findall(".//circle")
    assert len(circles) == 4 and len(svg.findall(".//polyline")) == 2
    assert all(0 < float(one.get("cx")) < width and 0 < float(one.get("cy")) < height for one in circles)
    heights = [float(one.get("cy")) for one in circles]
    assert heights == sorted(heights, reverse=True)
    assert svg.get("aria-label").startswith("a < b over x. one – None: 0.1, 20: 0.15")


def test_places_stand_in_proportion_and_doubling_evenly():
    assert positions([0.0, 1.0, 4.0], 100) == pytest.approx([100 / 6, 100 / 6 + 200 / 12, 500 / 6])
    gaps = [b - a for a, b in zip(positions([1, 2, 4, 8, 16], 100), positions([1, 2, 4, 8, 16], 100)[1:])]
    assert gaps == pytest.approx([gaps[0]] * 4)
    assert positions(["a", "b"], 100) == positions([3], 50) + [75] == [25, 75]
    falling = positions([None, 20, 10, 0], 100)
    assert falling == sorted(falling) and falling[0] == 12.5


@pytest.mark.parametrize("low, high", [(0, 0.27), (0, 1), (0.931, 1), (0.4, 0.4), (-3, 8), (0, 4000), (0, 0)])
def test_ticks_are_few_round_and_span_the_values(low, high):
    ticks = round_ticks(low, high)
    assert ticks[0] <= low + 1e-9 and ticks[-1] >= high - 1e-9 and 3 <= len(ticks) <= 7
    assert all(len(written_tick(tick, "number")) <= 5 for tick in ticks)


def test_shares_to_raise_end_at_all_of_them():
    svg = draw(
        line_plot(
            [1, 2], [0.98, 0.99], from_zero=False, ceiling=1.0, tick_words=lambda tick: written_tick(tick, "share")
        )
    )
    assert "100 %" in svg and "101" not in svg and ">0 %" not in svg
