"""A disk that is full, a folder that is read-only or removed, under a running training."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_configs import ppo_cfg

from sim_rl_plugin.checkpoint import find_checkpoint, load_checkpoint
from sim_rl_plugin.hooks import hookimpl
from sim_rl_plugin.logging import LogWriter
from sim_rl_plugin.plugins import get_manager
from sim_rl_plugin.runners import OnPolicyRunner
from sim_rl_plugin.testing import PointEnv


def mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 500 kB, of which a checkpoint takes a seventh."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None or not mount("-t", "tmpfs", "-o", "size=500k", "tmpfs", str(folder)):
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def runner_in(folder: Path, **settings) -> OnPolicyRunner:
    return OnPolicyRunner(PointEnv(), {**ppo_cfg(), "save_interval": 1, **settings}, str(folder))


def numbered(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.pt"))


def test_a_full_disk_ends_the_training_and_keeps_what_was_there(disk):
    runner = runner_in(disk / "run", logger=["tensorboard", "csv"])
    with pytest.raises(ValueError, match=r"^cannot write the checkpoint \S+model_\d\.pt: No space left on device$"):
        runner.learn(20)
    done = runner.completed_iterations - 1
    assert done >= 2
    assert numbered(disk / "run") == [f"model_{iteration}.pt" for iteration in range(done)]
    for name in numbered(disk / "run"):
        load_checkpoint(disk / "run" / name)
    assert not list((disk / "run").glob(".*"))
    # With room again, it goes on from the last one.
    for iteration in (0, 1):  # two, since the changes of this working tree are written, too
        (disk / "run" / f"model_{iteration}.pt").unlink()
    resumed = runner_in(disk / "run", keep_checkpoints={"last": 1}, logger=["tensorboard", "csv"])
    resumed.resume(str(find_checkpoint(disk / "run")))
    resumed.learn(2)
    assert numbered(disk / "run") == [f"model_{done - 1}.pt", f"model_{done + 1}.pt"]


def test_a_disk_without_room_for_the_log_ends_the_training(disk):
    class Filler:
        @hookimpl
        def sim_rl_iteration_end(self, iteration):
            if iteration == 2:
                with contextlib.suppress(OSError):  # it takes the rest of the disk
                    (disk / "filler").write_bytes(b"0" * 600_000)

    get_manager().register(Filler(), "filler")
    try:
        with pytest.raises(ValueError, match="No space left on device"):
            runner_in(disk / "run", save_interval=100).learn(200)
    finally:
        get_manager().unregister("filler")
    assert numbered(disk / "run") == ["model_0.pt"]
    load_checkpoint(disk / "run" / "model_0.pt")


def test_a_file_system_that_becomes_read_only(disk):
    class Remount:
        @hookimpl
        def sim_rl_checkpoint_saved(self, iteration):
            if iteration == 1:
                assert mount("-o", "remount,ro", str(disk))

    get_manager().register(Remount(), "remount")
    try:
        with pytest.raises(ValueError, match="Read-only file system"):
            runner_in(disk / "run", logger=[]).learn(20)
    finally:
        get_manager().unregister("remount")
    assert numbered(disk / "run") == ["model_0.pt", "model_1.pt"]
    with pytest.raises(ValueError, match="Read-only file system"):
        runner_in(disk / "run").learn(1)


def test_a_folder_that_is_removed_is_made_again(tmp_path):
    class Remover:
        @hookimpl
        def sim_rl_checkpoint_saved(self, runner, path, iteration):
            if iteration == 2:
                shutil.rmtree(path.parent)

    get_manager().register(Remover(), "remover")
    try:
        runner_in(tmp_path / "run", logger=["tensorboard", "csv"]).learn(5)
    finally:
        get_manager().unregister("remover")
    assert numbered(tmp_path / "run") == ["model_3.pt", "model_4.pt"]
    assert load_checkpoint(find_checkpoint(tmp_path / "run"))["sim_rl"]["completed_iterations"] == 5


class Refused(LogWriter):
    """A log writer whose device refuses one of its calls."""

    def __init__(self, log_dir: str, call: str) -> None:
        self._call = call
        self._refuse("__init__")

    def _refuse(self, call: str) -> None:
        if call == self._call:
            raise OSError(5, "Input/output error")

    def add_scalar(self, tag, scalar_value, global_step):
        if global_step == 3:
            self._refuse("add_scalar")

    def flush(self):
        self._refuse("flush")

    def save_model(self, model_path, it):
        self._refuse("save_model")

    def stop(self):
        self._refuse("stop")


def refusing(call: str) -> list:
    return [{"class_name": Refused, "call": call}]


def test_a_log_that_cannot_be_written_ends_the_training_with_a_checkpoint(tmp_path):
    runner = runner_in(tmp_path, save_interval=100, logger=refusing("add_scalar"))
    with pytest.raises(ValueError, match=rf"^cannot write the log in {tmp_path}: Input/output error$"):
        runner.learn(10)
    assert numbered(tmp_path) == ["model_0.pt", "model_3.pt"]
    assert load_checkpoint(tmp_path / "model_3.pt")["sim_rl"]["completed_iterations"] == 4


@pytest.mark.parametrize("call", ["flush", "save_model"])
def test_a_log_that_fails_at_a_checkpoint_ends_the_training_after_it(tmp_path, call: str):
    with pytest.raises(ValueError, match=r"cannot write the log in .*: Input/output error"):
        runner_in(tmp_path, logger=refusing(call)).learn(10)
    assert numbered(tmp_path) == ["model_0.pt"]
    load_checkpoint(tmp_path / "model_0.pt")


def test_a_log_that_cannot_be_opened_is_one_message(tmp_path):
    with pytest.raises(ValueError, match=r"cannot write the log in .*: Input/output error"):
        runner_in(tmp_path, logger=refusing("__init__")).learn(1)


def test_a_log_that_cannot_be_closed_is_told_and_costs_nothing(tmp_path):
    with pytest.warns(UserWarning, match=r"cannot write the log in .*: Input/output error"):
        runner_in(tmp_path, logger=refusing("stop")).learn(2)
    assert numbered(tmp_path) == ["model_0.pt", "model_1.pt"]


def test_a_clock_that_jumps_changes_no_checkpoint(tmp_path, monkeypatch):
    times = iter([1e9, 5e9, 0.0, 2e9] * 10_000)
    monkeypatch.setattr(time, "time", lambda: next(times))
    runner_in(tmp_path).learn(3)
    monkeypatch.undo()
    assert find_checkpoint(tmp_path).name == "model_2.pt"
    assert torch.is_tensor(load_checkpoint(tmp_path / "model_2.pt")["actor_state_dict"]["mlp.0.weight"])
    assert all(os.path.getsize(tmp_path / name) > 0 for name in numbered(tmp_path))
