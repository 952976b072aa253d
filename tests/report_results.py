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
"""Results of an evaluation made in code, with every kind of figure, and with samples that have sounds and pictures."""

import struct
import zlib
from pathlib import Path

import numpy as np
import soundfile

from flow_omni.evaluation.results import HIGH, LOW, Results, Sample


TOPICS = ("arithmetic", "facts", "spelling", "small_talk", "repeat")
RECOGNISERS = ("ctc:judge", "sphinx")
QUESTION_RATE, ANSWER_RATE = 16000, 24000
QUESTION_SECONDS, ANSWER_SECONDS, ORIGINAL_SECONDS = 0.4, 0.3, 0.35
# question, expected, text, heard by the first recogniser, faults
EXCHANGES = {
    "transcribe": [
        ("Seven plus eight?", "Seven plus eight?", "Seven plus eight?", None, "complete"),
        ("Read this: harbour.", "Read this: harbour.", "Read this: arbor.", None, "complete"),
    ],
    "say": [
        ("The cat sleeps.", "The cat sleeps.", "The cat sleeps.", "the cat sleeps", "complete"),
        ("Good morning to you.", "Good morning to you.", "Good morning to you.", "good morning", "cut_short"),
    ],
    "speech_to_speech": [
        ("What is seven plus eight?", "Seven plus eight is fifteen.", "Seven plus eight is fifteen.", "7 + 8 = 15", "complete"),
        ("What is the capital of France?", "The capital of France is Paris.", "The capital of is Rome.", "the capital is rome", "complete"),
        ("Spell cat.", "C, A, T.", "C, A, T.", "see a tea", "hit_cap,silent_inside"),
    ],
}  # fmt: skip


def tone(seconds: float, rate: int, seed: int) -> np.ndarray:
    """Something like a syllable: harmonics that come and go."""
    time = np.arange(round(seconds * rate)) / rate
    pitch = 90 + 20 * (seed % 5)
    wave = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 8))
    return (0.2 * wave * np.sin(np.pi * time / seconds)).astype(np.float32)


def png(width: int, height: int) -> bytes:
    """A picture of stripes."""
    rows = b"".join(
        b"\0" + bytes(x * 5 % 256 if c else y * 3 % 256 for x in range(width) for c in range(3)) for y in range(height)
    )
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def spread_figure(name: str, value: float, half: float) -> dict[str, float]:
    return {name: value, name + LOW: max(0.0, value - half), name + HIGH: value + half}


def share_figure(name: str, value: float, half: float = 0.02) -> dict[str, float]:
    return spread_figure(name, value, half) | {name + HIGH: min(1.0, value + half)}


def error_figures(num_rows: int, cer: float, exact: float) -> dict[str, float]:
    figures = (
        {"num_rows": num_rows} | spread_figure("cer", cer, 0.3 * cer) | spread_figure("wer", 2.2 * cer, 0.5 * cer)
    )
    figures |= share_figure("exact", exact)
    return figures | {
        "cer_whisper": 1.1 * cer, "wer_whisper": 2.4 * cer, "cer_raw": 1.6 * cer, "wer_raw": 3.0 * cer
    }  # fmt: skip


