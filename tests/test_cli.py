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
"""The commands that talk: what they print, what they write, and how they end."""

import json
import subprocess
import sys
from pathlib import Path

import cli_tools
import pytest
import soundfile
import torch
from cli_tools import QUESTION, error_of, run
from tiny import AUDIO_TOKEN_ID, byte_level_tokenizer

from flow_omni import __version__, untrained
from flow_omni.cli import answering, chatting
from flow_omni.cli.console import TextPrinter
from flow_omni.cli.conversation import Conversation
from flow_omni.cli.loading import load_model
from flow_omni.cli.options import Mode, SpeechOptions
from flow_omni.modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from flow_omni.processing.transcript_limit import EXTRA_CHARACTERS, MAX_CHARACTERS_PER_SECOND


checkpoint, in_an_empty_folder = cli_tools.checkpoint, cli_tools.in_an_empty_folder
pytestmark = pytest.mark.usefixtures("in_an_empty_folder")

COMMANDS = ("ask", "say", "transcribe", "chat", "init", "info", "push")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_examples(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.stdout
    assert f"flow-omni {command}" in result.stdout.partition("Examples:")[2]


def test_without_arguments_there_is_help_and_all_commands_are_in_it():
    result = run()
    assert all(f" {command} " in result.stdout for command in COMMANDS)
    assert "Usage" in run("ask").stdout


def test_version_is_the_packages():
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"flow-omni {__version__}\n")


def test_ask_prints_the_text_and_writes_the_speech_and_its_picture(checkpoint):
    result = run("ask", QUESTION, "-m", checkpoint, "-o", "a.flac", "--picture", "a.png", "--seed", 1)
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 1
    assert result.stdout.strip().isprintable()
    sound = soundfile.info("a.flac")
    assert (sound.samplerate, sound.channels) == (24000, 1)
    assert f"a.flac: {sound.duration:.1f} s of speech" in result.stderr
    assert "real-time factor" in result.stderr
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in Path().iterdir()) == ["a.flac", "a.png"]


def test_ask_takes_written_questions_and_writes_answer_wav_by_default(checkpoint):
    assert run("ask", "--text", "Who are you?", "-m", checkpoint, "--max-new-tokens", 12).exit_code == 0
    assert Path("answer.wav").stat().st_size > 0


def test_ask_in_text_mode_writes_no_file(checkpoint):
    result = run("ask", QUESTION, "-m", checkpoint, "--mode", "text", "--max-new-tokens", 7)
    assert (result.exit_code, len(result.stdout)) == (0, 8)
    assert list(Path().iterdir()) == []
    assert result.stderr == ""


def test_words_are_never_guessed_to_be_a_question(checkpoint):
    """A mistyped path would otherwise be answered as if it had been asked."""
    assert "ask --text" in error_of(run("ask", "questoin.wav", "-m", checkpoint))


def test_a_seed_makes_the_answer_reproducible(checkpoint):
    def answer(seed: int) -> bytes:
        options = ("--temperature", 1.0, "--max-new-tokens", 16, "-o", "a.wav")
        result = run("ask", QUESTION, "-m", checkpoint, "--seed", seed, *options)
        assert result.exit_code == 0
        return result.stdout.encode() + Path("a.wav").read_bytes()

    assert answer(1) == answer(1) != answer(2)


@pytest.mark.parametrize(
    ("option", "value"), [("--num-flow-steps", 8), ("--flow-temperature", 0.1), ("--flow-guidance-scale", 3.0)]
)
def test_options_of_the_flow_reach_the_model(checkpoint, option, value):
    def speech(*options: object) -> bytes:
        run("say", "Hi.", "-m", checkpoint, "--seed", 1, "--max-new-tokens", 12, *options)
        return Path("speech.wav").read_bytes()

    assert speech() != speech(option, value)


def test_what_was_not_said_is_left_to_the_generation_config():
    assert SpeechOptions(model="m", seed=0).of_generate(Mode.auto) == {"seed": 0, "generation_mode": "auto"}
    assert SpeechOptions(sample=True).of_generate(Mode.text) == {"do_sample": True, "generation_mode": "text"}
    assert SpeechOptions(temperature=0.7).of_generate(Mode.text)["do_sample"] is True


def test_dtype_is_that_of_the_weights(checkpoint):
    assert load_model(str(checkpoint), dtype="bfloat16").model.dtype == torch.bfloat16
    result = run("ask", QUESTION, "-m", checkpoint, "--dtype", "bfloat16", "--max-new-tokens", 8)
    assert result.exit_code == 0


def test_the_untrained_model_says_plainly_what_it_is_and_not_on_stdout(monkeypatch, tmp_path):
    monkeypatch.setattr(untrained, "BUNDLED_CHECKPOINT", tmp_path / "none")
    result = run("say", "Hi.", "--max-new-tokens", 8)
    assert "UNTRAINED" in result.stderr
    assert "UNTRAINED" not in result.stdout


