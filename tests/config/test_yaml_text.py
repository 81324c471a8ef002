"""YAML as users expect it."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim_rl_plugin.config.yaml_text import dump, parse_value, read_mapping
from sim_rl_plugin.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("1E5", 1e5),
        ("-1.5e+3", -1500.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-.inf", -math.inf),
        ("256", 256),
        ("1_000", 1000),
        ("0x10", 16),
        ("-3", -3),
        ("true", True),
        ("False", False),
        ("null", None),
        ("", None),
        ("~", None),
        ("on", "on"),
        ("no", "no"),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("'3e-4'", "3e-4"),
        ("e5", "e5"),
        ("[256, 128]", [256, 128]),
        ("{class_name: PPO, gamma: 9e-1}", {"class_name": "PPO", "gamma": 0.9}),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


def test_a_value_that_is_no_yaml_is_named():
    with pytest.raises(UserError, match=r"cannot read the value '\[1, 2'"):
        parse_value("[1, 2")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", r"file\.yaml:3: .*"),
        ("a: 1\nalgorithm:\n  gamma: 0.9\n  gamma: 0.8\n", r"file\.yaml:4: the key 'gamma' stands here a second time"),
        ("- 1\n- 2\n", r"file\.yaml:1: expected a mapping of settings, found \[1, 2\]"),
        ("a: 1\n3: 4\n", r"file\.yaml:2: expected a name as key, found 3"),
        ("a: !!python/object:os.system x\n", r"file\.yaml:1: .*could not determine a constructor"),
        ("a: \x07\n", r"file\.yaml: "),
        ("a: 1\n---\nb: 2\n", r"file\.yaml:2: "),
    ],
)
def test_a_bad_file_is_one_line_with_its_place(tmp_path: Path, content, message):
    path = tmp_path / "file.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read_mapping(path)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(UserError, match="there is no such file"):
        read_mapping(tmp_path / "missing.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        read_mapping(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
    with pytest.raises(UserError, match="no UTF-8 text"):
        read_mapping(tmp_path / "latin.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_mapping(tmp_path / "empty.yaml") == {}


_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12)
_settings = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.recursive(_scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner)),
    max_size=4,
)


@given(_settings)
def test_what_is_dumped_is_read_back_identically(settings):
    assert parse_value(dump(settings)) == settings


def test_strings_that_look_like_numbers_survive():
    settings = {"a": "3e-4", "b": "null", "c": "12", "d": "yes", "e": 1e-05, "f": ""}
    assert parse_value(dump(settings)) == settings
