"""The documentation's pages and the code blocks in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]
LANGUAGES = ("bash", "python", "yaml", "toml", "xml", "text")

_FENCE = re.compile(r"^\s*```(.*)$")
_NOT_RUN = re.compile(r"^<!-- not run: (.+) -->$")
_FILE_NAME = re.compile(r"^(?:# |<!-- )([\w./-]+\.(?:py|yaml|toml|xml))(?: -->)?\n")


@dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
        place: Page and line, for messages.
        language: What stands behind the opening fence.
        text: What is between the fences.
        not_run: Why it is checked without being run, from a comment above it; empty if it is run.
    """

    place: str
    language: str
    text: str
    not_run: str = ""

    @property
    def file_name(self) -> str:
        """The file that the block is the text of, from a comment in its first line; empty if it is none."""
        match = _FILE_NAME.match(self.text) if self.language != "bash" else None
        return match[1] if match else ""

    @property
    def file_text(self) -> str:
        """The text of that file."""
        return _FILE_NAME.sub("", self.text)


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks_of(text: str, name: str) -> list[Block]:
    """Return the blocks of a page.

    Raises:
        AssertionError: A block is indented, is not closed, or says no language that ``LANGUAGES`` has.
    """
    blocks: list[Block] = []
    opened: tuple[int, str, str] | None = None
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        fence = _FENCE.match(line)
        if fence is None:
            continue
        assert line.startswith("```"), f"{name}:{number}: a code block begins at the margin"
        if opened is None:
            assert fence[1] in LANGUAGES, f"{name}:{number}: a code block is one of {', '.join(LANGUAGES)}"
            mark = _NOT_RUN.match(lines[number - 2]) if number > 1 else None
            opened = (number, fence[1], mark[1] if mark else "")
        else:
            first, language, not_run = opened
            inside = "".join(f"{inner}\n" for inner in lines[first : number - 1])
            blocks.append(Block(f"{name}:{first}", language, inside, not_run))
            opened = None
    assert opened is None, f"{name}:{opened[0]}: a code block is not closed" if opened else ""
    return blocks
