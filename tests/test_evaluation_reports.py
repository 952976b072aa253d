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
"""Reports of an evaluation: complete, readable without a network, safe whatever the texts hold, and fair in comparing."""

import base64
import hashlib
import io
import re

import pytest
import soundfile
from html_pages import Page
from report_results import (
    ANSWER_SECONDS,
    EXCHANGES,
    ORIGINAL_SECONDS,
    QUESTION_SECONDS,
    blank_results,
    made_results,
    tone,
)

from flow_omni.evaluation.inline_media import MAX_SECONDS, sound_at
from flow_omni.evaluation.report import write_reports
from flow_omni.evaluation.results import FIGURES, Sample
from flow_omni.evaluation.wording import written


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    write_reports(made_results(folder), folder)
    return folder


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder, other = tmp_path_factory.mktemp("compared"), tmp_path_factory.mktemp("other")
    settings = {"language": "en", "seed": 1, "options": {"num_flow_steps": 4}}
    made_results(other, "runs/other", quality=0.4, settings=settings).save(other)
    write_reports(made_results(folder), folder, [other])
    return folder


@pytest.fixture(params=["alone", "compared"])
def folder(request):
    return request.getfixturevalue(request.param)


def page_in(folder) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def markdown_in(folder) -> str:
    return (folder / "results.md").read_text(encoding="utf-8")


def decoded(uri: str) -> tuple:
    """Samples and rate of a sound in a page."""
    kind, _, content = uri.partition(";base64,")
    assert kind == "data:audio/flac"
    return soundfile.read(io.BytesIO(base64.b64decode(content, validate=True)), dtype="int16")


def test_page_is_well_formed_and_its_links_lead_somewhere(folder):
    page = page_in(folder)
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    links = [attributes["href"] for attributes, _ in page.all("a")]
    assert len(ids) == len(set(ids)) and len(links) > 6
    assert {link.removeprefix("#") for link in links} <= set(ids)


def test_page_loads_nothing(folder):
    page = page_in(folder)
    for _, attributes, _ in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "poster", "action", "data", "background"):
            assert re.match(r"(#|data:)|$", attributes.get(name) or "")
        assert not any(name.startswith("on") for name in attributes)
    ((_, style),) = page.all("style")
    assert not re.search(r"url\(|@import|https?:", style)


