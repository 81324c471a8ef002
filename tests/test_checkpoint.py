"""Checkpoints: whole or not at all, and never code."""

import errno
import io
import os
import pickle
import random
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from sim_rl_plugin import checkpoint, plugins
from sim_rl_plugin.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from sim_rl_plugin.checkpoint_manifest import seal
from sim_rl_plugin.hooks import hookimpl

CONTENTS = {"actor_state_dict": {"weight": torch.arange(3.0)}, "iter": 7, "infos": None}


def test_round_trip(tmp_path):
    save_checkpoint(tmp_path / "new" / "model_7.pt", CONTENTS)
    loaded = load_checkpoint(tmp_path / "new" / "model_7.pt")
    assert loaded["iter"] == 7
    assert torch.equal(loaded["actor_state_dict"]["weight"], torch.arange(3.0))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model_7.pt"]


def test_a_failing_write_keeps_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "model_7.pt"
    save_checkpoint(path, CONTENTS)

    def disk_full(contents, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(ValueError, match=r"cannot write the checkpoint .*: No space left on device"):
        save_checkpoint(path, {**CONTENTS, "iter": 8})
    monkeypatch.undo()
    assert load_checkpoint(path)["iter"] == 7
    assert os.listdir(tmp_path) == ["model_7.pt"]


def test_numpy_is_converted_and_anything_else_refused(tmp_path):
    infos = {"best": np.float64(3.0), "history": np.arange(3), "nested": (np.int64(1), [None])}
    save_checkpoint(tmp_path / "model_0.pt", {**CONTENTS, "infos": infos})
    loaded = load_checkpoint(tmp_path / "model_0.pt")["infos"]
    assert loaded["best"] == 3.0
    assert loaded["history"].tolist() == [0, 1, 2]
    assert loaded["nested"] == (1, [None])
    with pytest.raises(ValueError, match=r"but checkpoint\['infos'\]\['path'\] is a PosixPath"):
        save_checkpoint(tmp_path / "model_1.pt", {**CONTENTS, "infos": {"path": tmp_path}})
    assert os.listdir(tmp_path) == ["model_0.pt"]


@pytest.mark.skipif(os.name != "posix", reason="file modes of POSIX")
def test_a_checkpoint_is_as_readable_as_other_files(tmp_path):
    save_checkpoint(tmp_path / "model_0.pt", CONTENTS)
    (tmp_path / "other").write_text("")
    assert (tmp_path / "model_0.pt").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.fixture
def smallest_files():
    """A limit on the size of files below that of a checkpoint, with which the system itself refuses to write."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_the_system_refuses_is_one_message(tmp_path, smallest_files):
    # torch answers the system's error with one of its own, about positions in its archive.
    large = {**CONTENTS, "actor_state_dict": {str(index): torch.zeros(3000) for index in range(20)}}
    with pytest.raises(ValueError, match=r"^cannot write the checkpoint .*model_0.pt: File too large$"):
        save_checkpoint(tmp_path / "model_0.pt", large)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_a_failure_after_the_writing_keeps_what_was_there(tmp_path, monkeypatch, step: str):
    path = tmp_path / "model_7.pt"
    save_checkpoint(path, CONTENTS)

    def refuse(*args, **kwargs):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, step, refuse)
    with pytest.raises(ValueError, match=r"cannot write the checkpoint .*: Input/output error"):
        save_checkpoint(path, {**CONTENTS, "iter": 8})
    monkeypatch.undo()
    assert load_checkpoint(path)["iter"] == 7
    assert os.listdir(tmp_path) == ["model_7.pt"]


def test_a_folder_that_is_gone_is_made_again(tmp_path):
    save_checkpoint(tmp_path / "run" / "model_0.pt", CONTENTS)
    shutil.rmtree(tmp_path / "run")
    save_checkpoint(tmp_path / "run" / "model_1.pt", CONTENTS)
    assert find_checkpoint(tmp_path / "run").name == "model_1.pt"
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot write the checkpoint .*file/model_2.pt: "):
        save_checkpoint(tmp_path / "file" / "model_2.pt", CONTENTS)


def test_what_a_kill_left_half_written_is_removed_on_resume(tmp_path):
    save_checkpoint(tmp_path / "model_5.pt", CONTENTS)
    for name in (".unfinished.model_10.pt.x1y2z3", ".unfinished.metrics.csv.abc", ".lock", ".model_notes.txt"):
        (tmp_path / name).write_bytes(b"half")
    checkpoint.set_aside_later_checkpoints(tmp_path / "model_5.pt", tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".lock", ".model_notes.txt", "model_5.pt"]


def test_a_run_folder_that_cannot_be_written_to_is_one_message(tmp_path, monkeypatch):
    for iteration in (0, 5):
        save_checkpoint(tmp_path / f"model_{iteration}.pt", CONTENTS)

    def refuse(*args):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(ValueError, match=r"cannot write to the run folder .*: Read-only file system"):
        checkpoint.set_aside_later_checkpoints(tmp_path / "model_0.pt", tmp_path)


def test_resuming_from_the_best_sets_later_ones_aside_too(tmp_path):
    for iteration in (0, 5, 10):
        save_checkpoint(tmp_path / f"model_{iteration}.pt", {**CONTENTS, "iter": iteration})
    save_checkpoint(tmp_path / "model_best.pt", {**CONTENTS, "iter": 7})
    checkpoint.set_aside_later_checkpoints(tmp_path / "model_best.pt", tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["model_0.pt", "model_5.pt", "model_best.pt"]


def test_checkpoints_after_the_resumed_one_are_set_aside(tmp_path):
    for iteration in (0, 5, 10):
        save_checkpoint(tmp_path / f"model_{iteration}.pt", CONTENTS)
    checkpoint.set_aside_later_checkpoints(tmp_path / "model_5.pt", tmp_path / "elsewhere")
    assert find_checkpoint(tmp_path).name == "model_10.pt"
    checkpoint.set_aside_later_checkpoints(tmp_path / "model_5.pt", tmp_path)
    assert find_checkpoint(tmp_path).name == "model_5.pt"
    assert (tmp_path / "model_10.pt.superseded").is_file()


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "empty"])
def test_damage_is_one_message(tmp_path, damage: str):
    path = tmp_path / "model_0.pt"
    save_checkpoint(path, CONTENTS)
    content = path.read_bytes()
    broken = {
        "cut": content[: len(content) // 2],
        "flipped": content[:40] + bytes(255 - byte for byte in content[40:200]) + content[200:],
        "text": b"not a checkpoint",
        "empty": b"",
    }[damage]
    path.write_bytes(broken)
    with pytest.raises(ValueError, match=r"the checkpoint .*model_0.pt") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return (os.mkdir, (str(self.folder),))


def write_bomb(path: Path, kind: str) -> None:
    """Write a file that makes the folder ``ran`` beside it if its pickle is run."""
    contents = {"actor_state_dict": Bomb(path.parent / "ran")}
    with path.open("w+b") as file:
        if kind in ("zip", "sealed"):
            torch.save(contents, file)
        if kind == "sealed":
            seal(file, {"iteration": 0})
        if kind == "before 1.6":
            torch.save(contents, file, _use_new_zipfile_serialization=False)
        if kind == "pickle":
            pickle.dump(contents, file)
        if kind == "tar":
            with tarfile.open(fileobj=file, mode="w") as archive:
                for name in ("sys_info", "storages", "tensors", "pickle"):
                    data = pickle.dumps(contents, protocol=2)
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("kind", ["zip", "sealed", "before 1.6", "tar", "pickle"])
def test_code_in_a_checkpoint_is_not_run(tmp_path, kind: str):
    write_bomb(tmp_path / "model_0.pt", kind)
    with pytest.raises(ValueError, match=r"the checkpoint .*model_0.pt") as caught:
        load_checkpoint(tmp_path / "model_0.pt")
    assert "\n" not in str(caught.value)
    assert ("--trust" in str(caught.value)) == (kind != "pickle")
    with pytest.raises(ValueError, match="can be read"), pytest.warns(UserWarning, match="skipped"):
        find_checkpoint(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_trust_runs_it_after_a_line(tmp_path):
    write_bomb(tmp_path / "model_0.pt", "zip")
    # What the bomb leaves in its place is no state of a model.
    with (
        pytest.warns(UserWarning, match=r"holds \w+\.mkdir: trusted, and its code is run"),
        pytest.raises(ValueError, match="actor_state_dict: expected a mapping, found None"),
    ):
        load_checkpoint(tmp_path / "model_0.pt", trust=True)
    assert (tmp_path / "ran").is_dir()


def test_trust_does_not_touch_files_that_need_none(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "model_0.pt", CONTENTS)
    load, asked = torch.load, []
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: asked.append(kwargs) or load(*args, **kwargs))
    assert load_checkpoint(tmp_path / "model_0.pt", trust=True)["iter"] == 7
    assert [call["weights_only"] for call in asked] == [True]


def test_values_of_numpy_in_rsl_rls_files_are_named(tmp_path):
    torch.save({**CONTENTS, "infos": {"best": np.float64(3.0)}}, tmp_path / "model_0.pt")
    with pytest.raises(ValueError, match=r"holds numpy\.\S*scalar beside tensors and plain data"):
        load_checkpoint(tmp_path / "model_0.pt")
    with pytest.warns(UserWarning, match="trusted"):
        assert load_checkpoint(tmp_path / "model_0.pt", trust=True)["infos"]["best"] == 3.0


class Notes:
    """What a package of somebody else's keeps in its files."""


def test_what_other_packages_call_safe_is_not_loaded_and_stays_safe_for_them(tmp_path):
    torch.save({**CONTENTS, "infos": Notes()}, tmp_path / "model_0.pt")
    with torch.serialization.safe_globals([Notes]):
        with pytest.raises(ValueError, match=r"holds [\w.]*Notes beside tensors and plain data"):
            load_checkpoint(tmp_path / "model_0.pt")
        assert isinstance(torch.load(tmp_path / "model_0.pt", weights_only=True)["infos"], Notes)


def test_an_exported_policy_is_no_checkpoint(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "policy.pt"))
    with pytest.raises(ValueError, match=r"policy.pt is no checkpoint but a policy exported as TorchScript"):
        load_checkpoint(tmp_path / "policy.pt", trust=True)


