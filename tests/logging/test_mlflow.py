"""The MLflow log writer, with a module that records what it is told, and with MLflow itself where it is installed."""

import importlib.util
import sys
import types

import pytest
from small_configs import ppo_cfg

from sim_rl_plugin.logging.mlflow import MlflowLogWriter
from sim_rl_plugin.runners import OnPolicyRunner
from sim_rl_plugin.testing import PointEnv


class MlflowException(Exception):
    pass


class Client:
    experiments: dict[str, str] = {}
    is_down = False

    def __init__(self, uri: str | None) -> None:
        if self.is_down:
            raise MlflowException("no route\nto the server")
        self.uri, self.told = uri, []
        clients.append(self)

    def get_experiment_by_name(self, name: str):
        return types.SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(self, name: str) -> str:
        return self.experiments.setdefault(name, str(len(self.experiments)))

    def create_run(self, experiment: str, run_name: str):
        self.told.append(("run", experiment, run_name))
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="r1"))

    def __getattr__(self, name: str):
        return lambda run_id, *arguments, **named: self.told.append((name, run_id, *arguments, *named.values()))


clients: list[Client] = []


@pytest.fixture
def mlflow(monkeypatch) -> type[Client]:
    module = types.ModuleType("mlflow")
    module.__spec__ = types.SimpleNamespace(name="mlflow")
    module.MlflowClient = Client
    module.entities = types.SimpleNamespace(Metric=lambda key, value, timestamp, step: (key, value, step))
    module.exceptions = types.SimpleNamespace(MlflowException=MlflowException)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setattr(Client, "experiments", {})
    clients.clear()
    return Client


def test_a_training_is_told_to_mlflow(tmp_path, mlflow):
    logger = {"class_name": "mlflow", "project_name": "walkers", "tracking_uri": "http://server"}
    for name in ("first", "second"):
        env = PointEnv(max_episode_length=4)
        OnPolicyRunner(env, {**ppo_cfg(), "logger": [logger]}, str(tmp_path / name)).learn(2)
    assert mlflow.experiments == {"walkers": "0"}  # made once, and found again
    first, second = clients
    assert (first.uri, first.told[0], second.told[0]) == (
        "http://server",
        ("run", "0", "first"),
        ("run", "0", "second"),
    )
    batches = [told[2] for told in first.told if told[0] == "log_batch"]
    assert len(batches) == 2  # one for each iteration
    assert {step for _, _, step in batches[1]} == {1}
    assert {"Train/mean_reward", "Loss/value"} <= {key for key, _, _ in batches[1]}
    settings = {told[3]: told[2] for told in first.told if told[0] == "log_dict"}
    assert settings["train_cfg.json"]["algorithm"] == {"class_name": "PPO"}
    assert settings["env_cfg.json"]["max_episode_length"] == 4
    assert ("log_artifact", "r1", str(tmp_path / "first" / "model_1.pt"), "checkpoints") in first.told
    assert first.told[-1] == ("set_terminated", "r1")


def test_names_that_mlflow_refuses_are_changed(tmp_path, mlflow):
    writer = MlflowLogWriter(str(tmp_path))
    writer.add_scalar("Episode/reward[hip]", 1.5, 3)
    writer.save_file("a.diff")
    writer.save_video(tmp_path / "walk.mp4", 3)
    writer.stop()
    (client,) = clients
    assert client.told[1:] == [
        ("log_artifact", "r1", "a.diff", "files"),
        ("log_artifact", "r1", str(tmp_path / "walk.mp4"), "videos"),
        ("log_batch", "r1", [("Episode/reward_hip_", 1.5, 3)]),
        ("set_terminated", "r1"),
    ]


def test_what_is_missing_is_said(tmp_path, mlflow, monkeypatch):
    monkeypatch.setattr(Client, "is_down", True)
    with pytest.raises(ValueError, match="MLflow takes no run: no route to the server"):
        MlflowLogWriter(str(tmp_path))
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ValueError, match=r'pip install "sim-rl-plugin\[mlflow\]"'):
        MlflowLogWriter(str(tmp_path))
    with pytest.raises(ValueError, match="the log writer 'mlflow' needs mlflow, not installed"):
        OnPolicyRunner(PointEnv(), {**ppo_cfg(), "logger": "mlflow"}, str(tmp_path))


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="needs mlflow-skinny")
def test_mlflow_itself_takes_a_training(tmp_path, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "store").as_uri()
    logger = {"class_name": "mlflow", "project_name": "walkers", "tracking_uri": uri}
    OnPolicyRunner(PointEnv(max_episode_length=4), {**ppo_cfg(), "logger": [logger]}, str(tmp_path / "run")).learn(3)
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("walkers").experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "Loss/value")] == [0, 1, 2]
    assert {"checkpoints", "train_cfg.json"} <= {entry.path for entry in client.list_artifacts(run.info.run_id)}
