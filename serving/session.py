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
"""A conversation by voice: samples go in at any rate, events come out. No web in it."""

import functools
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ..processing.transcript_limit import transcript_limit
from .audio import StreamResampler
from .events import (
    AnswerDone,
    AnswerStarted,
    AudioChunk,
    Event,
    Interrupted,
    Item,
    SpeechStarted,
    SpeechStopped,
    Spoken,
    Status,
    TextDelta,
    Transcript,
    TurnCommitted,
)
from .prompts import Prompt, PromptCache, TurnAudio, Window, encode_window, render
from .step_loop import Row, StepLoop
from .turns import FRAME_SAMPLES, SAMPLING_RATE, TurnDetection, TurnDetector, TurnSignal, make_detector


# Speech over an answer that is shorter than this (a cough, "mhm"), or after which nothing came, was no interruption.
MIN_INTERRUPTION_MS = 500
FALSE_INTERRUPTION_MS = 2000
MIN_TURN_MS = 100
# Of text that was cut before its answer was complete, when no times are known: characters of speech per second.
CHARACTERS_PER_SECOND = 15
# Characters that one position of a prompt hardly ever exceeds, by which texts are measured before they are tokenized.
CHARACTERS_PER_POSITION = 16


@dataclass(frozen=True)
class SessionSettings:
    """
    Args:
        turn_detection: `None` where the caller commits turns.
        instructions: The system message.
        output: Whether answers are spoken and written, or written alone.
        transcribe: Whether the turns of the user are transcribed, beside the answer.
        window_seconds: Audio is encoded in windows of at most this length, each final once it has passed. A question
            that fits into one is encoded as in training; a longer one in parts, cut at a quiet place.
        max_turn_seconds: A turn of this length is committed, and goes on as the next.
        max_context: Positions of the prompt, beyond which the oldest items are forgotten. By default what the language
            model was made for, less the answer.
        generation: Options of `generate`, such as `max_new_tokens` or `seed`.
    """

    turn_detection: TurnDetection | None = field(default_factory=TurnDetection)
    instructions: str | None = None
    output: Literal["audio", "text"] = "audio"
    transcribe: bool = False
    window_seconds: float = 8.0
    max_turn_seconds: float = 60.0
    max_context: int | None = None
    generation: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if self.output not in ("audio", "text"):
            raise ValueError(f"`output` is {self.output!r}: choose audio or text.")
        if not 1.0 <= self.window_seconds <= 30.0:
            raise ValueError(f"`window_seconds` is {self.window_seconds}: it must lie between 1 and 30.")


@dataclass
class Turn:
    """What the user is saying."""

    item_id: str
    audio: TurnAudio
    candidate: list[Window] | None = None  # all windows, where the turn may have ended


@dataclass
class Answer:
    """
    An answer on its way. While it is `is_speculative` its events wait; while `is_paused` nothing is generated. Once it
    `is_generated` it may still be playing, and be interrupted.
    """

    item: Item
    epoch: int
    row: Row
    spoken: Spoken
    num_read: int  # positions of the prompt
    is_speculative: bool = False
    is_paused: bool = False
    is_generated: bool = False
    is_done: bool = False  # the item has had its `AnswerDone`
    waiting: list[Event] = field(default_factory=list)
    text: str = ""
    chunks: list[np.ndarray] = field(default_factory=list)
    num_positions: int = 0
    started_at: int | None = None  # the session's clock at the first chunk of the item
    paused_at: int = 0
    heard: int = 0  # samples played, while it is paused


@dataclass
class Transcription:
    item: Item
    row: Row
    tokens: list[int] = field(default_factory=list)
    text: str = ""


@dataclass
class SessionState:
    """All that changes in a session. Its clock is its input: the samples that it was given, at 16 kHz."""

    cache: PromptCache
    resampler: StreamResampler | None = None
    input_rate: int = 0
    detector: TurnDetector | None = None
    pending: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.float32))  # less than a frame
    recent: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.float32))  # before a turn starts
    clock: int = 0
    epoch: int = 0
    stale_epoch: int = 0  # output of this epoch and of those before it must not be sent any more
    turn: Turn | None = None
    answer: Answer | None = None
    must_respond: bool = False  # as soon as the answer has ended
    transcriptions: list[Transcription] = field(default_factory=list)
    history: list[Item] = field(default_factory=list)


