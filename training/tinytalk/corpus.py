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
"""The corpus on disk: every answer said once, questions asked by many voices, and far more that is only written."""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ..augmentation import Augmentation
from ..examples import uniform
from ..manifest import raw_rows, write_rows
from ..rows import CJK
from ..speaking import SpokenReport, speak_dialogues
from ..synthesis import NamedVoices, listed
from .drills import drills
from .heard_texts import as_heard
from .sounds import CHATTER, MANDARIN_CHATTER, Microphone, Trim
from .texts import generate, topic_of
from .voices import ANSWER_VOICES, SYNTHESIZERS, CorpusVoices, Split, asking_voices, corpus_voices


# Letters of words, for recognisers that are given a list of them: "twenty-one" is two, of Mandarin each character is one.
HEARD_WORD = re.compile(rf"[{CJK}]|[^\W\d_{CJK}]+(?:'[^\W\d_{CJK}]+)?")
NUM_BABBLERS = 12
# The rows of these have most of the words; the others say the same few numbers and names again and again.
WORDY_TOPICS = ("repeat", "read", "facts", "opposites", "spelling")
# The question holds what is to be said: nothing is to be known.
TOPICS_OF_NO_KNOWLEDGE = ("repeat", "read", "spelling")
# What is true of a corpus that was made before it was written down.
NO_MORE_PEOPLE = {"more_people": []}
Texts = Callable[..., Iterable[dict]]


@dataclass(frozen=True)
class SpokenSplit:
    """
    A manifest of spoken rows.

    Attributes:
        name: of the manifest.
        texts: the split that the texts are of,
        voices: and the one that the voices are of.
        num_rows: how many texts.
        num_voices: in how many voices each question is asked.
        is_augmented: whether some of the questions are noisy and the like.
    """

    name: str
    texts: Split
    voices: Split
    num_rows: int
    num_voices: int = 1
    is_augmented: bool = False


@dataclass
class CorpusReport:
    """What was made: rows and hours of questions by manifest, the answers, and what could not be said."""

    num_rows: dict[str, int] = field(default_factory=dict)
    question_seconds: dict[str, float] = field(default_factory=dict)
    answers: SpokenReport = field(default_factory=SpokenReport)
    num_words: int = 0
    skipped: Counter = field(default_factory=Counter)

    def __str__(self) -> str:
        lines = [f"answers: {self.answers.num_rows} different ones, {self.answers.seconds / 3600:.2f} h"]
        for name, num_rows in self.num_rows.items():
            hours = (
                f", {self.question_seconds[name] / 3600:.2f} h of questions" if name in self.question_seconds else ""
            )
            lines.append(f"{name}: {num_rows} rows{hours}")
        lines.append(f"words: {self.num_words}")
        return "\n".join([*lines, *(f"skipped: {count} {reason}" for reason, count in self.skipped.items())])


