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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import nn
from transformers import PreTrainedModel


# How many letters of a word may differ from those that were heard, for a token to be believed.
MAX_DIFFERENCE = 0.2
# What a voice tells of punctuation. Other signs, such as a colon, are written for reasons that cannot be heard.
MARKS = {".", ",", "?", "!"}
# Of the beam search: prefixes that are kept, how much less likely than the best one they may be, letters that are tried
# (both log probabilities), and the weights of the words.
NUM_PREFIXES, MAX_PREFIX_GAP, SMALLEST_LOG_PROB = 80, 10.0, -8.0
WORD_WEIGHT, UNKNOWN_WORD_COST, UNKNOWN_LETTER_COST = 0.5, 6.0, 1.0
# Other tokens of one letter are parts of words. Vocabularies begin with them, as if they were the most frequent ones.
WORDS_OF_ONE_LETTER = "ai"
# Of the choice by the language model: how many texts of each audio it reads, how much worse than the best one they may
# be (log probability), and the weights of its log-likelihood and of each letter, without which short texts would win.
NUM_HYPOTHESES, MAX_GAP = 8, 4.0
LANGUAGE_MODEL_WEIGHT, LETTER_WEIGHT = 0.3, 0.6
# What may end a text, with a prior (log): who speaks to a language model asks, more often than texts do. Where all of
# them are less likely than the last figure, the text goes on.
ENDS, SMALLEST_END_LOG_PROB = {".": 0.0, "?": 2.0, "!": 0.0}, -7.0
# so many texts are scored at a time: those of four audios
MAX_SCORED_TEXTS = 32


@dataclass
class FlowOmniHypothesis:
    """A text that may have been said: its letters, the way its words are written, and the mark at its end."""

    text: str
    words: list[str]
    end: str = ""
    score: float = -math.inf


