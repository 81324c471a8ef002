"""Episode statistics and log writers."""

import csv

import pytest
import torch
from small_configs import ppo_cfg

from sim_rl_plugin.logging import LogWriter
from sim_rl_plugin.logging.csv import CsvLogWriter
from sim_rl_plugin.logging.episodes import EnvironmentLog, EpisodeStatistics
from sim_rl_plugin.runners import OnPolicyRunner
from sim_rl_plugin.testing import PointEnv


def test_episodes_by_hand():
    episodes = EpisodeStatistics(2, "cpu")
    episodes.add(torch.tensor([1.0, 10.0]), torch.tensor([False, False]))
    episodes.add(torch.tensor([2.0, 20.0]), torch.tensor([True, False]))
    assert episodes.finished() == ([2.0], [3.0])
    episodes.add(torch.tensor([4.0, 30.0]), torch.tensor([1, 1]))
    assert episodes.finished() == ([1.0, 3.0], [4.0, 60.0])
    assert episodes.finished() == ([], [])


def test_episodes_with_intrinsic_rewards_by_hand():
    episodes = EpisodeStatistics(2, "cpu")
    episodes.add(torch.tensor([1.0, 10.0]), torch.tensor([False, False]), torch.tensor([0.1, 0.2]))
    episodes.add(torch.tensor([2.0, 20.0]), torch.tensor([True, False]), torch.tensor([0.3, 0.4]))
    lengths, both, tasks, intrinsic = episodes.finished()
    assert (lengths, tasks) == ([2.0], [3.0])
    assert both == pytest.approx([3.4])
    assert intrinsic == pytest.approx([0.4])


def test_episodes_in_progress_survive_that_intrinsic_rewards_come_and_go():
    before = EpisodeStatistics(1, "cpu")
    before.add(torch.tensor([5.0]), torch.tensor([False]))
    after = EpisodeStatistics(1, "cpu")
    after.load_state_dict(before.state_dict())
    after.add(torch.tensor([1.0]), torch.tensor([False]), torch.tensor([0.5]))
    again = EpisodeStatistics(1, "cpu")
    again.load_state_dict(after.state_dict())
    again.add(torch.tensor([2.0]), torch.tensor([True]))
    assert again.finished() == ([3.0], [8.5], [8.0], [0.5])
    other = EpisodeStatistics(2, "cpu")
    other.load_state_dict(after.state_dict())  # of one environment
    other.add(torch.tensor([1.0, 2.0]), torch.tensor([True, True]))
    assert other.finished() == ([1.0, 1.0], [1.0, 2.0])


def test_environment_log_averages_all_values_of_an_iteration():
    log = EnvironmentLog()
    log.add({"height": torch.tensor([1.0, 2.0, 6.0]), "Curriculum/level": 3})
    log.add({"height": torch.tensor(7.0)})
    assert log.means() == {"Episode/height": 4.0, "Curriculum/level": 3.0}
    assert log.means() == {}


def test_csv_adds_columns_as_they_appear(tmp_path):
    writer = CsvLogWriter(str(tmp_path))
    writer.add_scalar("a", 1.0, 0)
    writer.end_iteration()
    writer.add_scalar("a", 2.0, 1)
    writer.add_scalar("b", 3.0, 1)
    writer.end_iteration()
    with open(tmp_path / "metrics.csv", newline="") as file:
        assert list(csv.reader(file)) == [["iteration", "a", "b"], ["0", "1.0", ""], ["1", "2.0", "3.0"]]


class ListWriter(LogWriter):
    """A writer of somebody's own."""

    opened: list["ListWriter"] = []

    def __init__(self, log_dir: str, prefix: str = "") -> None:
        self.values: dict[str, float] = {}
        self.prefix = prefix
        self.opened.append(self)

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.values[self.prefix + tag] = scalar_value


def test_writers_by_name_and_by_class(tmp_path):
    cfg = {**ppo_cfg(), "logger": ["tensorboard", {"class_name": ListWriter, "prefix": "mine/"}]}
    OnPolicyRunner(PointEnv(), cfg, str(tmp_path)).learn(3)
    assert ListWriter.opened[-1].values["mine/Perf/total_steps"] == 3 * 16 * 8
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_an_unknown_writer_is_named(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'tensorboard'"):
        OnPolicyRunner(PointEnv(), {**ppo_cfg(), "logger": "tensorbord"}, str(tmp_path)).learn(1)