def make_corpus(
    folder: str | os.PathLike,
    num_rows: int = 20_000,
    voices_per_question: int = 3,
    num_asked_rows: int = 40_000,
    num_said_rows: int = 20_000,
    num_answered_rows: int = 12_000,
    num_text_rows: int = 200_000,
    num_test_rows: int = 1_000,
    num_validation_rows: int = 500,
    answer_voice: str | None = None,
    language: str = "en",
    seed: int = 0,
    num_processes: int = 1,
    progress: Callable[[str, int], Any] | None = None,
    generate: Texts = generate,
    more_people: Sequence[str] = (),
) -> CorpusReport:
    """
    Makes the corpus, or goes on where it was stopped.

    Args:
        folder (`str`):
            Where to write `train.jsonl`, `validation.jsonl`, `test.jsonl` (voices that nobody trained on),
            `test_seen_voices.jsonl`, `train_words.jsonl` (those rows of `train.jsonl` that have most of its words),
            `asked_train.jsonl` (more questions with many words, whose answers are only written), `said_train.jsonl` (these
            answers, said, without questions), `answered_train.jsonl` (more questions of knowledge, which stay written, with
            answers that are said),
            `text_train.jsonl`, `text_validation.jsonl`, the same in part as ears deliver it in `heard_text_train.jsonl` and
            `heard_text_validation.jsonl`, `text_sums.jsonl` (sums in a row), `answers.jsonl`, `words.txt` and `audio`. A
            corpus of another language, other voices or another seed that is there already is not written over.
        num_rows (`int`, *optional*, defaults to 20000):
            Texts of the training set that are said.
        voices_per_question (`int`, *optional*, defaults to 3):
            In how many voices each of their questions is asked: as many rows share an answer.
        num_asked_rows (`int`, *optional*, defaults to 40000):
            Further texts of the training set, of those with many words (by the topic in their ids), of which only the
            questions are said, each in one voice. Numbers are learnt from fewer.
        num_said_rows (`int`, *optional*, defaults to 20000):
            Answers of these that are said by themselves, at most: each different one once.
        num_answered_rows (`int`, *optional*, defaults to 12000):
            Further texts of the training set, of those whose answers must be known, of which only the answers are said: what a
            model knows in writing it does not yet know beside speech.
        num_text_rows (`int`, *optional*, defaults to 200000):
            Texts for training that are only written; those that are said are the first of them.
        num_test_rows, num_validation_rows (`int`, *optional*, default to 1000 and 500):
            Texts of these.
        answer_voice (`str`, *optional*):
            A synthesizer and its voice, such as `flite:slt` or `espeak:en-us`.
        language (`str`, *optional*, defaults to `"en"`):
            `"en"` or `"zh"`.
        seed (`int`, *optional*, defaults to 0):
            Decides all that is drawn.
        num_processes (`int`, *optional*, defaults to 1):
            How many speak at a time.
        progress (`Callable`, *optional*):
            Is told what is being made, and how many more of it are finished.
        generate (`Callable`, *optional*):
            Writes the texts: `generate(split, num_rows, seed=..., language=...)`, if another than ours is to.
        more_people (`list[str]`, *optional*):
            Further voices that ask in the training and in `test_seen_voices.jsonl`, such as `pico:en-GB` or
            `piper:en_US-joe-medium`: the ears of a model know the voices that they have met.
    """
    answer_voice = answer_voice or ANSWER_VOICES.get(language)
    folder = Path(folder).expanduser()
    synthesizer = synthesizer_of(language, answer_voice, more_people)
    settle(
        folder,
        {"language": language, "answer_voice": answer_voice, "seed": seed, "more_people": list(more_people)},
    )
    splits = (
        SpokenSplit("validation", "validation", "validation", num_validation_rows),
        SpokenSplit("test", "test", "test", num_test_rows),
        SpokenSplit("test_seen_voices", "test", "train", num_test_rows),
        SpokenSplit("train", "train", "train", num_rows, voices_per_question, is_augmented=True),
    )
    maker = _Maker(folder, language, answer_voice, tuple(more_people), seed, num_processes, progress, synthesizer)
    sizes = {split.texts: split.num_rows for split in splits}
    texts = {name: list(generate(name, size, seed=seed, language=language)) for name, size in sizes.items()}

    def further(num_further: int, is_wanted: Callable[[str], bool]) -> list[dict]:
        # never so many: more than half of what is drawn is wanted
        drawn = generate("train", num_rows + 4 * num_further, seed=seed, language=language)
        wanted = (row for row in islice(drawn, num_rows, None) if is_wanted(topic_of(row["id"])))
        return list(islice(wanted, num_further))

    answered = further(num_answered_rows, lambda topic: topic not in TOPICS_OF_NO_KNOWLEDGE)
    asked = (row for name in sizes for row in texts[name])
    answers = maker.say_answers(row["answer_text"] for row in chain(asked, answered))
    for split in splits:
        maker.answered_questions(split, texts[split.texts], answers)
    if num_asked_rows > 0:
        maker.ask_and_say_apart(further(num_asked_rows, lambda topic: topic in WORDY_TOPICS), num_said_rows)
    if num_answered_rows > 0:
        maker.answer_in_speech("answered_train", answered, answers)
    maker.pick_wordy_rows("train")
    for name, size in (("train", num_text_rows), ("validation", max(num_validation_rows, num_text_rows // 50))):
        maker.write_texts(f"text_{name}", generate(name, size, seed=seed, language=language))
        maker.write_as_heard(f"text_{name}")
    # without counting their words: nobody ever says them
    maker.write("text_sums", drills("train", max(1, num_text_rows // 5), seed, language))
    maker.write_words()
    return maker.report


def settle(folder: Path, settings: Mapping[str, Any]) -> None:
    """Makes the folder of a corpus with these settings. One of others that is there is not written over."""
    file, there = _settings_file(folder), settings_of(folder)
    differing = [name for name in settings if name in there and there[name] != settings[name]]
    if differing:
        others = ", ".join(f"`{name}` {there[name]!r}" for name in differing)
        asked = ", ".join(repr(settings[name]) for name in differing)
        raise ValueError(
            f"The folder '{folder}' holds another corpus, of {others} in the place of {asked}: name another folder, or delete "
            "this one."
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    # nobody is to find half of it
    unfinished = file.with_suffix(f".{os.getpid()}.unfinished")
    unfinished.write_text(json.dumps(settings) + "\n", encoding="utf-8")
    os.replace(unfinished, file)


def settings_of(folder: Path) -> dict[str, Any]:
    """What is known of the corpus in a folder: nothing, where there is none."""
    file = _settings_file(folder)
    return _settings_in(file) if file.is_file() else _settings_of_rows(folder)


def _settings_file(folder: Path) -> Path:
    # with what a run that goes on needs to know: in the folder itself it would be taken for rows
    return folder / "parts" / "corpus.json"


def _settings_in(file: Path) -> dict[str, Any]:
    try:
        return NO_MORE_PEOPLE | dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"'{file}' cannot be read ({error}): it should tell the language, the voices and the seed of the corpus in the "
            "folder. Delete it if they are those that you ask for, or else the whole folder."
        ) from error


def _settings_of_rows(folder: Path) -> dict[str, Any]:
    """What the rows of a corpus tell that was made before settings were written down; nothing of an empty folder."""
    for manifest in sorted(folder.glob("*.jsonl")):
        _, _, row = next(raw_rows(manifest), (None, None, None))
        # those of the answers do not have it
        if isinstance(row, Mapping) and "language" in row:
            return NO_MORE_PEOPLE | {"language": row["language"]}
    return {}


def synthesizer_of(language: str, answer_voice: str | None, more_people: Sequence[str] = ()) -> NamedVoices:
    """Speaks all voices of a language's corpus. That those who were named exist is seen now and not in an hour."""
    voices = corpus_voices("train", language, answer_voice, more_people=more_people)
    named = {voices.answer: None} | dict.fromkeys(more_people, language)
    synthesizer = NamedVoices(*dict.fromkeys((*SYNTHESIZERS[language], *(name.partition(":")[0] for name in named))))
    for voice, language_of_it in named.items():
        if voice not in synthesizer.voices(language_of_it):
            engine = voice.partition(":")[0]
            known = [f"{engine}:{name}" for name in synthesizer.synthesizers[engine].voices(language_of_it)]
            remedy = f"{engine} has {listed(known) or 'none'}. Name another, or leave it out"
            of_language = "" if language_of_it is None else f" that speaks {language_of_it!r}"
            raise ValueError(f"There is no voice {voice!r}{of_language}: {remedy}.")
        synthesizer.load(voice)
    return synthesizer


@dataclass
class _Maker:
    """Writes the parts of a corpus one after the other, and counts."""

    folder: Path
    language: str
    answer_voice: str
    more_people: tuple[str, ...]
    seed: int
    num_processes: int
    progress: Callable[[str, int], Any] | None
    synthesizer: NamedVoices
    report: CorpusReport = field(default_factory=CorpusReport)
    words: set[str] = field(default_factory=set)

    def say_answers(self, texts: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Each different answer is said once: the columns of its sound, by its text."""
        different = dict.fromkeys(texts)
        rows = ({"id": f"answer-{index}", "answer_text": text} for index, text in enumerate(different))
        self.report.answers = self._say("answers", rows)
        columns = ("answer_audio", "answer_seconds", "answer_word_times")
        return {
            row["answer_text"]: {name: row[name] for name in columns if name in row}
            for _, _, row in raw_rows(self.folder / "answers.jsonl")
        }

    def answer_in_speech(self, name: str, texts: Iterable[Mapping], answers: Mapping[str, dict[str, Any]]) -> None:
        """Rows whose questions stay written, with the sound of their answers where these could be said."""
        said = ((row, answers[row["answer_text"]]) for row in texts if row["answer_text"] in answers)
        self.write(
            name, ({**row, **sound, "answer_audio": self.folder / sound["answer_audio"]} for row, sound in said)
        )

    def ask_and_say_apart(self, texts: Sequence[Mapping], num_said_rows: int) -> None:
        """All the questions, with answers that are only written; and some of the answers, without questions."""
        asked = SpokenSplit("asked_train", "train", "train", len(texts), is_augmented=True)
        voices = asking_voices(asked.voices, self.language, self._seed_of(asked.name), self.more_people)
        self.ask_questions(asked, texts, {}, voices)
        if num_said_rows > 0:
            self.say_answers_alone("said_train", texts, num_said_rows)

    def say_answers_alone(self, name: str, texts: Iterable[Mapping], num_rows: int) -> None:
        """Rows that are answers without a question: each different one, so many at most."""
        different = {row["answer_text"]: row for row in texts}
        columns = ("id", "answer_text", "language")
        rows = ({column: row[column] for column in columns} for row in islice(different.values(), num_rows))
        self.report.num_rows[name] = self._say(name, rows).num_rows

    def _say(self, name: str, rows: Iterable[Mapping]) -> SpokenReport:
        report = self._spoken(name, rows, self._voices_of("train", name), change_answer=Trim())
        self.report.skipped.update(report.skipped)
        return report

    def answered_questions(
        self, split: SpokenSplit, texts: Sequence[Mapping], answers: Mapping[str, dict[str, Any]]
    ) -> None:
        """The questions of a split, but for those whose answers could not be said."""
        said = [row for row in texts if row["answer_text"] in answers]
        self.ask_questions(split, said, answers, self._voices_of(split.voices, split.name))

    def ask_questions(
        self,
        split: SpokenSplit,
        texts: Sequence[Mapping],
        answers: Mapping[str, dict[str, Any]],
        voices: CorpusVoices,
    ) -> None:
        """The rows of a split: each question in its voices, with the sound of the answer where that was said."""
        rows = (
            {**row, "id": f"{row['id']}-v{index}", **answers.get(row["answer_text"], {})}
            for row in texts
            for index in range(split.num_voices)
        )
        report = self._spoken(split.name, rows, voices, change_question=self._microphone(split))
        self.report.num_rows[split.name] = report.num_rows
        self.report.skipped.update(report.skipped)
        self.report.question_seconds[split.name] = sum(
            row["question_seconds"] for _, _, row in raw_rows(report.manifest)
        )

    def _spoken(self, name: str, rows: Iterable[Mapping], voices: CorpusVoices, **changes: Any) -> SpokenReport:
        return speak_dialogues(
            rows,
            self.folder,
            self.synthesizer,
            voices,
            num_processes=self.num_processes,
            progress=None if self.progress is None else lambda count: self.progress(name, count),
            name=name,
            **changes,
        )

    def _microphone(self, split: SpokenSplit) -> Microphone:
        seed = self._seed_of(split.name)
        if not split.is_augmented:
            return Microphone(seed=seed)
        voices = self._voices_of(split.voices, split.name)
        return Microphone(
            augmentation=Augmentation(seed=seed),
            babblers=tuple(voices.of_question(index)[0] for index in range(NUM_BABBLERS)),
            chatter=MANDARIN_CHATTER if self.language == "zh" else CHATTER,
            seed=seed,
        )

    def _voices_of(self, split: Split, name: str) -> CorpusVoices:
        """The voices of a split, drawn for a manifest."""
        return corpus_voices(split, self.language, self.answer_voice, self._seed_of(name), self.more_people)

    def _seed_of(self, name: str) -> int:
        """Not the same for all: the first question of each would be asked by the same voice."""
        return int(uniform(self.seed, name) * 2**31)

    def pick_wordy_rows(self, name: str) -> None:
        rows = (
            row | {sound: self.folder / row[sound] for sound in ("question_audio", "answer_audio")}
            for _, _, row in raw_rows(self.folder / f"{name}.jsonl")
            if topic_of(row["id"]) in WORDY_TOPICS
        )
        self.write(f"{name}_words", rows)

    def write_texts(self, name: str, rows: Iterable[Mapping]) -> None:
        self.write(name, self._with_words_counted(rows))

    def write_as_heard(self, name: str) -> None:
        heard = as_heard((row for _, _, row in raw_rows(self.folder / f"{name}.jsonl")), seed=self.seed)
        self.write(f"heard_{name}", heard)

    def write(self, name: str, rows: Iterable[Mapping]) -> None:
        """A manifest, whose rows the report counts."""
        self.report.num_rows[name] = write_rows(self.folder / f"{name}.jsonl", rows)

    def _with_words_counted(self, rows: Iterable[Mapping]) -> Iterator[Mapping]:
        for row in rows:
            self._count_words(row)
            yield row

    def _count_words(self, row: Mapping) -> None:
        for column in ("question_text", "answer_text"):
            self.words.update(HEARD_WORD.findall(row.get(column, "").lower()))

    def write_words(self) -> None:
        """Every word of the corpus, the test's included: a recogniser that lacks one could never hear it."""
        for name in ("train", "validation", "test", "asked_train", "answered_train"):
            if name in self.report.num_rows:
                for _, _, row in raw_rows(self.folder / f"{name}.jsonl"):
                    self._count_words(row)
        self.report.num_words = len(self.words)
        (self.folder / "words.txt").write_text("".join(f"{word}\n" for word in sorted(self.words)), encoding="utf-8")
