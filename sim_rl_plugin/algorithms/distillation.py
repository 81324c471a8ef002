"""Distillation: a student learns to act as a teacher does, from what the student itself can sense.

Legend of shapes: ``t`` steps of a rollout, ``n`` environments, ``a`` actions.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from tensordict import TensorDict
from torch import nn

from sim_rl_plugin import distributed
from sim_rl_plugin.algorithms.algorithm import Algorithm, overrides
from sim_rl_plugin.algorithms.construction import Construction
from sim_rl_plugin.algorithms.imitation import ACTION_LOSSES, TeacherShare, check_loss_type, label
from sim_rl_plugin.algorithms.model_input import ModelInput
from sim_rl_plugin.algorithms.optimizer import (
    load_portable_state_dict,
    portable_state_dict,
    publish_learning_rate,
)
from sim_rl_plugin.algorithms.ppo import PPO
from sim_rl_plugin.config.loading import CONSTRUCTION_KEYS, PROVIDED_TO_ALGORITHM
from sim_rl_plugin.config.signature import check_arguments, parameters_of, unknown_key
from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.models import MLPModel
from sim_rl_plugin.models.compilation import compile_model
from sim_rl_plugin.models.exported_policy import is_exported_policy
from sim_rl_plugin.models.memory import memory_of, restore_memory
from sim_rl_plugin.modules import HiddenState
from sim_rl_plugin.modules.rnn import map_hidden_state
from sim_rl_plugin.storage import RolloutStorage


class _Record(NamedTuple):
    """What one epoch learns from."""

    inputs: torch.Tensor | TensorDict
    """Of the student, ``(t, n, ...)``."""
    labels: torch.Tensor
    """The teacher's actions, ``(t, n, a)``."""
    dones: torch.Tensor
    """``(t, n, 1)``."""
    teacher_params: tuple[torch.Tensor, ...] | None
    """Of the teacher's distribution; for the loss ``kl`` only."""


