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
"""One evaluation from a model and rows to its results: answers, sweeps, speed, and what is told about them."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from tqdm import tqdm

from ..modeling_flow_omni.generation_flow_omni import GENERATION_DEFAULTS
from ..training.recognisers import Recogniser
from .answering import Answered, answers_to
from .figures import figures_of
from .identities import digest_of, digest_of_questions, digest_of_recogniser
from .journal import Journal
from .judging import AnswerRecord, Judge, OriginalRecord, original_key
from .machine import describe_machine
from .questions import AskedRow
from .results import Results
from .robustness import GENERATION_SWEEPS, Point, check_sweeps, points_of, questions_for, row_of
from .samples import SampleFolder, samples_of
from .speed import measure_speed
from .text_errors import simplifier, spellings


MAIN = ""


@dataclass
class Settings:
    """
    How a model is evaluated.

    Args:
        batch_size (`int`): Questions answered at once.
        seed (`int`): With the number of a row, its source of noise.
        language (`str`): How texts are compared.
        sweeps (`list[str]`): Some of `robustness.SWEEPS`, or `all`.
        sweep_limit (`int`, *optional*): Questions of each task in a sweep.
        num_samples (`int`): Answers of each task to keep, and as many faulty ones.
        num_timed (`int`): Questions to take the time of, one by one.
        options (`dict`): Of `generate`.
    """

    batch_size: int = 8
    seed: int = 0
    language: str = "en"
    sweeps: Sequence[str] = ()
    sweep_limit: int | None = 100
    num_samples: int = 4
    num_timed: int = 8
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for name, least in {"batch_size": 1, "seed": 0, "sweep_limit": 1, "num_samples": 0, "num_timed": 0}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"`{name}` is {value}: it must be at least {least}.")
        self.sweeps = check_sweeps(self.sweeps)


def evaluate(
    model: Any,
    processor: Any,
    questions: Sequence[AskedRow],
    recognisers: Mapping[str, Recogniser],
    folder: str | os.PathLike,
    settings: Settings | None = None,
    tell: Callable[[str], None] | None = None,
    is_quiet: bool = True,
    **about: Any,
) -> Results:
    """
    Evaluates a model, and writes what was found into `folder`: `results.json`, samples, and every answer as a line of
    `answers.jsonl`. Stopped, the same evaluation goes on where it was.

    Args:
        model (`FlowOmniForSpeechGeneration`): Which is asked.
        processor (`FlowOmniProcessor`): The model's.
        questions (`list[AskedRow]`): From [`questions_of`].
        recognisers (`dict[str, Recogniser]`): Who listens, by name.
        folder (`str`): Where files go.
        settings (`Settings`, *optional*): How.
        tell (`Callable`, *optional*): Called with a line at each stage.
        is_quiet (`bool`): Whether to show no progress bar.
        about: `checkpoint`, `data`, `command`, `notes` of the results.

    Returns:
        [`Results`], for which [`write_reports`] makes the pages.
    """
    evaluation = Evaluation(model, processor, questions, recognisers, folder, settings or Settings(), tell, is_quiet)
    try:
        return evaluation.run(**about)
    finally:
        evaluation.journal.close()


class Evaluation:
    """The state of an evaluation that is running."""

    def __init__(self, model, processor, questions, recognisers, folder, settings: Settings, tell, is_quiet):
        self.model, self.processor, self.questions, self.settings = model.eval(), processor, list(questions), settings
        self.folder = folder
        self.tell = tell or (lambda line: None)
        self.is_quiet = is_quiet
        self.notes: list[str] = []
        if model.vocoder is None and self._spoken(self.questions):
            self.notes.append("The model has no vocoder: nothing that it said could be heard or measured.")
        if settings.language == "en" and not spellings():
            self.notes.append("British spellings count as errors: openai-whisper, which knows them, is not installed.")
        if settings.language == "zh" and simplifier() is None:
            self.notes.append(
                "Traditional characters for simplified ones count as errors: opencc-python-reimplemented, which knows them, "
                "is not installed."
            )
        self.judge = Judge(model, processor, recognisers, settings.language)
        self.journal = Journal(folder, self._conditions(recognisers))
        self.samples = SampleFolder(folder, self.questions, settings.num_samples, settings.language)
        if self.journal.num_found:
            self.tell(f"{self.journal.path}: {self.journal.num_found} answers of an evaluation that was stopped.")
            self.samples.take_over(self.journal)
        else:
            self.samples.clear()

    def _conditions(self, recognisers: Mapping[str, Recogniser]) -> dict[str, Any]:
        """All that an answer and what is heard of it depend on."""
        settings = self.settings
        return {
            "model": digest_of(self.model),
            "dtype": str(self.model.dtype),
            "device": self.model.device.type,
            # of all: what some are asked may hold the babble of others
            "questions": digest_of_questions(self.questions),
            "recognisers": [(name, digest_of_recogniser(one)) for name, one in recognisers.items()],
            "seed": settings.seed,
            "language": settings.language,
            "options": settings.options,
            "num_samples": settings.num_samples,
        }

    def run(self, checkpoint: str = "", data: str = "", command: str = "", notes: Sequence[str] = ()) -> Results:
        """All of it, in the order in which it is of use if the rest should fail."""
        self.tell(f"Asking {len(self.questions)} questions.")
        answers = self.answers(MAIN, self.questions)
        originals = list(
            {key: self.journal.originals[key] for key in map(original_key, self._spoken(self.questions))}.values()
        )
        speed = self._speed(answers)
        sweeps = self._sweeps()
        results = Results(
            checkpoint=checkpoint,
            data=data,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=describe_machine(self.model.device),
            command=command,
            settings=self._told_settings(),
            figures=figures_of(answers, originals, self.settings.language, self.settings.seed),
            sweeps=sweeps,
            speed=speed,
            samples=samples_of(answers, self.settings.language),
            notes=[*notes, *self.notes],
        )
        results.save(self.folder)
        self.journal.finish()
        return results

    def answers(self, part: str, questions: Sequence[AskedRow], point: Point | None = None) -> list[AnswerRecord]:
        """The judged answers of a part, those that are in the journal and the others, in the order of the questions."""
        spoken = self._spoken(questions)
        for asked in tqdm(spoken, "originals", unit=" originals", disable=self.is_quiet, leave=False):
            self._original(asked)
        missing = [asked for asked in questions if _key(part, asked) not in self.journal.answers]
        options, change = dict(self.settings.options), None
        if point is not None:
            options |= point.options
            change = point.change
        if point is not None and point.sweep not in GENERATION_SWEEPS:
            # what a changed question does to the answer shows in its text
            options["return_audio"] = False
        answered = answers_to(
            missing,
            self.model,
            self.processor,
            self.settings.batch_size,
            self.settings.seed,
            change,
            part or "answers",
            self.is_quiet,
            **options,
        )
        for batch in answered:
            self.journal.add(*(self._judged(part, one) for one in batch))
        return [self.journal.answers[_key(part, asked)] for asked in questions]

    def _judged(self, part: str, answered: Answered) -> AnswerRecord:
        original = self._original(answered.asked) if answered.asked.is_spoken else None
        record = self.judge.answer(part, answered, original)
        if part == MAIN:
            self.samples.offer(record, answered, self.processor.sampling_rate)
        return record

    def _original(self, asked: AskedRow) -> OriginalRecord:
        """What is known of the original, heard once for all tasks."""
        if original_key(asked) not in self.journal.originals:
            self.journal.add(self.judge.original(asked))
        return self.journal.originals[original_key(asked)]

    def _spoken(self, questions: Sequence[AskedRow]) -> list[AskedRow]:
        return [asked for asked in questions if asked.is_spoken]

    def _speed(self, answers: Sequence[AnswerRecord]) -> dict[str, float]:
        if self.settings.num_timed == 0:
            return {}
        self.tell("Taking the time of single questions.")
        speed = measure_speed(
            self.questions,
            self.model,
            self.processor,
            self.settings.num_timed,
            self.settings.seed,
            **self.settings.options,
        )
        speech_seconds = sum(record.speech_seconds for record in answers)
        if speech_seconds > 0:
            seconds = sum(record.seconds for record in answers if record.is_spoken)
            speed["batch_real_time_factor"] = seconds / speech_seconds
        return speed

    def _sweeps(self) -> dict[str, list[dict[str, Any]]]:
        sweeps: dict[str, list[dict[str, Any]]] = {}
        for name in self.settings.sweeps:
            asked = questions_for(name, self.questions, self.settings.sweep_limit)
            reason = self._why_no_sweep(name, asked)
            if reason is not None:
                self.notes.append(f"The sweep {name} is left out: {reason}.")
                self.tell(self.notes[-1])
                continue
            self.tell(f"Sweeping {name} over {len(asked)} questions.")
            for point in points_of(name, self.questions, self.settings.seed):
                is_changed = point.change is not None or point.options
                records = self.answers(point.part if is_changed else MAIN, asked, point if is_changed else None)
                row = row_of(point, records, self.settings.language, self.settings.seed)
                sweeps.setdefault(point.sweep, []).append(row)
        return sweeps

    def _why_no_sweep(self, name: str, asked: Sequence[AskedRow]) -> str | None:
        """Why a sweep would show nothing, if so."""
        if not asked:
            return "no row offers a task that shows it"
        if name in GENERATION_SWEEPS and self.model.vocoder is None:
            return "without a vocoder nothing can be heard of it"
        if name == "steps" and self.model.config.speech_config.head_type != "flow":
            return "the model's speech head takes no steps"
        return None

    def _told_settings(self) -> dict[str, Any]:
        """The settings, and what generation took from the checkpoint."""
        config = self.model.generation_config
        names = (*GENERATION_DEFAULTS, "max_new_tokens")
        own = {name: getattr(config, name, None) for name in names if name != "generation_mode"}
        generation = GENERATION_DEFAULTS | {name: value for name, value in own.items() if value is not None}
        generation = {name: generation[name] for name in own if name in generation} | self.settings.options
        return asdict(self.settings) | {
            "options": generation,
            "tasks": list(dict.fromkeys(asked.task for asked in self.questions)),
            "num_questions": len(self.questions),
            "recognisers": list(self.judge.recognisers),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": self.model.device.type,
        }


def _key(part: str, asked: AskedRow) -> tuple:
    return part, asked.task, asked.number
