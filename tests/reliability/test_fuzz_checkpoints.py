"""Checkpoints that are cut, flipped, replaced or made up: they load, or are refused in one line; nothing is run."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import at_path, attempt, mutations, paths_of, short, values
from hypothesis import given
from hypothesis import strategies as st
from small_configs import MLP, ppo_cfg

from sim_rl_plugin.checkpoint import find_checkpoint, load_checkpoint
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.run_folder import find_run
from sim_rl_plugin.runners import OnPolicyRunner
from sim_rl_plugin.testing import PointEnv

OLD = sorted((Path(__file__).parents[1] / "data" / "old_checkpoints").glob("*/*.pt"))


def _small_cfg() -> dict[str, Any]:
    cfg = ppo_cfg(num_learning_epochs=1, num_mini_batches=1)
    cfg |= {
        "num_steps_per_env": 2,
        "actor": {**MLP, "hidden_dims": [4], "distribution_cfg": cfg["actor"]["distribution_cfg"]},
    }
    return cfg | {"critic": {**MLP, "hidden_dims": [4]}, "save_interval": 1, "logger": []}


def _runner(log_dir: Path | None = None) -> OnPolicyRunner:
    return OnPolicyRunner(PointEnv(num_envs=2), _small_cfg(), log_dir=None if log_dir is None else str(log_dir))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a checkpoint of every iteration."""
    folder = tmp_path_factory.mktemp("run")
    _runner(folder).learn(2)
    return folder


def _use(path: Path, what: str) -> Any:
    """Look for the run, load its policy, and resume it, as ``play`` and ``train --resume`` do."""
    attempt(f"{what}, found", lambda: find_run(path))
    runner = _runner()

    def load() -> None:
        runner.load(str(path), {"actor": True})
        assert torch.isfinite(runner.get_inference_policy()(runner.env.get_observations())).all()

    attempt(f"{what}, loaded", load)

    def resume() -> None:
        runner.resume(str(path))
        runner.learn(1)

    return attempt(f"{what}, resumed", resume)


class _Bomb:
    """Writes a file when it is unpickled by whoever runs what a pickle says."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


# Bytes


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Draw a function that damages a file: bits flipped, pieces cut out, put in, zeroed, or the end lost."""
    kind = draw(st.sampled_from(["flip", "cut", "end", "extend", "insert", "zero", "begin"]))
    where, size = draw(st.floats(0, 1)), draw(st.integers(1, 400))
    more = draw(st.binary(min_size=1, max_size=64))

    def damage(text: bytes) -> bytes:
        start = min(len(text) - 1, int(where * len(text)))
        if kind == "flip":
            return text[:start] + bytes([text[start] ^ (1 << (size % 8))]) + text[start + 1 :]
        if kind == "cut":
            return text[:start] + text[start + size :]
        if kind == "end":
            return text[:start]
        if kind == "extend":
            return text + more * size
        if kind == "insert":
            return text[:start] + more + text[start:]
        if kind == "zero":
            return text[:start] + bytes(size) + text[start + size :]
        return text[start:]

    return damage