class Distillation(Algorithm):
    """Distillation with rsl_rl's interface and mathematics.

    The student acts, the teacher says what it would have done, and the student's error is propagated
    back over ``gradient_length`` steps at a time (truncated back-propagation through time). Memories are
    cut off where episodes end.
    """

    student: MLPModel
    """The student model."""

    teacher: MLPModel
    """The teacher model."""

    teacher_loaded: bool = False
    """Whether the teacher has parameters that were learned."""

    def __init__(
        self,
        student: MLPModel,
        teacher: MLPModel,
        storage: RolloutStorage,
        num_learning_epochs: int = 1,
        gradient_length: int = 15,
        learning_rate: float = 1e-3,
        max_grad_norm: float | None = None,
        loss_type: str = "mse",
        optimizer: str = "adam",
        device: str = "cpu",
        multi_gpu_cfg: dict[str, Any] | None = None,
        *,
        use_mixed_precision: bool = False,
        grad_reduce_bucket_mb: float = 25,
        normalizer_update: Literal["after_update", "each_step"] = "after_update",
        keep_teacher_memory: bool = False,
        dagger_cfg: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Take the models and the storage, and build the optimizer.

        Args:
            student: Model that learns; moved to ``device``. With a distribution it explores.
            teacher: Model that is imitated; moved to ``device``.
            storage: Storage of type ``distillation``.
            num_learning_epochs: Passes over a rollout per update.
            gradient_length: Steps per optimizer step. Their losses are added.
            learning_rate: Constant.
            max_grad_norm: Largest norm of the gradient; None for no limit.
            loss_type: ``mse`` or ``huber`` between deterministic actions, or ``kl`` (not in rsl_rl),
                KL(teacher || student) in nats between the action distributions.
            optimizer: ``adam``, ``adamw``, ``sgd`` or ``rmsprop``.
            device: Where models and buffers lie.
            multi_gpu_cfg: ``global_rank``, ``local_rank`` and ``world_size`` of a distributed run.
            use_mixed_precision: Compute losses in bfloat16 where PyTorch holds that to be safe.
            grad_reduce_bucket_mb: Largest buffer of one gradient reduction, in MB.
            normalizer_update: When new observation statistics of the student take effect, see ``PPO``.
            keep_teacher_memory: Let a recurrent teacher's memory run on from rollout to rollout. In
                rsl_rl it starts empty with every rollout after an update.
            dagger_cfg: Arguments of ``TeacherShare``: let the teacher act in a share of the
                environments, which shrinks (DAgger, Ross et al. 2011); None lets the student act.
            kwargs: Settings of PPO, which have no meaning here and are ignored with a warning.

        Raises:
            ValueError: A value is out of range, or a setting is unknown.
        """
        _warn_of_unused(kwargs)
        for name, value in (("num_learning_epochs", num_learning_epochs), ("gradient_length", gradient_length)):
            if value < 1:
                raise UserError(f"algorithm.{name}: expected 1 or more, found {value}")
        if normalizer_update not in ("after_update", "each_step"):
            raise UserError(
                f"algorithm.normalizer_update: expected 'after_update' or 'each_step', found {normalizer_update!r}"
            )
        super().__init__(device, multi_gpu_cfg, grad_reduce_bucket_mb)
        self.student = student.to(device)
        self.teacher = teacher.to(device)
        # What is saved, exported and trained; `compile` puts a compiled front before it.
        self._raw_student: MLPModel = self.student
        self._raw_teacher: MLPModel = self.teacher
        # A teacher out of an exported file brings its parameters along.
        self.teacher_loaded = bool(getattr(teacher, "is_loaded", False))

        self._build_optimizer(optimizer, self.student.parameters(), learning_rate)
        self.storage = storage
        self.transition = RolloutStorage.Transition()
        self.last_hidden_states: tuple[HiddenState, HiddenState] = (None, None)
        """Memories of student and teacher at the start of the rollout."""

        self.num_learning_epochs = num_learning_epochs
        self.gradient_length = gradient_length
        self.max_grad_norm = max_grad_norm
        self.use_mixed_precision = use_mixed_precision
        self.normalizer_update = normalizer_update
        self.keep_teacher_memory = keep_teacher_memory
        check_loss_type(loss_type, student, teacher)
        self.loss_type = loss_type
        self.loss_fn = ACTION_LOSSES.get(loss_type)
        """Loss between the actions of student and teacher; None for ``kl``."""
        self.teacher_share = None if dagger_cfg is None else TeacherShare(storage.num_envs, device, **dagger_cfg)
        self.num_updates = 0
        self._warn_of_unused_steps()

    # Rollout

    def begin_rollout(self) -> None:
        """Start from the memories as they are now; what a rollout that broke off has left behind is dropped."""
        self.storage.clear()
        self.transition.clear()
        # Ordinary tensors even within inference mode, for the update goes back through them.
        with torch.inference_mode(False):
            self.last_hidden_states = (memory_of(self._raw_student), memory_of(self._raw_teacher))

    def act(self, obs: TensorDict) -> torch.Tensor:
        """Let the student act and the teacher label, and note both in ``transition``.

        Args:
            obs: Observation groups, batch size ``[n]``.

        Returns:
            Actions ``(n, a)``, to be stepped with and not modified.
        """
        transition = self.transition
        if self.teacher_share is not None and self.storage.step == 0:
            self.teacher_share.draw(self.num_updates)
        with torch.no_grad():
            actions = self.student(obs, stochastic_output=True)
            labels, params = label(self.teacher, obs, with_params=self.loss_type == "kl")
        transition.privileged_actions = labels
        transition.distribution_params = params
        transition.actions = actions if self.teacher_share is None else self.teacher_share.mix(actions, labels)
        transition.observations = obs
        return transition.actions

    def process_env_step(
        self, obs: TensorDict, rewards: torch.Tensor, dones: torch.Tensor, extras: dict[str, Any]
    ) -> None:
        """Record one environment step.

        The observations are handed to the student's normaliser with the storage, and the statistics
        take effect when ``update`` ends (see ``normalizer_update``).

        Args:
            obs: Observations after the step, batch size ``[n]``.
            rewards: ``(n,)``; recorded only.
            dones: ``(n,)``.
            extras: Not used.
        """
        if self.normalizer_update == "each_step":
            self.student.update_normalization(obs)
        self.transition.rewards = rewards
        self.transition.dones = dones
        self.storage.add_transition(self.transition)
        self.transition.clear()
        self.student.reset(dones)
        self.teacher.reset(dones)

    def compute_returns(self, obs: TensorDict) -> None:
        """Do nothing: distillation has no returns."""

    @property
    def learns_each_step(self) -> bool:
        """Whether ``process_env_step`` learns from its observations: statistics that move at once."""
        return self.normalizer_update == "each_step" or overrides(self, Distillation, "process_env_step")

    def models(self) -> list[Any]:
        """Return student and teacher."""
        return [self._raw_student, self._raw_teacher]

    def _restrict(self, env_ids: torch.Tensor) -> None:
        student, teacher = (
            map_hidden_state(lambda state: state[:, env_ids], memory) for memory in self.last_hidden_states
        )
        self.last_hidden_states = (student, teacher)

    # Update

    def update(self) -> dict[str, float]:
        """Learn from the stored rollout and empty the storage.

        Returns:
            ``behavior``, the mean loss of all steps.

        Raises:
            ValueError: The loss or a parameter became NaN or infinite.
        """
        self.num_updates += 1
        publish_learning_rate(self.optimizer, self._learning_rate)
        if self.is_multi_gpu:
            self._weight = distributed.weight_of(self.storage.num_envs, self.device)
        total = torch.zeros((), device=self.device)
        pending: torch.Tensor | None = None
        steps_done = 0
        for record in self._records():
            self._rewind_memories()
            for start, stop in self._segments(steps_done, len(record.dones)):
                loss = self._segment_loss(record, start, stop)
                total += loss.detach()
                pending = loss if pending is None else pending + loss
                steps_done += stop - start
                if steps_done % self.gradient_length == 0:
                    self._step(pending)
                    self.student.detach_hidden_state()
                    pending = None
        self.student.detach_hidden_state()
        self.last_hidden_states = (self.student.get_hidden_state(), self.teacher.get_hidden_state())
        if self.normalizer_update == "after_update":
            self.student.update_normalization(self.storage.observations.flatten(0, 1))
        self.storage.clear()
        return self._checked(["behavior"], (total / steps_done).view(1), {"student": self._raw_student})

    def _records(self) -> Iterator[_Record]:
        """Yield what each epoch learns from: the rollout, or what a storage with a generator of its own makes of it."""
        storage = self.storage
        if not overrides(storage, RolloutStorage, "generator"):
            inputs = self._prepared(storage.observations)
            record = _Record(inputs, storage.privileged_actions, storage.dones, storage.distribution_params)
            yield from itertools.repeat(record, self.num_learning_epochs)
            return
        for _ in range(self.num_learning_epochs):
            batches = list(storage.generator())
            observations, labels, dones = (
                torch.stack([getattr(batch, name) for batch in batches])
                for name in ("observations", "privileged_actions", "dones")
            )
            yield _Record(self._prepared(observations), labels, dones, getattr(storage, "distribution_params", None))

    def _prepared(self, observations: TensorDict) -> torch.Tensor | TensorDict:
        """Return the student's input, ``(t, n, ...)``, prepared if the student allows it."""
        if self.student is not self._raw_student or not getattr(self._raw_student, "has_fixed_input", False):
            return observations
        with torch.no_grad():
            return self._raw_student.prepare(observations)

    def _rewind_memories(self) -> None:
        """Take the memories back to the start of the rollout."""
        self.student.reset(hidden_state=self.last_hidden_states[0])
        self.student.detach_hidden_state()
        if not self.keep_teacher_memory:
            # The teacher is not run again, so it ends here, too, but for the episodes that ended.
            self.teacher.reset(hidden_state=self.last_hidden_states[1])
            self.teacher.reset((self.storage.dones > 0).any(dim=0).view(-1))

    def _segments(self, steps_done: int, num_steps: int) -> Iterator[tuple[int, int]]:
        """Yield the steps ``(start, stop)`` of one epoch, cut where a gradient is due.

        Args:
            steps_done: Steps of earlier epochs, of which the last may await their gradient.
            num_steps: Steps of this epoch.
        """
        start = 0
        while start < num_steps:
            stop = min(num_steps, start + self.gradient_length - (steps_done + start) % self.gradient_length)
            yield start, stop
            start = stop

    def _segment_loss(self, record: _Record, start: int, stop: int) -> torch.Tensor:
        """Return the sum of the losses of some consecutive steps."""
        # Somebody else's loss need not be a mean.
        is_mean = self.loss_fn is ACTION_LOSSES.get(self.loss_type)
        if is_mean and not self.student.is_recurrent and getattr(self._raw_student, "is_sample_wise", False):
            # Steps that do not depend on each other are one batch; a mean over it counts once per step.
            return self._loss(record, slice(start, stop)) * (stop - start)
        losses = []
        for step in range(start, stop):
            losses.append(self._loss(record, slice(step, step + 1)))
            dones_n = record.dones[step].view(-1)
            self.student.reset(dones_n)
            self.student.detach_hidden_state(dones_n)
        return torch.stack(losses).sum()

    def _loss(self, record: _Record, steps: slice) -> torch.Tensor:
        """Return the mean loss of some steps, in one pass of the student."""
        # Entered for each pass: autocast keeps its bfloat16 weights until it ends, and would add up the gradients
        # of all steps in bfloat16.
        with torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16, enabled=self.use_mixed_precision):
            own = ModelInput(record.inputs[steps].flatten(0, 1))
            if self.loss_fn is not None:
                return self.loss_fn(own.values(self.student), record.labels[steps].flatten(0, 1))
            assert record.teacher_params is not None
            own.describe_distribution(self.student)
            teacher_params = tuple(param[steps].flatten(0, 1) for param in record.teacher_params)
            return self.student.get_kl_divergence(teacher_params, self.student.output_distribution_params).mean()

    def _step(self, loss: torch.Tensor) -> None:
        """Take one step of the optimizer."""
        self.optimizer.zero_grad()
        loss.backward()
        if self.is_multi_gpu:
            self.reduce_parameters()
        if self.max_grad_norm:
            nn.utils.clip_grad_norm_(self._raw_student.parameters(), self.max_grad_norm)
        self.optimizer.step()

    def _warn_of_unused_steps(self) -> None:
        steps = self.num_learning_epochs * self.storage.num_transitions_per_env
        unused = steps % self.gradient_length
        if unused:
            warnings.warn(
                f"algorithm.gradient_length: the last {unused} of the {steps} steps of an update "
                f"(num_learning_epochs * num_steps_per_env) give no gradient, since {self.gradient_length} does not "
                f"divide {steps}",
                stacklevel=3,
            )

    # Models

    def train_mode(self) -> None:
        """Let the student learn; the teacher never does."""
        self.student.train()
        self.teacher.eval()

    def eval_mode(self) -> None:
        """Stop the student from learning."""
        self.student.eval()
        self.teacher.eval()

    def compile(self, mode: str | None = None) -> None:
        """Compile student and teacher with ``torch.compile``.

        Args:
            mode: ``default`` or ``max-autotune-no-cudagraphs``; None compiles nothing.

        Raises:
            ValueError: The mode is another one.
        """
        self.student = compile_model(self._raw_student, mode)
        self.teacher = compile_model(self._raw_teacher, mode)

    def save(self) -> dict[str, Any]:
        """Return the state of models and optimizer under rsl_rl's keys."""
        return {
            "student_state_dict": self._raw_student.state_dict(),
            "teacher_state_dict": self._raw_teacher.state_dict(),
            "optimizer_state_dict": portable_state_dict(self.optimizer),
        }

    def load(self, loaded_dict: dict[str, Any], load_cfg: dict[str, bool] | None, strict: bool) -> bool:
        """Load what ``save`` returned, or what rsl_rl's did, or the teacher out of a PPO training.

        Args:
            loaded_dict: The saved state. An actor's distribution is left out for a teacher without one.
            load_cfg: What to load: ``student``, ``teacher``, ``optimizer``, ``iteration``; absent means
                no. None loads everything of a distillation, and of a PPO training the actor, which
                becomes the teacher.
            strict: Whether a model's parameter names must match exactly.

        Returns:
            Whether the iteration counter shall be loaded too.

        Raises:
            ValueError: A part is missing from the saved state.
            RuntimeError: Parameter names or shapes differ.
        """
        if load_cfg is None and "actor_state_dict" in loaded_dict:
            load_cfg = {"teacher": True}
        elif load_cfg is None:
            load_cfg = {"student": True, "teacher": True, "optimizer": True, "iteration": True}
        teacher_key = "teacher_state_dict" if loaded_dict.get("teacher_state_dict") else "actor_state_dict"
        # A teacher out of an exported file has no parameters to load.
        needs_teacher = load_cfg.get("teacher") and not getattr(self._raw_teacher, "is_loaded", False)
        for part, key in (
            ("student", "student_state_dict"),
            ("teacher", teacher_key),
            ("optimizer", "optimizer_state_dict"),
        ):
            wanted = needs_teacher if part == "teacher" else load_cfg.get(part)
            if wanted and key not in loaded_dict:
                raise UserError(f"the checkpoint has no {part}_state_dict; it holds {', '.join(loaded_dict)}")
        if load_cfg.get("student"):
            self._raw_student.load_state_dict(loaded_dict["student_state_dict"], strict=strict)
        if needs_teacher:
            self._raw_teacher.load_state_dict(_known_to(self._raw_teacher, loaded_dict[teacher_key]), strict=strict)
            self.teacher_loaded = True
        if load_cfg.get("optimizer"):
            load_portable_state_dict(self.optimizer, loaded_dict["optimizer_state_dict"], self._learning_rate)
        return load_cfg.get("iteration", False)

    def start_from(self, checkpoints: list[dict[str, Any]]) -> None:
        """Take over the teacher out of a PPO training, or student and teacher of a distillation.

        Several checkpoints, in order, are the members of a ``TeacherEnsemble``.

        Raises:
            ValueError: There are not as many checkpoints as teachers, or one holds no policy.
            RuntimeError: Parameter names or shapes differ.
        """
        members = getattr(self._raw_teacher, "teachers", None)
        if len(checkpoints) == 1 and (members is None or "student_state_dict" in checkpoints[0]):
            has_student = "student_state_dict" in checkpoints[0]
            self.load(checkpoints[0], {"student": has_student, "teacher": True}, strict=True)
            return
        # Those out of exported files have their parameters already.
        awaiting = [i for i, member in enumerate(members or ()) if not getattr(member, "is_loaded", False)]
        expected = 1 if members is None else len(awaiting)
        if len(checkpoints) != expected:
            raise UserError(f"init_from: expected {expected} checkpoints, one per teacher, found {len(checkpoints)}")
        merged = {}
        for number, (index, contents) in enumerate(zip(awaiting, checkpoints, strict=True), 1):
            state = contents.get("actor_state_dict") or contents.get("student_state_dict")
            if state is None:
                raise UserError(f"init_from: checkpoint {number} holds no policy; it holds {', '.join(contents)}")
            merged.update({f"teachers.{index}.{key}": value for key, value in state.items()})
        self.load({"teacher_state_dict": merged}, {"teacher": True}, strict=True)

    def training_state(self) -> dict[str, Any]:
        """Return what else a resumed training depends on: memories of episodes in progress, the DAgger counter."""
        return {
            "num_updates": self.num_updates,
            "memories": [memory_of(model) for model in (self._raw_student, self._raw_teacher)],
            "last_memories": list(self.last_hidden_states),
        }

    def load_training_state(self, state: dict[str, Any], same_episodes: bool) -> None:
        """Continue from ``training_state``.

        Args:
            state: What it returned.
            same_episodes: Whether the simulation continues the episodes that were in progress, so that
                the models' memories still belong to them.
        """
        self.num_updates = state["num_updates"]
        if same_episodes:
            for model, memory in zip((self._raw_student, self._raw_teacher), state["memories"], strict=True):
                restore_memory(model, memory, self.device)
            student, teacher = (
                map_hidden_state(lambda part: part.to(self.device), memory) for memory in state["last_memories"]
            )
            self.last_hidden_states = (student, teacher)

    def get_policy(self) -> MLPModel:
        """Return the student."""
        return self._raw_student

    @classmethod
    def check_settings(cls, settings: dict[str, Any], path: str) -> None:
        """Check what the constructor's signature does not say, see ``check_arguments``."""
        _refuse_unknown(cls, settings, path)
        if settings.get("dagger_cfg") is not None:
            check_arguments(TeacherShare, settings["dagger_cfg"], f"{path}.dagger_cfg", provided=("num_envs", "device"))

    @staticmethod
    def construct_algorithm(obs: TensorDict, env: VecEnv, cfg: dict[str, Any], device: str) -> Distillation:
        """Build models, storage and algorithm from a training dict, which is not modified.

        Args:
            obs: Observations of ``env``.
            env: The environment; ``num_envs`` and ``num_actions`` are used.
            cfg: Training dict in rsl_rl's shape: ``num_steps_per_env``, ``obs_groups``, and
                ``algorithm``, ``student``, ``teacher`` with ``class_name`` and arguments. Where
                ``init_from`` is an exported policy, that is the teacher; in a list, a member of the ensemble.
            device: Where to learn.

        Raises:
            ValueError: A key is missing, unknown or ill-typed.
        """
        cfg = _with_exported_teachers(cfg)
        sizes = {"student": env.num_actions, "teacher": env.num_actions}
        parts = Construction(obs, env, cfg, device, sizes, ["student", "teacher"])
        student, teacher = parts.build_model("student"), parts.build_model("teacher")
        storage = RolloutStorage("distillation", env.num_envs, cfg["num_steps_per_env"], obs, [env.num_actions], device)
        algorithm = parts.algorithm_class(
            student, teacher, storage, device=device, **parts.arguments, multi_gpu_cfg=cfg.get("multi_gpu")
        )
        if cfg.get("torch_compile_mode") is not None:
            algorithm.compile(cfg["torch_compile_mode"])
        return algorithm

    # Distributed training

    def broadcast_parameters(self) -> None:
        """Give every rank the models of rank 0."""
        models = (self._raw_student, self._raw_teacher)
        distributed.broadcast(value for model in models for value in model.state_dict().values())

    def reduce_parameters(self) -> None:
        """Average the gradients of all ranks; call it between the backward pass and the optimizer's step."""
        self._average_gradients(self._raw_student.parameters())


