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
"""The package: the wheel holds `flow_omni` and nothing else, and needs no more than it says."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement


ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
FOLDERS = PYPROJECT["tool"]["setuptools"]["package-dir"]
CORE = {
    "accelerate",
    "gguf",
    "normt2s",
    "torch",
    "transformers",
    "safetensors",
    "huggingface_hub",
    "numpy",
    "soundfile",
    "soxr",
    "typer",
}
# Dependencies of these dependencies.
COMES_WITH_CORE = {"tokenizers", "yaml", "rich"}

WEIGHTS = [f"flow_omni/checkpoints/base/model-{part}.safetensors" for part in ("hearing", "speech")]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy without weights, to build in: a build in place would leave files behind that get into the next wheel."""
    source = tmp_path_factory.mktemp("source")
    for path in ROOT.iterdir():
        if path.name in FOLDERS.values():
            shutil.copytree(path, source / path.name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
        elif path.suffix in {".toml", ".md"} or path.name == "LICENSE":
            shutil.copy(path, source)
    for name in WEIGHTS:
        (source / name).touch()
    return source


@pytest.fixture(scope="module")
def wheel(source):
    command = [sys.executable, "-c", "from setuptools import build_meta; build_meta.build_wheel('dist')"]
    build = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert build.returncode == 0, build.stdout + build.stderr
    (path,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_image_is_built_from_every_folder_of_code():
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line.strip("!/") for line in patterns if line.startswith("!")}
    assert set(FOLDERS.values()) <= allowed and all((ROOT / name).exists() for name in allowed)
    dockerfile, space = (ROOT / "Dockerfile").read_text(), (ROOT / "hub_card" / "space.md").read_text()
    _, front_matter, _ = space.split("---\n", 2)
    fields = yaml.safe_load(front_matter)
    assert fields["sdk"] == "docker" and f"EXPOSE {fields['app_port']}\n" in dockerfile


def information(wheel: zipfile.ZipFile, name: str) -> str:
    """A file of the wheel's `.dist-info`."""
    return wheel.read(f"flow_omni-{PROJECT['version']}.dist-info/{name}").decode()


def test_wheel_holds_every_file_of_the_folders_and_no_other(source, wheel):
    """Packages and data are listed in pyproject.toml: a new one that is not listed is missing only once installed."""
    with_code = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert with_code - {"tests"} == set(FOLDERS.values())
    expected = {}
    for package, folder in FOLDERS.items():
        for path in (source / folder).rglob("*"):
            if path.is_file():
                expected[f"{package.replace('.', '/')}/{path.relative_to(source / folder).as_posix()}"] = path
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert found == set(expected)
    assert [name for name, path in expected.items() if wheel.read(name) != path.read_bytes()] == []
    assert {"flow_omni/py.typed", "flow_omni/assets/question.wav", "flow_omni/hub_card/model_card.md"} <= found
    assert {"flow_omni/serving/page/index.html", "flow_omni/serving/page/app.js"} <= found
    assert {"flow_omni/training/recipes/align.yaml", "flow_omni/training/accelerate/ddp.yaml"} <= found
    assert set(WEIGHTS) <= found


def test_metadata_names_the_command_the_licence_and_what_is_needed(wheel):
    assert "flow-omni = flow_omni.cli.app:main" in information(wheel, "entry_points.txt").splitlines()
    assert "Apache License" in information(wheel, "licenses/LICENSE")
    metadata = message_from_string(information(wheel, "METADATA"))
    assert (metadata["Name"], metadata["License-Expression"]) == ("flow-omni", "Apache-2.0")
    assert metadata["Requires-Python"] == ">=3.11"
    requirements = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    assert {requirement.name for requirement in requirements if requirement.marker is None} == CORE
    assert set(metadata.get_all("Provides-Extra")) == {"train", "serve", "ray", "dev"}


def test_every_requirement_is_pinned_to_a_version_that_it_allows():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pins = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    stated = PROJECT["dependencies"] + [item for extra in PROJECT["optional-dependencies"].values() for item in extra]
    for requirement in map(Requirement, stated):
        if requirement.name != PROJECT["name"]:
            assert pins[requirement.name.replace("_", "-")] in requirement.specifier, str(requirement)


def imported_on_import(path: Path) -> set[str]:
    """Top-level names that importing a file imports: not those that a function imports when it is called."""
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


def test_importing_needs_no_more_than_the_core():
    """With the extras installed here, an import of one of them at the top of a file would not be noticed."""
    allowed = CORE | COMES_WITH_CORE | set(sys.stdlib_module_names)
    for folder in ("flow_omni", "modeling_flow_omni", "processing", "hub_card"):
        for path in (ROOT / folder).rglob("*.py"):
            assert imported_on_import(path) <= allowed, path


@pytest.mark.slow
def test_generation_runs_on_the_oldest_and_the_newest_transformers_allowed(tmp_path):
    """Needs a package index. transformers alone is installed, in front of the environment's."""
    (requirement,) = (item for item in map(Requirement, PROJECT["dependencies"]) if item.name == "transformers")
    (oldest,) = (item.version for item in requirement.specifier if item.operator == ">=")
    tested = set()
    for wanted in (f"transformers=={oldest}", str(requirement)):
        folder = tmp_path / wanted
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, wanted]
        subprocess.run(install, check=True)
        (version,) = (path.name for path in folder.glob("transformers-*.dist-info"))
        if version not in tested:
            tested.add(version)
            tests = ["tests/test_generation.py", "tests/test_auto_classes.py"]
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", *tests]
            environment = os.environ | {"PYTHONPATH": str(folder)}
            result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
            assert result.returncode == 0, f"{version}\n{result.stdout[-5000:]}"
