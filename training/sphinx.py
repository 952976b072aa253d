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
"""PocketSphinx as a listener: it was trained on people long before this model, and can be told which words there are."""

import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..processing.audio_io import load_audio
from .extras import needs
from .recognition.characters import spoken


logger = logging.getLogger(__name__)

RATE = 16000
DICTIONARY = Path("en-us") / "cmudict-en-us.dict"
# What each pair of words that was seen gives to those that were not, of its count.
DISCOUNT = 0.5
START, END = "<s>", "</s>"


class Sphinx:
    """
    PocketSphinx with the US English model that it brings.

    Args:
        words (`str`, *optional*):
            A text file with all that may be said: one word in a line, all alike likely; or a sentence in a line, whose
            pairs of words are then likelier than others. By default any English is expected.

    Attributes:
        sentences: the lines of the file, as lists of words.
        unknown_words: words of the file that its dictionary cannot pronounce, and which it therefore never hears.
    """

    def __init__(self, words: str | os.PathLike | None = None):
        sphinx = needs("pocketsphinx", package="pocketsphinx")
        # each sound is its own measure of loudness
        options = {"samprate": RATE, "cmn": "batch", "loglevel": "FATAL"}
        self.sentences: list[list[str]] = []
        self.unknown_words: list[str] = []
        if words is None:
            self.decoder = sphinx.Decoder(**options)
            return
        pronunciations = _pronunciations(Path(sphinx.get_model_path()) / DICTIONARY)
        self.sentences = sentences = _sentences_of(words)
        known = sorted({word for sentence in sentences for word in sentence if word in pronunciations})
        self.unknown_words = sorted({word for sentence in sentences for word in sentence} - set(known))
        if not known:
            raise ValueError(
                f"'{os.fspath(words)}' has none of the words of PocketSphinx's dictionary: write English words into it, one in "
                "a line."
            )
        if self.unknown_words:
            logger.warning(
                "%d words of '%s' are not in PocketSphinx's dictionary, and are never heard: %s",
                len(self.unknown_words),
                os.fspath(words),
                ", ".join(self.unknown_words[:20]) + (", …" if len(self.unknown_words) > 20 else ""),
            )
        with TemporaryDirectory() as folder:
            dictionary, grammar = Path(folder) / "words.dict", Path(folder) / "words.arpa"
            dictionary.write_text("".join(line for word in known for line in pronunciations[word]), encoding="utf-8")
            grammar.write_text("\n".join(arpa_of(sentences, known)), encoding="utf-8")
            self.decoder = sphinx.Decoder(dict=str(dictionary), lm=str(grammar), **options)

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        samples = load_audio(waveform, RATE, sampling_rate)
        # else it remembers sounds that came before, and what it hears depends on their order
        self.decoder.reinit_feat()
        self.decoder.start_utt()
        self.decoder.process_raw((samples.clip(-1.0, 1.0) * 32767).astype(np.int16).tobytes(), full_utt=True)
        self.decoder.end_utt()
        heard = self.decoder.hyp()
        return heard.hypstr if heard is not None else ""


def _pronunciations(path: Path) -> dict[str, list[str]]:
    """The lines of each word in a dictionary, where a second pronunciation is that of `word(2)`."""
    lines: dict[str, list[str]] = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            lines.setdefault(line.split(" ", 1)[0].partition("(")[0], []).append(line)
    return lines


def _sentences_of(path: str | os.PathLike) -> list[list[str]]:
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"The words of `sphinx:{os.fspath(path)}` cannot be read ({error}): name a text file."
        ) from error
    return [words for line in text.splitlines() if (words := spoken(line).split())]


def arpa_of(sentences: Sequence[Sequence[str]], known: Iterable[str]) -> Iterator[str]:
    """
    The lines of a language model in the ARPA format. A list of words makes one without memory, in which all are alike;
    sentences one of pairs with absolute discounting, which leaves a little for pairs that were never seen.
    """
    known = set(known)
    # an unknown word breaks a sentence in two
    parts = [part for sentence in sentences for part in _parts(sentence, known)]
    is_list = all(len(sentence) == 1 for sentence in sentences)
    counts = Counter(dict.fromkeys(known, 1) | {END: 1})
    pairs: Counter = Counter()
    if not is_list:
        counts.update(word for part in parts for word in [*part, END])
        pairs.update(pair for part in parts for pair in zip([START, *part], [*part, END]))
    firsts, followers = Counter(), Counter()
    for (first, _), count in pairs.items():
        firsts[first] += count
        followers[first] += 1
    total = sum(counts.values())
    singles = {word: count / total for word, count in counts.items()}

    yield from ("\\data\\", f"ngram 1={len(singles) + 1}")
    if pairs:
        yield f"ngram 2={len(pairs)}"
    yield from ("", "\\1-grams:")
    for word in (START, *sorted(singles)):
        backoff = math.log10(DISCOUNT * followers[word] / firsts[word]) if firsts[word] else 0.0
        yield f"{math.log10(singles[word]) if word != START else -99.0:.4f} {word} {backoff:.4f}"
    if pairs:
        yield from ("", "\\2-grams:")
        for (first, second), count in sorted(pairs.items()):
            rest = DISCOUNT * followers[first] / firsts[first] * singles[second]
            yield f"{math.log10((count - DISCOUNT) / firsts[first] + rest):.4f} {first} {second}"
    yield from ("", "\\end\\", "")


def _parts(sentence: Sequence[str], known: set[str]) -> Iterator[list[Any]]:
    part: list[str] = []
    for word in [*sentence, None]:
        if word in known:
            part.append(word)
        elif part:
            yield part
            part = []