def test_policy_of_the_page_allows_its_own_style_and_script_and_nothing_else(folder):
    """A digest that does not fit leaves the page without its style, in the browser only."""
    page = page_in(folder)
    (policy,) = [one["content"] for one, _ in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules.pop("default-src") == "'none'" and rules.pop("img-src") == rules.pop("media-src") == "data:"
    for name in ("style", "script"):
        ((_, content),) = page.all(name)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules.pop(f"{name}-src") == f"'sha256-{digest}'"
    assert not rules and not any("style" in attributes for _, attributes, _ in page.elements)


def test_texts_of_a_data_set_are_no_markup(tmp_path):
    evil = "</script></style><script>alert('1')</script>\"'><img src=x onerror=alert(2)> | `a` *b* {{ 7 * 7 }}"
    sample = Sample(
        f"id {evil}", "say", evil, evil, f"expected {evil}", f"text {evil}", {evil: evil}, False, evil, {}, None
    )
    results = blank_results(
        checkpoint=evil,
        data=evil,
        command=evil,
        machine={evil: evil},
        settings={evil: evil, "language": "en"},
        figures={
            f"say@{evil}": {"cer": 0.1, evil: 0.2},
            f"say/{evil}": {"cer": 0.1},
            evil: {"cer": 0.1},
            "say": {"cer": 0},
        },
        sweeps={f"noise/{evil}": [{evil: evil, "cer": 0.1, evil + evil: 0.1}], evil: [{"x": 1, "cer": 0.1}]},
        speed={evil: 1.0},
        samples=[sample],
        notes=[evil],
    )
    write_reports(results, tmp_path, [blank_results(checkpoint=f"other {evil}", notes=[evil])])
    page = page_in(tmp_path)
    assert len(page.all("script")) == len(page.all("style")) == 1 and page.all("img") == []
    assert "alert" not in page.all("script")[0][1]
    assert "".join(page.text).count(evil) > 20
    table_cells = re.sub(r"```.*?```", "", markdown_in(tmp_path), flags=re.DOTALL)
    assert "alert" in table_cells and not re.search(r"(?<!\\)[<>*`]script|(?<!\\)<", table_cells)
    check_markdown_tables(markdown_in(tmp_path))


def test_every_sample_is_playable(alone):
    page = page_in(alone)
    lengths = [len(samples) / rate for samples, rate in (decoded(one["src"]) for one, _ in page.all("audio"))]
    num_heard, num_spoken = (
        sum(len(exchanges) for task, exchanges in EXCHANGES.items() if task != without)
        for without in ("say", "transcribe")
    )
    expected = [QUESTION_SECONDS] * num_heard + [ANSWER_SECONDS, ORIGINAL_SECONDS] * num_spoken
    assert sorted(lengths) == pytest.approx(sorted(expected))
    assert all("controls" in one for one, _ in page.all("audio"))
    assert len(page.all("article")) == sum(map(len, EXCHANGES.values()))
    assert len(page.all("img")) == num_spoken


def test_sounds_in_the_page_are_those_of_the_files(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(0.2, 24000, 1), 24000, subtype="PCM_16")
    samples, rate = decoded(sound_at(tmp_path / "a.wav").uri)
    original, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert rate == 24000 and (samples == original).all()


def test_long_recording_is_cut_and_said_to_be(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(MAX_SECONDS + 5, 1000, 1), 1000)
    sample = Sample("a", "transcribe", None, None, "a", "a", {}, True, "complete", {"question": "a.wav"}, None)
    write_reports(blank_results(samples=[sample]), tmp_path)
    page = page_in(tmp_path)
    samples, rate = decoded(page.all("audio")[0][0]["src"])
    assert len(samples) / rate == MAX_SECONDS
    assert "the first of 65 s" in "".join(page.text)


def test_sounds_that_are_gone_leave_the_texts(tmp_path):
    results = made_results(tmp_path)
    for path in (tmp_path / "samples").iterdir():
        path.unlink()
    write_reports(results, tmp_path)
    page = page_in(tmp_path)
    assert page.all("audio") == page.all("img") == [] and len(page.all("article")) == len(results.samples)


def test_wrong_words_are_marked_in_what_was_written_and_heard(alone):
    page = page_in(alone)
    assert {"arbor.", "Rome.", "rome"} <= {text for _, text in page.all("mark")}
    assert "France" in {text for _, text in page.all("del")}
    assert "7 + 8 = 15" not in {text for _, text in page.all("mark")}


def test_filters_offer_every_task_and_topic_and_know_what_is_wrong(alone):
    page = page_in(alone)
    offered = {attributes["value"] for attributes, _ in page.all("option")}
    articles = [attributes for attributes, _ in page.all("article")]
    assert {one["data-task"] for one in articles} | {one["data-topic"] for one in articles} <= offered
    traits = {(one["data-task"], one["data-topic"]): one["data-traits"].split() for one in articles}
    assert traits["transcribe", "arithmetic"] == []
    assert traits["say", "facts"] == ["misheard", "faulty"]
    assert traits["speech_to_speech", "facts"] == ["wrong", "misheard"]


def test_samples_are_capped_evenly_over_tasks(tmp_path):
    results = made_results(tmp_path)
    write_reports(results, tmp_path, max_samples=3)
    page = page_in(tmp_path)
    assert [one["data-task"] for one, _ in page.all("article")] == ["transcribe", "say", "speech_to_speech"]
    assert "3 of 7 are shown" in "".join(page.text)
    with pytest.raises(ValueError, match="max_samples"):
        write_reports(results, tmp_path, max_samples=-1)


def test_results_without_figures_still_make_a_report(tmp_path):
    write_reports(blank_results(), tmp_path)
    assert "Nothing was measured" in "".join(page_in(tmp_path).text)


def test_same_results_give_the_same_reports(tmp_path):
    results = made_results(tmp_path)
    first = [path.read_bytes() for path in write_reports(results, tmp_path, [results])]
    assert [path.read_bytes() for path in write_reports(results, tmp_path, [results])] == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "results.md", "samples"]