def test_a_missing_file_and_a_foreign_file(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "model_1.pt")
    torch.save({"weights": torch.ones(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="holds no state_dict"):
        load_checkpoint(tmp_path / "other.pt")


def test_a_plugin_reads_a_file_of_another_kind(tmp_path):
    class Reader:
        @hookimpl
        def sim_rl_load_foreign_checkpoint(self, path):
            return {"actor_state_dict": {"weight": torch.ones(1)}} if path.suffix == ".npz" else None

    (tmp_path / "policy.npz").write_bytes(b"theirs")
    (tmp_path / "policy.pt").write_bytes(b"nobody's")
    plugins.get_manager().register(Reader(), "reader")
    try:
        assert "actor_state_dict" in load_checkpoint(tmp_path / "policy.npz")
        with pytest.raises(ValueError, match="damaged"):
            load_checkpoint(tmp_path / "policy.pt")
    finally:
        plugins.get_manager().unregister("reader")


def test_the_last_good_checkpoint_is_found(tmp_path):
    with pytest.raises(ValueError, match="no run folder"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no checkpoint"):
        find_checkpoint(tmp_path)
    for iteration in (9, 50, 100):
        save_checkpoint(tmp_path / f"model_{iteration}.pt", CONTENTS)
    assert find_checkpoint(tmp_path).name == "model_100.pt"
    (tmp_path / "model_100.pt").write_bytes(b"half")
    with pytest.warns(UserWarning, match="skipped: the checkpoint .*model_100.pt is damaged"):
        assert find_checkpoint(tmp_path).name == "model_50.pt"
    assert find_checkpoint(tmp_path / "model_9.pt").name == "model_9.pt"


def test_the_best_checkpoint_is_found(tmp_path):
    save_checkpoint(tmp_path / "model_9.pt", CONTENTS)
    with pytest.raises(ValueError, match=r"no model_best.pt in .*evaluation.every"):
        find_checkpoint(tmp_path, best=True)
    save_checkpoint(tmp_path / "model_best.pt", CONTENTS)
    assert find_checkpoint(tmp_path, best=True).name == "model_best.pt"
    assert find_checkpoint(tmp_path).name == "model_9.pt"
    with pytest.raises(ValueError, match="give its run folder"):
        find_checkpoint(tmp_path / "model_9.pt", best=True)


def test_random_states_continue(tmp_path):
    save_checkpoint(tmp_path / "model_0.pt", {"x_state_dict": {}, "random": checkpoint.random_state()})
    expected = (torch.rand(3), np.random.rand(), random.random())
    checkpoint.set_random_state(load_checkpoint(tmp_path / "model_0.pt")["random"])
    assert torch.equal(torch.rand(3), expected[0])
    assert (np.random.rand(), random.random()) == expected[1:]
