"""Metrics of trainings that are killed in the middle of a write, whose folder goes away, or whose clock jumps."""

import csv
import shutil
import sys
import time
from pathlib import Path

import pytest
from small_configs import ppo_cfg

from sim_rl_plugin import plugins
from sim_rl_plugin.hooks import hookimpl
from sim_rl_plugin.logging.csv import CsvLogWriter
from sim_rl_plugin.logging.tensorboard import TensorboardLogWriter
from sim_rl_plugin.runners import OnPolicyRunner
from sim_rl_plugin.testing import PointEnv

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from torture import read_curve, read_points


@pytest.fixture
def listening():
    """A function that registers a hook implementation for the time of the test."""
    registered = []

    def register(listener: object) -> None:
        plugins.get_manager().register(listener, f"listener{len(registered)}")
        registered.append(f"listener{len(registered)}")

    yield register
    for name in registered:
        plugins.get_manager().unregister(name)


def write(writer, iterations: range) -> None:
    for iteration in iterations:
        writer.add_scalar("a", iteration / 3, iteration)
        writer.add_scalar("b", -1.5e-7 * iteration, iteration)
        writer.end_iteration()
    writer.stop()


def rows(folder: Path) -> list[list[str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_a_table_that_was_cut_anywhere_is_continued(tmp_path):
    write(CsvLogWriter(str(tmp_path)), range(14))
    whole, text = rows(tmp_path), (tmp_path / "metrics.csv").read_bytes()
    for length in range(len(text)):
        (tmp_path / "metrics.csv").write_bytes(text[:length])
        complete = text[:length].count(b"\n") - 1
        writer = CsvLogWriter(str(tmp_path))
        writer.resume_at(12)
        resumed_from = max(0, min(complete, 12))
        assert rows(tmp_path)[1:] == whole[1 : 1 + resumed_from], length
        write(writer, range(resumed_from, 14))
        assert rows(tmp_path) == whole, length


@pytest.mark.parametrize("tail", [b"\0\0\0\0", b"14,1.0", b"14,1.0\r\n", b"\xff\xfe\r\n", b"x,1.0,2.0\r\n"])
def test_what_is_no_row_is_dropped_even_without_a_resume(tmp_path, tail):
    write(CsvLogWriter(str(tmp_path)), range(14))
    whole = rows(tmp_path)
    with (tmp_path / "metrics.csv").open("ab") as file:
        file.write(tail)
    write(CsvLogWriter(str(tmp_path)), range(14, 15))
    assert rows(tmp_path)[:-1] == whole
    assert rows(tmp_path)[-1][0] == "14"


def test_events_that_were_cut_anywhere_are_continued(tmp_path):
    write(TensorboardLogWriter(str(tmp_path / "whole")), range(4))
    expected = read_points(tmp_path / "whole")
    (file,) = (tmp_path / "whole").iterdir()
    content = file.read_bytes()
    for length in range(len(content)):
        folder = tmp_path / f"cut{length}"
        folder.mkdir()
        (folder / file.name).write_bytes(content[:length])
        writer = TensorboardLogWriter(str(folder))
        points = read_points(folder).get("b", [])
        writer.resume_at(len(points))
        write(writer, range(len(points), 4))
        assert read_points(folder) == expected, length


def test_all_points_before_a_checkpoint_are_on_disk_when_it_is(tmp_path, listening):
    found = []

    class Listener:
        @hookimpl
        def sim_rl_checkpoint_saved(self, iteration):
            steps = [step for step, _ in read_points(tmp_path)["Loss/value"]]
            found.append((iteration, steps, [int(row["iteration"]) for row in read_curve(tmp_path)]))

    listening(Listener())
    OnPolicyRunner(PointEnv(), {**ppo_cfg(), "logger": ["tensorboard", "csv"]}, str(tmp_path)).learn(6)
    assert found == [(iteration, list(range(iteration + 1)), list(range(iteration + 1))) for iteration in (0, 5)]


def test_the_time_axis_keeps_its_points_at_a_resume(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def written(writer, iterations: range) -> None:
        for iteration in iterations:
            writer.add_scalar("Train/mean_reward", float(iteration), iteration)
            writer.add_scalar("Train/mean_reward/time", float(iteration), 100 * iteration)
        writer.stop()

    written(TensorboardLogWriter(str(tmp_path)), range(6))
    writer = TensorboardLogWriter(str(tmp_path))
    writer.resume_at(4)
    written(writer, range(4, 8))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("Train/mean_reward/time")]
    assert found == [(100 * iteration, float(iteration)) for iteration in range(8)]


def test_event_files_are_in_order_within_a_second_and_when_the_clock_goes_back(tmp_path, monkeypatch):
    clock = 2_000_000_000.0
    monkeypatch.setattr(time, "time", lambda: clock)
    for part in range(12):
        clock -= 1000.0 * (part % 2)
        writer = TensorboardLogWriter(str(tmp_path))
        writer.resume_at(2 * part)
        write(writer, range(2 * part, 2 * part + 3))  # the last one comes again
    assert [step for step, _ in read_points(tmp_path)["a"]] == list(range(25))


def test_going_back_beyond_the_beginning_of_a_process(tmp_path):
    for start, end in ((0, 5), (5, 9), (2, 4)):
        writer = TensorboardLogWriter(str(tmp_path))
        writer.resume_at(start)
        write(writer, range(start, end))
    assert [step for step, _ in read_points(tmp_path)["a"]] == [0, 1, 2, 3]


def test_a_folder_that_is_removed_under_a_running_training_is_made_again(tmp_path, listening):
    folder = tmp_path / "run"

    class Remover:
        @hookimpl
        def sim_rl_iteration_end(self, iteration):
            if iteration == 3:
                shutil.rmtree(folder)

    listening(Remover())
    runner = OnPolicyRunner(PointEnv(), {**ppo_cfg(), "logger": ["csv", "tensorboard"]}, str(folder))
    runner.learn(11)
    assert {path.name for path in folder.glob("*.pt")} == {"model_5.pt", "model_10.pt"}
    assert [int(row["iteration"]) for row in read_curve(folder)] == list(range(4, 11))
    # Those up to the next checkpoint went with the file that was open.
    assert [step for step, _ in read_points(folder)["Loss/value"]] == list(range(6, 11))
    resumed = OnPolicyRunner(PointEnv(), ppo_cfg(), str(folder))
    resumed.resume(str(folder / "model_10.pt"))
    resumed.learn(1)
    assert resumed.completed_iterations == 12


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    import torch

    def trained(folder: str) -> list[dict[str, str]]:
        torch.manual_seed(0)
        cfg = {**ppo_cfg(), "logger": ["csv", "tensorboard"]}
        runner = OnPolicyRunner(PointEnv(), cfg, str(tmp_path / folder))
        runner.learn(6)
        assert runner.logger.tot_time > 0.0
        return read_curve(tmp_path / folder)

    expected = trained("steady")
    clock = iter(range(4_000_000_000, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    assert trained("jumping") == expected
    assert read_points(tmp_path / "jumping") == read_points(tmp_path / "steady")
