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
"""Evaluates a model on a data set: asks, transcribes, measures, and writes the results."""

import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers
from tqdm import tqdm

from ..processing.audio_io import write_audio
from ..training.asr import ASRModel, load_asr, transcribe
from ..training.metrics import Answer, Question, answer_batch
from .questions import (
    QUESTION_SAMPLING_RATE,
    SPEAKING_TASKS,
    UNDERSTANDING_TASKS,
    EvaluationQuestion,
    spread,
)
from .results import REFERENCE, VOCODED, AnswerLog, AnswerRecord, Results, compute_metrics, headline_metrics
from .stop_errors import find_silences, find_stop_errors
from .sweeps import AUDIO_SWEEPS, Point, check_sweeps, sweep_points, sweep_questions
from .understanding import Agreement, measure_agreement, transcribe_by_ctc


# of answers in `UNDERSTANDING_TASKS`, unless an argument of `generate` says otherwise
MAX_NEW_TOKENS = 64


@dataclass
class Settings:
    """How a model is evaluated."""

    batch_size: int = 8
    seed: int = 0  # with the number of a row, the seed of its answer
    language: str = "en"  # of the text normaliser
    sweeps: Sequence[str] = ()  # of `SWEEPS`, or `all`
    sweep_limit: int | None = 100  # questions of each task in a sweep
    num_samples: int = 8  # answers of each task kept as audio
    num_timed: int = 8  # questions timed one by one
    generation: dict[str, Any] = field(default_factory=dict)  # arguments of `generate`

    def __post_init__(self):
        self.sweeps = check_sweeps(self.sweeps)


def load_asr_models(
    names: Sequence[str], model: Any, processor: Any, language: str = "en"
) -> tuple[dict[str, ASRModel], list[str]]:
    """ASR models by name (see [`load_asr`]; by default openai-whisper), and notes for the reader of the results."""
    if list(names) == ["none"]:
        return {}, ["Spoken answers were not transcribed (no ASR model)."]
    if len(set(names)) < len(names) or "none" in names:
        raise ValueError(f"The ASR models are {', '.join(names)}: name each once, or `none` alone.")
    default = "whisper:base.en" if language == "en" else "whisper:base"
    labels = {name: Path(name).name if Path(name).is_dir() else name for name in names or [default]}
    try:
        return {label: load_asr(name, model, processor, language) for name, label in labels.items()}, []
    except ValueError as error:
        if names:
            raise
        return {}, [f"Spoken answers were not transcribed. {error}"]


def evaluate(
    model: Any,
    processor: Any,
    questions: Sequence[EvaluationQuestion],
    asr_models: Mapping[str, ASRModel],
    output: str | os.PathLike,
    settings: Settings | None = None,
    *,
    checkpoint: str = "",
    data: str = "",
    command: str = "",
    notes: Sequence[str] = (),
    log: Callable[[str], None] = lambda line: None,
    show_progress: bool = False,
) -> Results:
    """
    Evaluates a model on the questions of [`load_questions`] with the ASR models of [`load_asr_models`], the first of which
    decides on stop errors. Writes `answers.jsonl`, `samples/` and `results.json` into the folder `output`; called again with
    the same arguments, an interrupted evaluation goes on where it was. `log` is called with a line at each stage.
    """
    settings = settings or Settings()
    evaluation = Evaluation(model.eval(), processor, questions, asr_models, output, settings, show_progress)
    log(f"{len(questions)} questions; {evaluation.log.path} has {len(evaluation.log.records)} records.")
    answers = evaluation.answer(questions)
    references = [record for record in evaluation.log.records.values() if record.part in (REFERENCE, VOCODED)]
    metrics = compute_metrics([*answers, *references], settings.language, settings.seed)
    log("Timing single questions.")
    speed = measure_speed(questions, model, processor, settings)
    sweeps, skipped = evaluation.sweep(log)
    evaluation.log.file.close()
    machine, created = describe_machine(model.device), datetime.now(UTC).isoformat(timespec="seconds")
    all_settings = asdict(settings) | evaluation.answer_settings()
    results = Results(checkpoint, data, command, created, machine, all_settings, metrics, sweeps, speed)
    results.headlines = headline_metrics(metrics, speed, data, machine)
    results.samples = [record for record in answers if record.files]
    results.notes = [*notes, *skipped]
    results.save(output)
    return results