def _with_exported_teachers(cfg: dict[str, Any]) -> dict[str, Any]:
    """Return a training dict whose teachers are the exported policies among ``init_from``."""
    source = cfg.get("init_from") or []
    exported = [
        {"class_name": "ExportedPolicy", "path": path} if is_exported_policy(path) else None
        for path in ([source] if isinstance(source, str) else source)
    ]
    if not any(exported):
        return cfg
    if isinstance(source, str):
        return {**cfg, "teacher": exported[0]}
    teacher = cfg.get("teacher") or {}
    if "teachers" not in teacher and all(exported):
        return {**cfg, "teacher": {"class_name": "TeacherEnsemble", "teachers": exported}}
    members = teacher.get("teachers") or []
    if len(members) != len(exported):
        raise UserError(
            f"init_from: {len(exported)} checkpoints and exported policies, "
            f"but teacher.teachers describes {len(members)}"
        )
    chosen = [own or member for own, member in zip(exported, members, strict=True)]
    return {**cfg, "teacher": {**teacher, "teachers": chosen}}


def _refuse_unknown(algorithm_class: type, settings: dict[str, Any], path: str) -> None:
    """Raise for settings that neither the algorithm nor PPO has, and for extensions of PPO."""
    ours = set(parameters_of(algorithm_class).annotations) - set(PROVIDED_TO_ALGORITHM)
    ppos = {*parameters_of(PPO).annotations, *CONSTRUCTION_KEYS}
    for name, value in settings.items():
        if name not in ours | ppos:
            raise unknown_key(path, name, sorted(ours))
        if name in ("rnd_cfg", "symmetry_cfg") and value is not None:
            raise UserError(f"{path}.{name}: not possible with Distillation; set it to null")


def _warn_of_unused(kwargs: dict[str, Any]) -> None:
    """Warn of settings that only PPO has, and raise for those that nobody has."""
    _refuse_unknown(Distillation, kwargs, "algorithm")
    for name, value in kwargs.items():
        if value is not None:
            warnings.warn(f"algorithm.{name}: a setting of PPO, which Distillation does not use", stacklevel=3)


def _known_to(teacher: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """Return an actor's state without its distribution, if the teacher has none: its actions need none."""
    known = teacher.state_dict().keys()
    return {name: value for name, value in state.items() if name in known or "distribution" not in name.split(".")}
