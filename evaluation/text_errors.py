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
"""Error rates of texts with 95 % confidence intervals, and words missing at the end of a transcript."""

import math
from collections.abc import Sequence

import jiwer
import numpy as np

from ..training.metrics import count_errors, normalize_text


NUM_RESAMPLES, MIN_ROWS = 1000, 10
Z = 1.959964  # 95 % of a normal distribution lie within so many standard deviations


def text_metrics(pairs: Sequence[tuple[str, str]], language: str = "en", seed: int = 0) -> dict[str, float]:
    """`cer`, `wer` and `exact` of pairs of a reference and a text, with `_low` and `_high`."""
    counts = [count_errors(reference, text, language) for reference, text in pairs]
    metrics = error_rate("cer", [one.characters for one in counts], [one.num_characters for one in counts], seed)
    metrics |= error_rate("wer", [one.words for one in counts], [one.num_words for one in counts], seed)
    return {"num_rows": len(counts)} | metrics | fraction("exact", [one.characters == 0 for one in counts])


def error_rate(name: str, errors: Sequence[int], lengths: Sequence[int], seed: int = 0) -> dict[str, float]:
    """All errors over all lengths, with a bootstrap interval; nothing where there is nothing to count."""
    if sum(lengths) == 0:
        return {}
    interval = bootstrap_interval(errors, lengths, seed) or ()
    return {name: sum(errors) / sum(lengths)} | dict(zip((f"{name}_low", f"{name}_high"), interval))


def fraction(name: str, hits: Sequence[bool]) -> dict[str, float]:
    """The fraction of hits, with Wilson's interval."""
    if not hits:
        return {}
    return dict(
        zip((name, f"{name}_low", f"{name}_high"), (sum(hits) / len(hits), *wilson_interval(sum(hits), len(hits))))
    )


def bootstrap_interval(errors: Sequence[int], lengths: Sequence[int], seed: int = 0) -> tuple[float, float] | None:
    """
    The interval of `sum(errors) / sum(lengths)` over rows drawn with replacement, as the errors of one row are not
    independent. `None` for fewer than ten rows, and where all rows are alike: a bootstrap would take them for certain.
    """
    if len(errors) < MIN_ROWS:
        return None
    values, rng = np.array([errors, lengths], dtype=np.float64), np.random.default_rng(seed)
    sums = np.array([values[:, rng.integers(len(errors), size=len(errors))].sum(axis=1) for _ in range(NUM_RESAMPLES)])
    low, high = np.quantile(sums[:, 0] / np.maximum(sums[:, 1], 1.0), [0.025, 0.975])
    return (float(low), float(high)) if high - low > 1e-9 else None


def wilson_interval(num_hits: int, num_rows: int) -> tuple[float, float]:
    """Wilson's interval of a fraction. It does not shrink to a point at 0 or 1: none in 500 may still be 0.8 %."""
    rate = num_hits / num_rows
    middle = (rate + Z**2 / (2 * num_rows)) / (1 + Z**2 / num_rows)
    half = Z / (1 + Z**2 / num_rows) * math.sqrt(rate * (1 - rate) / num_rows + Z**2 / (4 * num_rows**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def contains_answer(text: str, answers: Sequence[str], language: str = "en") -> bool:
    """Whether a text contains one of the answers as whole words, after [`normalize_text`]."""
    words = f" {normalize_text(text, language)} "
    normalized = (normalize_text(answer, language) for answer in answers)
    return any(f" {answer} " in words for answer in normalized if answer)


def lacks_last_word(text: str, transcript: str, language: str = "en") -> bool:
    """Whether at least half of the last word is missing in a transcript, with nothing else in its place."""
    words = normalize_text(text, language).split()
    reference, characters = "".join(words), normalize_text(transcript, language).replace(" ", "")
    if not reference:
        return False
    (alignment,) = jiwer.process_characters([reference], [characters]).alignments
    matches = [chunk for chunk in alignment if chunk.type == "equal"]
    end, transcript_end = (matches[-1].ref_end_idx, matches[-1].hyp_end_idx) if matches else (0, 0)
    num_missing = (len(reference) - end) - (len(characters) - transcript_end)
    return num_missing >= max(2, math.ceil(len(words[-1]) / 2))
