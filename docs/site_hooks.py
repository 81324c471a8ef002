"""What the site has beyond ``docs/``: the files of the repository that its pages link to.

The pages link to each other and to other files as a reader of the repository needs it (``../examples/plugin``).
Here such links lead into the site: a file is copied, and of a folder a page is made, its README with its sources
behind it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

DOCS = Path(__file__).parent
ROOT = DOCS.parent
ELSEWHERE = "repository"
"""Folder of the site with what does not lie in ``docs/``."""

_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")
_NOT_RUN = re.compile(r"^<!-- not run: (.*) -->$", re.MULTILINE)
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".xml": "xml"}


def on_config(config: Any) -> Any:
    """Put pages that the navigation does not name at its end, so that a new page needs no line there."""
    named = set(re.findall(r"[\w/]+\.md", str(config.nav)))
    others = sorted(path.name for path in DOCS.glob("*.md") if path.name not in named)
    next(iter(config.nav[-1].values())).extend(others)
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add what the pages link to, and what is linked from there."""
    waiting = [DOCS / file.src_uri for file in files.documentation_pages()]
    while waiting:
        page = waiting.pop()
        for target, _ in _LINK.findall(page.read_text()):
            path = (page.parent / target).resolve()
            if not path.exists() or path.is_relative_to(DOCS) or files.get_file_from_path(_place(path)) is not None:
                continue
            if path.is_dir():
                files.append(File.generated(config, _place(path), content=_page_of(path)))
                waiting += path.glob("README.md")
            else:
                files.append(File.generated(config, _place(path), abs_src_path=str(path)))
    for file in files:
        if file.src_uri.startswith(ELSEWHERE):
            file.inclusion = file.inclusion.NOT_IN_NAV
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links lead into the site, and say above a code block if the tests check it without running it."""
    place = page.file.src_uri
    source = _source_of(place)

    def moved(match: re.Match[str]) -> str:
        path = (source.parent / match[1]).resolve()
        if not path.exists():
            return match[0]  # the strict build tells
        return f"]({posixpath.relpath(_place(path), posixpath.dirname(place))}{match[2] or ''})"

    return _NOT_RUN.sub(
        r"<small>Not run by the tests, which check the options only: \1.</small>\n", _LINK.sub(moved, markdown)
    )


def _place(path: Path) -> str:
    """Return where a file of the repository, or a folder's page, lies in the site."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    place = f"{ELSEWHERE}/{path.relative_to(ROOT).as_posix()}"
    return f"{place}/README.md" if path.is_dir() else place


def _source_of(place: str) -> Path:
    """Return the file of the repository whose text a page of the site has."""
    return ROOT / place.removeprefix(f"{ELSEWHERE}/") if place.startswith(f"{ELSEWHERE}/") else DOCS / place


def _page_of(folder: Path) -> str:
    """Return a folder as a page: its README, or its name, and the text of its sources."""
    readme = folder / "README.md"
    parts = [readme.read_text() if readme.is_file() else f"# {folder.relative_to(ROOT)}\n"]
    for path in sorted(folder.rglob("*")):
        if path.suffix in _LANGUAGES and "__pycache__" not in path.parts:
            name, text = path.relative_to(folder), path.read_text().rstrip()
            parts.append(f"## `{name}`\n\n```{_LANGUAGES[path.suffix]}\n{text}\n```\n")
    return "\n".join(parts)
