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
"""The texts of tinytalk: true, the same every time, sayable, and held out as they are said to be."""

import random
import re
import string
from collections import Counter
from functools import cache
from itertools import groupby, islice
from time import process_time

import pytest

from flow_omni.training.recognition.characters import spoken
from flow_omni.training.text_scores import normalized
from flow_omni.training.tinytalk import texts
from flow_omni.training.tinytalk.arithmetic import OPERATIONS
from flow_omni.training.tinytalk.drills import drills
from flow_omni.training.tinytalk.exchanges import read_tables
from flow_omni.training.tinytalk.heard_texts import PAUSE, Ears, as_heard
from flow_omni.training.tinytalk.numbers import in_words
from flow_omni.training.tinytalk.sentences import Sentences
from flow_omni.training.tinytalk.splits import SPLITS, split_of, split_of_phrasings
from flow_omni.training.tinytalk.templates import Gap, parts_of, templates
from flow_omni.training.tinytalk.texts import SHARES, all_of, generate, topic_of, vocabulary
from flow_omni.training.tinytalk.words import entries, entries_by_split, held_out_words, words_of


LANGUAGES = ("en", "zh")
TABLES = ("facts", "calendar", "opposites", "small_talk")
SIZES = {"train": 40_000, "validation": 2_000, "test": 4_000}


@cache
def rows(split, language="en"):
    return list(generate(split, SIZES[split], language=language))


def of_topic(topic, split, language="en"):
    return [row for row in rows(split, language) if topic_of(row["id"]) == topic]


def value_of(words):
    """A number in English words, read by adding up: knows nothing of how the corpus writes them."""
    ones = dict(zip("zero one two three four five six seven eight nine ten eleven twelve".split(), range(13)))
    ones |= dict(zip("thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split(), range(13, 20)))
    tens = dict(zip("twenty thirty forty fifty sixty seventy eighty ninety".split(), range(20, 100, 10)))
    total = 0
    for word in words.lower().replace("-", " ").split():
        total = total * 100 if word == "hundred" else total + {**ones, **tens}[word]
    return total


def chinese_value_of(characters):
    total, digit = 0, 0
    for character in characters:
        if character in "十百":
            total, digit = total + max(digit, 1) * {"十": 10, "百": 100}[character], 0
        else:
            digit = "零一二三四五六七八九".index(character)
    return total + digit


# the same every time


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_same_seed_gives_the_same_rows_and_fewer_rows_are_the_first_of_more(language):
    many, few = list(generate("train", 500, 3, language)), list(generate("train", 200, 3, language))
    assert many[:200] == few
    assert list(generate("train", 200, 4, language)) != few


def test_rows_do_not_depend_on_what_was_generated_before_or_meanwhile():
    alone = list(generate("test", 50))
    first, second = generate("test", 50), generate("test", 50, seed=1)
    assert [row for row, _ in zip(first, second)] == alone


def test_ids_are_unique_and_tell_the_topic():
    assert len({row["id"] for row in rows("train")}) == SIZES["train"]
    assert {topic_of(f"{row['id']}-v1") for row in rows("train")} == set(texts.TOPICS)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("split", SPLITS)
def test_topics_have_their_shares(split, language):
    counts = Counter(topic_of(row["id"]) for row in rows(split, language))
    assert set(counts) == set(SHARES[language])
    assert sum(SHARES[language].values()) == pytest.approx(1)
    for topic, share in SHARES[language].items():
        assert counts[topic] / SIZES[split] == pytest.approx(share, abs=0.025)


def test_a_hundred_thousand_rows_take_seconds():
    start = process_time()
    assert sum(1 for _ in generate("train", 100_000)) == 100_000
    assert process_time() - start < 20  # about two, of one core


@pytest.mark.parametrize("wrong", [{"split": "dev"}, {"language": "de"}])
def test_a_split_or_language_that_does_not_exist_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong.values()))):
        generate(**({"split": "train", "num_rows": 1} | wrong))


# held out


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("other", ["validation", "test"])
def test_nothing_that_is_asked_in_one_split_is_asked_in_train_whatever_the_seed(other, language):
    asked = {normalized(row["question_text"]) for row in rows(other, language)}
    for told in (rows("train", language), generate("train", 8_000, seed=1, language=language)):
        assert not asked & {normalized(row["question_text"]) for row in told}
    if other == "test":
        assert not asked & {normalized(row["question_text"]) for row in rows("validation", language)}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("topic", ["arithmetic", "counting"])