class Evaluation:
    """The state of a running evaluation; see [`evaluate`]."""

    def __init__(self, model, processor, questions, asr_models, output, settings: Settings, show_progress):
        self.model, self.processor, self.settings, self.show_progress = model, processor, settings, show_progress
        self.questions, self.asr_models, self.folder = list(questions), dict(asr_models), Path(output)
        self.rate = processor.sampling_rate
        weights = digest(*(float(one.float().sum()) for one in model.state_dict().values()))
        self.log = AnswerLog(output, self.answer_settings() | {"weights": weights})
        by_task = [[one for one in questions if one.task == task] for task in {one.task for one in questions}]
        self.samples = {(one.task, one.number) for group in by_task for one in spread(group, settings.num_samples)}
        # questions of several speakers may share a reference: one of them stands for it
        self.references = {one.reference_key: one for one in reversed(self.questions) if one.is_spoken}

    def answer_settings(self) -> dict[str, Any]:
        """Everything that answers depend on, but the weights."""
        defaults = self.model.generation_defaults
        own = {name: getattr(self.model.generation_config, name, None) for name in defaults}
        own = {name: value for name, value in own.items() if value is not None}
        return {
            "tasks": list(dict.fromkeys(question.task for question in self.questions)),
            "num_questions": len(self.questions),
            "questions": digest(*((one.task, one.number, one.id, one.reference) for one in self.questions)),
            "asr": list(self.asr_models),
            "language": self.settings.language,
            "seed": self.settings.seed,
            "generation": defaults | own | self.settings.generation,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": self.model.device.type,
        }

    def answer(self, questions: Sequence[EvaluationQuestion], point: Point | None = None) -> list[AnswerRecord]:
        """The records of all questions, answered where `answers.jsonl` has none."""
        part, change, generation = ("", None, {}) if point is None else (point.part, point.change, point.generation)
        options = {"do_sample": False} | self.settings.generation | generation
        if change is not None:
            options["return_audio"] = False  # answers to changed questions are judged by their text
        missing = [one for one in questions if (part, one.task, one.number) not in self.log.records]
        all_batches = batches(missing, self.settings.batch_size)
        for batch in tqdm(all_batches, part or "batches", disable=not self.show_progress, leave=False):
            prepared = [one.to_question(self.processor, change) for one in batch]
            # a seed for each row, so that an answer does not depend on its batch
            options["seed"] = [self.settings.seed + one.number for one in batch]
            start = time.perf_counter()
            answers = self.ask(batch, prepared, options)
            seconds = (time.perf_counter() - start) / len(batch)
            for question, (answer, agreement) in zip(batch, answers):
                record = self.judge(part, question, answer, seconds)
                record.agreement = None if agreement is None else asdict(agreement)
                self.log.add(record)
        return [self.log.records[part, one.task, one.number] for one in questions]

    def sweep(self, log: Callable[[str], None]) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """The sweeps of the settings, and notes about what the model lacks."""
        settings, sweeps, notes = self.settings, {}, []
        if self.model.vocoder is None:
            notes.append("The model has no vocoder: its speech was not evaluated.")
        for name in settings.sweeps:
            questions = sweep_questions(name, self.questions, settings.sweep_limit)
            has_solver = self.model.config.speech_config.head_type == "flow"
            has_parts = self.model.vocoder is not None and (has_solver or name != "solver_steps")
            if not questions or (name not in AUDIO_SWEEPS and not has_parts):
                notes.append(f"The sweep {name} was left out: the model or the data set lack what it needs.")
                continue
            log(f"Sweep {name}: {len(questions)} questions.")
            for point in sweep_points(name, self.questions, settings.seed):
                records = self.answer(questions, point)
                metrics = compute_metrics(records, settings.language, settings.seed, name not in AUDIO_SWEEPS)
                sweep = sweeps.setdefault(point.sweep, {"axis": point.axis, "points": []})
                sweep["points"].append({"value": point.value, "metrics": metrics})
        return sweeps, notes

    def ask(
        self, batch: Sequence[EvaluationQuestion], prepared: Sequence[Question], options: Mapping[str, Any]
    ) -> list[tuple[Answer, Agreement | None]]:
        """The answers to questions of one task, and what the task `agreement` compares."""
        task, model, processor = batch[0].task, self.model, self.processor
        if task in UNDERSTANDING_TASKS:
            options = {"max_new_tokens": MAX_NEW_TOKENS} | options
        if task == "transcribe_ctc":
            texts = transcribe_by_ctc(model, processor, [question.prompt for question in prepared])
            pairs = zip(prepared, texts)
            return [(Answer(task, question.reference, text, is_spoken=False), None) for question, text in pairs]
        if task != "agreement":
            return [(answer, None) for answer in answer_batch(model, processor, prepared, **options)]
        answers = []
        for one, question in zip(batch, prepared):
            written = one.to_question(processor, in_writing=True)
            limit = options["max_new_tokens"]
            text, agreement = measure_agreement(model, processor, question.prompt, written.prompt, limit)
            answers.append((Answer(task, question.reference, text, is_spoken=False), agreement))
        return answers

    def judge(self, part: str, question: EvaluationQuestion, answer: Answer, seconds: float) -> AnswerRecord:
        """The record of an answer; the audio of a sample is written."""
        record = AnswerRecord(*question.about(part), answer.text, seconds)
        record.accepted_answers = question.accepted_answers
        if answer.waveform is not None:
            silences, reference = find_silences(answer.waveform, self.rate), self.reference_record(question)
            record.speech_seconds = len(answer.waveform) / self.rate
            record.transcripts = self.transcribe(answer.waveform)
            asr = next(iter(self.asr_models), None)
            record.stop_errors = find_stop_errors(
                *(answer.text, silences, answer.is_truncated, question.reference, reference.speech_seconds),
                *(record.transcripts.get(asr), reference.transcripts.get(asr), self.settings.language),
            )
        if not part and (question.task, question.number) in self.samples:
            record.files = self.save_sample(question, answer)
        return record

    @torch.no_grad()
    def reference_record(self, question: EvaluationQuestion) -> AnswerRecord:
        """The reference audio and its transcripts. After the vocoder, it is the best that the model could do."""
        question = self.references[question.reference_key]
        if (VOCODED, question.task, question.number) not in self.log.records:
            waveform, vocoder = question.load(question.spec.answer_audio, self.rate), self.model.vocoder
            mel = self.processor.feature_extractor.extract_mel(waveform).flatten(0, 1)
            mel = mel.clamp(min=self.model.config.speech_config.mel_floor)
            vocoded = vocoder(mel[None].to(vocoder.device))[0].float().cpu().numpy()
            for part, audio in ((REFERENCE, waveform), (VOCODED, vocoded)):
                record = AnswerRecord(*question.about(part), question.reference, transcripts=self.transcribe(audio))
                record.speech_seconds = find_silences(audio, self.rate).speech
                self.log.add(record)
        return self.log.records[REFERENCE, question.task, question.number]

    def transcribe(self, waveform: np.ndarray) -> dict[str, str]:
        return {name: transcribe(asr, waveform, self.rate) for name, asr in self.asr_models.items()}

    def save_sample(self, question: EvaluationQuestion, answer: Answer) -> dict[str, str]:
        audios = {"question": (question.load("question_audio"), QUESTION_SAMPLING_RATE)} if question.has_audio else {}
        if answer.waveform is not None and len(answer.waveform) > 0:
            audios["answer"] = (np.clip(answer.waveform, -1.0, 1.0), self.rate)
        if question.is_spoken:
            audios["reference"] = (question.load(question.spec.answer_audio, self.rate), self.rate)
        (self.folder / "samples").mkdir(exist_ok=True)
        stem = f"samples/{question.task}-{re.sub(r'[^A-Za-z0-9_-]+', '_', question.id)[-60:]}-{question.number}"
        for name, audio in audios.items():
            write_audio(self.folder / f"{stem}-{name}.wav", *audio)
        return {name: f"{stem}-{name}.wav" for name in audios}


