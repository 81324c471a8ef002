"""docs/viewer.md is true: its options are those of the command, and its script runs."""

import re
from pathlib import Path

import pytest

from sim_rl_plugin.cli.play import play

PAGE = (Path(__file__).parents[2] / "docs" / "viewer.md").read_text()


def test_the_options_it_names_are_those_of_the_command():
    named = set(re.findall(r"^\| `(--[a-z-]+)`", PAGE, re.MULTILINE))
    known = {name for parameter in play.params for name in parameter.opts}
    assert named <= known
    about_the_web = {p.opts[0] for p in play.params if "--web:" in (getattr(p, "help", None) or "")}
    assert about_the_web and about_the_web <= named


def test_its_script_runs(capsys):
    pytest.importorskip("viser")
    (script,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(script, "docs/viewer.md", "exec"), {})
    assert "viewer: http://localhost:" in capsys.readouterr().out