def test_combinations_of_numbers_are_held_out_in_all_phrasings(topic, language):
    """An answer names its combination, so that it must not come up in two splits."""
    answers = {split: {row["answer_text"] for row in of_topic(topic, split, language)} for split in SPLITS}
    assert not answers["test"] & answers["train"]
    assert not answers["validation"] & answers["train"]
    assert not answers["validation"] & answers["test"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_of_every_product_one_order_is_in_train_and_so_are_squares(language):
    product = next(one for one in OPERATIONS[language] if one.name == "multiplication")
    for a, b in product.combinations:
        assert "train" in (product.split(a, b), product.split(b, a))
        assert a != b or product.split(a, b) == "train"
    held_out = [pair for pair in product.combinations if product.split(*pair) == "test"]
    assert 0.04 < len(held_out) / len(product.combinations) < 0.15


@pytest.mark.parametrize("language", LANGUAGES)
def test_sums_and_differences_are_held_out_in_their_share(language):
    for operation in OPERATIONS[language]:
        if operation.name != "multiplication":
            splits = Counter(operation.split(*pair) for pair in operation.combinations)
            assert splits["test"] / splits.total() == pytest.approx(0.10, abs=0.04)
            assert splits["validation"] / splits.total() == pytest.approx(0.04, abs=0.025)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("topic", TABLES)
def test_every_fact_is_told_in_train_and_some_ways_to_ask_are_held_out(topic, language):
    facts = {split: {exchange.fact for exchange in all_of(topic, split, language)} for split in SPLITS}
    assert facts["validation"] | facts["test"] <= facts["train"]
    assert len(all_of(topic, "test", language)) > 0.03 * len(all_of(topic, "train", language))


def test_a_fact_whose_phrasings_would_all_be_held_out_keeps_one():
    """With two phrasings each, about one fact in fifty would be asked in test and told nowhere."""
    facts = [("made up", number) for number in range(2_000)]
    unlucky = [fact for fact in facts if "train" not in {split_of(fact, "one?"), split_of(fact, "two?")}]
    assert unlucky
    for fact in unlucky:
        assert "train" in split_of_phrasings(fact, ["one?", "two?"]).values()


@pytest.mark.parametrize("language", LANGUAGES)
def test_held_out_words_are_not_said_or_spelled_in_train(language):
    held_out = held_out_words("validation", language) | held_out_words("test", language)
    told = [row for topic in ("repeat", "read") for row in of_topic(topic, "train", language)]
    text = [row["question_text"] for row in told]
    if language == "zh":
        assert not [word for word in held_out if any(word in one for one in text)]
    else:
        spelled = [row["answer_text"].split()[0] for row in of_topic("spelling", "train")]
        said = set(" ".join(map(spoken, [*text, *spelled])).split())
        assert not {word.lower() for word in held_out} & said


@pytest.mark.parametrize("language", LANGUAGES)
def test_half_of_what_is_to_be_said_in_test_has_a_word_that_train_never_had(language):
    held_out = {word.lower() for word in held_out_words("test", language)}
    told = [row for topic in ("repeat", "read") for row in of_topic(topic, "test", language)]
    if language == "zh":
        rare = [any(word in row["answer_text"] for word in held_out) for row in told]
    else:
        rare = [bool(held_out & set(spoken(row["answer_text"]).split())) for row in told]
    # most sentences of known words belong to train, and are drawn again
    assert 0.5 < sum(rare) / len(rare) < 0.97


@pytest.mark.parametrize("language", LANGUAGES)
def test_about_five_percent_of_the_words_are_held_out(language):
    num_held_out = sum(len(entries_by_split(language)[split]) for split in ("validation", "test"))
    assert 0.03 < num_held_out / len(entries(language)) < 0.07
    assert not held_out_words("validation", language) & held_out_words("test", language)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_other_word_of_the_list_comes_up_in_train(language):
    said = [row["answer_text"] for topic in ("repeat", "read") for row in of_topic(topic, "train", language)]
    wanted = {word.lower() for word in words_of(entries_by_split(language)["train"])}
    text = "\n".join(said)
    missing = {word for word in wanted if word not in text} if language == "zh" else wanted - set(spoken(text).split())
    assert not missing


# true


def test_every_sum_difference_and_product_is_right():
    said = re.compile(r"([\w-]+) (plus|minus|times) ([\w-]+) is ([\w -]+)\.")
    results = {"plus": lambda a, b: a + b, "minus": lambda a, b: a - b, "times": lambda a, b: a * b}
    for split in SPLITS:
        for row in of_topic("arithmetic", split):
            a, operation, b, result = said.fullmatch(row["answer_text"]).groups()
            assert results[operation](value_of(a), value_of(b)) == value_of(result), row
            question = row["question_text"].lower()
            assert re.search(rf"\b{a.lower()}\b", question) and re.search(rf"\b{b}\b", question), row
            assert 0 <= value_of(result) <= 144


def test_sums_in_a_row_are_right_of_more_numbers_and_none_of_another_split():
    said = re.compile(r"([\w-]+) (plus|minus|times) ([\w-]+) is ([\w -]+)\.")
    results = {"plus": lambda a, b: a + b, "minus": lambda a, b: a - b, "times": lambda a, b: a * b}
    held_out = {row["answer_text"] for split in ("validation", "test") for row in of_topic("arithmetic", split)}
    rows = list(drills("train", 1_000))
    assert rows[:10] == list(drills("train", 10)) and rows[:10] != list(drills("train", 10, seed=1))
    counts, kinds, numbers = Counter(), Counter(), set()
    for row in rows:
        sums = said.findall(row["answer_text"])
        assert " ".join(f"{a} {operation} {b} is {c}." for a, operation, b, c in sums) == row["answer_text"]
        for a, operation, b, c in sums:
            assert results[operation](value_of(a), value_of(b)) == value_of(c), row
            assert f"{a} {operation} {b} is {c}." not in held_out
            numbers |= {value_of(a), value_of(b)}
        if (request := re.fullmatch(r"\w+ (?:me )?(three|four|five|six) sums\.", row["question_text"])) is not None:
            assert value_of(request[1]) == len(sums)
            kinds["in a row"] += 1
        elif (
            request := re.fullmatch(r"\w+ (?:me )?(\w+) sums (both ways|round)\.", row["question_text"])
        ) is not None:
            assert 2 * value_of(request[1]) == len(sums)
            for one, other in zip(sums[::2], sums[1::2]):
                assert is_turned(one, other), row
            kinds["both ways"] += 1
        counts[len(sums)] += 1
    assert set(counts) == {1, 3, 4, 5, 6}
    assert kinds["in a row"] / len(rows) == pytest.approx(0.4, abs=0.05)
    assert kinds["both ways"] / len(rows) == pytest.approx(0.3, abs=0.05)
    assert numbers == set(range(100))


def is_turned(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether the second sum is the first, turned round, and not the same again."""
    turned = {
        "plus": lambda a, b, c: (b, "plus", a, c),
        "times": lambda a, b, c: (b, "times", a, c),
        "minus": lambda a, b, c: (c, "plus", b, a),
    }
    (a, b, c), operation = map(value_of, (one[0], *one[2:])), one[1]
    first, name, second, result = other
    return one != other and turned[operation](a, b, c) == (value_of(first), name, value_of(second), value_of(result))


def test_sums_in_a_row_are_right_in_mandarin():
    results = {"加": lambda a, b: a + b, "减": lambda a, b: a - b, "乘": lambda a, b: a * b}
    held_out = {row["answer_text"] for split in ("validation", "test") for row in of_topic("arithmetic", split, "zh")}
    assert held_out
    for row in drills("train", 1_000, language="zh"):
        sums = re.findall("(.+?)([加减乘])(.+?)等于(.+?)。", row["answer_text"])
        assert "".join(f"{a}{operation}{b}等于{c}。" for a, operation, b, c in sums) == row["answer_text"]
        for a, operation, b, result in sums:
            assert results[operation](*map(chinese_value_of, (a, b))) == chinese_value_of(result), row
            assert f"{a}{operation}{b}等于{result}。" not in held_out
        if "道" in row["question_text"]:
            num_sums = chinese_value_of(re.search("([两二三四五六])道", row["question_text"])[1])
            assert len(sums) == (2 * num_sums if "正反" in row["question_text"] else num_sums)


def test_every_sum_difference_and_product_is_right_in_mandarin():
    results = {"加": lambda a, b: a + b, "减": lambda a, b: a - b, "乘": lambda a, b: a * b}
    for row in of_topic("arithmetic", "train", "zh"):
        a, operation, b, result = re.fullmatch("(.+)([加减乘])(.+)等于(.+)。", row["answer_text"]).groups()
        assert results[operation](*map(chinese_value_of, (a, b))) == chinese_value_of(result), row
        assert f"{a}{operation}{b}" in row["question_text"]


def test_operands_are_asked_in_their_order():
    """ "Take five from twenty" is a difference of twenty and five."""
    for row in of_topic("arithmetic", "train"):
        if match := re.match(r"(?:Take|Subtract) ([\w-]+) from ([\w-]+)\.", row["question_text"]):
            assert spoken(row["answer_text"]).startswith(spoken(f"{match[2]} minus {match[1]} is"))


def test_counts_go_from_the_first_number_to_the_last_in_equal_steps():
    for row in of_topic("counting", "train"):
        ends = re.search(r" from ([\w-]+(?: hundred)?) to ([\w-]+(?: hundred)?)[.?]", row["question_text"])
        if ends is None:
            first, second = re.fullmatch(r"(?:After|Before) (.+) comes (.+)\.", row["answer_text"]).groups()
            assert value_of(second) - value_of(first) == (1 if row["answer_text"].startswith("After") else -1)
            assert spoken(first) in spoken(row["question_text"])
            continue
        counted = [value_of(number) for number in row["answer_text"].strip(".").split(", ")]
        assert (counted[0], counted[-1]) == (value_of(ends[1]), value_of(ends[2]))
        assert len({after - before for before, after in zip(counted, counted[1:])}) == 1
        assert 3 <= len(counted) <= 10


def test_words_are_spelled_as_they_are_written():
    for split in SPLITS:
        for row in of_topic("spelling", split):
            word, letters = re.fullmatch(r"(\w+) is spelled (.+)\.", row["answer_text"]).groups()
            assert letters.split(", ") == list(word.lower())
            assert word.lower() in spoken(row["question_text"]).split()


def test_numbers_in_words_mean_what_they_say():
    for number in range(1000):
        assert value_of(in_words(number)) == number
        assert chinese_value_of(in_words(number, "zh")) == number


def test_numbers_are_written_as_people_write_them():
    assert [in_words(number) for number in (0, 21, 100, 105, 144)] == [
        "zero",
        "twenty-one",
        "one hundred",
        "one hundred five",
        "one hundred forty-four",
    ]
    assert [in_words(number, "zh") for number in (10, 21, 100, 105, 112)] == [
        "十",
        "二十一",
        "一百",
        "一百零五",
        "一百一十二",
    ]
    with pytest.raises(ValueError, match="1000"):
        in_words(1000)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_question_has_two_answers(language):
    answers = {}
    for split in SPLITS:
        for row in rows(split, language):
            assert answers.setdefault(row["question_text"], row["answer_text"]) == row["answer_text"]


def test_opposites_are_asked_both_ways_and_are_unambiguous():
    (table,) = read_tables("opposites_en")
    assert len(table.facts) >= 80
    words = [word for pair in table.facts for word in pair]
    assert len(set(words)) == len(words)
    assert {"The opposite of hot is cold.", "The opposite of cold is hot."} <= {
        exchange.answer for exchange in all_of("opposites", "train", "en")
    }


def test_there_is_as_much_to_know_as_is_promised():
    assert sum(len(table.facts) for table in read_tables("facts_en")) >= 350
    assert all(len(table.questions) >= 3 for table in read_tables("facts_en"))
    assert sum(len(table.questions) for table in read_tables("small_talk_en")) >= 60
    assert sum(len(table.facts) for table in read_tables("facts_zh")) >= 80
    assert len(entries("en")) >= 2_000
    assert len(entries("zh")) >= 300


# sayable


def test_english_is_letters_and_the_punctuation_that_is_spoken():
    allowed = set(string.ascii_letters + " .,?!:'-")
    for split in SPLITS:
        for row in rows(split):
            text = row["question_text"] + row["answer_text"]
            assert not set(text) - allowed, row
            assert "{" not in text and "  " not in text
            assert row["question_text"][0].isupper() and row["answer_text"][0].isupper()
            assert row["answer_text"][-1] in ".?!"


def test_mandarin_is_characters_and_its_punctuation():
    for split in SPLITS:
        for row in rows(split, "zh"):
            assert re.fullmatch("[\u4e00-\u9fff，。！？：]+", row["question_text"] + row["answer_text"]), row
            assert row["answer_text"][-1] in "。！？"


def test_answers_are_short():
    lengths = [len(row["answer_text"].split()) for row in rows("train")]
    assert max(lengths) <= 14
    assert 4 < sum(lengths) / len(lengths) < 6


def test_words_of_the_list_are_plain_and_stand_once_in_a_section():
    assert all(re.fullmatch("[A-Z]?[a-z]+", word) for word in words_of(entries("en")))
    places = Counter((entry.section, entry.forms[0]) for language in LANGUAGES for entry in entries(language))
    assert max(places.values()) == 1


@pytest.mark.parametrize(
    ("section", "base", "forms"),
    [
        ("animals", "fox", ("fox", "foxes")),
        ("foods", "rice", ("rice",)),
        ("acts", "try", None),
        ("acts", "dance", ("dance", "dances", "danced", "dancing")),
        ("acts", "swim", ("swim", "swims", "swam", "swimming")),
        ("handles", "carry", ("carry", "carries", "carried", "carrying")),
        ("handles", "cut", ("cut", "cuts", "cutting")),
        ("greets", "teach", ("teach", "teaches", "taught", "teaching")),
        ("knows", "agree", None),
        ("verbs", "agree", ("agree", "agrees", "agreed", "agreeing")),
    ],
)
def test_words_have_their_forms(section, base, forms):
    found = [entry.words for entry in entries("en") if entry.section == section and entry.forms[0] == base]
    assert found == ([] if forms is None else [forms])


def test_articles_agree_and_nothing_is_counted_that_cannot_be():
    written = Sentences("train", "en", random.Random(0))
    for _ in range(3_000):
        text = written.from_template()
        assert not re.search(r"\b[Aa] ([aio]|e[^u])|\b[Aa]n ([bcdfgjklmnpqrstvwxyz]|uni)", text), text
        assert not re.search(r"\b[Aa] (rice|money|jeans|music)\b", text), text


@pytest.mark.parametrize("language", LANGUAGES)
def test_gaps_of_the_sentences_are_for_words_of_the_list(language):
    gaps = [part for text in templates(language)["sentences"] for part in parts_of(text) if isinstance(part, Gap)]
    assert {gap.section for gap in gaps} <= {entry.section for entry in entries(language)}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_vocabulary_has_every_word_that_is_said(language):
    said = {
        word
        for split in SPLITS
        for row in islice(rows(split, language), 3_000)
        for word in spoken(f"{row['question_text']} {row['answer_text']}").split()
    }
    if language == "zh":
        said = set("".join(said))
    assert said <= set(vocabulary(language))


def test_the_vocabulary_is_of_words_as_they_are_heard():
    assert {"twenty", "one", "omni", "what's"} <= set(vocabulary("en"))
    assert all(spoken(word) == word for word in vocabulary("en"))


# --- texts as they are heard


def test_text_that_is_heard_without_mistakes_can_be_read_by_joining_what_lasts():
    ears = Ears(hold=0.3, pause=0.3, mishear=0.0, miss=0.0)
    for index, text in enumerate(["Which three?", "Balloon, coffee.", "aaa"]):
        heard = ears(text, random.Random(index))
        assert len(heard) > len(text)
        assert "".join(letter for letter, _ in groupby(heard)).replace(PAUSE, "") == text


def test_a_share_of_questions_is_heard_half_to_be_answered_half_to_be_written_down():
    rows = list(generate("train", 2000))
    heard = list(as_heard(rows, share=0.4))
    assert heard == list(as_heard(rows, share=0.4)) != list(as_heard(rows, share=0.4, seed=1))
    kinds = Counter()
    for row, other in zip(rows, heard):
        kind = other["id"].removeprefix(row["id"])
        kinds[kind] += 1
        assert (other["question_text"] == row["question_text"]) == (kind == "")
        assert other["answer_text"] == row["question_text" if kind == "-dictated" else "answer_text"]
        assert other["question_text"].endswith("Transcribe the speech.") == (kind == "-dictated")
    assert kinds[""] == pytest.approx(1200, abs=80)
    assert kinds["-heard"] == pytest.approx(400, abs=60)


def test_no_text_has_the_letter_of_a_pause():
    assert not any(PAUSE in row["question_text"] for row in generate("train", 3000))
