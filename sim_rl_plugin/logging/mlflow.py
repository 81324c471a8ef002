"""MLflow."""

from __future__ import annotations

import pathlib
import re
import time
from typing import Any

from sim_rl_plugin.checkpoint import plain_settings
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.logging.log_writer import LogWriter

# What MLflow takes in the name of a metric.
_FORBIDDEN = re.compile(r"[^\w\-. :/]")


class MlflowLogWriter(LogWriter):
    """Log to MLflow: metrics, settings, checkpoints and files.

    A resumed training is a run of its own there, in the same experiment.
    """

    def __init__(self, log_dir: str, project_name: str = "sim-rl-plugin", *, tracking_uri: str | None = None) -> None:
        """Start a run.

        Args:
            log_dir: Folder of the run; its name becomes the name of the run.
            project_name: MLflow's experiment, created if it does not exist.
            tracking_uri: Server or folder; None takes MLFLOW_TRACKING_URI, or else MLflow's default.

        Raises:
            ValueError: The package is missing, or the server cannot be reached.
        """
        try:
            import mlflow
        except ImportError as error:
            raise UserError('logging to MLflow needs mlflow: pip install "sim-rl-plugin[mlflow]"') from error
        self._mlflow = mlflow
        try:
            self._client: Any = mlflow.MlflowClient(tracking_uri)
            experiment = self._client.get_experiment_by_name(project_name)
            number = self._client.create_experiment(project_name) if experiment is None else experiment.experiment_id
            self._run_id = self._client.create_run(number, run_name=pathlib.Path(log_dir).name).info.run_id
        except mlflow.exceptions.MlflowException as error:
            raise UserError(f"MLflow takes no run: {' '.join(str(error).split())[:200]}") from error
        self._pending: list[Any] = []

    def add_scalar(self, tag: str, scalar_value: float, global_step: int = 0) -> None:
        """Record one value; values of an iteration are sent together."""
        name = _FORBIDDEN.sub("_", tag)
        now_ms = int(time.time() * 1000)
        self._pending.append(self._mlflow.entities.Metric(name, float(scalar_value), now_ms, global_step))

    def end_iteration(self) -> None:
        """Send the values of an iteration."""
        if self._pending:
            self._client.log_batch(self._run_id, metrics=self._pending)
            self._pending = []

    def store_config(self, env_cfg: dict | object, train_cfg: dict[str, Any]) -> None:
        """Record the settings of environment and training as files, whose size MLflow does not limit."""
        env_dict = env_cfg if isinstance(env_cfg, dict) else {key: str(value) for key, value in vars(env_cfg).items()}
        for name, settings in (("train_cfg", train_cfg), ("env_cfg", env_dict)):
            self._client.log_dict(self._run_id, plain_settings(settings), f"{name}.json")

    def save_model(self, model_path: str, it: int) -> None:
        """Upload a checkpoint."""
        self._client.log_artifact(self._run_id, model_path, "checkpoints")

    def save_file(self, path: str) -> None:
        """Upload a file."""
        self._client.log_artifact(self._run_id, path, "files")

    def save_video(self, video: pathlib.Path, it: int) -> None:
        """Upload a video."""
        self._client.log_artifact(self._run_id, str(video), "videos")

    def stop(self) -> None:
        """Send what is pending and finish the run."""
        self.end_iteration()
        self._client.set_terminated(self._run_id)