class FlowOmniSession:
    """
    A conversation by voice with a model.

    ```python
    with FlowOmniSession(model, processor) as session:
        for chunk in microphone:  # float32 samples of any number, at 24 kHz
            for event in [*session.push(chunk, 24000), *session.step()]:
                ...
        session.close()
    ```
    `push` takes what is heard, `step` generates the next 1/23 s of an answer, `run` all that is left. As a context
    manager, it raises where a turn or an answer was left over without `close`.

    While the user speaks, windows that are complete are encoded, and read by the language model. At a pause that may be
    the end of the turn, the answer begins, and waits; it is thrown away if the user goes on. So what is left to do at
    the end of a turn is at most one window, however long the turn was.

    Args:
        model (`FlowOmniForSpeechGeneration`), processor (`FlowOmniProcessor`): The model.
        settings (`SessionSettings`, *optional*): See there.
        step_loop (`StepLoop`, *optional*): A loop shared with other sessions, so that their answers run as one batch:
            then step the `rows()` of all of them, and `take` the steps.
        make_detector (`Callable`, *optional*): Makes the detector for [`TurnDetection`] settings.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        settings: SessionSettings | None = None,
        step_loop: StepLoop | None = None,
        make_detector: Callable[[TurnDetection], TurnDetector] = make_detector,
    ):
        self.model, self.processor = model, processor
        self.settings = settings or SessionSettings()
        self.step_loop = step_loop or StepLoop(model)
        self.state = SessionState(PromptCache(model))
        if self.settings.output == "audio" and model.vocoder is None:
            raise ValueError('The model has no vocoder, and cannot speak: set `output="text"`.')
        self._check_text(self.settings.instructions or "")
        self._make_detector = make_detector
        if self.settings.turn_detection is not None:
            self.state.detector = make_detector(self.settings.turn_detection)

    @property
    def voices(self) -> list[str]:
        """The voices of the model: those of its speech decoder, or the only one."""
        return voices_of(self.model)

    @property
    def history(self) -> list[Item]:
        return self.state.history

    @property
    def output_rate(self) -> int:
        return self.processor.sampling_rate

    @property
    def is_busy(self) -> bool:
        """Whether there is something to generate."""
        return bool(self.rows())

    def update(self, settings: SessionSettings) -> None:
        """Changes the settings, from the next turn and the next answer on."""
        self._check_text(settings.instructions or "")
        if settings.output == "audio" and self.model.vocoder is None:
            raise ValueError('The model has no vocoder, and cannot speak: set `output="text"`.')
        if settings.turn_detection != self.settings.turn_detection:
            detector = self._make_detector(settings.turn_detection) if settings.turn_detection else None
            self._drop_turn()
            self.state.detector = detector
        self.settings = settings

    # --- listening

    def push(self, samples: np.ndarray, sampling_rate: int = SAMPLING_RATE) -> list[Event]:
        """Takes the next samples `(num_samples,)` of the microphone, float32, as many as there are."""
        state = self.state
        if sampling_rate != state.input_rate:
            state.resampler, state.input_rate = StreamResampler(sampling_rate, SAMPLING_RATE), sampling_rate
        samples = np.concatenate([state.pending, state.resampler.push(np.asarray(samples, dtype=np.float32))])
        num_frames = len(samples) // FRAME_SAMPLES
        state.pending = samples[num_frames * FRAME_SAMPLES :]
        frames = samples[: num_frames * FRAME_SAMPLES].reshape(num_frames, FRAME_SAMPLES)
        if state.detector is None:
            return self._push_without_detection(frames.reshape(-1))
        return [event for frame in frames for event in self._push_frame(frame)]

    def _push_without_detection(self, samples: np.ndarray) -> list[Event]:
        state = self.state
        state.clock += len(samples)
        if len(samples) == 0:
            return []
        state.turn = state.turn or self._new_turn()
        num_samples = state.turn.audio.num_samples + len(samples)
        if num_samples > self.settings.max_turn_seconds * SAMPLING_RATE:
            raise ValueError(
                f"The turn is longer than {self.settings.max_turn_seconds:g} s: commit it, or clear its audio."
            )
        if state.turn.audio.push(samples):
            self._read_ahead()
        return []

    def _push_frame(self, frame: np.ndarray) -> list[Event]:
        state, settings = self.state, self.settings.turn_detection or TurnDetection()
        state.clock += len(frame)
        events: list[Event] = []
        signals = state.detector.push(frame)
        if state.turn is not None and state.turn.audio.push(frame):
            self._read_ahead()
        for signal in signals:
            if signal.kind == "started":
                kept = state.clock - signal.sample + settings.prefix_padding_ms * SAMPLING_RATE // 1000
                state.turn = self._new_turn()
                state.turn.audio.push(np.concatenate([state.recent, frame])[-kept:])
                started = max(0, state.clock - state.turn.audio.num_samples)
                events.append(SpeechStarted(state.turn.item_id, _milliseconds(started)))
                if settings.interrupt_response:
                    events += self._pause()
            else:
                events += getattr(self, f"_on_{signal.kind}")(signal, settings)
        if state.turn is None:
            num_kept = settings.prefix_padding_ms * SAMPLING_RATE // 1000 + 2 * FRAME_SAMPLES
            state.recent = np.concatenate([state.recent, frame])[-num_kept:]
        else:
            events += self._judge_interruption()
            events += self._split_long_turn()
        return events

    def _on_candidate(self, signal: TurnSignal, settings: TurnDetection) -> list[Event]:
        state = self.state
        if signal.speech_ms < MIN_TURN_MS:
            return []
        state.turn.candidate = state.turn.audio.all_windows()
        if settings.create_response and not self._is_answering() and not self._is_paused():
            state.answer = None
            item = Item(state.turn.item_id, "user", windows=state.turn.candidate)
            self._start_answer([*state.history, item], {}, is_speculative=True)
        return []

    def _on_continued(self, signal: TurnSignal, settings: TurnDetection) -> list[Event]:
        self.state.turn.candidate = None
        self._drop_speculation()
        return []

    def _on_stopped(self, signal: TurnSignal, settings: TurnDetection) -> list[Event]:
        state = self.state
        events: list[Event] = [SpeechStopped(state.turn.item_id, _milliseconds(state.clock))]
        if self._is_paused():
            # `_judge_interruption` has closed the answers that were really interrupted
            self._drop_turn()
            return events + self._resume()
        return events + self._commit_turn(settings.create_response)

    def _new_turn(self) -> Turn:
        return Turn(_new_id(), self._new_audio())

    def _new_audio(self) -> TurnAudio:
        encode = functools.partial(encode_window, self.model, self.processor)
        return TurnAudio(encode, self.settings.window_seconds)

    def _drop_turn(self) -> None:
        state = self.state
        self._drop_speculation()
        state.turn = None
        state.recent = np.zeros(0, dtype=np.float32)
        if state.detector is not None:
            state.detector.reset()

    def _split_long_turn(self) -> list[Event]:
        """Commits a turn that is too long for one, without an answer: the user still speaks."""
        turn = self.state.turn
        if turn is None or turn.audio.num_samples < self.settings.max_turn_seconds * SAMPLING_RATE:
            return []
        turn.candidate = None
        self._drop_speculation()
        events = self._commit_turn(False)
        self.state.turn = self._new_turn()
        return events

    def _commit_turn(self, must_respond: bool) -> list[Event]:
        state, turn = self.state, self.state.turn
        state.turn, state.recent = None, np.zeros(0, dtype=np.float32)
        windows = turn.candidate or turn.audio.all_windows()
        item = Item(turn.item_id, "user", windows=windows)
        state.history.append(item)
        self._forget()
        events: list[Event] = [TurnCommitted(item.id)]
        if self.settings.transcribe:
            events += self.transcribe(item)
        if state.answer is not None and state.answer.is_speculative:
            return events + (self._confirm_speculation() if must_respond else [])
        return events + (self._respond_when_free() if must_respond else [])

    def _respond_when_free(self) -> list[Event]:
        if self._is_answering():
            self.state.must_respond = True
            return []
        return self.respond()

    def commit(self, must_respond: bool = False) -> list[Event]:
        """Ends the turn, whatever the detector says."""
        turn = self.state.turn
        num_samples = turn.audio.num_samples if turn else 0
        if num_samples < MIN_TURN_MS * SAMPLING_RATE // 1000:
            raise ValueError(
                f"The turn has {_milliseconds(num_samples)} ms of audio: at least {MIN_TURN_MS} ms are needed."
            )
        turn.candidate = None
        self._drop_speculation()
        events = self._close_paused()
        if self.state.detector is not None:
            self.state.detector.reset()
        return events + self._commit_turn(must_respond)

    def clear(self) -> list[Event]:
        """Forgets the audio of the turn."""
        self.state.pending = np.zeros(0, dtype=np.float32)
        self._drop_turn()
        return self._resume() if self._is_paused() else []

    def _read_ahead(self) -> None:
        """Lets the language model read the windows that are final, unless an answer may still need the cache."""
        turn, state = self.state.turn, self.state
        if turn is not None and turn.audio.windows and not self._is_answering():
            item = Item(turn.item_id, "user", windows=list(turn.audio.windows))
            state.cache.read(self._prompt([*state.history, item]).up_to_audio())

    # --- answering

    def respond(self, **generation) -> list[Event]:
        """
        Answers the conversation as it is. `generation` are options of `generate`, and `output` and `instructions`,
        instead of those of the settings.
        """
        state = self.state
        self._drop_speculation()
        if self._is_answering():
            raise ValueError(f"The answer {state.answer.item.id} is not finished: wait for its end, or cancel it.")
        if not any(item.role == "user" for item in state.history):
            raise ValueError("There is nothing to answer: add a message or a turn of the user.")
        state.answer = None
        return self._start_answer(state.history, generation)

    def _is_paused(self) -> bool:
        return self.state.answer is not None and self.state.answer.is_paused

    def _is_answering(self) -> bool:
        return self.state.answer is not None and not self.state.answer.is_generated

    def _start_answer(self, history: list[Item], generation: dict, is_speculative: bool = False) -> list[Event]:
        state = self.state
        generation = self.settings.generation | generation
        output = generation.pop("output", self.settings.output)
        generation["generation_mode"] = "speech" if output == "audio" else "text"
        prompt = self._prompt(history, generation.pop("instructions", None))
        row = self.step_loop.add(state.cache.inputs(prompt), **generation)
        state.cache.keys = list(prompt.keys)
        state.epoch += 1
        spoken = Spoken()
        item = Item(_new_id(), "assistant", spoken=spoken if output == "audio" else None)
        state.answer = Answer(item, state.epoch, row, spoken, len(prompt.ids), is_speculative)
        started = AnswerStarted(item.id, state.epoch)
        if is_speculative:
            state.answer.waiting.append(started)
            return []
        state.history.append(item)
        return [started]

    def _confirm_speculation(self) -> list[Event]:
        answer = self.state.answer
        answer.is_speculative = False
        self.state.history.append(answer.item)
        if answer.chunks:
            answer.started_at = self.state.clock
        events, answer.waiting = answer.waiting, []
        return events

    def _drop_speculation(self) -> None:
        answer = self.state.answer
        if answer is not None and answer.is_speculative:
            answer.row.close()
            self.state.answer = None

    def rows(self) -> list[Row]:
        """The rows to step: that of the answer, and those of transcripts, once the answer is heard."""
        answer, state = self.state.answer, self.state
        rows = [answer.row] if self._is_answering() and not answer.is_paused else []
        if not rows or answer.chunks or answer.item.spoken is None:
            rows += [transcription.row for transcription in state.transcriptions]
        return rows

    def step(self) -> list[Event]:
        """Generates the next position of the answer, and of transcripts."""
        rows = self.rows()
        steps = dict(self.step_loop.step(rows))
        return [event for row in rows for event in self.take(row, steps.get(row))]

    def run(self) -> Iterator[Event]:
        """Generates until nothing is left."""
        while self.is_busy:
            yield from self.step()

    def take(self, row: Row, step: Any | None) -> list[Event]:
        """The events of a step of one of `rows()`, or of its failure. Rows that were dropped since give none."""
        answer = self.state.answer
        if answer is not None and row is answer.row:
            if step is None:
                self.state.cache.clear()
                return self._end_answer("failed", str(row.error))
            events = self._take_answer(answer, step)
            if answer.is_speculative:
                answer.waiting += events
                return []
            return events
        for transcription in self.state.transcriptions:
            if row is transcription.row:
                return self._take_transcript(transcription, step)
        return []

    def _take_answer(self, answer: Answer, step: Any) -> list[Event]:
        events: list[Event] = []
        item, spoken = answer.item, answer.spoken
        if bool(step.is_text[0]):
            spoken.tokens.append(int(step.text_ids[0]))
            spoken.positions.append(answer.num_positions)
        is_finished = bool(step.is_finished[0])
        if (bool(step.is_text[0]) or is_finished) and (delta := self._new_text(answer, is_finished)):
            events.append(TextDelta(item.id, answer.epoch, delta))
        answer.num_positions += 1
        if item.spoken is not None and step.audio and len(step.audio[0]):
            chunk = step.audio[0].float().clamp(-1.0, 1.0).cpu().numpy()
            answer.chunks.append(chunk)
            spoken.num_samples += len(chunk)
            if answer.started_at is None and not answer.is_speculative:
                answer.started_at = self.state.clock
            events.append(AudioChunk(item.id, answer.epoch, chunk, self.output_rate))
        if is_finished:
            answer.is_generated = spoken.is_complete = True
            events += self._done(self._status_at_end(answer, step))
        return events

    def _status_at_end(self, answer: Answer, step: Any) -> Status:
        if answer.item.spoken is not None:
            return "incomplete" if bool(step.speech_truncated[0]) else "completed"
        has_ended = answer.spoken.tokens and answer.spoken.tokens[-1] in _end_ids(self.model)
        return "completed" if has_ended else "incomplete"

    def _new_text(self, answer: Answer, is_last: bool) -> str:
        """The text that the newest token adds. Bytes of a character that is not complete add nothing yet."""
        text = self._decode(answer.spoken.tokens)
        if text.endswith("\ufffd") and not is_last:
            return ""
        delta, answer.text = text[len(answer.text) :], text
        answer.item.text = text[answer.item.first_character :]
        return delta

    def _decode(self, tokens: list[int]) -> str:
        return self.processor.tokenizer.decode(tokens, skip_special_tokens=True)

    def _done(self, status: Status, error: str | None = None) -> list[Event]:
        state, answer = self.state, self.state.answer
        answer.is_done = True
        done = AnswerDone(
            answer.item.id, answer.epoch, answer.item.text, status, error, answer.num_read, answer.num_positions
        )
        events: list[Event] = [done]
        if answer.item.spoken is None and answer.is_generated and not answer.is_speculative:
            state.answer = None
        return events + self._respond_at_last()

    def _respond_at_last(self) -> list[Event]:
        """Answers a turn that ended while another answer was on its way."""
        state = self.state
        if not state.must_respond or self._is_answering():
            return []
        state.must_respond = False
        return self.respond()

    def _end_answer(self, status: Status, error: str | None = None) -> list[Event]:
        """Ends an answer before its time."""
        state, answer = self.state, self.state.answer
        answer.row.close()
        answer.is_generated = True
        state.stale_epoch, state.epoch = answer.epoch, state.epoch + 1
        if answer.is_speculative:
            state.answer = None
            return []
        events = [] if answer.is_done else self._done(status, error)
        state.answer = state.answer if state.answer is not answer else None
        return events

    def cancel(self) -> list[Event]:
        """Ends the answer. Its text stays in the history, until `truncate` says how much of it was heard."""
        if not self._is_answering() or self.state.answer.is_speculative:
            raise ValueError("There is no answer to cancel.")
        return self._end_answer("cancelled")

    # --- interruptions

    def _pause(self) -> list[Event]:
        """Stops the answer at once. Whether this is an interruption will show."""
        state, answer = self.state, self.state.answer
        if answer is None or answer.is_speculative:
            return []
        available = answer.spoken.num_samples - answer.item.first_sample
        elapsed = 0 if answer.started_at is None else state.clock - answer.started_at
        played = elapsed * self.output_rate // SAMPLING_RATE
        if answer.is_generated and played >= available:
            state.answer = None
            return []
        answer.is_paused, answer.paused_at = True, state.clock
        state.stale_epoch, state.epoch = answer.epoch, state.epoch + 1
        events: list[Event] = []
        milliseconds = min(played, available) * 1000 // self.output_rate
        events.append(Interrupted(answer.item.id, answer.epoch, milliseconds))
        if answer.item.spoken is not None:
            self._cut(answer.item, answer.item.first_sample + min(played, available))
        return events

    def _judge_interruption(self) -> list[Event]:
        """Ends a paused answer once the user has spoken long enough, or resumes it when nothing came."""
        state, answer = self.state, self.state.answer
        if not self._is_paused():
            return []
        if state.detector.speech_ms >= MIN_INTERRUPTION_MS:
            events = self._close_paused()
            self._read_ahead()
            return events
        if _milliseconds(state.clock - answer.paused_at) >= FALSE_INTERRUPTION_MS:
            stopped = SpeechStopped(state.turn.item_id, _milliseconds(state.clock))
            self._drop_turn()
            return [stopped, *self._resume()]
        return []

    def _close_paused(self) -> list[Event]:
        return self._end_answer("interrupted") if self._is_paused() else []

    def _resume(self) -> list[Event]:
        """Goes on with a paused answer where it was heard last, as a new item."""
        state, answer = self.state, self.state.answer
        old = answer.item
        events: list[Event] = []
        if not answer.is_done:
            events.append(AnswerDone(old.id, answer.epoch, old.text, "interrupted"))
        first_character = old.first_character + len(old.text)
        item = Item(_new_id(), "assistant", answer.text[first_character:], spoken=old.spoken)
        item.first_sample, item.first_character = answer.heard, first_character
        # the old one may have been forgotten
        index = next((index for index, one in enumerate(state.history) if one is old), -1)
        state.history.insert(index + 1, item)
        answer.item, answer.epoch, answer.is_paused, answer.is_done = item, state.epoch, False, False
        events.append(AnswerStarted(item.id, answer.epoch, is_resumed=True))
        if item.text:
            events.append(TextDelta(item.id, answer.epoch, item.text))
        samples = np.concatenate([np.zeros(0, dtype=np.float32), *answer.chunks])[item.first_sample :]
        answer.started_at = state.clock if len(samples) else None
        if len(samples):
            events.append(AudioChunk(item.id, answer.epoch, samples, self.output_rate))
        return events + (self._done("completed") if answer.is_generated else [])

    def truncate(self, item_id: str, audio_end_ms: int) -> None:
        """Says how much of an answer was played: the text that was not heard leaves the history."""
        item = self.item(item_id)
        if item.spoken is None:
            raise ValueError(f"The item {item_id} is not a spoken answer: only these can be truncated.")
        end = item.first_sample + audio_end_ms * self.output_rate // 1000
        if audio_end_ms < 0 or end > item.spoken.num_samples:
            available = (item.spoken.num_samples - item.first_sample) * 1000 // self.output_rate
            raise ValueError(f"`audio_end_ms` is {audio_end_ms}: the item has {available} ms of audio.")
        self._cut(item, end)

    def _cut(self, item: Item, end: int) -> None:
        """Cuts the text of an answer behind the last token that is heard in the first `end` samples."""
        spoken = item.spoken
        num_tokens = self._num_heard_tokens(spoken, end)
        item.text = self._decode(spoken.tokens[:num_tokens]).rstrip("\ufffd")[item.first_character :]
        answer = self.state.answer
        if answer is not None and answer.item is item:
            answer.heard = end

    def _num_heard_tokens(self, spoken: Spoken, end: int) -> int:
        """
        In the timed layout, and beside a speech decoder, a token stands where it is spoken. In the leading layout all are
        written long before: there the text is taken to be spoken evenly.
        """
        if end >= spoken.num_samples and spoken.is_complete:
            return len(spoken.tokens)
        pads = {self.processor.tokenizer.pad_token_id}
        written = [i for i, token in enumerate(spoken.tokens) if token not in pads]
        is_timed = any(later - earlier > 1 for earlier, later in zip(written, written[1:]))
        if is_timed or self.model.speech_decoder is not None:
            rate = self.model.config.speech_config.steps_per_second
            heard = (i for i in written if spoken.positions[i] / rate < end / self.output_rate)
            return max(heard, default=-1) + 1
        if spoken.is_complete:
            return len(spoken.tokens) * end // spoken.num_samples
        characters = int(end / self.output_rate * CHARACTERS_PER_SECOND)
        lengths = (len(self._decode(spoken.tokens[:n])) for n in range(1, len(spoken.tokens) + 1))
        return sum(length <= characters for length in lengths)

    # --- transcripts

    def transcribe(self, item: Item) -> list[Event]:
        """Transcribes the audio of an item: at once where the audio adapter spells, else by the steps to come."""
        if all(window.text is not None for window in item.windows):
            item.transcript = " ".join(filter(None, (window.text for window in item.windows)))
            return [Transcript(item.id, item.transcript)]
        (message,) = self.processor.make_conversation("transcribe", audio=item.windows[0])
        others = [{"type": "audio", "audio": window} for window in item.windows[1:]]
        message["content"][1:1] = others
        prompt = render(self.processor, [message])
        inputs = PromptCache(self.model).inputs(prompt)
        limit = transcript_limit(self.processor, inputs["input_ids"])
        row = self.step_loop.add(inputs, generation_mode="text", stopping_criteria=limit)
        self.state.transcriptions.append(Transcription(item, row))
        return []

    def _take_transcript(self, transcription: Transcription, step: Any | None) -> list[Event]:
        item = transcription.item
        if step is None:
            self.state.transcriptions.remove(transcription)
            return [Transcript(item.id, transcription.text)]
        events: list[Event] = []
        is_finished = bool(step.is_finished[0])
        if bool(step.is_text[0]):
            transcription.tokens.append(int(step.text_ids[0]))
        text = self._decode(transcription.tokens)
        if text != transcription.text and (is_finished or not text.endswith("\ufffd")):
            events.append(Transcript(item.id, text[len(transcription.text) :], is_final=False))
            transcription.text = text
        if is_finished:
            self.state.transcriptions.remove(transcription)
            item.transcript = transcription.text
            events.append(Transcript(item.id, transcription.text))
        return events

    # --- the history

    def item(self, item_id: str) -> Item:
        for item in self.state.history:
            if item.id == item_id:
                return item
        raise ValueError(f"There is no item {item_id!r} in this conversation.")

    def add(
        self,
        role: str,
        text: str = "",
        audio: np.ndarray | None = None,
        sampling_rate: int = SAMPLING_RATE,
        item_id: str | None = None,
        after: str | None = None,
    ) -> Item:
        """Adds a message to the history: text, or of the user also audio. `after` is the id of the item before it."""
        if role not in ("system", "user", "assistant"):
            raise ValueError(f"The role is {role!r}: it must be system, user or assistant.")
        if audio is not None and role != "user":
            raise ValueError("Only messages of the user have audio: pass the text of others.")
        if item_id is not None and any(item.id == item_id for item in self.state.history):
            raise ValueError(f"There is an item {item_id!r} already.")
        self._check_text(text)
        item = Item(item_id or _new_id(), role, text)
        if audio is not None:
            resampled = StreamResampler(sampling_rate, SAMPLING_RATE).push(audio, is_last=True)
            if len(resampled) > self.settings.max_turn_seconds * SAMPLING_RATE:
                raise ValueError(f"The audio is longer than {self.settings.max_turn_seconds:g} s: send less of it.")
            turn = self._new_audio()
            turn.push(resampled)
            item.windows = turn.all_windows()
        index = len(self.state.history)
        if after == "root":
            index = 0
        elif after is not None:
            index = self.state.history.index(self.item(after)) + 1
        self.state.history.insert(index, item)
        self._forget()
        return item

    def delete(self, item_id: str) -> None:
        answer = self.state.answer
        if answer is not None and answer.item.id == item_id and (answer.is_paused or not answer.is_generated):
            raise ValueError(f"The answer {item_id} is not finished: cancel it first.")
        self.state.history.remove(self.item(item_id))

    def _forget(self) -> None:
        """Drops the oldest items that no prompt can hold: a conversation without answers must not grow for ever."""
        num_positions, kept = 0, []
        for item in reversed(self.state.history):
            num_positions += 1 + len(item.text) // CHARACTERS_PER_POSITION
            num_positions += sum(window.num_positions for window in item.windows)
            if num_positions > self.max_context and kept:
                break
            kept.append(item)
        self.state.history = kept[::-1]

    def _check_text(self, text: str) -> None:
        """Refuses control tokens, with which a message could end itself and write the next, and half characters."""
        text.encode()
        for token in self.processor.tokenizer.all_special_tokens:
            if token in text:
                raise ValueError(f"The text contains {token!r}, which is a control token: remove it.")

    def _prompt(self, history: list[Item], instructions: str | None = None) -> Prompt:
        """The prompt of a history, whose oldest items are forgotten where it is too long."""
        limit, kept = self.max_context, list(history)
        instructions = self.settings.instructions if instructions is None else instructions
        self._check_text(instructions or "")
        prompt = render(self.processor, self._messages(kept, instructions))
        if len(prompt.ids) > limit:
            # down to half, so that the cache is not read anew at every turn
            while len(prompt.ids) > limit // 2 and len(kept) > 1:
                forgotten = kept.pop(0)
                self.state.history = [item for item in self.state.history if item is not forgotten]
                prompt = render(self.processor, self._messages(kept, instructions))
        if len(prompt.ids) > limit:
            raise ValueError(f"The message takes {len(prompt.ids)} positions of at most {limit}: shorten it.")
        return prompt

    @property
    def max_context(self) -> int:
        if self.settings.max_context is not None:
            return self.settings.max_context
        most = getattr(self.model.config.text_config, "max_position_embeddings", 8192)
        return min(8192, most - min(1024, most // 2))

    def _messages(self, history: list[Item], instructions: str | None) -> list[dict]:
        """The messages of items; neighbours of one role are one message, as some templates demand."""
        messages: list[dict] = []
        if instructions:
            messages.append({"role": "system", "content": instructions})
        for item in history:
            content = item.content()
            if not content:
                continue
            if messages and messages[-1]["role"] == item.role and item.role != "system":
                messages[-1]["content"] += content
            else:
                messages.append({"role": item.role, "content": content})
        return messages

    # --- the end

    def close(self) -> None:
        """Drops what is left: the turn, the answer, transcripts."""
        state = self.state
        for row in [one.row for one in (state.answer, *state.transcriptions) if one is not None]:
            row.close()
        state.answer, state.turn, state.transcriptions = None, None, []
        state.pending = np.zeros(0, dtype=np.float32)

    def __enter__(self) -> "FlowOmniSession":
        return self

    def __exit__(self, exception_type, exception, traceback):
        state = self.state
        if exception_type is None and (state.turn is not None or self.is_busy):
            left = "a turn that was not committed" if state.turn is not None else "an answer that is not finished"
            raise RuntimeError(f"A session was left with {left}: `run()` it to its end, or call `close()`.")


def can_speak(model: Any) -> bool:
    """Whether the model has a voice: some have no vocoder, and others say that they were not taught to speak."""
    return model.vocoder is not None and getattr(model.generation_config, "generation_mode", None) != "text"


def voices_of(model: Any) -> list[str]:
    has_voices = model.speech_decoder is not None
    return list(model.config.speech_config.voices) if has_voices else ["default"]


def voice_option(model: Any, voice: str) -> dict[str, str]:
    """The option of `generate` for a voice, which only speech decoders take."""
    return {"voice": voice} if model.speech_decoder is not None else {}


def _new_id() -> str:
    return f"item_{uuid.uuid4().hex[:20]}"


def _milliseconds(num_samples: int) -> int:
    return num_samples * 1000 // SAMPLING_RATE


def _end_ids(model: Any) -> set[int]:
    ends = model.generation_config.eos_token_id
    return set(ends) if isinstance(ends, list | tuple) else {ends}