class FlowOmniLexicon:
    """
    The tokens of a vocabulary by their letters, from `token_bytes` (vocab_size, max_bytes) in uint8. It checks tokens that
    were read from letters: what the layers between letters and tokens know of frequent words is better than the letters, and
    what they do not know they replace by a frequent word.
    """

    def __init__(self, token_bytes: torch.Tensor, alphabet: str):
        self.alphabet, self.space = alphabet, alphabet.index(" ")
        # of each token its letters; none of punctuation, and `None` of tokens that nobody says
        self.spellings: list[str | None] = []
        self.tokens: dict[str, int] = {}  # by text, with the space that words begin with
        self.marks: dict[str, int] = {}
        # of words that are one token, by their letters: vocabularies begin with what is frequent, so that the first token
        # of a word also says whether it is mostly written with a capital letter
        self.ranks: dict[str, int] = {}
        self.cased: dict[str, str] = {}
        self.first_ranks: dict[str, int] = {}  # by the first letters of words: the rank of the most frequent one
        known = set(alphabet) - {" "}
        for token_id, spelled in enumerate(token_bytes.tolist()):
            text = bytes(spelled).rstrip(b"\0").decode("utf-8", "ignore")
            letters = text.strip()
            # one that fills its row may have been cut
            is_word = set(letters.lower()) <= known and spelled[-1] == 0 and text in (letters, f" {letters}", " ")
            self.spellings.append(letters if is_word and letters else "" if text in MARKS else None)
            if text in MARKS:
                self.marks.setdefault(text, token_id)
            if is_word and text:
                self.tokens.setdefault(text, token_id)
            word = letters.lower()
            is_whole = len(word) > 1 or word in WORDS_OF_ONE_LETTER
            if is_word and is_whole and text in (f" {word}", f" {word.capitalize()}") and word not in self.ranks:
                self.ranks[word], self.cased[word] = len(self.ranks) + 1, letters
                for end in range(1, len(word) + 1):
                    self.first_ranks.setdefault(word[:end], self.ranks[word])

    def search(self, log_probs: torch.Tensor) -> dict[str, float]:
        """
        The likeliest texts and their scores, the best first, by a beam search over the prefixes of CTC: of `log_probs`
        (num_frames, num_letters + 1), the blank last. A word that is one token costs more the rarer it is; another one
        costs more than the rarest, and more with each letter.
        """
        blank, space = log_probs.shape[-1] - 1, self.alphabet[self.space]
        # log probabilities of each prefix that ends in a blank and in a letter, and the score of its words: of the last
        # one, that of the most frequent word that begins so; otherwise rare words are dropped before they are complete
        prefixes = {"": (0.0, -math.inf, 0.0)}
        for frame in log_probs.tolist():
            likely = [letter for letter in range(blank) if frame[letter] > SMALLEST_LOG_PROB]
            extended: dict[str, list[float]] = {}
            worst = -math.inf
            for prefix, (in_blank, in_letter, score) in prefixes.items():
                either = log_add(in_blank, in_letter)
                stay = extended.setdefault(prefix, [-math.inf, -math.inf, score])
                stay[0] = log_add(stay[0], either + frame[blank])
                worst = max(worst, stay[0] + score - MAX_PREFIX_GAP)
                for letter in likely:
                    symbol, before = self.alphabet[letter], either
                    if prefix and prefix[-1] == symbol:
                        stay[1] = log_add(stay[1], in_letter + frame[letter])
                        before = in_blank
                    if symbol == space and (not prefix or prefix[-1] == space):
                        continue
                    if before + frame[letter] + score <= worst:
                        continue
                    longer = prefix + symbol
                    if longer not in extended:
                        last = prefix.rpartition(space)[2]
                        now = self.word_score(last) if symbol == space else self.best_word_score(last + symbol)
                        extended[longer] = [-math.inf, -math.inf, score - self.best_word_score(last) + now]
                    values = extended[longer]
                    values[1] = log_add(values[1], before + frame[letter])
                    worst = max(worst, values[1] + values[2] - MAX_PREFIX_GAP)
            sums = {prefix: sum_of(values) for prefix, values in extended.items()}
            best = sorted((prefix for prefix in sums if sums[prefix] > worst), key=sums.get, reverse=True)
            prefixes = {prefix: tuple(extended[prefix]) for prefix in best[:NUM_PREFIXES]}
        scores: dict[str, float] = {}
        for prefix, values in prefixes.items():
            text, last = prefix.strip(), prefix.rpartition(space)[2]
            score = sum_of(values) - self.best_word_score(last) + self.word_score(last)
            scores[text] = log_add(score, scores.get(text, -math.inf))
        return dict(sorted(scores.items(), key=lambda item: -item[1]))

    def word_score(self, word: str) -> float:
        if not word:
            return 0.0
        if self.is_known(word):
            return -WORD_WEIGHT * math.log(self.ranks[word.partition("'")[0]])
        return -UNKNOWN_WORD_COST - UNKNOWN_LETTER_COST * len(word)

    def best_word_score(self, letters: str) -> float:
        """The score of the most frequent word that begins with these letters."""
        if letters in self.first_ranks:
            return -WORD_WEIGHT * math.log(self.first_ranks[letters])
        return self.word_score(letters)

    def is_known(self, word: str) -> bool:
        """Whether a word is one token, or one and an ending such as that of "who's"."""
        stem, apostrophe, ending = word.partition("'")
        return stem in self.ranks and (not apostrophe or apostrophe + ending in self.tokens)

    def spellings_of(self, text: str) -> list[list[str]]:
        """
        The ways to write the words of a text, with the spaces before them. Words of the vocabulary are written as it has
        them; others may be names, and are written plainly, or all with a capital letter.
        """
        words = text.split()
        plain = [self.write(word) for word in words]
        names = [written if self.is_known(word) else capitalize(word) for word, written in zip(words, plain)]
        ways = [plain] if names[1:] == plain[1:] else [plain, names]
        return [[capitalize(way[0]), *(f" {word}" for word in way[1:])] for way in ways if way]

    def write(self, word: str) -> str:
        stem, apostrophe, ending = word.partition("'")
        return self.cased.get(stem, stem) + apostrophe + ending

    def tokenize(self, text: str) -> list[int]:
        """
        The tokens of a word as byte pair encoding makes them: of neighbours that are a token together, those are merged
        first whose token comes first in the vocabulary. Letters that are no token are left out.
        """
        pieces = list(text)
        while len(pieces) > 1:
            merged = [
                (self.tokens.get(one + other, math.inf), place) for place, (one, other) in enumerate(pairwise(pieces))
            ]
            token_id, place = min(merged)
            if token_id == math.inf:
                break
            pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
        return [self.tokens[piece] for piece in pieces if piece in self.tokens]

    def choose(self, found: Sequence[dict[str, float]], score_texts: Callable) -> list[FlowOmniHypothesis]:
        """
        Of the texts that were found in each audio, with their scores, the one with the best sum of this score and the
        language model's: of `score_texts(texts, ends)`, which gives the log-likelihoods of tokens and of what may follow.
        """
        candidates: list[tuple[int, FlowOmniHypothesis]] = []
        for row, scores in enumerate(found):
            best = max(scores.values())
            # where silence is likeliest, there is nothing to choose
            likely = [text for text in scores if scores[text] > best - MAX_GAP and scores.get("") != best]
            ways = [FlowOmniHypothesis(text, words) for text in likely for words in self.spellings_of(text)]
            candidates += [(row, hypothesis) for hypothesis in ways[:NUM_HYPOTHESES]]
        chosen = [FlowOmniHypothesis(next(iter(scores)), []) for scores in found]
        if not candidates:
            return chosen
        ends = [end for end in ENDS if end in self.marks]
        tokens = [
            [token for word in hypothesis.words for token in self.tokenize(word)] for _, hypothesis in candidates
        ]
        likelihoods, end_scores = score_texts(tokens, [self.marks[end] for end in ends])
        for (row, hypothesis), likelihood, scores in zip(candidates, likelihoods, end_scores):
            end_score, end = max(((score + ENDS[end], end) for score, end in zip(scores, ends)), default=(0.0, ""))
            hypothesis.end = end if end_score > SMALLEST_END_LOG_PROB else ""
            hypothesis.score = found[row][hypothesis.text] + LETTER_WEIGHT * len(hypothesis.text)
            hypothesis.score += LANGUAGE_MODEL_WEIGHT * (likelihood + max(end_score, SMALLEST_END_LOG_PROB))
            chosen[row] = max(chosen[row], hypothesis, key=lambda one: one.score)
        return chosen

    def punctuate(
        self, hypothesis: FlowOmniHypothesis, letters: Sequence[int], path: Sequence[int], blank: int
    ) -> list[int]:
        """The tokens of a text that was chosen, with marks within it as they are [`read`]."""
        ids = [token_id for token_id, _ in self.read(letters, path, blank, hypothesis.words)]
        while ids and not self.spellings[ids[-1]]:
            ids.pop()
        return ids + [self.marks[end] for end in hypothesis.end]

    def read(
        self, letters: Sequence[int], path: Sequence[int], blank: int, written: Sequence[str] | None = None
    ) -> Iterator[tuple[int, list[int]]]:
        """
        The tokens of a spelled text, each with the places in `letters` that it was read from. `path` holds for each letter
        the token that is read there, or the blank. A word whose tokens spell something else is spelled from its letters.
        So are all words of a text that was chosen, as they are `written`, but for those that the tokens correct.
        """
        text = "".join(self.alphabet[letter] for letter in letters)
        is_chosen = written is not None
        ways = [written] if is_chosen else self.spellings_of(text)[:1]
        words = iter(zip(text.split(), *ways))
        is_first = True
        places: list[int] = []
        for place, letter in enumerate(letters):
            places.append(place)
            if letter != self.space:
                continue
            read = [item for item in runs(path, places, blank) if self.spellings[item[0]] is not None]
            marks = [item for item in read if not self.spellings[item[0]]]
            if len(places) > 1:
                word, written_word = next(words)
                spelled = "".join(self.spellings[token_id] for token_id, _ in read)
                # letters that spell a word need no correction
                limit = 0 if self.is_known(word) else max(1, round(MAX_DIFFERENCE * len(word)))
                is_read = edit_distance(spelled.lower(), word, limit) <= limit
                if is_read and spelled.lower() != word:
                    written_word = capitalize(spelled) if is_first else f" {spelled}"
                if is_chosen or not is_read:
                    read = [(token_id, []) for token_id in self.tokenize(written_word)] + marks
                is_first = False
            yield from read if len(places) > 1 else marks
            places = []


