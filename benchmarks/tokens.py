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
"""
What speech loses as tokens, before any model has to predict them: mel patches as they are, the continuous tokens of
Flow-Omni, against the codes of a residual quantiser fitted to the answers of the training set; in its domain and out of it.
Both go through the same vocoder to the same recogniser.

    python benchmarks/tokens.py data/tinytalk --recogniser ctc:runs/tiny/recognise
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tabulation import Table, show

from flow_omni import FlowOmniForSpeechGeneration, FlowOmniProcessor, FlowOmniSpeechConfig
from flow_omni.evaluation.intervals import error_interval
from flow_omni.evaluation.listeners import label_of
from flow_omni.evaluation.questions import spread
from flow_omni.evaluation.text_errors import text_errors
from flow_omni.modeling_flow_omni.speech_heads import FlowOmniResidualQuantizer
from flow_omni.processing.audio_io import load_audio
from flow_omni.training.augmentation import add_noise, change_tempo, generator_of, shift_pitch
from flow_omni.training.recognisers import Recogniser, recogniser_of
from flow_omni.untrained import BUNDLED_CHECKPOINT


Effect = Callable[[np.ndarray, int, int], np.ndarray]

# What the answers of the test set are turned into: the quantiser knows their voice, but not so.
EFFECTS: dict[str, Effect] = {
    "as they are": lambda waveform, rate, number: waveform,
    "4 semitones lower": lambda waveform, rate, number: shift_pitch(waveform, rate, -4),
    "4 semitones higher": lambda waveform, rate, number: shift_pitch(waveform, rate, 4),
    "8 semitones higher": lambda waveform, rate, number: shift_pitch(waveform, rate, 8),
    "slower, by 0.7": lambda waveform, rate, number: change_tempo(waveform, rate, 0.7),
    "faster, by 1.3": lambda waveform, rate, number: change_tempo(waveform, rate, 1.3),
    "higher and faster": lambda waveform, rate, number: change_tempo(shift_pitch(waveform, rate, 4), rate, 1.3),
    "white noise, 15 dB": lambda waveform, rate, number: add_noise(
        waveform, rate, 15.0, "white", generator_of("tokens", number)
    ),
}


@dataclass(frozen=True)
class Said:
    """A recording and the words in it."""

    waveform: np.ndarray
    text: str


@dataclass(frozen=True)
class Codec:
    """To tokens and back: what both kinds share is the mel, its normalisation and the vocoder of a checkpoint."""

    model: FlowOmniForSpeechGeneration
    processor: FlowOmniProcessor

    @property
    def rate(self) -> int:
        return self.processor.sampling_rate

    def patches(self, waveform: np.ndarray) -> torch.Tensor:
        """(num_patches, patch_size), as the model sees them"""
        mel = self.processor.feature_extractor.extract_mel(waveform, self.rate)
        return self.model.mel_normalizer.normalize(mel).flatten(1)

    def log_mel(self, patches: torch.Tensor) -> torch.Tensor:
        """(num_frames, num_mel_bins)"""
        mel = patches.unflatten(-1, (self.processor.frames_per_step, -1)).flatten(0, 1)
        return self.model.mel_normalizer.denormalize(mel)

    @torch.no_grad()
    def waveform(self, patches: torch.Tensor) -> np.ndarray:
        return self.model.vocoder(self.log_mel(patches)[None])[0].numpy()


def load_codec(checkpoint: str) -> Codec:
    model = FlowOmniForSpeechGeneration.from_pretrained(checkpoint, dtype="float32").eval()
    return Codec(model, FlowOmniProcessor.from_pretrained(checkpoint))


def fitted_quantizer(
    codec: Codec, sounds: Sequence[np.ndarray], num_codebooks: int, num_codes: int
) -> FlowOmniResidualQuantizer:
    fields = codec.model.config.speech_config.to_dict()
    fields |= {"num_codebooks": num_codebooks, "codebook_size": num_codes}
    quantizer = FlowOmniResidualQuantizer(FlowOmniSpeechConfig(**fields))
    quantizer.fit(torch.cat([codec.patches(sound) for sound in sounds]), generator=torch.Generator().manual_seed(0))
    return quantizer


def rows_of(folder: Path, split: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]


def sounds_of(folder: Path, rows: Sequence[dict], side: str, rate: int) -> list[Said]:
    return [Said(load_audio(folder / row[f"{side}_audio"], rate), row[f"{side}_text"]) for row in rows]


def domains(folder: Path, num_sounds: int, rate: int) -> dict[str, list[Said]]:
    """What is turned into tokens: answers, answers changed, and the questions of each kind of voice."""
    rows = list({row["answer_text"]: row for row in rows_of(folder, "test")}.values())
    answers = sounds_of(folder, spread(rows, num_sounds), "answer", rate)
    found = {
        f"answers {name}": [
            Said(effect(said.waveform, rate, number), said.text) for number, said in enumerate(answers)
        ]
        for name, effect in EFFECTS.items()
    }
    engines = sorted({row["speaker"].partition(":")[0] for row in rows})
    for engine in engines:
        asked = [row for row in rows if row["speaker"].startswith(engine)]
        found[f"other voices: {engine}"] = sounds_of(folder, spread(asked, num_sounds), "question", rate)
    return found


def character_errors(heard: Sequence[str], expected: Sequence[str]) -> str:
    """Errors in percent, with the interval in which 95 of 100 such sets would lie, where that can be told."""
    errors = [text_errors(text, other).said for text, other in zip(expected, heard)]
    wrong, of_all = [one.characters for one in errors], [one.num_characters for one in errors]
    interval = error_interval(wrong, of_all)
    ends = "" if interval is None else f" ({100 * interval[0]:.1f}-{100 * interval[1]:.1f})"
    return f"{100 * sum(wrong) / sum(of_all):.1f} %{ends}"


def measure(
    sounds: Sequence[Said], codec: Codec, quantizer: FlowOmniResidualQuantizer, recogniser: Recogniser
) -> dict[str, str]:
    """One row of the table."""
    heard: dict[str, list[str]] = {"original": [], "continuous": [], "discrete": []}
    squares, count = 0.0, 0
    for said in sounds:
        patches = codec.patches(said.waveform)
        quantized = quantizer(quantizer.encode(patches)).sum(dim=1)
        squares += (codec.log_mel(patches) - codec.log_mel(quantized)).square().sum().item()
        count += patches.numel()
        waveforms = {
            "original": said.waveform,
            "continuous": codec.waveform(patches),
            "discrete": codec.waveform(quantized),
        }
        for name, waveform in waveforms.items():
            heard[name].append(recogniser.transcribe(waveform, codec.rate))
    expected = [said.text for said in sounds]
    return {f"CER, {name}": character_errors(texts, expected) for name, texts in heard.items()} | {
        "log-mel error, discrete": f"{(squares / count) ** 0.5:.3f}"
    }


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that `flow-omni prepare tinytalk` has made")
    parser.add_argument(
        "--model", default=str(BUNDLED_CHECKPOINT), help="whose mel and vocoder to use (default: the bundled one)"
    )
    parser.add_argument("--recogniser", required=True, help="who listens, as `flow-omni evaluate` names them")
    parser.add_argument("--sounds", type=int, default=60, help="recordings of each kind (default: 60)")
    parser.add_argument(
        "--fit-on", type=int, default=800, help="answers that the quantiser is fitted to (default: 800)"
    )
    parser.add_argument("--codebooks", type=int, default=8, help="codebooks of the quantiser (default: 8)")
    parser.add_argument("--codes", type=int, default=1024, help="codes of each (default: 1024)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the table as Markdown")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write it as JSON")
    options = parser.parse_args(arguments)
    if not (options.data / "test.jsonl").is_file():
        parser.error(
            f"{options.data} has no test.jsonl: it must be what `flow-omni prepare tinytalk {options.data}` made."
        )
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    codec = load_codec(options.model)
    recogniser = recogniser_of(options.recogniser, codec.model, codec.processor)

    answers = {row["answer_audio"]: row for row in rows_of(options.data, "train")}
    known = sounds_of(options.data, spread(list(answers.values()), options.fit_on), "answer", codec.rate)
    quantizer = fitted_quantizer(codec, [said.waveform for said in known], options.codebooks, options.codes)

    rows = {
        name: measure(sounds, codec, quantizer, recogniser)
        for name, sounds in domains(options.data, options.sounds, codec.rate).items()
    }
    columns = {column: {name: row[column] for name, row in rows.items()} for column in next(iter(rows.values()))}
    speech = codec.model.config.speech_config
    bits = options.codebooks * np.log2(options.codes) * speech.steps_per_second
    note = (
        f"Quantiser: {options.codebooks} codebooks of {options.codes} codes for each patch of {speech.frames_per_step} "
        f"frames, {bits:,.0f} bits a second, fitted to {len(known)} answers. {options.sounds} recordings of each kind, "
        f"heard by {label_of(options.recogniser)}."
    )
    show([Table("What speech loses as tokens", columns, note)], options.markdown, options.json)


if __name__ == "__main__":
    main()
