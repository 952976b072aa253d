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
"""Who speaks in the corpus: voices for training, others for validation, and again others for the test."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..examples import uniform


Split = Literal["train", "validation", "test"]

# Of espeak-ng's variants those that a recogniser (pocketsphinx) understands. Left out are whispers and robots on purpose,
# and those that it mistakes more often than not. Relatives (`steph2` and `steph3`) stay on one side.
VARIANTS: dict[Split, tuple[str, ...]] = {
    "train": (
        *(
            "Alex",
            "Denis",
            "Gene",
            "Gene2",
            "Henrique",
            "Jacky",
            "Marco",
            "Mike",
            "Nguyen",
            "RicishayMax",
            "RicishayMax3",
        ),
        *(
            "Storm",
            "anika",
            "antonio",
            "aunty",
            "david",
            "ed",
            "edward",
            "edward2",
            "f1",
            "f2",
            "f4",
            "grandma",
            "grandpa",
        ),
        *("iven", "iven4", "john", "klatt", "klatt2", "klatt3", "klatt4", "m1", "m2", "m3", "m5", "m7", "m8", "max"),
        *("miguel", "pablo", "paul", "robosoft", "sandro"),
    ),
    "validation": ("Diogo", "benjamin", "f5", "m6", "michel", "robosoft3"),
    "test": ("Hugo", "adam", "caleb", "f3", "m4", "steph2", "steph3", "victor"),
}

# Accents; one that stands twice is drawn twice as often. Those of the test that nobody trained on are most of the test.
ACCENTS: dict[str, dict[Split, tuple[str, ...]]] = {
    "en": {
        "train": ("en-us", "en-us", "en-gb", "en-gb-scotland", "en-029", "en-gb-x-gbcwmd"),
        "validation": ("en-us", "en-gb-x-gbclan"),
        "test": ("en-us", "en-us-nyc", "en-gb-x-rp"),
    },
    "zh": dict.fromkeys(("train", "validation", "test"), ("cmn-latn-pinyin",)),
}

# Voices of people. The one that answers (`slt`) asks only where answers stay written: in a dialogue it would talk to itself.
PEOPLE: dict[str, dict[Split, tuple[str, ...]]] = {
    "en": {"train": ("flite:rms", "flite:kal16"), "validation": (), "test": ("flite:awb",)},
    "zh": {"train": (), "validation": (), "test": ()},
}
PEOPLE_WHO_ASK_ALONE = {"en": ("flite:slt",), "zh": ()}
# Questions by themselves are for the ears, which meet people in the end.
PEOPLE_SHARE_ALONE = 0.4

SYNTHESIZERS = {"en": ("espeak", "flite"), "zh": ("pinyin",)}
ANSWER_VOICES = {"en": "flite:slt", "zh": "pinyin:cmn-latn-pinyin"}


@dataclass(frozen=True)
class CorpusVoices:
    """
    Who asks and who answers, a [`VoicePlan`].

    Attributes:
        answer: the one voice of the answers; with `None` they stay written.
        synthesizer: the one that has the accents and variants.
        accents, variants: each question is asked in one of the accents by one of the variants (or the plain voice, `""`).
        people: voices of other synthesizers, named with these,
        people_share: and how many of the questions they ask.
        rates, pitches: from the slowest to the fastest, and the lowest to the highest; 1 is the voice's own.
        seed: decides the draw.
    """

    answer: str | None
    synthesizer: str
    accents: Sequence[str]
    variants: Sequence[str]
    people: Sequence[str] = ()
    people_share: float = 0.2
    rates: tuple[float, float] = (0.8, 1.25)
    pitches: tuple[float, float] = (0.7, 1.5)
    seed: int = 0

    def of_question(self, index: int) -> tuple[str, float, float]:
        """The voice, rate and pitch of a row's question."""
        rate, pitch = (
            round(low + (high - low) * uniform(self.seed, index, name), 3)
            for name, (low, high) in (("rate", self.rates), ("pitch", self.pitches))
        )
        if self.people and uniform(self.seed, index, "is a person") < self.people_share:
            return self._drawn(self.people, index, "person"), rate, pitch
        variant = self._drawn(self.variants, index, "variant")
        accent = self._drawn(self.accents, index, "accent")
        return f"{self.synthesizer}:{accent}{'+' if variant else ''}{variant}", rate, pitch

    def _drawn(self, names: Sequence[str], index: int, what: str) -> str:
        return names[int(uniform(self.seed, index, what) * len(names))]


def corpus_voices(
    split: Split, language: str = "en", answer: str | None = None, seed: int = 0, more_people: Sequence[str] = ()
) -> CorpusVoices:
    """
    The voices of a split; more people ask in the training only. No voice, accent of espeak-ng's own or person asks in two of
    them, but plain `en-us` may.
    """
    if language not in ACCENTS:
        raise ValueError(f"There are no voices for the language {language!r}: choose one of {', '.join(ACCENTS)}.")
    answer = answer or ANSWER_VOICES[language]
    for voice in more_people:
        if voice == answer or voice in PEOPLE_WHO_ASK_ALONE[language] or _is_tested(voice, language):
            raise ValueError(
                f"{voice!r} cannot ask in the training: it answers, or is kept for validation or test. Name another voice."
            )
    plain = ("",) if split == "train" else ()
    return CorpusVoices(
        answer=answer,
        synthesizer=SYNTHESIZERS[language][0],
        accents=ACCENTS[language][split],
        variants=(*plain, *VARIANTS[split]),
        people=(*PEOPLE[language][split], *(more_people if split == "train" else ())),
        seed=seed,
    )


def _is_tested(voice: str, language: str) -> bool:
    """Whether a voice of another split speaks with its name, its accent or its variant."""
    accent, _, variant = voice.partition(":")[2].partition("+")
    for split in ("validation", "test"):
        if voice in PEOPLE[language][split] or variant in VARIANTS[split]:
            return True
    return accent in {*ACCENTS[language]["validation"], *ACCENTS[language]["test"]} - {*ACCENTS[language]["train"]}


def asking_voices(split: Split, language: str = "en", seed: int = 0, more_people: Sequence[str] = ()) -> CorpusVoices:
    """The voices of a split for questions whose answers stay written."""
    voices = corpus_voices(split, language, seed=seed, more_people=more_people)
    people = (*voices.people, *PEOPLE_WHO_ASK_ALONE[language])
    return replace(voices, answer=None, people=people, people_share=PEOPLE_SHARE_ALONE)