# --- likelihoods of texts


def prefix_tree(texts: Sequence[Sequence[int]]) -> tuple[list[int], list[int], list[list[int]]]:
    """
    The tokens of texts, each beginning that several of them share once: the nodes' tokens and parents (-1 for the root),
    and the nodes of each text.
    """
    nodes: dict[tuple[int, int], int] = {}

    def below(node: int, token: int) -> int:
        return nodes.setdefault((node, token), len(nodes))

    paths = [list(accumulate(text, below, initial=-1))[1:] for text in texts]
    parents, tokens = zip(*nodes)
    return list(tokens), list(parents), paths


def reads_trees(language_model: PreTrainedModel) -> bool:
    """Whether `position_ids` alone tell the model a position, and a mask alone what it sees."""
    config = language_model.config
    has_attention = set(getattr(config, "layer_types", None) or ()) <= {"full_attention", "sliding_attention"}
    is_masked = config._attn_implementation in ("sdpa", "eager") and not language_model._is_stateful
    return has_attention and is_masked and hasattr(language_model, "rotary_emb")


def read_tree(language_model: PreTrainedModel, tokens: list[int], parents: list[int]) -> torch.Tensor:
    """The hidden states of the nodes of a tree, of which each sees the nodes above it: `(num_nodes, hidden_size)`."""
    weight = language_model.get_input_embeddings().weight
    is_seen = torch.eye(len(tokens), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            is_seen[node] |= is_seen[parent]
    mask = torch.zeros(is_seen.shape, dtype=weight.dtype).masked_fill(~is_seen, torch.finfo(weight.dtype).min)
    return language_model(
        input_ids=torch.tensor([tokens], device=weight.device),
        attention_mask=mask[None, None].to(weight.device),
        position_ids=(is_seen.sum(dim=-1) - 1)[None].to(weight.device),
        use_cache=False,
    ).last_hidden_state[0]


def read_rows(language_model: PreTrainedModel, texts: list[list[int]], paths: list[list[int]]) -> torch.Tensor:
    """The hidden states of the nodes of a tree, by a model that reads its texts one by one: `(num_nodes, hidden_size)`."""
    device = language_model.get_input_embeddings().weight.device
    # no mask: tokens do not see the padding, which follows them
    inputs = nn.utils.rnn.pad_sequence([torch.tensor(text, device=device) for text in texts], batch_first=True)
    rows = language_model(input_ids=inputs, use_cache=False).last_hidden_state
    places = {node: (row, place) for row, path in enumerate(paths) for place, node in enumerate(path)}
    return torch.stack([rows[places[node]] for node in range(len(places))])


@torch.no_grad()
def score_token_rows(
    language_model: PreTrainedModel, lm_head: nn.Module, texts: list[list[int]], ends: list[int]
) -> tuple[list[float], list[list[float]]]:
    """
    The log-likelihoods that a language model gives to the tokens of each of the `texts` after the first, and to each of the
    tokens `ends` after it.
    """
    likelihoods, end_scores = [], []
    # in parts: a mask grows with the square of the tokens, and the logits of a large batch are large
    for start in range(0, len(texts), MAX_SCORED_TEXTS):
        part = texts[start : start + MAX_SCORED_TEXTS]
        tokens, parents, paths = prefix_tree(part)
        if reads_trees(language_model):
            hidden_states = read_tree(language_model, tokens, parents)
        else:
            hidden_states = read_rows(language_model, part, paths)
        log_probs = lm_head(hidden_states).float().log_softmax(dim=-1)
        # the first token of all texts is the root, which nothing predicts
        node_scores = [0.0, *log_probs[parents[1:], tokens[1:]].tolist()]
        next_scores = log_probs[:, ends].tolist()
        likelihoods += [sum(node_scores[node] for node in path) for path in paths]
        end_scores += [next_scores[path[-1]] for path in paths]
    return likelihoods, end_scores


def capitalize(word: str) -> str:
    return word[:1].upper() + word[1:]


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
