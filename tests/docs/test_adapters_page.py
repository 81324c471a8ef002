"""docs/adapters.md names the files that it tells to write, and the members that are needed."""

import re

from pages import ROOT, blocks_of

from sim_rl_plugin.env import foreign

PAGE = (ROOT / "docs" / "adapters.md").read_text()


def test_its_files_are_those_that_it_lists():
    written = {block.file_name for block in blocks_of(PAGE, "adapters.md") if block.file_name}
    listed = set(re.findall(r"^(my-sim/\S+)", PAGE, re.MULTILINE))
    assert written | {"my-sim/my_sim/__init__.py"} == listed


def test_the_members_it_names_are_the_ones_that_are_needed():
    (table,) = re.findall(r"\| member \| meaning \|\n(.*?)\n\n", PAGE, re.DOTALL)
    named = re.findall(r"`(\w+)(?:\([\w]*\))?`", "\n".join(row.split("|")[1] for row in table.splitlines()))
    assert sorted(named) == sorted(foreign.REQUIRED)
