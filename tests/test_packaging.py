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
"""The package as it is installed: everything below `flow_omni`, nothing beside it, and a core that stays light."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
from packaging.requirements import Requirement


ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = PYPROJECT["tool"]["setuptools"]["package-dir"]
CORE = {"torch", "transformers", "safetensors", "huggingface_hub", "numpy", "soundfile", "soxr", "typer"}
TRAINING = {"accelerate", "datasets", "jiwer", "matplotlib", "openai-whisper", "peft", "vocos"}
# Importable wherever the core is: transformers cannot be without the first two, typer not without the third.
COMES_WITH_CORE = {"tokenizers", "yaml", "rich"}


def installed_files(package: str, folder: Path) -> dict[str, Path]:
    """Where each file of a top-level folder should be in the wheel."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {f"{package.replace('.', '/')}/{path.relative_to(folder).as_posix()}": path for path in files}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy: a build in place would leave `build/` behind, whose stale files get into the next wheel."""
    source = tmp_path_factory.mktemp("source")
    for path in ROOT.iterdir():
        if path.name in FOLDERS.values():
            shutil.copytree(path, source / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.suffix in {".toml", ".md"} or path.name == "LICENSE":
            shutil.copy(path, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", source / "dist", source]
    build = subprocess.run(command, capture_output=True, text=True)
    assert build.returncode == 0, build.stdout + build.stderr
    (path,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return message_from_string(wheel.read(name).decode())


def test_every_folder_of_code_is_mapped_below_flow_omni():
    with_code = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert with_code - {"tests"} == set(FOLDERS.values())
    assert all(package.split(".")[0] == "flow_omni" for package in FOLDERS)


def test_wheel_installs_nothing_but_flow_omni(wheel):
    assert {name.split("/")[0] for name in wheel.namelist()} == {
        "flow_omni",
        f"flow_omni-{PYPROJECT['project']['version']}.dist-info",
    }


def test_wheel_has_every_file_of_the_folders_and_no_other(wheel):
    """Packages and data are listed one by one in pyproject.toml: a new one that is not is missing only once installed."""
    expected = {}
    for package, folder in FOLDERS.items():
        expected |= installed_files(package, ROOT / folder)
    found = {name for name in wheel.namelist() if name.startswith("flow_omni/")}
    assert found == set(expected)
    assert [name for name, path in expected.items() if wheel.read(name) != path.read_bytes()] == []


def test_wheel_brings_types_licence_template_and_question(wheel):
    names = set(wheel.namelist())
    assert {"flow_omni/py.typed", "flow_omni/assets/question.wav", "flow_omni/hub_card/model_card.md"} <= names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_core_is_light(metadata):
    requirements = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    assert {requirement.name for requirement in requirements if requirement.marker is None} == CORE


def test_extras_train_and_dev_are_offered(metadata):
    requirements = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    training = {item.name for item in requirements if item.marker and item.marker.evaluate({"extra": "train"})}
    development = {item.name for item in requirements if item.marker and item.marker.evaluate({"extra": "dev"})}
    assert set(metadata.get_all("Provides-Extra")) == {"train", "dev"}
    assert TRAINING <= training
    assert {"flow-omni", "pytest", "ruff"} <= development


def test_metadata_names_licence_and_python(metadata):
    assert metadata["Name"] == "flow-omni"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"


def test_command_line_is_declared_and_importable(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt")]
    assert "flow-omni = flow_omni.cli:main" in wheel.read(name).decode().splitlines()
    from flow_omni.cli import main

    assert callable(main)


def test_every_requirement_is_pinned_to_a_version_that_it_allows():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pins = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    project = PYPROJECT["project"]
    stated = project["dependencies"] + [item for extra in project["optional-dependencies"].values() for item in extra]
    for requirement in map(Requirement, stated):
        if requirement.name != project["name"]:
            assert pins[requirement.name.replace("_", "-")] in requirement.specifier, str(requirement)


def imported_on_import(path: Path) -> set[str]:
    """Top-level names of the modules that importing a file imports: not those that a function imports when it is called."""
    statements, names = list(ast.parse(path.read_text()).body), set()
    while statements:
        statement = statements.pop()
        if isinstance(statement, ast.Import):
            names |= {alias.name.split(".")[0] for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom) and statement.level == 0:
            names.add(statement.module.split(".")[0])
        elif not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            statements += [child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.stmt)]
    return names


@pytest.mark.parametrize("folder", ["flow_omni", "modeling_flow_omni", "processing", "hub_card"])
def test_importing_needs_no_more_than_the_core(folder):
    """With the extras installed here, an import of one of them at the top of a file would go unnoticed."""
    allowed = CORE | COMES_WITH_CORE | set(sys.stdlib_module_names)
    foreign = {path.name: imported_on_import(path) - allowed for path in (ROOT / folder).rglob("*.py")}
    assert {name: modules for name, modules in foreign.items() if modules} == {}
