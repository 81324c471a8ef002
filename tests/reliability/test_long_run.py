"""The short form of benchmarks/long_run.py: nothing grows from iteration to iteration."""

import gc
import sys
from pathlib import Path

import pytest

from sim_rl_plugin import plugins
from sim_rl_plugin.hooks import hookimpl
from sim_rl_plugin.runners import OnPolicyRunner
from sim_rl_plugin.testing import PointEnv

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from long_run import measure, train_cfg


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' /proc")
def test_objects_open_files_and_threads_stay_as_many(tmp_path):
    rows = measure(tmp_path, iterations=300, samples=6, save_interval=50)
    warm, last = rows[1], rows[-1]
    assert last["python_objects"] <= warm["python_objects"] + 20
    assert last["open_files"] == warm["open_files"]
    assert last["threads"] == warm["threads"]
    # Configuration of git and metrics, and one checkpoint per 50 iterations: nothing else is left behind.
    assert last["files_in_the_run_folder"] - warm["files_in_the_run_folder"] == 4


@pytest.mark.parametrize("leak", [0, 10])
def test_blocks_of_memory_that_python_holds_stay_as_many(tmp_path, leak):
    """With a leak of as many values as a row of metrics has, to see that it would be seen."""
    kept, blocks = [], {}

    class Meter:
        @hookimpl
        def sim_rl_iteration_end(self, iteration):
            kept.extend([float(iteration + number) for number in range(leak)])
            if iteration in (149, 299):
                gc.collect()
                blocks[iteration] = sys.getallocatedblocks()

    plugins.get_manager().register(Meter(), "meter")
    try:
        OnPolicyRunner(PointEnv(2, max_episode_length=8), train_cfg(save_interval=50), str(tmp_path)).learn(300)
    finally:
        plugins.get_manager().unregister("meter")
    grown = blocks[299] - blocks[149]
    assert (grown < 800) == (leak == 0), grown
