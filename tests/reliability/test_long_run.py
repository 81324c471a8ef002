"""The short form of benchmarks/long_run.py: nothing grows from iteration to iteration."""

import gc
import sys
import tracemalloc
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


@pytest.mark.parametrize("leak", [0, 1])
def test_memory_that_python_has_asked_for_stays_as_much(tmp_path, leak):
    """With a leak of one line of text per iteration, to see that it would be seen."""
    kept, sizes = [], {}

    class Meter:
        @hookimpl
        def sim_rl_iteration_end(self, iteration):
            kept.extend([f"iteration {iteration} was an iteration"] * leak)
            if iteration in (149, 299):
                gc.collect()
                sizes[iteration] = tracemalloc.get_traced_memory()[0]

    plugins.get_manager().register(Meter(), "meter")
    tracemalloc.start()
    try:
        OnPolicyRunner(PointEnv(2, max_episode_length=8), train_cfg(save_interval=50), str(tmp_path)).learn(300)
    finally:
        tracemalloc.stop()
        plugins.get_manager().unregister("meter")
    grown = sizes[299] - sizes[149]
    print("grown", grown)
    assert (grown < 8_000) == (leak == 0), grown
