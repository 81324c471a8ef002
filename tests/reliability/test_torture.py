"""The short form of benchmarks/torture.py: a training that is killed again and again is the training itself."""

import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from torture import Torture

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills processes as POSIX does")


def test_a_training_that_is_killed_again_and_again_ends_like_one_that_was_not(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torture = Torture(tmp_path, iterations=20, save_interval=2)
    torture.straight()
    torture.in_pieces(4)
    assert torture.killed.total() == 4
    assert torture.checked > 4
    assert torture.broken == []
    assert not list((tmp_path / "cut").glob(".unfinished*"))
    assert torture.differences() == []
    # The comparison sees what is different: one bit of one parameter, one value of one row.
    table = tmp_path / "cut" / "metrics.csv"
    table.write_text(table.read_text().replace("\n5,", "\n5,1"))
    (tmp_path / "cut" / "model_6.pt").write_bytes((tmp_path / "cut" / "model_8.pt").read_bytes())
    found = torture.differences()
    assert "learning curve" in found
    assert any(difference.startswith("model_6.pt: .actor_state_dict") for difference in found)
