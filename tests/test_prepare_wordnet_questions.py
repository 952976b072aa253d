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
"""Questions about the entries of a small WordNet."""

import re

import pytest
from typer.testing import CliRunner

from flow_omni.cli.app import app
from flow_omni.evaluation.questions import KNOWLEDGE_FILE
from flow_omni.training.data import load_rows
from flow_omni.training.prepare import wordnet_questions as questions


NOUNS = """\
  1 This is the licence
00000001 15 n 01 country 0 000 | the territory of a nation
00000002 15 n 02 France 0 French_Republic 0 001 @i 00000001 n 0000 | a republic in western Europe
00000003 15 n 01 Republic_of_Chad 0 001 @i 00000001 n 0000 | a republic in Africa
00000004 15 n 01 national_capital 0 000 | the capital city of a nation
00000005 15 n 01 Paris 0 002 @i 00000004 n 0000 #p 00000002 n 0000 | the capital of France
00000006 20 n 01 Paris 0 000 | a genus of plants
00000007 18 n 01 writer 0 000 | a person who writes
00000008 18 n 02 Dickens 0 Charles_Dickens 0 001 @i 00000007 n 0000 | English writer (1812-1870)
00000009 05 n 01 animal 0 000 | a living organism
00000010 05 n 01 goose 0 001 @ 00000009 n 0000 | a water bird
00000011 05 n 01 owl 0 001 @ 00000009 n 0000 | a bird of the night; "an owl cried"; "owls hunt"
00000012 13 n 01 food 0 000 | what is eaten
00000013 13 n 01 bread 0 001 @ 00000012 n 0000 | baked dough; "we ate bread"; "bread is cheap"
00000014 13 n 01 apple 0 001 @ 00000012 n 0000 | a fruit; "an apple"; "apples are sweet"
00000015 05 n 01 k9_dog 0 001 @ 00000009 n 0000 | a dog of the police
"""


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """All forms of every entry, as a function of what is excluded."""
    (tmp_path / "data.noun").write_text(NOUNS)
    monkeypatch.setattr(questions, "MIN_FORMS", 100)
    return lambda excluded=(): {row["question_text"] for row in questions.wordnet_questions(tmp_path, excluded)}


def test_names_keep_capitals_articles_and_the_usual_order(texts):
    expected = {"What is the capital of France?", "The capital of France is Paris.", "Paris is a city in France."}
    expected |= {"How many people live in the Republic of Chad?", "Which books did Charles Dickens write?"}
    expected |= {"Charles Dickens was an English writer.", "Was Charles Dickens a writer?"}
    assert expected <= texts()


def test_nouns_have_their_articles_and_plurals(texts):
    expected = {"What do geese eat?", "Is an owl an animal?", "How many legs does a goose have?"}
    expected |= {"Where can I buy apples?", "What does an apple taste like?", "What does bread taste like?"}
    assert expected <= texts()
    assert questions._a("university") == "a university" and questions._a("hour") == "an hour"
    assert questions._a("undergarment") == "an undergarment"
    plurals = {"fireman": "firemen", "human": "humans", "berry": "berries", "day": "days", "fox": "foxes"}
    assert {name: questions._plural(name) for name in plurals} == plurals


def test_texts_have_only_letters_and_punctuation_of_sentences(texts):
    assert all(re.fullmatch(r"[A-Z][A-Za-z' ,-]+[.?!]", text) for text in texts())
    assert not any("k9" in text for text in texts())


def test_questions_of_the_test_are_left_out_whatever_their_case_and_punctuation(texts):
    assert texts(["what is the capital of FRANCE"]) == texts() - {"What is the capital of France?"}


def test_rows_are_distinct_and_the_same_each_time(tmp_path, monkeypatch):
    (tmp_path / "data.noun").write_text(NOUNS)
    rows = list(questions.wordnet_questions(tmp_path))
    assert rows == list(questions.wordnet_questions(tmp_path))
    assert len({row["question_text"] for row in rows}) == len({row["id"] for row in rows}) == len(rows)
    monkeypatch.setattr(questions, "NUM_QUESTIONS", 5)
    assert list(questions.wordnet_questions(tmp_path)) == rows[:5]


def test_command_leaves_out_the_questions_of_knowledge(tmp_path, texts):
    asked = set(load_rows(str(KNOWLEDGE_FILE))["question_text"])
    assert "What is the capital of France?" in asked & texts()
    manifest = tmp_path / "questions.jsonl"
    result = CliRunner().invoke(app, ["prepare", "wordnet", str(tmp_path), str(manifest), "--questions"])
    assert result.exit_code == 0, result.output
    written = set(load_rows(str(manifest))["question_text"])
    assert written == texts(asked) and not written & asked
