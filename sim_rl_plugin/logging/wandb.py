"""Weights & Biases."""

from __future__ import annotations

import os
import pathlib
from typing import Any

from sim_rl_plugin.errors import UserError
from sim_rl_plugin.logging.log_writer import LogWriter


class WandbLogWriter(LogWriter):
    """Log to Weights & Biases: metrics, settings, checkpoints and videos.

    A resumed training is a run of its own there, in the same project.
    """

    def __init__(
        self, log_dir: str, project_name: str = "sim-rl-plugin", *, entity: str | None = None, mode: str | None = None
    ) -> None:
        """Start a run.

        Args:
            log_dir: Folder of the run; its name becomes the name of the run.
            project_name: Project to log to.
            entity: User or team; None takes WANDB_USERNAME, or else the account's default.
            mode: ``online``, ``offline`` or ``disabled``; None takes the environment's setting.
        """
        try:
            import wandb
        except ImportError as error:
            raise UserError('logging to W&B needs wandb: pip install "sim-rl-plugin[wandb]"') from error
        self._wandb = wandb
        self._run = wandb.init(
            project=project_name,
            entity=entity or os.environ.get("WANDB_USERNAME"),
            dir=log_dir,
            name=pathlib.Path(log_dir).name,
            mode=mode,
        )
        self._pending: dict[str, float] = {}
        self._step = 0

    def add_scalar(
        self,
        tag: str,
        scalar_value: float,
        global_step: int | None = None,
        walltime: float | None = None,
        new_style: bool = False,
    ) -> None:
        """Record one value; values of an iteration are sent together.

        The last two arguments are TensorBoard's, which rsl_rl's writer takes, and are not used.
        """
        self._pending[tag] = scalar_value
        if global_step is not None:
            self._step = global_step

    def end_iteration(self) -> None:
        """Send the values of an iteration."""
        if self._pending:
            self._run.log(self._pending, step=self._step)
            self._pending = {}

    def store_config(self, env_cfg: dict | object, train_cfg: dict[str, Any]) -> None:
        """Record the settings of environment and training."""
        env_dict = env_cfg if isinstance(env_cfg, dict) else {key: str(value) for key, value in vars(env_cfg).items()}
        self._run.config.update({"env_cfg": env_dict, "train_cfg": train_cfg}, allow_val_change=True)

    def save_model(self, model_path: str, it: int) -> None:
        """Upload a checkpoint."""
        self._run.save(model_path, base_path=str(pathlib.Path(model_path).parent))

    def save_file(self, path: str) -> None:
        """Upload a file."""
        self._run.save(path, base_path=str(pathlib.Path(path).parent))

    def save_video(self, video: pathlib.Path, it: int) -> None:
        """Upload a video."""
        self._run.log({"Video": self._wandb.Video(str(video), format="mp4")}, step=it)

    def stop(self) -> None:
        """Send what is pending and finish the run."""
        self.end_iteration()
        self._run.finish()
