"""The manifest: carried by the file, passed over by torch, and no byte changes unnoticed."""

import errno
import io
import json
import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import torch

from sim_rl_plugin.checkpoint import load_checkpoint, save_checkpoint
from sim_rl_plugin.checkpoint_manifest import check_bytes, describe, read_digest, read_manifest, seal, versions

ROOT = Path(__file__).parents[1]
CONTENTS = {
    "actor_state_dict": {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.zeros(2)},
    "optimizer_state_dict": {"state": {}, "param_groups": []},
    "iter": 7,
    "infos": None,
    "sim_rl": {
        "completed_iterations": 8,
        "config": {"task": "Point", "algorithm": {"class_name": "PPO"}},
        "layout": {"observations": {"policy": {"shape": [3], "dtype": "float32"}}, "num_actions": 2},
        "versions": {"mysim": "2.0"},
        "evaluation": None,
    },
}


@pytest.fixture
def path(tmp_path) -> Path:
    save_checkpoint(tmp_path / "model_7.pt", CONTENTS)
    return tmp_path / "model_7.pt"


def test_it_tells_what_the_file_is(path):
    manifest = read_manifest(path)
    assert manifest is not None
    assert manifest["iteration"] == 7
    assert manifest["completed_iterations"] == 8
    assert manifest["models"] == {"actor": 8}
    assert manifest["config"] == CONTENTS["sim_rl"]["config"]
    assert manifest["layout"] == CONTENTS["sim_rl"]["layout"]
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["versions"]["mysim"] == "2.0"
    assert manifest["written"].endswith("+00:00")
    assert "evaluation" not in manifest


def test_torch_reads_the_file_as_it_is_and_copies_keep_it(path, tmp_path):
    for options in ({"weights_only": True}, {"weights_only": False}, {"mmap": True}):
        loaded = torch.load(path, **options)
        assert torch.equal(loaded["actor_state_dict"]["weight"], CONTENTS["actor_state_dict"]["weight"])
    copied = tmp_path / "elsewhere.pt"
    copied.write_bytes(path.read_bytes())
    assert read_manifest(copied) == read_manifest(path)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert json.loads(archive.read("archive/manifest.json"))["iteration"] == 7


def test_no_flipped_byte_goes_unnoticed(path):
    whole = path.read_bytes()
    # Every seventh, and all of the manifest's end, the archive's directory, and the digest.
    for place in [*range(0, len(whole), 7), *range(len(whole) - 200, len(whole))]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"the checkpoint .* is damaged: "):
            check_bytes(path)
    path.write_bytes(whole)
    check_bytes(path)


@pytest.mark.parametrize("change", ["cut", "longer", "empty", "middle removed"])
def test_no_change_of_length_goes_unnoticed(path, change: str):
    whole = path.read_bytes()
    changed = {
        "cut": whole[:-1],
        "longer": whole + b"\0" * 100,
        "empty": b"",
        "middle removed": whole[:500] + whole[700:],
    }[change]
    path.write_bytes(changed)
    with pytest.raises(ValueError, match=r"the checkpoint .* is damaged: "):
        load_checkpoint(path)


def test_a_file_without_a_manifest_is_accepted_and_its_own_checksums_are_checked(tmp_path):
    path = tmp_path / "theirs.pt"
    torch.save({key: value for key, value in CONTENTS.items() if key != "sim_rl"}, path)
    assert read_manifest(path) is None
    assert read_digest(path) is None
    assert load_checkpoint(path)["iter"] == 7
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/data/0"))
        place = content.index(torch.arange(6.0).numpy().tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"damaged: the checksum of {name} in it is wrong"):
        load_checkpoint(path)


def test_what_torch_wrote_before_1_6_is_accepted(tmp_path):
    torch.save(CONTENTS, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert read_manifest(tmp_path / "old.pt") is None
    assert load_checkpoint(tmp_path / "old.pt")["iter"] == 7


def test_a_clock_before_1980_does_not_matter(monkeypatch):
    monkeypatch.setattr("time.time", lambda: 0.0)
    file = io.BytesIO()
    torch.save({"a": 1}, file)
    seal(file, {"iteration": 3})
    file.seek(0)
    assert torch.load(file, weights_only=True) == {"a": 1}


def test_versions_of_what_is_not_installed_are_unknown():
    assert versions(("no_such_simulator",))["no_such_simulator"] == "unknown"
    # The name of a distribution need not be that of its package.
    assert versions(("mpl_toolkits",))["mpl_toolkits"] == metadata.version("matplotlib")


def test_reading_it_imports_no_torch(path):
    code = (
        "import sys; from pathlib import Path; from sim_rl_plugin.checkpoint_manifest import read_manifest;"
        f"print(read_manifest(Path({str(path)!r}))['iteration'], 'torch' in sys.modules)"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["7", "False"]


def test_a_missing_and_an_unreadable_file_are_one_message(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no checkpoint at"):
        read_manifest(tmp_path / "model_1.pt")
    path = tmp_path / "model_2.pt"
    path.write_bytes(b"x")

    def refused(*args, **kwargs):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(ValueError, match=r"cannot read the checkpoint .*model_2.pt: Input/output error"):
        check_bytes(path)


def test_a_manifest_without_our_part_says_what_it_can():
    manifest = describe({"model_state_dict": {"actor.0.weight": torch.zeros(4)}, "iter": 3})
    assert manifest["models"] == {"model": 4}
    assert manifest["iteration"] == 3
    assert not {"config", "layout", "evaluation"} & manifest.keys()