def test_say_writes_speech_that_was_cut_and_says_so(checkpoint):
    result = run("say", "Good morning.", "-m", checkpoint, "-o", "a.wav", "--seed", 1, "--max-new-tokens", 16)
    assert result.exit_code == 0
    assert soundfile.info("a.wav").duration > 0.3
    assert "was cut" in result.stderr


def test_transcribe_prints_one_text_alone_and_several_with_their_files(checkpoint):
    one = run("transcribe", QUESTION, "-m", checkpoint)
    two = run("transcribe", QUESTION, QUESTION, "-m", checkpoint)
    assert (one.exit_code, two.exit_code) == (0, 0)
    assert two.stdout == f"{QUESTION}: {one.stdout}" * 2


def test_transcribe_as_json_prints_an_object_a_line(checkpoint):
    result = run("transcribe", QUESTION, QUESTION, "--json", "-m", checkpoint)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(rows) == 2
    assert rows[0] == rows[1]
    assert rows[0]["file"] == QUESTION
    assert rows[0]["seconds"] == pytest.approx(soundfile.info(QUESTION).duration, abs=1e-3)
    assert rows[0]["text"] + "\n" == run("transcribe", QUESTION, "-m", checkpoint).stdout


def test_transcribe_writes_nothing_of_silence(checkpoint):
    """The bundled model wrote "Thank you."."""
    soundfile.write("silence.wav", torch.zeros(8000).numpy(), 16000)
    assert run("transcribe", "silence.wav", "-m", checkpoint).stdout == "\n"
    assert run("transcribe", "silence.wav", "silence.wav", "-m", checkpoint).stdout == "silence.wav: \n" * 2
    (row,) = run("transcribe", "silence.wav", "--json", "-m", checkpoint).stdout.splitlines()
    assert json.loads(row)["text"] == ""


def test_transcribe_ends_where_the_sound_can_hold_no_more(checkpoint, monkeypatch):
    """Unless told how long, as with `--max-new-tokens`."""
    steps, stream = [], FlowOmniForSpeechGeneration.stream

    def endless(self, *arguments, **options):
        for step in stream(self, *arguments, eos_token_id=AUDIO_TOKEN_ID, **options):
            steps.append(step)
            yield step

    monkeypatch.setattr(FlowOmniForSpeechGeneration, "stream", endless)
    soundfile.write("noise.wav", torch.randn(8000).numpy() * 0.1, 16000)
    assert run("transcribe", "noise.wav", "-m", checkpoint).exit_code == 0
    assert len(steps) == pytest.approx(MAX_CHARACTERS_PER_SECOND * 0.5 + EXTRA_CHARACTERS, abs=5)
    steps.clear()
    assert run("transcribe", "noise.wav", "-m", checkpoint, "--max-new-tokens", 40).exit_code == 0
    assert len(steps) == 40


def test_chat_answers_every_line_and_numbers_the_spoken_answers(checkpoint):
    lines = f"Hello.\n\n/file {QUESTION}\n/reset\nHello.\n/quit\nnever read\n"
    options = ("-m", checkpoint, "--max-new-tokens", 10, "--seed", 3, "--temperature", 1.0, "--save-audio", "out")
    result = run("chat", *options, input=lines)
    assert result.exit_code == 0
    first, second, after_reset = result.stdout.splitlines()
    assert after_reset == first != second
    assert run("chat", *options, input="Hello again.").exit_code == 0
    assert sorted(path.name for path in Path("out").iterdir()) == [f"answer-00{n}.wav" for n in range(1, 5)]


def test_chat_without_a_folder_only_writes(checkpoint):
    result = run("chat", "-m", checkpoint, "--max-new-tokens", 5, input="Hello.\n")
    assert (result.exit_code, len(result.stdout)) == (0, 6)
    assert result.stderr == ""
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("line", ["/bogus", "/file", "/file missing.wav"])
def test_a_script_that_chats_stops_at_its_first_mistake(checkpoint, line):
    result = run("chat", "-m", checkpoint, "--max-new-tokens", 5, input=f"{line}\nHello.\n")
    assert result.exit_code == 2
    assert line.split()[-1] in error_of(result)
    assert result.stdout == ""


def test_somebody_who_chats_can_go_on_after_a_mistake(checkpoint, monkeypatch, capsys):
    lines = iter(["/bogus", "Hello.", "/help"])

    class Terminal:
        def isatty(self):
            return True

    def read_line(prompt):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("builtins.input", read_line)
    chatting.chat(model=str(checkpoint), max_new_tokens=5)
    output = capsys.readouterr()
    assert len(output.out) == 6
    assert "`/bogus` is no command" in output.err
    assert output.err.count("Write a line") == 2


def test_turns_from_the_cache_equal_turns_from_scratch(checkpoint):
    """The history is text: the cache is cut to the last prompt, and the spoken answer after it is read as text."""
    loaded = load_model(str(checkpoint))
    options = {"generation_mode": "speech", "seed": 1, "max_new_tokens": 12}
    kept, forgetful = Conversation(loaded, "Be brief."), Conversation(loaded, "Be brief.")
    for message in ({"text": "Hello."}, {"audio": QUESTION}, {"text": "Why?"}):
        forgetful.cache = None
        cached, fresh = kept.answer(message, options), forgetful.answer(message, options)
        assert cached.token_ids == fresh.token_ids
        assert torch.allclose(cached.waveform, fresh.waveform, atol=1e-4)
    assert [message["role"] for message in kept.messages[-3:]] == ["assistant", "user", "assistant"]


