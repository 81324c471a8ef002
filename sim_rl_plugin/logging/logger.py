"""Collects the metrics of a training and hands them to the console and the log writers."""

from __future__ import annotations

import statistics
import subprocess
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sim_rl_plugin import distributed
from sim_rl_plugin.config.signature import check_value
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.logging.console import TrainingConsole, show_line
from sim_rl_plugin.logging.episodes import EnvironmentLog, EpisodeStatistics, means_of
from sim_rl_plugin.logging.log_writer import LogWriter
from sim_rl_plugin.registry import resolve_class

_RECENT_EPISODES = 100


class Logger:
    """The logger of a runner, with the methods and tags of rsl_rl's.

    Only the main process of a distributed run writes, and what it writes is of the episodes of all processes.
    """

    def __init__(
        self,
        log_dir: str | None,
        cfg: dict[str, Any],
        env_cfg: dict | object,
        num_envs: int,
        is_distributed: bool = False,
        gpu_world_size: int = 1,
        gpu_global_rank: int = 0,
        device: str = "cpu",
    ) -> None:
        """Start counting; ``init_logging_writer`` opens the writers.

        Args:
            log_dir: Folder of the run; None keeps everything in memory.
            cfg: Training dict; ``logger`` and ``num_steps_per_env`` are used.
            env_cfg: The simulator's configuration, handed to the writers.
            num_envs: Number of environments of this process.
            is_distributed: Whether there are other processes.
            gpu_world_size: How many processes there are.
            gpu_global_rank: Which of them this is.
            device: Device of the rewards.
        """
        self.log_dir = log_dir
        self.cfg = cfg
        self.env_cfg = env_cfg
        self.device = device
        self.num_envs = num_envs
        self.gpu_world_size = gpu_world_size
        self.is_distributed = is_distributed
        self._num_envs_of_all_ranks: int | None = None if is_distributed else num_envs
        self.disable_logs = is_distributed and gpu_global_rank != 0
        self.git_status_repos: list[str] = []
        self.tot_timesteps = 0
        self.tot_time = 0.0
        self.rewbuffer: deque[float] = deque(maxlen=_RECENT_EPISODES)
        self.lenbuffer: deque[float] = deque(maxlen=_RECENT_EPISODES)
        self.erewbuffer: deque[float] = deque(maxlen=_RECENT_EPISODES)
        self.irewbuffer: deque[float] = deque(maxlen=_RECENT_EPISODES)
        self.writers: list[LogWriter] = []
        self.failure: UserError | None = None
        """What could not be written, with which the training ends once it has tried to write a checkpoint."""
        self._episodes = EpisodeStatistics(num_envs, device)
        self._environment_log = EnvironmentLog()
        self._console: TrainingConsole | None = None
        self._session_start_time_s = 0.0
        self._resume_at: int | None = None
        # Now, so that a wrong name is an error before the training.
        self._classes = _resolve_writers(cfg) if log_dir is not None and not self.disable_logs else []

    @property
    def writer(self) -> LogWriter | None:
        """The first log writer, or None when nothing is written."""
        return self.writers[0] if self.writers else None

    def init_logging_writer(self) -> None:
        """Open the writers that ``cfg["logger"]`` names, and store settings and code state."""
        self._session_start_time_s = self.tot_time
        if self.log_dir is None or self.disable_logs:
            return
        self.failure = None
        with self._noting_failure():
            self._open_writers(self.log_dir)
        if self.failure is not None:
            raise self.failure

    def _open_writers(self, log_dir: str) -> None:
        Path(log_dir).mkdir(parents=True, exist_ok=True)
        self.writers = [writer_class(log_dir=log_dir, **arguments) for writer_class, arguments in self._classes]
        files = self._store_code_state(Path(log_dir) / "git")
        for writer in self.writers:
            # First: settings, too, are recorded at a step.
            if self._resume_at is not None:
                writer.resume_at(self._resume_at)
            writer.store_config(self.env_cfg, self.cfg)
            for file in files:
                writer.save_file(file)

    @contextmanager
    def _noting_failure(self) -> Iterator[None]:
        """Keep an error of the system as ``failure``, the first one."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or " ".join(str(error).split())
            self.failure = self.failure or UserError(f"cannot write the log in {self.log_dir}: {reason}")

    def process_env_step(
        self,
        rewards: torch.Tensor,
        dones: torch.Tensor,
        extras: dict[str, Any],
        intrinsic_rewards: torch.Tensor | None = None,
    ) -> None:
        """Count one step of all environments; rewards and dones are ``(num_envs,)``."""
        log = extras.get("episode", extras.get("log"))
        if log:
            self._environment_log.add(log)
        self._episodes.add(rewards, dones, intrinsic_rewards, extras.get("skipped"))

    def leave_out(self, envs: torch.Tensor, starting: torch.Tensor) -> None:
        """Count nothing of this rollout in some environments, which then start anew.

        Args:
            envs: Bool ``(n,)``: which environments.
            starting: Bool ``(n,)``: those whose first step ended a broken episode; the next one counts.
        """
        self._episodes.leave_out(envs, starting)
        self._environment_log.leave_out_non_finite()

    def log(
        self,
        it: int,
        start_it: int,
        total_it: int,
        collect_time: float,
        learn_time: float,
        loss_dict: dict[str, float],
        learning_rate: float,
        action_std: torch.Tensor | None,
        rnd_weight: float | None = None,
        *,
        more: Mapping[str, float] | None = None,
    ) -> dict[str, float]:
        """Write the metrics of an iteration and show them.

        Args:
            it: The iteration.
            start_it: First iteration of this call to ``learn``.
            total_it: One past the last iteration.
            collect_time: Seconds spent in the rollout.
            learn_time: Seconds spent in the update.
            loss_dict: What ``update`` returned.
            learning_rate: The current learning rate.
            action_std: Standard deviation of the actions; None for a policy without one.
            rnd_weight: Weight of the intrinsic reward.
            more: Further metrics under their tags.

        Returns:
            All metrics under their tags.
        """
        if self._num_envs_of_all_ranks is None:
            self._num_envs_of_all_ranks = distributed.sum_over_ranks(self.num_envs, self.device)
        steps = self.cfg["num_steps_per_env"] * self._num_envs_of_all_ranks
        iteration_time_s = collect_time + learn_time
        self.tot_timesteps += steps
        self.tot_time += iteration_time_s
        finished, metrics = self._of_all_ranks()
        for recent, column in zip(self._recent(), finished.t()[1:].tolist(), strict=False):
            recent.extend(column)

        metrics.update({f"Loss/{key}": value for key, value in loss_dict.items()})
        metrics["Loss/learning_rate"] = learning_rate
        if action_std is not None:
            metrics["Policy/mean_std"] = action_std.mean().item()
        metrics["Perf/total_fps"] = steps / iteration_time_s
        metrics["Perf/collection_time"] = collect_time
        metrics["Perf/learning_time"] = learn_time
        metrics["Perf/total_steps"] = self.tot_timesteps
        metrics["Perf/total_time_s"] = self.tot_time
        if rnd_weight is not None:
            metrics["Rnd/weight"] = rnd_weight
            if self.erewbuffer:
                metrics["Rnd/mean_extrinsic_reward"] = statistics.fmean(self.erewbuffer)
                metrics["Rnd/mean_intrinsic_reward"] = statistics.fmean(self.irewbuffer)
        if self.rewbuffer:
            metrics["Train/mean_reward"] = statistics.fmean(self.rewbuffer)
            metrics["Train/mean_episode_length"] = statistics.fmean(self.lenbuffer)
        metrics.update(more or {})
        with self._noting_failure():
            self._write(metrics, it)
        self._show(metrics, it, start_it, total_it)
        return metrics

    def _of_all_ranks(self) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the episodes that ended, see ``EpisodeStatistics.finished_by_step``, and what environments log.

        On the main process of a distributed run they are those of all processes, in the order in which they ended.
        """
        finished, totals = self._episodes.finished_by_step(), self._environment_log.totals()
        if not self.is_distributed:
            return finished, means_of([totals])
        # More are not remembered.
        parts = distributed.gathered((finished[-_RECENT_EPISODES:].tolist(), totals)) or [(finished.tolist(), totals)]
        episodes = [episode for part, _ in parts for episode in part]
        table = torch.tensor(episodes).view(len(episodes), finished.shape[1])
        return table[table[:, 0].argsort(stable=True)], means_of([part for _, part in parts])

    def _write(self, metrics: dict[str, float], it: int) -> None:
        for writer in self.writers:
            for tag, value in metrics.items():
                writer.add_scalar(tag, value, it)
                if writer.has_time_axis and tag.startswith("Train/"):
                    writer.add_scalar(f"{tag}/time", value, int(self.tot_time))
            writer.end_iteration()

    def _recent(self) -> tuple[deque[float], ...]:
        """Return the buffers of recent episodes: lengths, returns, the task's returns, intrinsic returns."""
        return self.lenbuffer, self.rewbuffer, self.erewbuffer, self.irewbuffer

    def _show(self, metrics: dict[str, float], it: int, start_it: int, total_it: int) -> None:
        if self.disable_logs or not self.cfg.get("console", True):
            return
        if self._console is None:
            self._console = TrainingConsole(total_it, start_it)
        done = it + 1 - start_it
        seconds_per_iteration = (self.tot_time - self._session_start_time_s) / done
        self._console.show(it + 1, metrics, seconds_per_iteration * (total_it - it - 1))

    def flush(self) -> None:
        """Make the writers bring to safety what they were given."""
        with self._noting_failure():
            for writer in self.writers:
                writer.flush()

    def note(self, line: str) -> None:
        """Show a line beside the progress of the training."""
        if not self.disable_logs and self.cfg.get("console", True):
            show_line(line)

    def save_model(self, path: str, it: int) -> None:
        """Hand a checkpoint to the writers, unless ``upload_model`` (mjlab's key) is false."""
        if not self.cfg.get("upload_model", True):
            return
        with self._noting_failure():
            for writer in self.writers:
                writer.save_model(path, it)

    def stop_logging_writer(self) -> None:
        """Close console and writers; what cannot be written then is told, and ends nothing."""
        told = self.failure
        if self._console is not None:
            self._console.stop()
            self._console = None
        for writer in self.writers:
            with self._noting_failure():
                writer.stop()
        self.writers = []
        if self.failure is not told:
            warnings.warn(str(self.failure), stacklevel=2)

    def state_dict(self) -> dict[str, Any]:
        """Return counters, recent episodes and episodes in progress."""
        return {
            "total_steps": self.tot_timesteps,
            "total_time_s": self.tot_time,
            "recent": [list(buffer) for buffer in self._recent()],
            "episodes": self._episodes.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], next_iteration: int, same_episodes: bool) -> None:
        """Continue from ``state_dict``; what writers recorded from ``next_iteration`` on is dropped.

        ``same_episodes`` says that the simulation continues the episodes that were in progress.
        """
        for key, kind in (("total_steps", int), ("total_time_s", float), ("recent", list[list[float]])):
            check_value(kind, state.get(key), f"logger.{key}")
        self.tot_timesteps = state["total_steps"]
        self.tot_time = state["total_time_s"]
        for buffer, values in zip(self._recent(), state["recent"], strict=True):
            buffer.clear()
            buffer.extend(values)
        if same_episodes:
            self._episodes.load_state_dict(state["episodes"])
        self.continue_at(next_iteration)

    def continue_at(self, iteration: int) -> None:
        """Let the writers drop what the run folder holds from ``iteration`` on, when they are opened next."""
        self._resume_at = iteration

    def _store_code_state(self, folder: Path) -> list[str]:
        """Write commit, status and diff of every registered repository; return the files."""
        files = []
        for path in self.git_status_repos:
            place = Path(path) if Path(path).is_dir() else Path(path).parent
            top = _git(place, "rev-parse", "--show-toplevel")
            if top is None:
                continue
            file = folder / f"{Path(top).name}.diff"
            if not file.exists():
                folder.mkdir(parents=True, exist_ok=True)
                parts = (
                    _git(place, *command) or "" for command in (["rev-parse", "HEAD"], ["status"], ["diff", "HEAD"])
                )
                file.write_text("\n\n".join(parts), encoding="utf-8")
            files.append(str(file))
        return files


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of a git command in ``folder``, or None where there is no git or no repository."""
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",  # a diff holds whatever bytes the files hold
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _resolve_writers(cfg: dict[str, Any]) -> list[tuple[Any, dict[str, Any]]]:
    """Return classes and arguments of the writers that ``logger`` names: a name, a dict with class_name, or a list."""
    logger_cfg = cfg.get("logger", "tensorboard")
    writers = []
    for item in logger_cfg if isinstance(logger_cfg, (list, tuple)) else [logger_cfg]:
        if not isinstance(item, (str, dict)):
            raise UserError(f"logger: expected a name or a dict with class_name, found {item!r}")
        writer_class, arguments = resolve_class({"class_name": item} if isinstance(item, str) else item, path="logger")
        # rsl_rl's plain names have their project beside them.
        if item in ("wandb", "neptune") and cfg.get(f"{item}_project"):
            arguments["project_name"] = cfg[f"{item}_project"]
        writers.append((writer_class, arguments))
    return writers
