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
Continuous or discrete tokens: the same parts, data and steps, trained to speak with a flow head and with residual codes, from
several seeds. What the sums that they say sound like to a recogniser, and how many are right.

    python benchmarks/heads.py runs/tiny/parts data/tinytalk --recogniser ctc:runs/tiny/recognise --output runs/heads

Mel statistics and codebooks are of the answers in that corpus, and codebooks stay as they are. `--say` trains on the answers of
another corpus, such as `flow-omni prepare tinytalk --answer-voice espeak:en-us` makes, in a voice that neither has been measured
on. Stopped, the same command goes on where it was.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from tabulation import Table, show
from tokens import Codec, character_errors, rows_of

from flow_omni import FlowOmniConfig, FlowOmniForSpeechGeneration, FlowOmniProcessor
from flow_omni.evaluation.answering import answers_to
from flow_omni.evaluation.questions import AskedRow, questions_of
from flow_omni.processing.audio_io import load_audio
from flow_omni.training.recipe import Recipe, load_recipe
from flow_omni.training.recognisers import Recogniser, recogniser_of
from flow_omni.training.rows import TASKS
from flow_omni.training.speech_run import make_run
from flow_omni.training.text_scores import exact_rate
from flow_omni.training.tinytalk.texts import topic_of


# Eight output layers of 1,024 codes each want a narrower MLP: so it still has a quarter more weights to train.
HEADS = {"continuous": {"head_type": "flow"}, "discrete": {"head_type": "residual_vq", "head_hidden_size": 384}}
SPEECH = {"patch_noise": 0.5, "patch_dropout": 0.4}
TASKS_TRAINED = ("say", "text_to_speech")
MAX_STEPS = 200


class Experiment:
    """One head from one seed: its beginning, its training, and what it says then."""

    def __init__(self, head: str, seed: int, options: argparse.Namespace):
        self.head, self.seed, self.options = head, seed, options
        self.folder = options.output / f"{options.say.name}-{head}-{seed}"

    def model(self) -> FlowOmniForSpeechGeneration:
        """The trained one."""
        self.settle()
        if not (self.folder / "model.safetensors").is_file():
            start = self.folder / "start"
            if not (start / "model.safetensors").is_file():
                self.begin(start)
            run = make_run(self.recipe(start, self.options.say, "said"))
            freeze_codebooks(run.trainer.flow_omni)
            run.train()
        return FlowOmniForSpeechGeneration.from_pretrained(self.folder, dtype="float32").eval()

    def settle(self) -> None:
        """Writes down what is trained here. What was trained otherwise is not taken for it."""
        names = ("parts", "data", "say", "topic", "steps")
        settings = {name: str(getattr(self.options, name)) for name in names}
        file = self.folder / "experiment.json"
        if file.is_file() and json.loads(file.read_text()) != settings:
            raise SystemExit(
                f"{self.folder} was trained otherwise ({file.read_text().strip()}): name another `--output`."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings) + "\n")

    def begin(self, folder: Path) -> None:
        """The parts with a new head of the kind, the mel statistics measured and the codebooks fitted on the first corpus."""
        bare = folder.with_name("bare")
        model, processor = with_head(self.options.parts, HEADS[self.head], self.seed)
        model.save_pretrained(bare)
        processor.save_pretrained(bare)
        run = make_run(self.recipe(bare, self.options.data, "measured"))
        run.trainer.measure_mel_statistics()
        run.trainer.flow_omni.save_pretrained(folder)
        processor.save_pretrained(folder)
        shutil.rmtree(bare)

    def recipe(self, model: Path, data: Path, name: str) -> Recipe:
        manifest = self.folder / f"{name}.jsonl"
        write_topic(data, self.options.topic, manifest)
        overrides = [
            f"model={model}",
            f"data.train={manifest}",
            f"data.tasks={json.dumps(dict.fromkeys(TASKS, 0) | dict.fromkeys(TASKS_TRAINED, 1))}",
            "data.transcripts=false",
            "data.max_steps_per_batch=2048",
            f"training.output_dir={self.folder}",
            f"training.max_steps={self.options.steps}",
            f"training.seed={self.seed}",
            "training.save_steps=100",
            "training.save_total_limit=1",
            "training.ema_decay=0.99",
            "training.warmup_steps=40",
            "training.disable_tqdm=true",
        ]
        return load_recipe("tiny/finetune", overrides)


def with_head(
    parts: Path, head: dict[str, object], seed: int
) -> tuple[FlowOmniForSpeechGeneration, FlowOmniProcessor]:
    """The parts as they are, and everything that speaks anew."""
    source = FlowOmniForSpeechGeneration.from_pretrained(parts, dtype="float32")
    fields = source.config.to_dict()
    fields["speech_config"] |= SPEECH | head
    torch.manual_seed(seed)
    model = FlowOmniForSpeechGeneration(FlowOmniConfig(**fields))
    kept = {name: weight for name, weight in source.state_dict().items() if not name.startswith("speech_head.")}
    missing = model.load_state_dict(kept, strict=False).missing_keys
    assert all(name.startswith("speech_head.") for name in missing), missing
    return model, FlowOmniProcessor.from_pretrained(parts)


