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
"""Reads a page as a browser does, but complains of what browsers forgive."""

from html.parser import HTMLParser


VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """The elements of a page, each with its attributes and its text; complains of tags that are not closed in order."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict, list[str]]] = []
        self.open: list[tuple[str, dict, list[str]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {[name for name, *_ in self.open]}"

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        element = (tag, dict(attributes), [])
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))

    def handle_endtag(self, tag):
        opened = self.open.pop()[0]
        assert opened == tag, f"</{tag}> closes <{opened}>"

    def handle_data(self, data):
        self.text.append(data)
        for _, _, words in self.open:
            words.append(data)

    def all(self, tag: str, **attributes: str) -> list[tuple[dict, str]]:
        """Attributes and text of the elements of this kind."""
        return [
            (found, "".join(words))
            for name, found, words in self.elements
            if name == tag
            and all(value in (found.get(key.rstrip("_")) or "").split() for key, value in attributes.items())
        ]