def test_better_results_are_marked_in_page_and_markdown(compared):
    """The other results are worse in everything."""
    tiles = page_in(compared).all("p", class_="figure")
    assert [text.strip().startswith("tiny") and "better" in text for _, text in tiles] == [True, False] * (
        len(tiles) // 2
    )
    lines = markdown_in(compared).splitlines()
    index = next(index for index, line in enumerate(lines) if line.startswith("| transcribe, as written |"))
    assert lines[index].count("**") == 6
    assert lines[index + 1].startswith("|  | other |") and "**" not in lines[index + 1] and "+3.1" in lines[index + 1]


def test_page_tells_what_differs_besides_the_checkpoint(compared):
    page = page_in(compared)
    ((_, told),) = page.all("details", class_="warning")
    assert "seed" in told and "num_flow_steps" in told and "language" not in told


def test_question_of_both_is_shown_once_with_the_answers_of_both(compared):
    page = page_in(compared)
    assert len(page.all("article")) == sum(map(len, EXCHANGES.values()))
    num_spoken = sum(len(exchanges) for task, exchanges in EXCHANGES.items() if task != "transcribe")
    assert len(page.all("img")) == 2 * num_spoken


def test_others_without_a_folder_are_shown_without_sounds(tmp_path):
    results = made_results(tmp_path)
    write_reports(results, tmp_path, [made_results(tmp_path, "other")])
    num_spoken = sum(len(exchanges) for task, exchanges in EXCHANGES.items() if task != "transcribe")
    assert len(page_in(tmp_path).all("img")) == num_spoken


def test_a_variant_is_a_line_and_in_a_comparison_the_results_are(folder, compared):
    legends = [text for _, text in page_in(folder).all("ul", class_="series-names")]
    assert legends == (["tinyother"] * 3 if folder == compared else ["whitepinkbabble"])


def check_markdown_tables(text: str) -> int:
    """Every row of a table has as many cells as its head; the second line aligns them. The number of tables."""
    num_tables, in_code = 0, False
    blocks = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE).split("\n\n")
    for block in blocks:
        lines = block.strip().splitlines()
        if not lines or not lines[0].startswith("|"):
            assert not in_code and not any(line.startswith("|") for line in lines), block
            continue
        num_tables += 1
        cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
        assert all(line.startswith("| ") and line.endswith(" |") for line in lines)
        assert len({len(row) for row in cells}) == 1, block
        assert all(re.fullmatch(r" -:? ", cell) for cell in cells[1])
    return num_tables


def test_markdown_tables_are_well_formed(folder):
    text = markdown_in(folder)
    assert check_markdown_tables(text) > 12
    assert text.startswith("# Evaluation of ") and text.endswith("\n") and "\n\n\n" not in text


def test_no_figure_is_left_out(tmp_path):
    """Every figure of a result gets a value of its own, which the tables must show."""
    names = [name for name in FIGURES if name != "num_rows"]
    groups = ("transcribe", "say", "say@own", "reference@own", "stops", "spectrum", "spectrum/say", "later")
    values = iter(range(100, 10**6))
    figures = {group: {name: next(values) / 1000 for name in names} for group in groups}
    sweep = {name: next(values) / 1000 for name in names} | {"say_cer": next(values) / 1000}
    speed = {name: next(values) / 1000 for name in names}
    write_reports(blank_results(figures=figures, sweeps={"steps": [{"steps": 1} | sweep]}, speed=speed), tmp_path)
    text = markdown_in(tmp_path)
    for name, value in [*(item for table in (*figures.values(), sweep, speed) for item in table.items())]:
        kind = FIGURES[name.removeprefix("say_")].kind
        assert f" {written(value, kind)} " in text, (name, value)
