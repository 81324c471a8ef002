"""Neptune."""

from __future__ import annotations

import os
import pathlib
from typing import Any

from sim_rl_plugin.errors import UserError
from sim_rl_plugin.logging.log_writer import LogWriter


class NeptuneLogWriter(LogWriter):
    """Log to Neptune: metrics, settings, checkpoints and files. The account comes from the environment.

    A resumed training is a run of its own there, in the same project.
    """

    def __init__(self, log_dir: str, project_name: str = "sim-rl-plugin") -> None:
        """Start a run.

        Args:
            log_dir: Folder of the run.
            project_name: Project of the user or team that NEPTUNE_USERNAME names.

        Raises:
            ValueError: The package, NEPTUNE_API_TOKEN or NEPTUNE_USERNAME is missing.
        """
        try:
            import neptune
        except ImportError as error:
            raise UserError('logging to Neptune needs neptune: pip install "sim-rl-plugin[neptune]"') from error
        for variable in ("NEPTUNE_API_TOKEN", "NEPTUNE_USERNAME"):
            if not os.environ.get(variable):
                raise UserError(f"logging to Neptune needs the environment variable {variable}")
        self._run: Any = neptune.init_run(
            project=f"{os.environ['NEPTUNE_USERNAME']}/{project_name}", api_token=os.environ["NEPTUNE_API_TOKEN"]
        )
        self._run["log_dir"] = pathlib.Path(log_dir).name

    def add_scalar(
        self,
        tag: str,
        scalar_value: float,
        global_step: int | None = None,
        walltime: float | None = None,
        new_style: bool = False,
    ) -> None:
        """Record one value; the last two are TensorBoard's, which rsl_rl's writer takes, and are not used."""
        self._run[tag].append(scalar_value, step=global_step)

    def store_config(self, env_cfg: dict | object, train_cfg: dict[str, Any]) -> None:
        """Record the settings of environment and training."""
        env_dict = env_cfg if isinstance(env_cfg, dict) else {key: str(value) for key, value in vars(env_cfg).items()}
        self._run["train_cfg"] = _as_text(train_cfg)
        self._run["env_cfg"] = _as_text(env_dict)

    def save_model(self, model_path: str, it: int) -> None:
        """Upload a checkpoint."""
        self._run[f"model/saved_model_{it}"].upload(model_path)

    def save_file(self, path: str) -> None:
        """Upload a file."""
        self._run[f"files/{pathlib.Path(path).stem}"].upload(path)

    def save_video(self, video: pathlib.Path, it: int) -> None:
        """Upload a video."""
        self._run[f"videos/{video.stem}_{it}"].upload(str(video))

    def stop(self) -> None:
        """Send what is pending and finish the run."""
        self._run.stop()


def _as_text(value: Any) -> Any:
    """Return settings in what Neptune stores: mappings, numbers and text."""
    if isinstance(value, dict):
        return {str(key): _as_text(item) for key, item in value.items()}
    return value if isinstance(value, (bool, int, float, str)) else str(value)