def made_results(folder: Path, checkpoint: str = "tiny", quality: float = 1.0, **fields) -> Results:
    """Results whose errors are those of `quality` 1 divided by it; the files of their samples are written into `folder`."""
    bad = 1.0 / quality
    figures: dict[str, dict[str, float]] = {}
    for task, cer, exact in (("transcribe", 0.021, 0.91), ("say", 0.0, 1.0), ("speech_to_speech", 0.034, 0.93)):
        for topic in (None, *TOPICS):
            group = task + (f"/{topic}" if topic else "")
            figures[group] = error_figures(
                100 if topic else 500, cer * bad * (1 + len(topic or "") / 20), 1 - (1 - exact) * bad
            )
            for number, recogniser in enumerate(RECOGNISERS if task != "transcribe" else ()):
                heard = error_figures(100 if topic else 500, (cer + 0.015 + 0.03 * number) * bad, 1 - 0.1 * bad)
                figures[f"{group}@{recogniser}"] = heard | spread_figure("cer_of_own_text", 0.02 * bad, 0.004)
    stops = {"num_rows": 1000} | share_figure("clean", 1 - 0.008 * bad, 0.006)
    for name in ("empty", "no_start", "hit_cap", "cut_short", "silent_inside", "silent_start", "silent_end"):
        stops |= share_figure(name, 0.002 * bad if name in ("hit_cap", "silent_inside") else 0.0, 0.004)
    figures |= {"stops": stops, "stops/say": stops, "stops/speech_to_speech": stops}
    spectrum = {
        "num_rows": 870,
        "mel_distance": 0.61 * bad,
        "log_spectral_distance": 8.91 * bad,
        "duration_ratio": 1.02,
        "sharpness": 0.41,
    }
    figures["spectrum"] = spectrum | {
        "vocoded_mel_distance": 0.31,
        "vocoded_log_spectral_distance": 6.2,
        "reference_sharpness": 0.49,
    }
    figures["spectrum/say"] = spectrum
    for number, recogniser in enumerate(RECOGNISERS):
        reference = error_figures(480, 0.012 + 0.03 * number, 0.94)
        figures[f"reference@{recogniser}"] = reference | spread_figure("vocoded_cer", 0.014 + 0.03 * number, 0.004)
    values = {
        "checkpoint": checkpoint,
        "data": "data/tinytalk/test.jsonl",
        "created": "2026-01-02T03:04:05+00:00",
        "machine": {"processor": "Some processor at 2.0 GHz", "cores": "2", "versions": "torch 2.8"},
        "command": f"flow-omni evaluate {checkpoint} data/tinytalk --sweep noise,steps",
        "settings": {"language": "en", "seed": 0, "sweeps": ["noise", "steps"], "options": {"num_flow_steps": 2}},
        "figures": figures,
        "sweeps": made_sweeps(bad),
        "speed": {"first_text_ms": 31.0 * bad, "first_sound_ms": 62.0 * bad, "real_time_factor": 0.17 * bad, "speech_seconds": 21.5},
        "samples": made_samples(folder),
        "notes": ["The recogniser sphinx knows only the words of the corpus."],
    }  # fmt: skip
    return Results(**values | fields)


def blank_results(**fields) -> Results:
    """Results without any figure."""
    return Results(**{"checkpoint": "tiny", "data": "test.jsonl", "created": "2026-01-02T03:04:05+00:00"} | fields)


def made_sweeps(bad: float) -> dict[str, list[dict]]:
    sweeps: dict[str, list[dict]] = {}
    for noise, factor in (("white", 1.0), ("pink", 1.5), ("babble", 2.4)):
        for snr_db, cer in ((None, 0.021), (20, 0.028), (10, 0.06), (5, 0.12), (0, 0.27)):
            cer = cer * bad * (factor if snr_db is not None else 1.0)
            row = {"snr_db": snr_db} | spread_figure("transcribe_cer", cer, 0.2 * cer) | {"transcribe_wer": 2 * cer}
            row |= share_figure("speech_to_speech_exact", max(0.0, 0.93 - cer)) | {"num_rows": 100}
            sweeps.setdefault(f"noise/{noise}", []).append(row)
    for steps in (1, 2, 4, 8, 16):
        cer = (0.03 + 0.02 / steps) * bad
        row = {"num_flow_steps": steps} | spread_figure("heard_cer", cer, 0.008) | {"heard_wer": 2 * cer}
        row |= share_figure("clean", 0.99) | {
            "sharpness": 0.39 + 0.005 * steps,
            "batch_real_time_factor": 0.1 + 0.03 * steps,
        }
        sweeps.setdefault("steps", []).append(row | {"num_rows": 100})
    sweeps["telephone"] = [
        {"line": "as it is", "transcribe_cer": 0.02 * bad, "num_rows": 100},
        {"line": "telephone", "transcribe_cer": 0.05 * bad, "num_rows": 100},
    ]
    return sweeps


def made_samples(folder: Path) -> list[Sample]:
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    samples = []
    for task, exchanges in EXCHANGES.items():
        for number, (question, expected, text, heard, stop) in enumerate(exchanges):
            sounds = {"question": (QUESTION_SECONDS, QUESTION_RATE)} if task != "say" else {}
            if heard is not None:
                sounds |= {"answer": (ANSWER_SECONDS, ANSWER_RATE), "original": (ORIGINAL_SECONDS, ANSWER_RATE)}
            files = {}
            for kind, (seconds, rate) in sounds.items():
                files[kind] = f"samples/{task}-{number}-{kind}.wav"
                soundfile.write(folder / files[kind], tone(seconds, rate, number), rate)
            picture = f"samples/{task}-{number}.png" if heard is not None else None
            if picture is not None:
                (folder / picture).write_bytes(png(28, 20))
            topic = TOPICS[number % len(TOPICS)]
            heard_by = {} if heard is None else {RECOGNISERS[0]: heard, RECOGNISERS[1]: heard}
            is_exact = expected == text
            samples.append(
                Sample(
                    f"{topic}-{number}",
                    task,
                    topic,
                    question,
                    expected,
                    text,
                    heard_by,
                    is_exact,
                    stop,
                    files,
                    picture,
                )
            )
    return samples
