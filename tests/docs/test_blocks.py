"""Every code block of every page works, in the order of the page, for somebody who starts with an empty folder."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from page_follower import Follower
from pages import PAGES, Block, blocks_of, page_name


@pytest.fixture
def follower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Follower]:
    follower = Follower(tmp_path, monkeypatch)
    yield follower
    follower.close()


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_who_follows_the_page_gets_to_its_end(page: Path, follower: Follower):
    for block in blocks_of(page.read_text(), page_name(page)):
        follower.follow(block)
    follower.finish()