@short(40)
@given(damage=damages())
def test_damaged_bytes(damage: Callable[[bytes], bytes], good: Path, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "model_1.pt"
    path.write_bytes(damage((good / "model_1.pt").read_bytes()))
    _use(path, "checkpoint, bytes")


@short(30)
@given(damage=damages(), old=st.sampled_from(OLD))
def test_damaged_bytes_of_older_releases(damage: Callable[[bytes], bytes], old: Path, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "old.pt"
    path.write_bytes(damage(old.read_bytes()))
    attempt("older checkpoint, bytes", lambda: load_checkpoint(path))


@short(30)
@given(text=st.binary(max_size=300))
def test_noise(text: bytes, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "noise.pt"
    path.write_bytes(text)
    assert isinstance(attempt("noise as checkpoint", lambda: load_checkpoint(path)), UserError)


def _as_zip(**records: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, contents in records.items():
            archive.writestr(f"archive/{name}", contents)
    return buffer.getvalue()


def _legacy(contents: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(contents, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["pickle", "protocol 0", "zip", "legacy torch", "within", "torch script"])
def test_a_bomb_does_not_go_off(kind: str, good: Path, tmp_path: Path):
    bomb = _Bomb(tmp_path / "executed")
    path = tmp_path / "model_1.pt"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    elif kind == "protocol 0":
        path.write_bytes(pickle.dumps({"actor_state_dict": bomb}, protocol=0))
    elif kind == "zip":
        path.write_bytes(_as_zip(**{"data.pkl": pickle.dumps({"actor_state_dict": bomb}), "version": b"3"}))
    elif kind == "legacy torch":
        path.write_bytes(_legacy({"actor_state_dict": bomb}))
    elif kind == "within":
        torch.save({**torch.load(good / "model_1.pt", weights_only=True), "infos": bomb}, path)
    else:
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    error = _use(path, "bomb")
    assert isinstance(error, UserError)
    assert [item.name for item in tmp_path.iterdir()] == ["model_1.pt"]


def test_the_legacy_format_of_torch_is_read(good: Path, tmp_path: Path):
    (tmp_path / "model_1.pt").write_bytes(_legacy(torch.load(good / "model_1.pt", weights_only=True)))
    assert _use(tmp_path / "model_1.pt", "legacy format") is None


# Contents


@short(15)
@given(data=st.data())
def test_mutated_contents(data: st.DataObject, good: Path, tmp_path_factory):
    contents = torch.load(good / "model_1.pt", weights_only=True)
    path = tmp_path_factory.getbasetemp() / "model_1.pt"
    torch.save(data.draw(mutations(contents)), path)
    _use(path, "checkpoint, contents")


@short(15)
@given(data=st.data())
def test_mutated_tensors(data: st.DataObject, good: Path, tmp_path_factory):
    contents = torch.load(good / "model_1.pt", weights_only=True)
    places = paths_of(contents, torch.Tensor)
    place = data.draw(st.sampled_from(places))
    tensor = at_path(contents, place)
    change = data.draw(st.sampled_from(["shape", "dtype", "nan", "missing", "list", "empty"]))
    holder = at_path(contents, place[:-1])
    if change == "missing" and isinstance(holder, dict):
        del holder[place[-1]]
    elif isinstance(holder, (dict, list)):
        changed = {
            "shape": lambda: torch.zeros(*tensor.shape, 2),
            "dtype": lambda: tensor.to(torch.complex64),
            "nan": lambda: tensor.float() * float("nan"),
            "empty": lambda: torch.zeros(0),
        }
        holder[place[-1]] = changed.get(change, tensor.tolist)()
    path = tmp_path_factory.getbasetemp() / "model_1.pt"
    torch.save(contents, path)
    _use(path, "checkpoint, tensors")


@short(20)
@given(
    contents=st.one_of(
        values, st.dictionaries(st.sampled_from(["actor_state_dict", "model_state_dict", "sim_rl", "iter"]), values)
    )
)
def test_anything_as_contents(contents: Any, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "model_1.pt"
    torch.save(contents, path)
    _use(path, "checkpoint, anything")


@pytest.mark.parametrize("old", OLD, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_mutated_contents_of_older_releases(old: Path, tmp_path: Path):
    contents = torch.load(old, weights_only=True)

    @short(8)
    @given(changed=mutations(contents))
    def run(changed: dict[str, Any]) -> None:
        torch.save(changed, tmp_path / "old.pt")
        attempt("older checkpoint, contents", lambda: load_checkpoint(tmp_path / "old.pt"))

    run()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["actor_state_dict"]["mlp.0.weight"].fill_(float("nan")),
            "actor_state_dict: mlp.0.weight holds NaN",
        ),
        (lambda c: c["actor_state_dict"].pop("mlp.0.weight"), 'Missing key(s) in state_dict: "mlp.0.weight"'),
        (lambda c: c["actor_state_dict"].update({"mlp.0.weight": torch.zeros(3, 3)}), "size mismatch for mlp.0.weight"),
        (lambda c: c.pop("actor_state_dict"), "has no actor_state_dict; it holds critic_state_dict"),
        (lambda c: c.update(actor_state_dict=[1]), "actor_state_dict: expected a mapping, found [1]"),
        (lambda c: c.update(iter="3"), "iter: expected an integer, found '3'"),
        (lambda c: c.update(sim_rl=3), "sim_rl: expected a mapping, found 3"),
        (lambda c: c["sim_rl"].update(config=[]), "sim_rl.config: expected a mapping or null, found []"),
        (lambda c: c["sim_rl"].update(format=99), "written by a newer version of sim-rl-plugin (0.1"),
        (lambda c: c["sim_rl"]["layout"].pop("observations"), "sim_rl.layout.observations is missing"),
        (lambda c: c["sim_rl"].pop("random"), "cannot be resumed: KeyError: 'random'"),
        (lambda c: c["optimizer_state_dict"]["state"][0].update(exp_avg=torch.zeros(1)), "exp_avg"),
    ],
)
def test_what_is_wrong_is_named(change: Callable, message: str, good: Path, tmp_path: Path):
    contents = torch.load(good / "model_1.pt", weights_only=True)
    change(contents)
    torch.save(contents, tmp_path / "model_1.pt")
    error = attempt("contents, by hand", lambda: _runner().resume(str(tmp_path / "model_1.pt")))
    assert isinstance(error, UserError)
    assert message in str(error)
    assert "model_1.pt" in str(error)


# Folders


def test_folders_that_are_none(good: Path, tmp_path: Path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "round").mkdir()
    (tmp_path / "round" / "model_1.pt").symlink_to(tmp_path / "round" / "model_1.pt")
    (tmp_path / "folders").mkdir()
    (tmp_path / "folders" / "model_1.pt").mkdir()
    (tmp_path / "huge").mkdir()
    (tmp_path / "huge" / f"model_{'9' * 200}.pt").write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    for name in ("file", "empty", "loop", "round", "folders", "huge", "missing", "file/model_1.pt", "\x00", "x" * 300):
        error = attempt("run folder", lambda name=name: find_run(tmp_path / name))
        assert isinstance(error, UserError), name
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_may_not_be_read(good: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(self: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    error = attempt("run folder", lambda: find_checkpoint(good))
    assert isinstance(error, UserError)
    assert "Permission denied" in str(error)


def test_nothing_in_the_folder_is_changed_by_looking(good: Path):
    before = {path.name: path.read_bytes() for path in good.iterdir() if path.is_file()}
    _use(good / "model_0.pt", "good checkpoint")
    assert {path.name: path.read_bytes() for path in good.iterdir() if path.is_file()} == before