def freeze_codebooks(model: FlowOmniForSpeechGeneration) -> None:
    """As those of a codec are, which was trained before and apart."""
    quantizer = getattr(model.speech_head, "quantizer", None)
    if quantizer is not None:
        quantizer.requires_grad_(False)


def write_topic(data: Path, topic: str, manifest: Path) -> None:
    """The rows of a topic, each text once: who asked has no part in this."""
    if manifest.is_file():
        return
    rows = {row["answer_text"] + row["question_text"]: row for row in rows_of(data, "train")}.values()
    chosen = [row for row in rows if topic_of(row["id"]) == topic]
    if not chosen:
        raise SystemExit(f"{data} has no rows of the topic '{topic}' in its train.jsonl.")
    for row in chosen:
        row["answer_audio"] = str((data / row["answer_audio"]).resolve())
        row.pop("question_audio", None)
    manifest.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen))


def asked_of(data: Path, topic: str, number: int) -> list[AskedRow]:
    rows = [row for row in rows_of(data, "test") if topic_of(row["id"]) == topic]
    return questions_of(rows, TASKS_TRAINED, number)


def figures_of(
    model: FlowOmniForSpeechGeneration,
    processor: FlowOmniProcessor,
    questions: Sequence[AskedRow],
    recogniser: Recogniser,
    temperature: float,
) -> dict[str, str]:
    sampling = {"num_flow_steps": 2, "flow_temperature": temperature, "max_new_tokens": MAX_STEPS}
    texts: dict[str, list[tuple[str, str, str]]] = {task: [] for task in TASKS_TRAINED}
    for batch in answers_to(questions, model, processor, **sampling):
        for answer in (answered.answer for answered in batch):
            heard = recogniser.transcribe(answer.waveform, processor.sampling_rate)
            texts[answer.task].append((answer.expected, answer.text, heard))
    expected, _, heard = zip(*texts["say"])
    answers, written, spoken = zip(*texts["text_to_speech"])
    return {
        "wrong characters of speech": character_errors(heard, expected),
        "right as written": percent(exact_rate(answers, written)),
        "right as heard": percent(exact_rate(answers, spoken)),
    }


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def references(
    data: Path,
    model: FlowOmniForSpeechGeneration,
    processor: FlowOmniProcessor,
    questions: Sequence[AskedRow],
    recogniser: Recogniser,
) -> dict[str, str]:
    """The answers of the corpus themselves, and what the vocoder makes of their mel."""
    codec, expected = Codec(model, processor), [asked.expected for asked in questions]
    sounds = [load_audio(data / asked.row["answer_audio"], codec.rate) for asked in questions]
    vocoded = [codec.waveform(codec.patches(sound)) for sound in sounds]
    return {
        name: character_errors([recogniser.transcribe(sound, codec.rate) for sound in kind], expected)
        for name, kind in {"originals": sounds, "through the vocoder": vocoded}.items()
    }


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", type=Path, help="checkpoint that has not learnt to speak, as `make tiny` makes")
    parser.add_argument("data", type=Path, help="folder that `flow-omni prepare tinytalk` has made")
    parser.add_argument("--say", type=Path, help="such a folder, whose answers to train on (default: the same)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the trained models")
    parser.add_argument("--recogniser", required=True, help="who listens, as `flow-omni evaluate` names them")
    parser.add_argument("--topic", default="arithmetic", help="which rows to train on (default: arithmetic)")
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS), help="default: both")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="default: 0 1")
    parser.add_argument("--steps", type=int, default=600, help="of training, for each model (default: 600)")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.5, 1.0], help="default: 0 0.5 1")
    parser.add_argument("--questions", type=int, default=100, help="of each task (default: 100)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the table as Markdown")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write it as JSON")
    options = parser.parse_args(arguments)
    options.say = options.say or options.data
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    rows: dict[str, dict[str, str]] = {}
    for seed in options.seeds:
        for head in options.heads:
            model = Experiment(head, seed, options).model()
            processor = FlowOmniProcessor.from_pretrained(options.parts)
            recogniser = recogniser_of(options.recogniser, model, processor)
            asked = asked_of(options.say, options.topic, options.questions)
            size = sum(weight.numel() for weight in model.speech_head.parameters() if weight.requires_grad)
            for temperature in options.temperatures:
                figures = figures_of(model, processor, asked, recogniser, temperature)
                rows[f"{head}, seed {seed}, temperature {temperature:g}"] = figures | {
                    "weights of the head": f"{size:,}"
                }
                print(f"{head} {seed} {temperature:g}: {figures}", flush=True)
    said = [question for question in asked if question.task == "say"]
    of_originals = references(options.say, model, processor, said, recogniser)
    columns = {name: {row: cells[name] for row, cells in rows.items()} for name in next(iter(rows.values()))}
    note = (
        f"{options.steps} steps each. Wrong characters of the originals {of_originals['originals']}, through the vocoder "
        f"{of_originals['through the vocoder']}."
    )
    show([Table(f"Heads, trained on {options.say.name}", columns, note)], options.markdown, options.json)


if __name__ == "__main__":
    main()