def test_the_cache_is_read_on_in_the_next_turn(checkpoint):
    loaded = load_model(str(checkpoint))
    read = []
    embeddings = loaded.model.get_input_embeddings()
    embeddings.register_forward_hook(lambda module, inputs, output: read.append(output.shape[1]))
    conversation = Conversation(loaded)
    options = {"generation_mode": "text", "max_new_tokens": 4}
    conversation.answer({"text": "Hello, who are you and what do you know?"}, options)
    prompt_length = len(conversation.prompt_ids)
    read.clear()
    conversation.answer({"text": "Why?"}, options)
    assert read[0] == len(conversation.prompt_ids) - prompt_length


def test_a_cache_that_cannot_be_cut_is_read_again(checkpoint, monkeypatch):
    """Such as that of sliding windows: half a cut would be worse than none."""
    loaded = load_model(str(checkpoint))
    options = {"generation_mode": "text", "max_new_tokens": 6}
    expected, conversation = Conversation(loaded), Conversation(loaded)
    for message in ({"text": "Hello."}, {"text": "Why?"}):
        answer = expected.answer(message, options)

    def cannot(self, tokens_to_remove):
        raise RuntimeError("the layer does not track past states")

    conversation.answer({"text": "Hello."}, options)
    monkeypatch.setattr(type(conversation.cache), "crop", cannot)
    assert conversation.answer({"text": "Why?"}, options).token_ids == answer.token_ids


def test_an_interrupted_turn_leaves_no_trace_in_the_conversation(checkpoint, monkeypatch):
    loaded = load_model(str(checkpoint))
    conversation = Conversation(loaded)
    options = {"generation_mode": "text", "max_new_tokens": 4}
    conversation.answer({"text": "Hello."}, options)
    messages = conversation.messages
    with monkeypatch.context() as patch:
        patch.setattr(TextPrinter, "put", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            conversation.answer({"text": "Why?"}, options)
    assert conversation.messages == messages
    assert conversation.answer({"text": "Why?"}, options).token_ids


def test_text_is_printed_by_whole_letters(capsys):
    tokenizer = byte_level_tokenizer()
    printer = TextPrinter(tokenizer)
    shown = []
    for token_id in tokenizer("aé€\n").input_ids:
        printer.put(token_id)
        shown.append(capsys.readouterr().out)
    printer.end()
    assert shown == ["a", "", "é", "", "", "€", "\n"]
    assert capsys.readouterr().out == "\n"


def test_a_letter_that_is_never_completed_is_shown_as_such(capsys):
    printer = TextPrinter(byte_level_tokenizer())
    printer.put(0xC3)
    printer.end()
    assert capsys.readouterr().out == "\N{REPLACEMENT CHARACTER}\n"


def test_a_model_cannot_write_commands_to_the_terminal(capsys):
    printer = TextPrinter(byte_level_tokenizer(), prefix="a.wav: ")
    for byte in b"x\x1b[2J\ny":
        printer.put(byte)
    printer.end()
    assert capsys.readouterr().out == "a.wav: x[2J y\n"


def test_an_answer_that_was_interrupted_ends_with_130_and_writes_nothing(checkpoint, monkeypatch):
    monkeypatch.setattr(answering.Answer, "add", _interrupt)
    result = run("ask", QUESTION, "-m", checkpoint)
    assert result.exit_code == 130
    assert list(Path().iterdir()) == []


def test_an_error_of_ours_ends_with_1_and_shows_its_traceback_only_on_demand(checkpoint, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("the cat sat\non the keyboard")

    monkeypatch.setattr(answering.Answer, "add", fail)
    result = run("ask", QUESTION, "-m", checkpoint)
    assert result.exit_code == 1
    assert "RuntimeError: the cat sat on the keyboard" in error_of(result)
    assert "--debug" in result.stderr
    for debugged in (run("--debug", "ask", QUESTION, "-m", checkpoint), _with_debug_variable(monkeypatch, checkpoint)):
        assert debugged.exit_code == 1
        assert "Traceback" in debugged.stderr
    assert list(Path().iterdir()) == []


def test_a_shell_sees_answers_on_stdout_one_line_of_errors_and_the_exit_code(checkpoint):
    """In a process of its own, where nothing may chatter: one that answers first, and then ends with a mistake."""
    command = [sys.executable, "-m", "flow_omni.cli", "chat", "--model", str(checkpoint), "--max-new-tokens", "9"]
    done = subprocess.run(command, input="Hello.\n/bogus\n", capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stdout) == 10
    assert done.stderr == "Error: `/bogus` is no command: there are /file, /reset, /help and /quit.\n"


def _interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def _with_debug_variable(monkeypatch, checkpoint):
    monkeypatch.setenv("FLOW_OMNI_DEBUG", "1")
    return run("ask", QUESTION, "-m", checkpoint)
