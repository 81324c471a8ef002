"""The site builds without a warning, and has what the pages link to. Needs the extra ``docs``."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from pages import ROOT

pytest.importorskip("mkdocs")
pytest.importorskip("material")


def build(folder: Path, config: Path = ROOT / "mkdocs.yml") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(config), "--site-dir"]
    environ = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run([*command, str(folder)], env=environ, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    result = build(folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "WARNING" not in result.stdout + result.stderr
    return folder


class _Page(HTMLParser):
    """The anchors and links of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors.add(values.get("id") or "")
        self.links += [value for key in ("href", "src") if (value := values.get(key))]


def test_every_page_is_in_the_navigation(site: Path):
    links = _Page(site / "index.html").links
    for page in (ROOT / "docs").glob("*.md"):
        assert page.stem == "index" or f"{page.stem}/" in links, page.stem


def test_every_link_of_the_site_leads_somewhere(site: Path):
    pages = {path: _Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) >= 15
    count = 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{path.relative_to(site)} links to {link}"
            if parts.fragment and target in pages:
                assert parts.fragment in pages[target].anchors, f"{path.relative_to(site)} links to {link}"
            count += 1
    assert count > 500


def test_an_example_is_a_page_with_its_sources(site: Path):
    page = (site / "repository" / "examples" / "plugin" / "index.html").read_text()
    assert "A plugin package" in page
    assert "AnnealedPPO" in page and "torque-curriculum" in page
    results = site / "repository" / "benchmarks" / "results"
    assert (results / "torture.json").read_text() == (ROOT / "benchmarks" / "results" / "torture.json").read_text()


def test_the_site_says_what_the_tests_do_not_run(site: Path):
    text = (site / "simulators" / "index.html").read_text()
    assert "which check the options only: they need mjlab." in re.sub(r"\s+", " ", text)
    assert "not run:" not in (site / "hooks" / "index.html").read_text()


@pytest.mark.parametrize("link", ["nowhere.md", "hooks.md#sim_rl_nothing", "../benchmarks/results/nothing.json"])
def test_a_link_that_leads_nowhere_fails_the_build(link: str, tmp_path: Path):
    (tmp_path / "docs").mkdir()
    for name in ("site_hooks.py", "site.css"):
        shutil.copy(ROOT / "docs" / name, tmp_path / "docs")
    hooks = (ROOT / "docs" / "hooks.md").read_text()
    (tmp_path / "docs" / "hooks.md").write_text(re.sub(r"\]\(\w+\.md\)", "](hooks.md)", hooks))
    config = (ROOT / "mkdocs.yml").read_text()
    config = re.sub(r"^nav:\n.*?^plugins:", "nav: [index.md, {All: [hooks.md]}]\nplugins:", config, flags=re.M | re.S)
    (tmp_path / "mkdocs.yml").write_text(config)
    for text, status in (("[fine](hooks.md#sim_rl_commands)", 0), (f"[broken]({link})", 1)):
        (tmp_path / "docs" / "index.md").write_text(f"# Start\n\n{text}\n")
        result = build(tmp_path / "site", tmp_path / "mkdocs.yml")
        assert result.returncode == status, result.stdout + result.stderr
