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
"""Claims about PocketSphinx as a listener: its language models are probabilities, and it hears only the words it is given."""

import sys

import pytest
from sounds import noise

from flow_omni.processing.audio_io import load_audio
from flow_omni.training.recognisers import recogniser_of
from flow_omni.training.sphinx import Sphinx, arpa_of


QUESTION = "flow_omni/assets/question.wav"
SAID = "what is the capital of france"
WORDS = [*SAID.split(), "who", "was", "germany", "river", "seven", "monday", "friend", "big", "old"]


@pytest.fixture
def question(request):
    return load_audio(request.config.rootpath / QUESTION, 16000)


def probabilities_of(lines) -> dict[tuple[str, ...], tuple[float, float]]:
    """For each word or pair in a model in the ARPA format its probability and its backoff weight."""
    table = {}
    for line in lines:
        fields = line.split()
        if len(fields) > 1 and fields[0] != "ngram":
            words, weights = (
                [one for one in fields[1:] if not _is_number(one)],
                [fields[0], *filter(_is_number, fields[1:])],
            )
            table[tuple(words)] = tuple(10.0 ** float(weight) for weight in weights)
    return table


def _is_number(text: str) -> bool:
    return text.lstrip("-").replace(".", "").isdigit()


def test_all_words_of_a_list_are_alike():
    table = probabilities_of(arpa_of([["one"], ["two"], ["two"], ["strange"]], ["one", "two"]))
    assert {word: pytest.approx(1 / 3, rel=1e-3) for word in (("one",), ("two",), ("</s>",))}.items() <= {
        word: weights[0] for word, weights in table.items()
    }.items()


def test_after_every_word_of_sentences_the_probabilities_sum_to_one():
    sentences = [["two", "plus", "two"], ["two", "plus", "strange", "one"], ["one"]]
    table = probabilities_of(arpa_of(sentences, ["one", "two", "plus"]))
    following = ("one", "two", "plus", "</s>")
    assert sum(table[word,][0] for word in following) == pytest.approx(1.0, rel=1e-3)
    for first in ("<s>", "one", "two", "plus"):
        backoff = table[first,][1]
        total = sum(table.get((first, word), (backoff * table[word,][0],))[0] for word in following)
        assert total == pytest.approx(1.0, rel=1e-3)
    # what was said is likelier than what was not
    assert table["two", "plus"][0] > table["two",][1] * table["one",][0]
    assert ("plus", "one") not in table


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(ImportError, match="`pocketsphinx` could not be imported .*`pip install pocketsphinx`"):
        Sphinx()


def test_words_that_nobody_can_pronounce_or_find_are_refused(tmp_path):
    pytest.importorskip("pocketsphinx")
    with pytest.raises(ValueError, match="The words of `sphinx:.*` cannot be read"):
        recogniser_of(f"sphinx:{tmp_path / 'nowhere.txt'}", None, None)
    (tmp_path / "words.txt").write_text("xqzzk\n")
    with pytest.raises(ValueError, match="none of the words of PocketSphinx's dictionary"):
        recogniser_of(f"sphinx:{tmp_path / 'words.txt'}", None, None)


def test_it_hears_the_words_of_its_list_whatever_came_before(tmp_path, question):
    pytest.importorskip("pocketsphinx")
    (tmp_path / "words.txt").write_text("\n".join([*WORDS, "xqzzk"]))
    sphinx = recogniser_of(f"sphinx:{tmp_path / 'words.txt'}", None, None)
    assert sphinx.unknown_words == ["xqzzk"]
    heard = sphinx.transcribe(question, 16000)
    assert heard.startswith("what is the ") and heard.endswith(" france")
    assert set(sphinx.transcribe(noise(2.0), 16000).split()) <= set(WORDS)
    assert sphinx.transcribe(question, 16000) == heard


def test_sentences_tell_it_in_which_order_words_come(tmp_path, question):
    """The voice is one that it hardly understands: among words without order it hears another sentence."""
    pytest.importorskip("pocketsphinx")
    (tmp_path / "words.txt").write_text("\n".join(SAID.split()))
    (tmp_path / "sentences.txt").write_text("What is the capital of France?")
    heard = [recogniser_of(f"sphinx:{tmp_path / name}.txt", None, None) for name in ("words", "sentences")]
    words, sentence = (sphinx.transcribe(question, 16000) for sphinx in heard)
    assert words != SAID and sentence == SAID
