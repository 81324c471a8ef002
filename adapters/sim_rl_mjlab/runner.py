"""Our runner with what mjlab expects of a runner, for mjlab's commands and for ours."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

from sim_rl_mjlab.settings import without_unset
from sim_rl_plugin.plugins import get_manager
from sim_rl_plugin.runners import OnPolicyRunner

_log = logging.getLogger("sim_rl_plugin")


class MjlabRunner(OnPolicyRunner):
    """``OnPolicyRunner`` for mjlab's environments.

    Beyond the training itself: it takes ``asdict`` of mjlab's settings as it is, keeps the
    curriculum's progress in checkpoints where mjlab's runner keeps it, and writes the policy as
    ONNX with mjlab's metadata beside each checkpoint of a task whose robot that metadata describes.
    On any other environment it is an ``OnPolicyRunner``.

    Whether there are final observations is the environment's to say: with mjlab's ``auto_reset=False``
    (``--env.auto-reset False`` on its command line) there are.
    """

    def __init__(
        self,
        env: Any,
        train_cfg: dict[str, Any],
        log_dir: str | None = None,
        device: str = "cpu",
        registry_name: str | None = None,
    ) -> None:
        """Build the algorithm for the environment.

        Args:
            env: mjlab's environment, its wrapper for rsl_rl, or a ``VecEnv`` of ours.
            train_cfg: ``asdict`` of mjlab's runner configuration, or a training dict in rsl_rl's shape;
                not modified.
            log_dir: Folder for logs and checkpoints; None writes nothing.
            device: Where to learn.
            registry_name: Tracking tasks: the motion's name in the Weights & Biases registry, which the
                run is linked with.

        Raises:
            ValueError: The training dict has a missing, unknown or ill-typed key.
        """
        wrapped = get_manager().first("sim_rl_wrap_env", env=env)
        super().__init__(env if wrapped is None else wrapped, without_unset(train_cfg), log_dir, device)
        self.registry_name = registry_name

    @property
    def _simulation(self) -> Any:
        """mjlab's environment, or None if this is not one."""
        inner = getattr(self.env, "unwrapped", None)
        return inner if hasattr(inner, "common_step_counter") else None

    # Checkpoints

    def save(self, path: str, infos: dict[str, Any] | None = None) -> None:
        """Write a checkpoint that mjlab's runner and rsl_rl can load too, and the policy as ONNX beside it."""
        if self._simulation is None:
            super().save(path, infos)
            return
        progress = {"common_step_counter": self._simulation.common_step_counter}
        super().save(path, {**(infos or {}), "env_state": progress})
        if self._writes_checkpoints:
            self._export_beside(Path(path))

    def load(
        self,
        path: str,
        load_cfg: dict[str, bool] | None = None,
        strict: bool = True,
        map_location: str | None = None,
        *,
        trust: bool = False,
    ) -> dict[str, Any] | None:
        """See ``OnPolicyRunner``; the curriculum goes on from where the checkpoint left it, as in mjlab's runner."""
        infos = super().load(path, load_cfg, strict, map_location, trust=trust)
        progress = (infos or {}).get("env_state")
        if progress and self._simulation is not None:
            self._simulation.common_step_counter = progress["common_step_counter"]
        return infos

    # Export

    def export_policy_to_onnx(
        self, path: str, filename: str = "policy.onnx", verbose: bool = False, *, dynamic_batch: bool = False
    ) -> None:
        """Write the deterministic policy as ONNX; that of a tracking task holds the motion too.

        Args:
            path: Folder, created if needed.
            filename: Name of the file in it.
            verbose: Let the exporter print what it does.
            dynamic_batch: Let the graph take any number of robots at once; the policy alone, without a motion.

        Raises:
            ValueError: The packages for export are not installed.
        """
        if self._simulation is None or dynamic_batch:
            super().export_policy_to_onnx(path, filename, verbose, dynamic_batch=dynamic_batch)
            return
        from sim_rl_mjlab.export import write_onnx

        os.makedirs(path, exist_ok=True)
        write_onnx(self.alg.get_policy(), self._simulation, Path(path) / filename, verbose)

    def _export_beside(self, checkpoint: Path) -> None:
        """Write ``<run folder>.onnx`` with metadata; a failure is told once and does not end the training."""
        from sim_rl_mjlab.export import attach_metadata, describes_robot

        if not describes_robot(self._simulation):
            return
        folder = checkpoint.resolve().parent
        try:
            self.export_policy_to_onnx(str(folder), f"{folder.name}.onnx")
            attach_metadata(folder / f"{folder.name}.onnx", self._simulation, _wandb_run_name() or "local")
            self._upload(folder / f"{folder.name}.onnx")
        except Exception as error:
            _log.warning("the policy was not written as ONNX: %s: %s", type(error).__name__, error)

    def _upload(self, file: Path) -> None:
        if _wandb_run_name() is None or not self.cfg.get("upload_model", True):
            return
        import wandb

        wandb.save(str(file), base_path=str(file.parent))
        if self.registry_name is not None:
            wandb.run.use_artifact(self.registry_name)
            self.registry_name = None


def _wandb_run_name() -> str | None:
    """Return the name of the Weights & Biases run that this process logs to, if any."""
    wandb = sys.modules.get("wandb")
    run = getattr(wandb, "run", None)
    return None if run is None else str(run.name)
