"""The snippets of a page: fenced blocks, by language.

Words after the language say more: a file name (`yaml first.yaml`) is what the reader saves it as; what is `elsewhere`
runs in another terminal or on another machine, and is only read here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
DOCS = CHECKOUT / "docs"
_FENCE = re.compile(r"^( *)```(\w*)([^\n`]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Snippet:
    """One fenced block."""

    language: str
    words: tuple[str, ...]
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """What it is saved as."""
        return next((word for word in self.words if "." in word), None)

    @property
    def elsewhere(self) -> bool:
        return "elsewhere" in self.words


def snippets(page: Path) -> Iterator[Snippet]:
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Snippet(found[2], tuple(found[3].split()), found[4], line)
