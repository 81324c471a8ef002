"""Where a policy comes from: a run, a checkpoint, or a file that somebody exported."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim_rl_plugin.config import RunConfig
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.evaluation import Policy
from sim_rl_plugin.layout import check_layout, check_saved_layout
from sim_rl_plugin.models.exported_policy import ExportedPolicy, is_exported_policy
from sim_rl_plugin.run_folder import SavedRun, find_run, load_policy


@dataclass(frozen=True)
class PolicySource:
    """A policy that can be loaded for an environment.

    Attributes:
        path: The checkpoint or the exported file.
        settings: The settings that it was trained with, as far as they are known.
        layout: What it expects of an environment; None if it does not say.
        run: The run; None for an exported file.
        groups: Observation groups of an exported file, in its order.
    """

    path: Path
    settings: dict[str, Any]
    layout: dict[str, Any] | None
    run: SavedRun | None = None
    groups: tuple[str, ...] = ()

    def read_groups(self, config: RunConfig) -> tuple[str, ...]:
        """Return the observation groups that the policy itself reads.

        Args:
            config: The settings of the run.
        """
        if self.run is None:
            return self.groups
        name = "actor" if config.student is None else "student"
        return tuple(config.obs_groups.get(name) or ["policy"])

    def load(self, config: RunConfig, env: Any, device: str) -> Policy:
        """Return the deterministic policy.

        Raises:
            UserError: It belongs to another robot than ``env``.
        """
        if self.run is not None:
            return load_policy(self.run, config, env, device)
        check_layout(self.layout, env)
        obs = env.get_observations()
        missing = [group for group in self.groups if group not in obs.keys()]
        if missing:
            known = ", ".join(map(str, obs.keys()))
            raise UserError(f"{self.path} reads the observation group {missing[0]!r}, and the environment has {known}")
        return ExportedPolicy(obs, {"policy": list(self.groups)}, "policy", env.num_actions, str(self.path)).to(device)


def find_policy(path: Path, *, best: bool = False, trust: bool = False) -> PolicySource:
    """Return the policy of a run folder, of a checkpoint, or of an ONNX or TorchScript file.

    Args:
        path: Folder or file.
        best: Take the folder's best checkpoint by evaluation.
        trust: Load a checkpoint that holds code, too.

    Raises:
        UserError: There is none, or it is damaged.
    """
    if path.suffix.lower() == ".pt2":
        raise UserError(f"{path} is a program of torch.export: give the run, or an ONNX or TorchScript file")
    if not path.is_file() or not is_exported_policy(str(path)):
        run = find_run(path, best=best, trust=trust)
        return PolicySource(run.checkpoint, run.settings, run.layout, run)
    if best:
        raise UserError(f"{path} is one policy, of which there is no best: give its run folder")
    try:
        return _exported(path, description_in(path))
    except (AttributeError, LookupError, TypeError, json.JSONDecodeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path}: its description is not one of sim-rl's: {reason}") from error


def _exported(path: Path, about: dict[str, Any] | None) -> PolicySource:
    """Return the policy of an exported file; without a description, one that reads the group ``policy``."""
    if about is None:
        return PolicySource(path, {}, None, None, ("policy",))
    actions = about["actions"]
    layout = {"observations": about["observations"], "num_actions": actions["size"]}
    layout |= {"actions": actions["terms"]} if "terms" in actions else {}
    check_saved_layout(layout, str(path))
    settings = {key: about[key] for key in ("simulator", "task", "env") if about.get(key) is not None}
    groups = tuple(group for entry in about["inputs"] for group in entry["groups"])
    return PolicySource(path, settings | {"clip_actions": actions["clip"]}, layout, None, groups)


def description_in(path: Path) -> dict[str, Any] | None:
    """Return what an exported file says about itself, or None for one that is not ours.

    Raises:
        UserError: The file is damaged, or a package is missing.
    """
    from sim_rl_plugin.export.formats import INSTALL, METADATA_FILE, METADATA_KEY

    if path.suffix.lower() == ".onnx":
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(f"an ONNX file needs more packages: {INSTALL}") from error
        try:
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own classes, which are not public
            raise UserError(f"{path} is no ONNX graph: {' '.join(str(error).split())[:200]}") from error
        text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    else:
        import zipfile

        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(f"extra/{METADATA_FILE}")]
            text = archive.read(names[0]).decode() if names else None
    return None if not text else json.loads(text)