def batches(questions: Sequence[EvaluationQuestion], batch_size: int) -> list[list[EvaluationQuestion]]:
    """Questions of one task with references of similar length, the longest first: what exceeds memory fails at once."""
    found = []
    for task in dict.fromkeys(question.task for question in questions):
        group = [question for question in questions if question.task == task]
        group.sort(key=lambda question: (-len(question.reference), question.number))
        found += [group[start : start + batch_size] for start in range(0, len(group), batch_size)]
    return found


@torch.no_grad()
def measure_speed(
    questions: Sequence[EvaluationQuestion], model: Any, processor: Any, settings: Settings
) -> dict[str, float]:
    """Median latencies of single questions, streamed, and the real-time factor: computing over speech in seconds."""
    by_task = [[one for one in questions if one.task == task] for task in reversed(SPEAKING_TASKS)]
    chosen = spread(next(filter(None, by_task), []), settings.num_timed)
    if not chosen or model.vocoder is None:
        return {}
    options = {"generation_mode": "speech", "do_sample": False, "seed": settings.seed} | settings.generation
    texts, audios, seconds, num_samples = [], [], [], []
    for question in [chosen[0], *chosen]:  # the first one is a warm-up
        prompt = question.to_question(processor).prompt
        start = time.perf_counter()
        inputs = processor.apply_chat_template(
            prompt, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(model.device, dtype=model.dtype)
        steps = [
            (len(step.audio[0].cpu()), time.perf_counter() - start)  # reading the audio waits for the device
            for step in model.stream(**inputs, **options | {"return_audio": True})
        ]
        texts.append(steps[0][1])
        audios.append(next((now for length, now in steps if length > 0), steps[-1][1]))
        seconds.append(steps[-1][1])
        num_samples.append(sum(length for length, _ in steps))
    speed = {"num_rows": len(chosen), "first_text_ms": 1000 * median(texts[1:])}
    if sum(num_samples[1:]) > 0:
        speed["first_audio_ms"] = 1000 * median(audios[1:])
        speed["real_time_factor"] = sum(seconds[1:]) * processor.sampling_rate / sum(num_samples[1:])
    return speed


def describe_machine(device: torch.device) -> dict[str, str]:
    """Processor, threads, device and versions, without the machine's name."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return {
        "processor": next(iter(re.findall(r"^model name\s*: (.*)$", info, re.MULTILINE)), platform.machine()),
        "threads": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}",
    }


def digest(*values: Any) -> str:
    return blake2b(repr(values).encode(), digest_size=8).hexdigest()
