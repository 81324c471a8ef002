"""Checkpoints: whole or not at all, and never code."""

import os
import pickle
import random

import numpy as np
import pytest
import torch

from sim_rl_plugin import checkpoint, plugins
from sim_rl_plugin.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
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


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({"actor_state_dict": Bomb()}, tmp_path / "zip.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps({"actor_state_dict": Bomb()}))
    for name in ("zip.pt", "raw.pt"):
        with pytest.raises(ValueError, match="the checkpoint"):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "ran").exists()


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


def test_random_states_continue(tmp_path):
    save_checkpoint(tmp_path / "model_0.pt", {"x_state_dict": {}, "random": checkpoint.random_state()})
    expected = (torch.rand(3), np.random.rand(), random.random())
    checkpoint.set_random_state(load_checkpoint(tmp_path / "model_0.pt")["random"])
    assert torch.equal(torch.rand(3), expected[0])
    assert (np.random.rand(), random.random()) == expected[1:]
