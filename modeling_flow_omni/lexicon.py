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
"""Words as tokens of the language model, by their letters alone."""

import math
from collections.abc import Iterator, Sequence

import torch


# How many letters of a word may differ from those that were heard, for a token to be believed.
MAX_DIFFERENCE = 0.2
# What a voice tells of punctuation. Other signs, such as a colon, are written for reasons that cannot be heard.
MARKS = {".", ",", "?", "!"}
# Of the beam search: prefixes that are kept, letters that are tried (log probability), and the weights of the words.
NUM_PREFIXES, SMALLEST_LOG_PROB = 80, -8.0
WORD_WEIGHT, UNKNOWN_WORD_COST, UNKNOWN_LETTER_COST = 0.2, 3.0, 0.5
# Other tokens of one letter are parts of words. Vocabularies begin with them, as if they were the most frequent ones.
WORDS_OF_ONE_LETTER = "ai"


class FlowOmniLexicon:
    """
    The tokens of a vocabulary by their letters, from `token_bytes` (vocab_size, max_bytes) in uint8. It checks tokens that
    were read from letters: what the layers between letters and tokens know of frequent words is better than the letters, and
    what they do not know they replace by a frequent word.
    """

    def __init__(self, token_bytes: torch.Tensor, alphabet: str):
        self.alphabet, self.space = alphabet, alphabet.index(" ")
        # of each token its letters, in lower case; none of punctuation, and `None` of tokens that nobody says
        self.spellings: list[str | None] = []
        self.tokens: dict[str, int] = {}  # by text: lower case, with the space that words begin with
        self.first_tokens: dict[
            str, int
        ] = {}  # by letters, of what begins a text: with a capital letter where there is one
        self.ranks: dict[str, int] = {}  # of words that are one token: vocabularies begin with what is frequent
        known = set(alphabet) - {" "}
        for token_id, spelled in enumerate(token_bytes.tolist()):
            text = bytes(spelled).rstrip(b"\0").decode("utf-8", "ignore")
            letters = text.lower().strip()
            # one that fills its row may have been cut
            is_word = bool(letters) and set(letters) <= known and spelled[-1] == 0 and text.lstrip(" ") == text.strip()
            self.spellings.append(letters if is_word else "" if text in MARKS else None)
            if is_word and text == text.lower():
                self.tokens.setdefault(text, token_id)
            if is_word and text == f" {letters}" and (len(letters) > 1 or letters in WORDS_OF_ONE_LETTER):
                self.ranks.setdefault(letters, len(self.ranks) + 1)
            if is_word and text in (letters.capitalize(), letters):
                if text == letters.capitalize() or letters not in self.first_tokens:
                    self.first_tokens[letters] = token_id

    def search(self, log_probs: torch.Tensor) -> list[int]:
        """
        The letters of the likeliest words, by a beam search over the prefixes of CTC: of `log_probs` (num_frames,
        num_letters + 1), the blank last. A word that is one token costs more the rarer it is; another one costs more than
        the rarest, and more with each letter.
        """
        blank, space = log_probs.shape[-1] - 1, self.alphabet[self.space]
        # log probabilities of each prefix that ends in a blank and in a letter, and the score of its words
        prefixes = {"": (0.0, -math.inf, 0.0)}
        for frame in log_probs.tolist():
            likely = [letter for letter in range(blank) if frame[letter] > SMALLEST_LOG_PROB]
            extended: dict[str, list[float]] = {}
            for prefix, (in_blank, in_letter, score) in prefixes.items():
                either = log_add(in_blank, in_letter)
                stay = extended.setdefault(prefix, [-math.inf, -math.inf, score])
                stay[0] = log_add(stay[0], either + frame[blank])
                for letter in likely:
                    symbol, before = self.alphabet[letter], either
                    if prefix and prefix[-1] == symbol:
                        stay[1] = log_add(stay[1], in_letter + frame[letter])
                        before = in_blank
                    if symbol == space and (not prefix or prefix[-1] == space):
                        continue
                    if before == -math.inf:
                        continue
                    longer = prefix + symbol
                    if longer not in extended:
                        added = self.word_score(prefix.rpartition(space)[2]) if symbol == space else 0.0
                        extended[longer] = [-math.inf, -math.inf, score + added]
                    extended[longer][1] = log_add(extended[longer][1], before + frame[letter])
            best = sorted(extended, key=lambda prefix: -sum_of(extended[prefix]))[:NUM_PREFIXES]
            prefixes = {prefix: tuple(extended[prefix]) for prefix in best}
        ends = {
            prefix: sum_of(values) + self.word_score(prefix.rpartition(space)[2])
            for prefix, values in prefixes.items()
        }
        return [self.alphabet.index(symbol) for symbol in max(ends, key=ends.get).strip()]

    def word_score(self, word: str) -> float:
        if not word:
            return 0.0
        if word in self.ranks:
            return -WORD_WEIGHT * math.log(self.ranks[word])
        return -UNKNOWN_WORD_COST - UNKNOWN_LETTER_COST * len(word)

    def spell(self, word: str, is_first: bool) -> list[int]:
        """The fewest tokens that spell a word, found from its start on."""
        ids, start = [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = word[start:end]
                if start > 0:
                    token_id = self.tokens.get(piece)
                else:
                    token_id = self.first_tokens.get(piece) if is_first else self.tokens.get(f" {piece}")
                if token_id is not None:
                    ids.append(token_id)
                    break
            else:
                end = start + 1  # a letter that is no token: nothing can spell it
            start = end
        return ids

    def read(self, letters: Sequence[int], path: Sequence[int], blank: int) -> Iterator[tuple[int, list[int]]]:
        """
        The tokens of a spelled text, each with the places in `letters` that it was read from. `path` holds for each letter
        the token that is read there, or the blank. A word whose tokens spell something else is spelled from its letters.
        """
        places: list[int] = []
        is_first = True
        for place, letter in enumerate(letters):
            places.append(place)
            if letter != self.space:
                continue
            word = "".join(self.alphabet[letters[index]] for index in places[:-1])
            read = [item for item in runs(path, places, blank) if self.spellings[item[0]] is not None]
            marks = [item for item in read if not self.spellings[item[0]]]
            spelled = "".join(self.spellings[token_id] for token_id, _ in read)
            # letters that spell a word need no correction
            limit = 0 if f" {word}" in self.tokens else max(1, round(MAX_DIFFERENCE * len(word)))
            if word and edit_distance(spelled, word, limit) > limit:
                read = [(token_id, []) for token_id in self.spell(word, is_first)] + marks
            yield from read if word else marks
            is_first, places = is_first and not word, []


def runs(path: Sequence[int], places: Sequence[int], blank: int) -> Iterator[tuple[int, list[int]]]:
    """The symbols of a part of a CTC path, each with the places of its run; one that goes on from before is left out."""
    run: list[int] = []
    first = places[0]
    while places and first > 0 and path[places[0]] == path[first - 1]:
        places = places[1:]
    for place in places:
        if run and path[place] != path[run[-1]]:
            yield path[run[0]], run
            run = []
        if path[place] != blank:
            run = [*run, place]
    if run:
        yield path[run[0]], run


def log_add(one: float, other: float) -> float:
    """The logarithm of the sum of two exponentials."""
    if one < other:
        one, other = other, one
    return one if other == -math.inf else one + math.log1p(math.exp(other - one))


def sum_of(values: Sequence[float]) -> float:
    in_blank, in_letter, score = values
    return log_add(in_blank, in_letter) + score


def edit_distance(one: str, other: str, limit: int) -> int:
    """Letters to replace, insert or delete; above the limit, any number above it."""
    if abs(len(one) - len(other)) > limit:
        return limit + 1
    distances = list(range(len(other) + 1))
    for row, letter in enumerate(one, start=1):
        diagonal, distances[0] = distances[0], row
        for column, against in enumerate(other, start=1):
            replaced = diagonal + (letter != against)
            diagonal = distances[column]
            distances[column] = min(replaced, diagonal + 1, distances[column - 1] + 1)
    return distances[-1]
