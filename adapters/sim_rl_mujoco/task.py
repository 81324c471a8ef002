"""A robot of your own: an MJCF model and a class with batched torch functions.

Derive from ``MujocoTask``, name the model, and say what is observed, what is rewarded, when an
episode fails and how it starts. ``examples/cartpole_swingup`` is a complete one.

Shapes: N environments; a function that gets ``env_ids`` works for those R environments only.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import torch

from sim_rl_mujoco.driver import Driver, Outcome, control_range
from sim_rl_mujoco.engine import Engine, load_model
from sim_rl_plugin.env import Term
from sim_rl_plugin.errors import UserError, unknown_name

_KINDS = {
    "joint": mujoco.mjtObj.mjOBJ_JOINT,
    "actuator": mujoco.mjtObj.mjOBJ_ACTUATOR,
    "sensor": mujoco.mjtObj.mjOBJ_SENSOR,
    "body": mujoco.mjtObj.mjOBJ_BODY,
    "site": mujoco.mjtObj.mjOBJ_SITE,
    "geom": mujoco.mjtObj.mjOBJ_GEOM,
}
_COUNTS = {"joint": "njnt", "actuator": "nu", "sensor": "nsensor", "body": "nbody", "site": "nsite", "geom": "ngeom"}
# Width of a joint in qpos and in qvel, by mjtJoint: free, ball, slide, hinge.
_QPOS_WIDTH = (7, 4, 1, 1)
_QVEL_WIDTH = (6, 3, 1, 1)


class State:
    """The simulation as tensors: every field of ``mjData`` of a fixed size, by its name.

    ``state.qpos`` is ``(N, nq)``, ``state.xpos`` is ``(N, nbody, 3)``, ``state.sensordata`` is
    ``(N, nsensordata)``: float32, on the environment's device, of the same instant. Only the fields
    that a task has read are copied out of the simulation.
    """

    def __init__(self, engine: Engine, device: torch.device) -> None:
        self._engine = engine
        self._device = device
        self._tensors: dict[str, torch.Tensor] = {}

    def __getattr__(self, name: str) -> torch.Tensor:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._tensors:
            try:
                values = self._engine.field(name)
            except UserError as error:
                raise AttributeError(str(error)) from error
            shape = (self._engine.num_envs, *self._engine.field_shape(name))
            self._tensors[name] = torch.from_numpy(values.astype(np.float32).reshape(shape)).to(self._device)
        return self._tensors[name]

    def _moved(self) -> None:
        """Forget the tensors, because the simulation has changed."""
        self._tensors = {}


class MujocoTask(ABC):
    """One robot and one task, for a batch of environments.

    A subclass may take keyword arguments in its constructor; they are the ``task_options`` of the
    environment. The model and the attributes below exist from ``setup`` on. Tensors that a subclass
    keeps as attributes are saved and restored with the simulation.

    Attributes:
        model_path: The MJCF file, relative to the file of the class.
        decimation: Physics steps per control step.
        episode_length_s: Time limit of an episode in simulated seconds.
        forward_after_step: Compute ``xpos``, sensors and contact forces of the very state in
            ``qpos``, at the price of one more forward pass per control step. Without it they are
            one physics step old.
        camera: View of the films without a camera called ``track`` in the model: ``lookat``,
            ``distance``, ``elevation``, ``azimuth``, ``trackbodyid``.
        model: The model.
        num_envs: Number of environments, N.
        device: Device of all tensors.
        step_dt: Duration of a control step in seconds.
    """

    model_path: str = ""
    decimation: int = 4
    episode_length_s: float = 20.0
    forward_after_step: bool = True
    camera: Mapping[str, Any] = {}

    model: mujoco.MjModel
    num_envs: int
    device: torch.device
    step_dt: float

    def build_model(self) -> mujoco.MjModel:
        """Return the model; override it to compose one in Python or from a string.

        Raises:
            UserError: ``model_path`` is not a file, or not a valid model.
        """
        path = Path(inspect.getfile(type(self))).parent / self.model_path
        if not path.is_file():
            raise UserError(f"{type(self).__name__}.model_path: there is no file {path}")
        return load_model(path)

    @property
    def num_actions(self) -> int:
        """Size of the action vector; the number of actuators unless overridden."""
        return int(self.model.nu)

    def setup(self) -> None:
        """Look up indices and allocate tensors; called once, before anything else."""

    @abstractmethod
    def observations(
        self, state: State, generator: torch.Generator
    ) -> Mapping[str, torch.Tensor | Mapping[str, torch.Tensor]]:
        """Return the observation groups, each ``(N, ...)``, or terms ``(N, size)`` by name, which are joined.

        Terms are told by their names to whoever plays a policy in an environment with others.

        This is called twice in a step in which episodes end, so it must not change the task.

        Args:
            state: The simulation.
            generator: For sensor noise.
        """

    @abstractmethod
    def reward(self, state: State, action: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        """Return the reward ``(N,)`` of the step just taken, or its terms, which are added and logged.

        Args:
            state: The simulation after the step.
            action: ``(N, num_actions)``, clipped.
        """

    def terminated(self, state: State) -> torch.Tensor:
        """Return which episodes have failed, ``(N,)`` bool; none unless overridden."""
        return torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)

    def control(self, state: State, action: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        """Return the actuator controls ``(N, nu)`` for the coming step; the action itself unless overridden.

        A dict writes other fields of ``mjData`` too, such as pushes: ``{"ctrl": ..., "xfrc_applied": ...}``.
        Its keys must be the same at every step.

        Args:
            state: The simulation before the step.
            action: ``(N, num_actions)``; clipped to the control range unless this method is overridden.
        """
        return action

    def step_taken(self, state: State, action: torch.Tensor) -> None:
        """Update what the task remembers (last action, command, phase); called once per step, before the reward."""

    def reset(self, env_ids: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the first positions ``(R, nq)`` and velocities ``(R, nv)`` of these environments.

        The model's initial pose, at rest, unless overridden.

        Args:
            env_ids: ``(R,)`` int64.
            generator: For the noise.
        """
        qpos = torch.from_numpy(self.model.qpos0).to(self.device, torch.float32)
        return qpos.repeat(len(env_ids), 1), torch.zeros(len(env_ids), self.model.nv, device=self.device)

    def randomise(self, env_ids: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Return new model parameters for these environments; called at each reset, before ``reset``.

        Any field of ``mjModel``, in full: ``{"body_mass": (R, nbody), "geom_friction": (R, ngeom, 3)}``.
        No parameters unless overridden. Start from ``nominal`` and scale.

        Args:
            env_ids: ``(R,)`` int64.
            generator: For the random numbers.
        """
        return {}

    def nominal(self, name: str, rows: int) -> torch.Tensor:
        """Return a field of the model as loaded, float32, repeated: ``(rows, *shape of the field)``."""
        values = torch.from_numpy(np.array(getattr(self.model, name), dtype=np.float32)).to(self.device)
        return values.expand(rows, *values.shape).clone()

    def qpos_index(self, *joints: str) -> torch.Tensor:
        """Return the columns of ``qpos`` that belong to these joints, in their order, int64."""
        return self._joint_columns(joints, self.model.jnt_qposadr, _QPOS_WIDTH)

    def qvel_index(self, *joints: str) -> torch.Tensor:
        """Return the columns of ``qvel`` that belong to these joints, in their order, int64."""
        return self._joint_columns(joints, self.model.jnt_dofadr, _QVEL_WIDTH)

    def sensor_index(self, *sensors: str) -> torch.Tensor:
        """Return the columns of ``sensordata`` that belong to these sensors, in their order, int64."""
        columns: list[int] = []
        for i in self._ids("sensor", sensors):
            first = int(self.model.sensor_adr[i])
            columns += range(first, first + int(self.model.sensor_dim[i]))
        return torch.tensor(columns, device=self.device)

    def index(self, kind: str, *names: str) -> torch.Tensor:
        """Return the numbers of named things, int64: of a ``body`` for ``xpos``, a ``site`` for ``site_xpos``.

        Args:
            kind: ``joint``, ``actuator``, ``sensor``, ``body``, ``site`` or ``geom``.
            names: Their names in the model.

        Raises:
            UserError: The model has no such thing.
        """
        if kind not in _KINDS:
            raise unknown_name("kind of model element", kind, _KINDS)
        return torch.tensor(self._ids(kind, names), device=self.device)

    def _ids(self, kind: str, names: tuple[str, ...]) -> list[int]:
        known = [
            mujoco.mj_id2name(self.model, _KINDS[kind], i) or "" for i in range(getattr(self.model, _COUNTS[kind]))
        ]
        for name in names:
            if name not in known:
                raise unknown_name(kind, name, filter(None, known))
        return [known.index(name) for name in names]

    def _joint_columns(self, joints: tuple[str, ...], addresses: np.ndarray, width: tuple[int, ...]) -> torch.Tensor:
        columns: list[int] = []
        for i in self._ids("joint", joints):
            columns += range(int(addresses[i]), int(addresses[i]) + width[self.model.jnt_type[i]])
        return torch.tensor(columns, device=self.device)


class TaskDriver(Driver):
    """A user's ``MujocoTask`` as the environment drives it."""

    def __init__(self, task: MujocoTask, options: Mapping[str, Any]) -> None:
        """Build the model.

        Args:
            task: The user's task.
            options: What it was made with, for the run folder.
        """
        task.model = task.build_model()
        task.step_dt = task.model.opt.timestep * task.decimation
        self.task = task
        self._terms: dict[str, tuple[Term, ...]] = {}
        self.model = task.model
        self.num_substeps = task.decimation
        self.forward_after_step = task.forward_after_step
        self.num_actions = task.num_actions
        self.max_episode_steps = max(1, math.ceil(task.episode_length_s / task.step_dt - 1e-9))
        same = type(task).control is MujocoTask.control
        self.action_range = control_range(task.model) if same else None
        self.camera = dict(task.camera)
        self.cfg = {**options, "decimation": task.decimation, "episode_length_s": task.episode_length_s}

    def attach(self, engine: Engine, device: torch.device, seed: int) -> None:
        """See ``Driver``."""
        self.engine = engine
        self.device = device
        self.generator = torch.Generator(device=device)
        self.generator.manual_seed(seed)
        self.state = State(engine, device)
        self.task.num_envs = engine.num_envs
        self.task.device = device
        self.task.setup()

    def observation_terms_by_group(self) -> dict[str, tuple[Term, ...]]:
        """See ``Driver``."""
        return dict(self._terms)

    def inputs(self, actions: np.ndarray) -> dict[str, np.ndarray]:
        """See ``Driver``."""
        self._action = torch.from_numpy(actions.astype(np.float32)).to(self.device)
        values = self.task.control(self.state, self._action)
        fields = values if isinstance(values, dict) else {"ctrl": values}
        flat = {name: tensor.detach().cpu().double().numpy() for name, tensor in fields.items()}
        return {name: array.reshape(len(array), -1) for name, array in flat.items()}

    def outcome(self, actions: np.ndarray) -> Outcome:
        """See ``Driver``."""
        task, state = self.task, self.state
        state._moved()
        task.step_taken(state, self._action)
        terms = task.reward(state, self._action)
        log: dict[str, float | torch.Tensor] = {}
        if isinstance(terms, dict):
            log = {f"reward_{name}": values.detach().mean() for name, values in terms.items()}
            terms = torch.stack(list(terms.values())).sum(dim=0)
        if terms.shape != (task.num_envs,):
            raise UserError(
                f"{type(task).__name__}.reward must give the shape ({task.num_envs},), found {tuple(terms.shape)}"
            )
        terminated = task.terminated(state).bool().clone()
        return Outcome(self._observe(), terms.detach().float().clone(), terminated, log)

    def reset(self, env_ids: np.ndarray) -> None:
        """See ``Driver``."""
        ids = torch.from_numpy(env_ids).to(self.device)
        parameters = self.task.randomise(ids, self.generator)
        if parameters:
            arrays = {name: values.detach().cpu().double().numpy() for name, values in parameters.items()}
            self.engine.set_model_values(env_ids, arrays)
        qpos, qvel = self.task.reset(ids, self.generator)
        self.engine.reset(env_ids, qpos.detach().cpu().double().numpy(), qvel.detach().cpu().double().numpy())
        self.state._moved()

    def observations_after_reset(
        self, observations: dict[str, torch.Tensor] | None, env_ids: np.ndarray
    ) -> dict[str, torch.Tensor]:
        """See ``Driver``."""
        fresh = self._observe()
        if observations is None:
            return fresh
        ids = torch.from_numpy(env_ids).to(self.device)
        merged = {}
        for name, values in observations.items():
            merged[name] = values.clone()
            merged[name][ids] = fresh[name][ids]
        return merged

    def state_dict(self) -> dict[str, Any]:
        """Return the random state and every tensor that the task keeps as an attribute."""
        tensors = {name: value.cpu().clone() for name, value in vars(self.task).items() if torch.is_tensor(value)}
        return {"generator": self.generator.get_state(), "task": tensors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Driver``."""
        self.generator.set_state(state["generator"])
        for name, value in state["task"].items():
            setattr(self.task, name, value.to(self.device, copy=True))
        self.state._moved()

    def _observe(self) -> dict[str, torch.Tensor]:
        """Return the task's observations as float32 (or uint8) in memory of their own."""
        groups: dict[str, torch.Tensor] = {}
        for name, parts in self.task.observations(self.state, self.generator).items():
            if isinstance(parts, Mapping):
                self._terms[name] = tuple(Term(term, tuple(part.shape[1:])) for term, part in parts.items())
                groups[name] = torch.cat(list(parts.values()), dim=-1)
            else:
                groups[name] = parts
        for name, values in groups.items():
            if values.shape[:1] != (self.task.num_envs,):
                raise UserError(
                    f"{type(self.task).__name__}.observations: group {name!r} must have the shape "
                    f"({self.task.num_envs}, ...), found {tuple(values.shape)}"
                )
        return {
            name: values.detach().clone() if values.dtype == torch.uint8 else values.detach().float().clone()
            for name, values in groups.items()
        }
