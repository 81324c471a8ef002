"""Which checkpoints stay: counted by hand, and never fewer than a resume needs."""

from pathlib import Path

import pytest
import torch
from small_configs import ppo_cfg

from sim_rl_plugin import checkpoint_retention
from sim_rl_plugin.checkpoint import numbered_checkpoints
from sim_rl_plugin.checkpoint_retention import remove_outdated
from sim_rl_plugin.config import load_config
from sim_rl_plugin.config.schema import KeepCheckpoints
from sim_rl_plugin.runners import OnPolicyRunner
from sim_rl_plugin.testing import PointEnv


@pytest.fixture
def folder(tmp_path) -> Path:
    for iteration in (0, 5, 10, 15, 20, 23):
        (tmp_path / f"model_{iteration}.pt").write_bytes(b"")
    for name in ("model_best.pt", "model_30.pt.superseded", "metrics.csv", "model_x.pt"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("keep", "stay"),
    [
        (KeepCheckpoints(), [0, 5, 10, 15, 20, 23]),
        (KeepCheckpoints(last=1), [23]),
        (KeepCheckpoints(last=2), [20, 23]),
        (KeepCheckpoints(last=2, every=10), [0, 10, 20, 23]),
        (KeepCheckpoints(last=9), [0, 5, 10, 15, 20, 23]),
    ],
)
def test_what_stays(folder, keep: KeepCheckpoints, stay: list[int]):
    others = {path.name for path in folder.iterdir()} - {path.name for path in numbered_checkpoints(folder).values()}
    remove_outdated(folder, keep, None)
    assert list(numbered_checkpoints(folder)) == stay
    assert others <= {path.name for path in folder.iterdir()}


def test_what_was_resumed_from_stays(folder):
    remove_outdated(folder, KeepCheckpoints(last=1), folder / "." / "model_5.pt")
    assert list(numbered_checkpoints(folder)) == [5, 23]
    remove_outdated(folder, KeepCheckpoints(last=1), folder.parent / "model_5.pt")
    assert list(numbered_checkpoints(folder)) == [23]


def test_a_file_that_cannot_be_removed_is_a_warning(folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.warns(UserWarning, match=r"cannot remove the checkpoint .*model_0.pt: Permission denied") as told:
        remove_outdated(folder, KeepCheckpoints(last=1), None)
    assert len(told) == 1


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.pt")}


def test_a_training_keeps_what_its_dict_says(tmp_path):
    cfg = {**ppo_cfg(), "save_interval": 2, "keep_checkpoints": {"last": 2, "every": 4}}
    OnPolicyRunner(PointEnv(), cfg, str(tmp_path)).learn(10)
    # Written after iterations 0, 2, 4, 6, 8, and 9, the last one.
    assert names(tmp_path) == {"model_0.pt", "model_4.pt", "model_8.pt", "model_9.pt"}


def test_a_resumed_training_keeps_where_it_came_from(tmp_path):
    cfg = {**ppo_cfg(), "save_interval": 2}
    OnPolicyRunner(PointEnv(), cfg, str(tmp_path)).learn(5)
    assert names(tmp_path) == {"model_0.pt", "model_2.pt", "model_4.pt"}
    resumed = OnPolicyRunner(PointEnv(), {**cfg, "keep_checkpoints": {"last": 1}}, str(tmp_path))
    resumed.resume(str(tmp_path / "model_2.pt"))
    resumed.learn(6)
    # Iterations 3 to 8; that of 4 was set aside, and its new one is outdated.
    assert names(tmp_path) == {"model_2.pt", "model_8.pt"}


def test_nothing_is_removed_before_the_newer_one_is_written(tmp_path, monkeypatch):
    cfg = {**ppo_cfg(), "save_interval": 2, "keep_checkpoints": {"last": 1}}
    runner = OnPolicyRunner(PointEnv(), cfg, str(tmp_path))
    runner.learn(3)
    assert names(tmp_path) == {"model_2.pt"}

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ValueError, match=r"cannot write the checkpoint .*: No space left on device"):
        runner.learn(4)
    assert names(tmp_path) == {"model_2.pt"}


def test_removal_comes_after_the_sync(tmp_path, monkeypatch):
    cfg = {**ppo_cfg(), "save_interval": 1, "keep_checkpoints": {"last": 1}}
    seen = []
    remove = checkpoint_retention.remove_outdated

    def recorded(folder, keep, resumed_from):
        seen.append(list(numbered_checkpoints(folder)))
        remove(folder, keep, resumed_from)

    monkeypatch.setattr("sim_rl_plugin.runners.on_policy_runner.remove_outdated", recorded)
    OnPolicyRunner(PointEnv(), cfg, str(tmp_path)).learn(3)
    assert seen == [[0], [0, 1], [1, 2]]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["keep_checkpoints.last=0"], r"keep_checkpoints.last: expected 1 or more, or null, found 0"),
        (["keep_checkpoints.lst=3"], r"unknown key 'keep_checkpoints.lst': did you mean 'keep_checkpoints.last'\?"),
        (["keep_checkpoints.last=2.5"], r"keep_checkpoints.last: expected an integer or null, found 2.5"),
        (["keep_checkpoints.every=100"], r"keep_checkpoints.every: has no effect while keep_checkpoints.last is null"),
        (
            ["keep_checkpoints.last=2", "keep_checkpoints.every=75"],
            r"keep_checkpoints.every: expected a multiple of save_interval \(50\), found 75",
        ),
        (["keep_checkpoints=3"], r"keep_checkpoints: expected a mapping of settings, found 3"),
        (["keep_checkpoints.best=1"], r"keep_checkpoints.best: expected true or false, found 1"),
    ],
)
def test_wrong_settings_are_named(overrides: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        load_config("mujoco", "Hopper", None, overrides)


def test_an_rsl_rl_dict_is_checked_likewise():
    with pytest.raises(ValueError, match=r"unknown key 'keep_checkpoints.lasts'"):
        OnPolicyRunner(PointEnv(), {**ppo_cfg(), "keep_checkpoints": {"lasts": 3}})
    with pytest.raises(ValueError, match=r"keep_checkpoints: expected a mapping, found 3"):
        OnPolicyRunner(PointEnv(), {**ppo_cfg(), "keep_checkpoints": 3})


def test_settings_are_taken():
    config = load_config("mujoco", "Hopper", None, ["keep_checkpoints.last=3", "keep_checkpoints.every=100"])
    assert config.keep_checkpoints == {"last": 3, "every": 100, "best": True}
