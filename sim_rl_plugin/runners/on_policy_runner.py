"""The training loop of on-policy algorithms."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import nn

import sim_rl_plugin
from sim_rl_plugin import plugins, ranks
from sim_rl_plugin.algorithms import PPO
from sim_rl_plugin.algorithms.fast.selection import FastPaths
from sim_rl_plugin.checkpoint import (
    BEST_FILE,
    find_checkpoint,
    kept_random_state,
    load_checkpoint,
    plain_settings,
    random_state,
    save_checkpoint,
    set_aside_later_checkpoints,
    set_random_state,
)
from sim_rl_plugin.checkpoint_contents import FORMAT, explained, part_of
from sim_rl_plugin.checkpoint_manifest import versions
from sim_rl_plugin.checkpoint_retention import remove_outdated
from sim_rl_plugin.config import check_train_cfg
from sim_rl_plugin.config.schema import EvaluationSettings, KeepCheckpoints
from sim_rl_plugin.env import VecEnv, as_vec_env
from sim_rl_plugin.env.ages import spread_episode_ends
from sim_rl_plugin.env.form import EnvironmentForm
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.export import export_policy_of
from sim_rl_plugin.layout import check_layout, describe_layout
from sim_rl_plugin.logging.logger import Logger
from sim_rl_plugin.models.exported_policy import is_exported_policy
from sim_rl_plugin.position import POSITION
from sim_rl_plugin.registry import packages_of_simulator, resolve_callable
from sim_rl_plugin.runners.agreement import Agreement
from sim_rl_plugin.runners.evaluations import Evaluations
from sim_rl_plugin.runners.quarantine import guard_of
from sim_rl_plugin.runners.stop_signal import leave_as_asked
from sim_rl_plugin.watchdog import HANG_TIMEOUT


class OnPolicyRunner:
    """Trains an algorithm on an environment: rollout, returns, update, log, checkpoint, and again.

    Takes rsl_rl's training dict as it is and offers rsl_rl's methods.
    """

    alg: PPO
    """The algorithm."""

    def __init__(self, env: VecEnv, train_cfg: dict[str, Any], log_dir: str | None = None, device: str = "cpu") -> None:
        """Build the algorithm for the environment.

        Args:
            env: The environment: a ``VecEnv``, or anything that a plugin makes one of.
            train_cfg: Training dict in rsl_rl's shape; not modified.
            log_dir: Folder for logs and checkpoints; None writes nothing.
            device: Where to learn, such as ``cpu`` or ``cuda:0``.

        Raises:
            ValueError: The training dict has a missing, unknown or ill-typed key, or nobody recognises
                the environment.
        """
        self.env = env = as_vec_env(env)
        self.cfg: dict[str, Any] = check_train_cfg(train_cfg)
        self.cfg.setdefault("save_interval", 50)
        self.device = device
        self._configure_multi_gpu()

        self._form = EnvironmentForm(env)
        obs = self._form.observed(env.get_observations()).to(device)
        algorithm_class = resolve_callable(self.cfg["algorithm"]["class_name"])
        self.alg = algorithm_class.construct_algorithm(obs, env, self.cfg, device)
        self.layout = describe_layout(env, obs)
        self.logger = Logger(
            log_dir=log_dir,
            cfg=self.cfg,
            env_cfg=env.cfg,
            num_envs=env.num_envs,
            is_distributed=self.is_distributed,
            gpu_world_size=self.gpu_world_size,
            gpu_global_rank=self.gpu_global_rank,
            device=device,
        )
        self.logger.git_status_repos.append(sim_rl_plugin.__file__)

        self.current_learning_iteration = 0
        self.completed_iterations = 0
        """Iterations done since the start of training, in earlier processes too."""
        self.interrupted = False
        """Whether a signal ended the last ``learn`` early: Ctrl-C, SIGTERM or SIGUSR1."""
        self.reached_return: float | None = None
        """Mean return of the evaluation that ended the training, see ``evaluation.stop_at_return``."""
        self.on_plateau = False
        """Whether the training ended because evaluations did not improve, see ``evaluation.patience``."""
        self._evaluations = Evaluations(EvaluationSettings(**self.cfg.get("evaluation", {})), self.cfg.get("seed") or 0)
        self._keep_checkpoints = KeepCheckpoints(**self.cfg.get("keep_checkpoints", {}))
        self._resumed_from: Path | None = None
        self._simulation_restored = False
        self._has_loaded = False
        self._writes_checkpoints = log_dir is not None and self.gpu_global_rank == 0
        self._guard = guard_of(self)

    # Training

    def learn(self, num_learning_iterations: int, init_at_random_ep_len: bool = False) -> None:
        """Train for a number of iterations.

        Ctrl-C, SIGTERM and SIGUSR1 end the training after the current iteration, with a checkpoint;
        ``interrupted`` tells. A second signal ends it at once.

        Args:
            num_learning_iterations: How many iterations.
            init_at_random_ep_len: Start from random episode ages, so that environments with a time
                limit do not end all at once.

        Raises:
            ValueError: Iterations in a row went wrong through NaN or infinity, and the policy is the one before
                them (see docs/reliability.md); a student has no teacher; evaluations are asked for without
                ``evaluate_in``; or a file cannot be written.
            KeyboardInterrupt: After the checkpoint of a Ctrl-C.
            SystemExit: After that of SIGTERM (status 143) or SIGUSR1 (75).
        """
        if not self._has_loaded:
            self.initialize()
        if not getattr(self.alg, "teacher_loaded", True):
            raise UserError(
                "the teacher has no parameters to imitate: set init_from to a run folder or checkpoint of the teacher, "
                "or to a policy exported as TorchScript or ONNX, or call runner.load"
            )
        self._evaluations.prepare(self.is_distributed, self.logger.log_dir if self._resumed_from else None)
        if init_at_random_ep_len and not self._simulation_restored:
            spread_episode_ends(self.env)
        obs = self._guard.first(self._to_device(self.env.get_observations()))
        self.alg.train_mode()
        if self.is_distributed:
            self.alg.broadcast_parameters()
        hooks = plugins.get_manager()
        # What writers and hooks draw is no part of the training: they are asked again when it is resumed.
        with kept_random_state(), ranks.failing_together():
            self.logger.init_logging_writer()
            hooks.fire("sim_rl_run_start", runner=self)
        if self.fast_paths is not None:
            self.logger.note(str(self.fast_paths))

        first = self.current_learning_iteration
        end = first + num_learning_iterations
        self.interrupted = False
        try:
            with self._agreement.stop_signal() as stop:
                for iteration in range(first, end):
                    obs = self._iterate(obs, iteration, first, end)
                    if self._end_iteration(iteration, iteration == end - 1, stop.requested):
                        break
        except BaseException as error:
            hooks.fire("sim_rl_run_error", runner=self, error=error)
            raise
        finally:
            self.logger.stop_logging_writer()
        hooks.fire("sim_rl_run_end", runner=self)
        if self.interrupted:
            leave_as_asked(stop)

    def _end_iteration(self, iteration: int, is_last: bool, is_asked_to_stop: bool) -> bool:
        """Write what is due after an iteration, and return whether the training is over.

        Raises:
            ValueError: Something could not be written, or too many iterations went wrong; on all ranks.
        """
        # Where there is no room for a log, a checkpoint may still find some.
        failure = self.logger.failure or self._guard.failure
        is_stopped, has_failed = self._agreement.any(is_asked_to_stop, failure is not None)
        self.reached_return = self._evaluations.reached_return(iteration)
        self.on_plateau = self._evaluations.is_on_plateau(iteration)
        is_over = is_stopped or self.on_plateau or self.reached_return is not None or has_failed
        is_due = is_over or is_last or iteration % self.cfg["save_interval"] == 0
        if self._writes_checkpoints:
            POSITION.at(f"iteration {iteration}, writing")
            with self._agreement.noting_failure():
                self._save_into_run_folder(iteration, is_due)
        failure = failure or self.logger.failure  # the log is brought to disk with the checkpoint
        self._agreement.raise_together(failure, has_failed or is_due)
        self.interrupted = is_stopped
        return is_over

    @property
    def fast_paths(self) -> FastPaths | None:
        """Which fast paths the algorithm takes, and why not the others; None for one that has none."""
        return getattr(self.alg, "fast_paths", None)

    def initialize(self) -> None:
        """Take over the models of ``init_from``; ``learn`` does so unless something was loaded before.

        Raises:
            ValueError: A checkpoint is missing, damaged, or does not fit.
        """
        self._has_loaded = True
        sources = self.cfg.get("init_from") or []
        sources = [sources] if isinstance(sources, str) else sources
        paths = [find_checkpoint(path) for path in sources if not self._is_exported_teacher(path)]
        if not paths:
            return
        start_from = getattr(self.alg, "start_from", None)
        if start_from is None:
            raise UserError(f"init_from: {type(self.alg).__name__} cannot start from another training's models")
        checkpoints = [load_checkpoint(path, self.device) for path in paths]
        for contents in checkpoints:
            check_layout(part_of(contents, "layout"), self.env)
        with explained(", ".join(map(str, paths))):
            start_from(checkpoints)

    def _is_exported_teacher(self, path: str) -> bool:
        """Return whether the algorithm has taken this file for its teacher when it was built."""
        return hasattr(self.alg, "teacher_loaded") and is_exported_policy(path)

    def _iterate(self, obs: TensorDict, iteration: int, first: int, end: int) -> TensorDict:
        """Collect one rollout, learn from it, and log; return the observations to continue from."""
        start_s = time.perf_counter()
        self._guard.begin()
        with torch.inference_mode():
            obs = self._collect_rollout(obs)
        obs = self._guard.inspect(obs, iteration)
        collected_s = time.perf_counter()
        POSITION.at(f"iteration {iteration}, update")
        losses = self._guard.learn(obs)
        learned_s = time.perf_counter()
        action_std = None if losses is None else _action_std(self.alg.get_policy())
        self.current_learning_iteration = iteration
        self.completed_iterations = iteration + 1
        metrics = self.logger.log(
            it=iteration,
            start_it=first,
            total_it=end,
            collect_time=collected_s - start_s,
            learn_time=learned_s - collected_s,
            loss_dict=losses or {},
            learning_rate=self.alg.learning_rate,
            action_std=action_std,
            rnd_weight=getattr(getattr(self.alg, "rnd", None), "weight", None),
            more={**self._guard.metrics(), **self._evaluations.after(iteration, self.alg)},
        )
        plugins.get_manager().fire("sim_rl_iteration_end", runner=self, iteration=iteration, metrics=metrics)
        return obs

    def _collect_rollout(self, obs: TensorDict) -> TensorDict:
        """Step the environment ``num_steps_per_env`` times."""
        # Algorithms of third parties need not know how to put off work until the rollout is complete.
        begin_rollout = getattr(self.alg, "begin_rollout", None)
        if begin_rollout is not None:
            begin_rollout()
        for step in range(self.cfg["num_steps_per_env"]):
            POSITION.at(f"iteration {self.completed_iterations}, step {step} of the rollout")
            actions = self.alg.act(obs)
            obs, rewards, dones, extras = self._form.checked(self.env.step(actions.to(self.env.device)))
            obs, rewards, dones = self._to_device(obs), rewards.to(self.device), dones.to(self.device)
            seen = self._guard.add_step(step, obs, rewards, dones, extras)
            self.alg.process_env_step(seen, rewards, dones, extras)
            self.logger.process_env_step(rewards, dones, extras, getattr(self.alg, "intrinsic_rewards", None))
        return obs

    def _to_device(self, obs: TensorDict) -> TensorDict:
        """Move observations, if they are not there already: even a move to the same place costs time."""
        device = torch.device(self.device)
        if obs.device == device or all(value.device == device for value in obs.values()):
            return obs
        return obs.to(device)

    def evaluate_in(self, env: VecEnv) -> None:
        """Take the environments for the evaluations while training that ``evaluation`` in the training dict asks for.

        Args:
            env: Environments of the same task for these evaluations alone, just opened; they stay the caller's
                to close. One per episode is fastest.
        """
        self._evaluations.take(env)

    # Checkpoints

    def save(self, path: str, infos: dict[str, Any] | None = None) -> None:
        """Write a checkpoint that rsl_rl can load too.

        Args:
            path: The file.
            infos: Anything to store with it: tensors and plain data.

        Raises:
            ValueError: The file cannot be written.
        """
        # First, so that no checkpoint ever outlives the metrics of the iterations before it.
        self.logger.flush()
        contents = self.alg.save()
        contents["iter"] = self.current_learning_iteration
        contents["infos"] = infos
        # Of a distributed training, that of one rank would serve nobody.
        has_state = hasattr(self.env, "state_dict") and not self.is_distributed
        env_state = self.env.state_dict() if has_state else None
        contents["sim_rl"] = {
            "format": FORMAT,
            "version": sim_rl_plugin.__version__,
            "config": plain_settings(self.cfg),
            "layout": self.layout,
            "world_size": self.gpu_world_size,
            "completed_iterations": self.completed_iterations,
            "versions": versions(packages_of_simulator(self.cfg.get("simulator"), self.env)),
            "evaluation": self._evaluations.of(self.completed_iterations - 1),
            "reached_return": self.reached_return,
            "evaluations": self._evaluations.state_dict(),
            "logger": self.logger.state_dict(),
            "random": random_state(),
            "environment": env_state,
            "algorithm": self.alg.training_state() if hasattr(self.alg, "training_state") else None,
            "quarantine": self._guard.state_dict(),
        }
        save_checkpoint(path, contents)
        self.logger.save_model(path, self.current_learning_iteration)

    def _save_into_run_folder(self, iteration: int, is_due: bool) -> None:
        """Write the checkpoints that are due, the best and a numbered one; then remove what is outdated."""
        assert self.logger.log_dir is not None
        folder = Path(self.logger.log_dir)
        names = [BEST_FILE] if self._keep_checkpoints.best and self._evaluations.is_best(iteration) else []
        if is_due:
            names.append(f"model_{iteration}.pt")
        for path in (folder / name for name in names):
            self.save(str(path))
            # A training that is resumed from here does not tell the hooks again.
            with kept_random_state():
                plugins.get_manager().fire("sim_rl_checkpoint_saved", runner=self, path=path, iteration=iteration)
        if names:
            remove_outdated(folder, self._keep_checkpoints, self._resumed_from)

    def load(
        self,
        path: str,
        load_cfg: dict[str, bool] | None = None,
        strict: bool = True,
        map_location: str | None = None,
        *,
        trust: bool = False,
    ) -> dict[str, Any] | None:
        """Load models and optimizer from a checkpoint, ours or rsl_rl's.

        Args:
            path: The file.
            load_cfg: What to load, see ``PPO.load``; None loads everything.
            strict: Whether a model's parameter names must match exactly.
            map_location: Device of the loaded tensors; None takes the runner's.
            trust: See ``load_checkpoint``.

        Returns:
            The ``infos`` that were saved with it.

        Raises:
            ValueError: The file is missing, damaged, or belongs to another robot.
        """
        contents = load_checkpoint(path, map_location or self.device, trust=trust)
        self._load(contents, path, load_cfg, strict)
        return contents.get("infos")

    def _load(self, contents: dict[str, Any], path: str, load_cfg: dict[str, bool] | None, strict: bool) -> bool:
        """Load models and optimizer, and return whether the training's counter came with them."""
        check_layout(part_of(contents, "layout"), self.env)
        with explained(path):
            load_iteration = self.alg.load(contents, load_cfg, strict)
            if load_iteration:
                self.current_learning_iteration = contents["iter"]
                self.completed_iterations = contents["iter"] + 1
        self._has_loaded = True
        return load_iteration

    def resume(self, path: str, *, trust: bool = False) -> None:
        """Continue the training that wrote a checkpoint as if it had never stopped.

        Beyond ``load`` this restores counters, random states, episodes in progress and the
        simulation. What the environment cannot restore starts afresh, with a warning.

        Args:
            path: The file.
            trust: See ``load_checkpoint``.

        Raises:
            ValueError: The file is missing, damaged, or belongs to another robot.
        """
        # On the CPU: models copy to their device, and simulators expect plain host data.
        contents = load_checkpoint(path, "cpu", trust=trust)
        if self._load(contents, path, None, strict=True) is False:
            raise UserError(
                f"{path} holds another algorithm's training, which {type(self.alg).__name__} cannot continue: "
                "say init_from to start from its policy"
            )
        self._resumed_from = Path(path)
        state = contents.get("sim_rl")
        if state is None:
            self.completed_iterations = self.current_learning_iteration + 1
            self.current_learning_iteration = self.completed_iterations
            warnings.warn(f"{path} was not written by sim-rl: the simulation starts afresh", stacklevel=2)
            return
        with explained(path, "cannot be resumed"):
            self._restore(state, path)

    def _restore(self, state: dict[str, Any], path: str) -> None:
        """Restore everything beyond models and optimizer."""
        self.completed_iterations = state["completed_iterations"]
        self.current_learning_iteration = self.completed_iterations
        is_single = not self.is_distributed and state.get("world_size", 1) == 1
        if not is_single:
            # With the state of one rank, all of them would live the same episodes.
            warnings.warn("a simulation in several processes is not restored: episodes start afresh", stacklevel=2)
        elif state["environment"] is None or not hasattr(self.env, "load_state_dict"):
            warnings.warn("this simulator cannot restore its state: episodes start afresh", stacklevel=2)
        else:
            self.env.load_state_dict(state["environment"])
            self._simulation_restored = getattr(self.env, "restores_exactly", True)
            if not self._simulation_restored:
                warnings.warn("this simulator restores its counters only: episodes start afresh", stacklevel=2)
        if state.get("algorithm") is not None:
            self.alg.load_training_state(state["algorithm"], self._simulation_restored)
        if state.get("quarantine") is not None:
            self._guard.load_state_dict(state["quarantine"], self._simulation_restored)
        self._evaluations.load_state_dict(state.get("evaluations"))
        self.logger.load_state_dict(state["logger"], self.completed_iterations, self._simulation_restored)
        if self._writes_checkpoints:
            # What this run did after the checkpoint is about to be done again.
            set_aside_later_checkpoints(path, self.logger.log_dir)
        if is_single:
            set_random_state(state["random"])

    # Inference

    def get_inference_policy(self, device: str | None = None) -> nn.Module:
        """Return the policy in evaluation mode, on ``device`` if given: observations in, actions out."""
        self.alg.eval_mode()
        return self.alg.get_policy().to(device)

    def export_policy_to_jit(self, path: str, filename: str = "policy.pt") -> None:
        """Write the deterministic policy as TorchScript, if the file then acts as the policy.

        Args:
            path: Folder, created if needed.
            filename: Name of the file in it.

        Raises:
            ValueError: The file does not act as the policy, and was not kept.
        """
        export_policy_of(self, "torchscript", Path(path) / filename)

    def export_policy_to_onnx(
        self, path: str, filename: str = "policy.onnx", verbose: bool = False, *, dynamic_batch: bool = False
    ) -> None:
        """Write the deterministic policy as one ONNX file, opset 18, if the file then acts as the policy.

        Args:
            path: Folder, created if needed.
            filename: Name of the file in it.
            verbose: Let the exporter print what it does.
            dynamic_batch: Let the graph take any number of robots at once. rsl_rl's takes one, and code
                that drives robots may read its sizes from the file.

        Raises:
            ValueError: The packages for export are not installed, or the file does not act as the policy.
        """
        export_policy_of(self, "onnx", Path(path) / filename, dynamic_batch=dynamic_batch, verbose=verbose)

    def add_git_repo_to_log(self, repo_file_path: str) -> None:
        """Store the git state of the repository around this file with the run."""
        self.logger.git_status_repos.append(repo_file_path)

    # Distributed training

    def _configure_multi_gpu(self) -> None:
        """Join the process group that a launcher's environment variables describe."""
        place = self._place = ranks.Place.here()
        self.gpu_world_size, self.gpu_global_rank, self.gpu_local_rank = place.world_size, place.rank, place.local_rank
        self.is_distributed = place.is_distributed
        self._agreement = Agreement(place, self.device, self.cfg.get(*HANG_TIMEOUT))
        self.cfg["multi_gpu"] = place.multi_gpu_cfg()
        if self.is_distributed:
            ranks.join_at(place, self.device)


def _action_std(policy: Any) -> torch.Tensor | None:
    """Return the standard deviation of the last actions, or None for a policy without a distribution."""
    return None if getattr(policy, "distribution", True) is None else policy.output_std
