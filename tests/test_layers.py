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
"""The layers: which folder may import which, and no circle of files anywhere."""

import ast
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path


ROOT = Path(__file__).parents[1]
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
# Which other folders each may import. `flow_omni` (the command line) may import all, and nothing imports it.
LAYERS = {
    "modeling_flow_omni": set(),
    "processing": set(),
    "hub_card": {"modeling_flow_omni", "processing"},
    "training": {"modeling_flow_omni", "processing"},
    "evaluation": {"modeling_flow_omni", "processing", "training"},
    "serving": {"modeling_flow_omni", "processing"},
    "flow_omni": {"modeling_flow_omni", "processing", "hub_card", "training", "evaluation", "serving"},
}
FILES = {
    f"{package}.{'.'.join(path.relative_to(ROOT / folder).with_suffix('').parts)}".removesuffix(".__init__"): path
    for package, folder in PACKAGES.items()
    for path in (ROOT / folder).rglob("*.py")
}


def imports(module: str) -> Iterator[str]:
    """The modules of ours that a module imports, in its functions too."""
    is_package = FILES[module].name == "__init__.py"
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom):
            parent = module if is_package else module.rpartition(".")[0]
            source = resolve_name("." * node.level + (node.module or ""), parent) if node.level else node.module
            names = (f"{source}.{alias.name}" for alias in node.names)
            yield from {name if name in FILES else source for name in names} & FILES.keys()


def test_folders_import_only_the_layers_below_them():
    assert set(PACKAGES.values()) == LAYERS.keys()
    folder_of = {module: path.relative_to(ROOT).parts[0] for module, path in FILES.items()}
    for module, folder in folder_of.items():
        used = {folder_of[name] for name in imports(module)} - {folder}
        assert used <= LAYERS[folder], f"{module} imports {used - LAYERS[folder]}"


def test_no_files_import_each_other_in_a_circle():
    # raises CycleError, which names the circle
    TopologicalSorter({module: set(imports(module)) for module in FILES}).prepare()
