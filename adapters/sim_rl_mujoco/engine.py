"""A batch of independent MuJoCo simulations, stepped by a pool of threads.

The engine knows physics and nothing of observations or rewards: it writes controls in, steps, and
copies the fields that somebody asked for into one array per field. Two routes give the same bits:
a compiled one (``kernel.py``), and a loop in Python for where numba or the addresses are missing.
"""

from __future__ import annotations

import copy
import ctypes
import functools
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import mujoco
import numpy as np
import torch

from sim_rl_plugin.errors import UserError, unknown_name
from sim_rl_plugin.ranks import usable_cores

_STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)
_FATAL_WARNINGS = tuple(
    int(getattr(mujoco.mjtWarning, f"mjWARN_{kind}")) for kind in ("BADQPOS", "BADQVEL", "BADQACC", "BADCTRL")
)
# MuJoCo checks positions and velocities at the start of a step only; this is its own bound.
_MAX_VALUE = 1e10
# Few, so that the threads finish together; a ticket costs nanoseconds, a step microseconds.
_ENVS_PER_TICKET = 2
# These are not part of a step: MuJoCo computes them when mj_rnePostConstraint is called.
_POST_CONSTRAINT_FIELDS = frozenset({"cacc", "cfrc_int", "cfrc_ext"})
# Model fields from which MuJoCo derives others, so that mj_setConst must follow a change.
_CONSTANT_SOURCES = (
    "body_mass",
    "body_inertia",
    "body_ipos",
    "body_iquat",
    "body_pos",
    "body_quat",
    "dof_armature",
    "qpos0",
    "tendon_armature",
    "actuator_gear",
)


@functools.cache
def compiled_kernel() -> ModuleType | None:
    """Return the compiled inner loop, or None where numba cannot be imported or has no folder to write to."""
    try:
        from sim_rl_mujoco import kernel
    except (ImportError, RuntimeError):  # numba raises the second where it finds no folder for compiled code
        return None
    return kernel


@functools.cache
def library_addresses() -> dict[str, int] | None:
    """Return the addresses of libmujoco's functions, or None if they cannot be found.

    They are looked up through the extension module that MuJoCo's own Python functions live in. The
    dynamic linker searches what that module is linked with, so this is the library in use, wherever
    a release of MuJoCo keeps it.
    """
    names = ("mj_step", "mj_forward", "mj_resetData", "mj_rnePostConstraint", "mj_setState", "mj_getState")
    try:
        library = ctypes.CDLL(mujoco._functions.__file__)
        addresses = {name: ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in names}
    except (AttributeError, OSError):
        return None
    return {name: address for name, address in addresses.items() if address is not None}


def load_model(path: Path) -> mujoco.MjModel:
    """Return the model in an MJCF file.

    Raises:
        UserError: The file is missing or is not a valid model.
    """
    _pass_warnings_on()
    try:
        return mujoco.MjModel.from_xml_path(str(path))
    except (ValueError, OSError) as error:
        raise UserError(f"the model {path} cannot be loaded: {' '.join(str(error).split())}") from error


def _pass_warnings_on() -> None:
    """Keep MuJoCo from writing ``MUJOCO_LOG.TXT`` into the working folder, unless somebody else listens."""
    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_report_warning)


def _report_warning(message: str) -> None:
    """Pass one of MuJoCo's warnings on.

    Two are left out: divergence, which the environment counts and logs, and the age of a model's
    notation, which is no news to whoever trains on it.
    """
    if "unstable" not in message and "deprecated" not in message:
        warnings.warn(f"MuJoCo: {message.strip()}", RuntimeWarning, stacklevel=2)


class Engine:
    """``num_envs`` simulations of one model, or of as many variations of it.

    Each thread has one ``MjData`` and plays its share of the environments on it one after another;
    an environment is its row of ``states``. The results do not depend on which thread that is.

    Attributes:
        model: The model as it was loaded.
        models: The model of each environment; all the same object until ``set_model_values``.
        states: Everything that the next step of each environment depends on,
            ``(num_envs, size)`` float64, as ``mj_getState`` gives it.
        diverged: Whether the last ``step`` blew up, ``(num_envs,)`` bool. MuJoCo resets such a
            simulation by itself and goes on, so the state looks healthy.
        compiled: Whether the compiled loop is in use.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        num_envs: int,
        *,
        num_substeps: int = 1,
        num_threads: int | None = None,
        forward_after_step: bool = False,
        compiled: bool | None = None,
    ) -> None:
        """Allocate the simulations.

        Args:
            model: The model.
            num_envs: Number of environments.
            num_substeps: Physics steps per control step.
            num_threads: Threads that step; None means every core that the process may use.
            forward_after_step: Bring ``xpos``, sensors and contact forces up to the instant of
                ``qpos``. Without it they lag one physics step behind, as MuJoCo leaves them.
            compiled: Force the compiled loop (True) or the Python loop (False); None takes the
                compiled one if it is available.

        Raises:
            UserError: A number is out of range, or the compiled loop was asked for and is not available.
        """
        for name, value in (("num_envs", num_envs), ("num_threads", num_threads), ("num_substeps", num_substeps)):
            if value is not None and not 1 <= value < 2**31:  # MuJoCo counts with 32 bits
                raise UserError(f"{name} must be at least 1 and less than 2**31, found {value}")
        self.model = model
        self.num_envs = num_envs
        self.num_substeps = num_substeps
        self.num_threads = min(num_threads or usable_cores(), num_envs)
        self.forward_after_step = forward_after_step
        self._kernel = compiled_kernel() if compiled in (None, True) else None
        self._addresses = library_addresses() if hasattr(model, "_address") else None
        self.compiled = self._kernel is not None and self._addresses is not None
        if compiled and not self.compiled:
            raise UserError("the compiled simulation loop needs numba and a MuJoCo whose library can be found")

        _pass_warnings_on()
        self.models = [model] * num_envs
        self.model_values: dict[str, np.ndarray] = {}
        self.diverged = np.zeros(num_envs, dtype=bool)
        self._datas = [mujoco.MjData(model) for _ in range(self.num_threads)]
        first = np.empty(mujoco.mj_stateSize(model, _STATE))
        mujoco.mj_getState(model, self._datas[0], first, _STATE)
        self.states = np.tile(first, (num_envs, 1))
        self._warnings = [data.warning.number for data in self._datas]
        self._fields: dict[str, np.ndarray] = {}
        self._inputs: dict[str, np.ndarray] = {}
        self._post_constraint = False
        self._pool = ThreadPoolExecutor(self.num_threads - 1, "mujoco") if self.num_threads > 1 else None
        self._ticket = np.zeros(1, dtype=np.int64)
        self._read_model_pointers()
        self.field("qpos")
        self.field("qvel")

    def close(self) -> None:
        """Stop the threads. Safe to call twice."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def field(self, name: str) -> np.ndarray:
        """Return a field of ``mjData`` for all environments, kept current from now on.

        Args:
            name: A field of fixed size, such as ``"qpos"``, ``"xpos"`` or ``"sensordata"``.

        Returns:
            ``(num_envs, size)`` float64, the field flattened. The engine writes into it at every
            step and reset.

        Raises:
            UserError: MuJoCo has no such field, or not of floats of a fixed size.
        """
        if name not in self._fields:
            data = self._datas[0]
            if not _is_fixed_float_field(data, name):
                raise unknown_name("MjData field", name, _field_names(data))
            self._post_constraint |= name in _POST_CONSTRAINT_FIELDS
            values = np.empty((self.num_envs, getattr(data, name).size))
            for env, row in enumerate(values):
                row[:] = getattr(self.simulation(env), name).reshape(-1)
            self._fields[name] = values
            self._outputs = [self._table(data, self._fields) for data in self._datas]
        return self._fields[name]

    def field_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a field of one environment."""
        return tuple(getattr(self._datas[0], name).shape)

    def simulation(self, env: int) -> mujoco.MjData:
        """Return the simulation of one environment, with everything that follows from its state computed.

        It is the engine's workspace: read it before the next call.
        """
        model, data = self.models[env], self._datas[0]
        mujoco.mj_resetData(model, data)
        mujoco.mj_setState(model, data, self.states[env], _STATE)
        mujoco.mj_forward(model, data)
        if self._post_constraint and self.forward_after_step:
            mujoco.mj_rnePostConstraint(model, data)
        return data

    def step(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Write fields (``ctrl``, ``xfrc_applied``, ...) and advance every environment by one control step.

        Args:
            inputs: Field name to ``(num_envs, size)``; the same names at every call.

        Raises:
            UserError: A name is not a field of ``mjData``, or a shape does not fit.
        """
        if self._inputs.keys() != inputs.keys():
            self._allocate_inputs(inputs)
        for name, values in inputs.items():
            target = self._inputs[name]
            if values.shape != target.shape:
                raise UserError(f"{name} must have the shape {target.shape}, found {values.shape}")
            np.copyto(target, values)
        if self.compiled:
            self._step_compiled()
        else:
            self._share_out(self._step_one, self.num_envs)
        for name in ("qpos", "qvel"):
            # Not "> bound": a comparison with NaN is false, and NaN must count.
            sane = np.abs(self._fields[name]) < _MAX_VALUE
            if not sane.all():
                self.diverged |= ~sane.all(axis=1)

    def reset(self, env_ids: np.ndarray, qpos: np.ndarray, qvel: np.ndarray) -> None:
        """Start environments anew from the given state, everything else as in a fresh simulation.

        Args:
            env_ids: ``(R,)`` int64.
            qpos: ``(R, nq)`` positions.
            qvel: ``(R, nv)`` velocities.

        Raises:
            UserError: A shape does not fit.
        """
        qpos = np.ascontiguousarray(qpos, dtype=np.float64)
        qvel = np.ascontiguousarray(qvel, dtype=np.float64)
        if qpos.shape != (len(env_ids), self.model.nq) or qvel.shape != (len(env_ids), self.model.nv):
            raise UserError(
                f"a reset of {len(env_ids)} environments needs qpos {(len(env_ids), self.model.nq)} and qvel "
                f"{(len(env_ids), self.model.nv)}, found {qpos.shape} and {qvel.shape}"
            )
        if self.compiled:
            self._reset_compiled(env_ids, qpos, qvel)
        else:

            def reset_one(thread: int, row: int) -> None:
                self._reset_one(thread, int(env_ids[row]), qpos[row], qvel[row])

            self._share_out(reset_one, len(env_ids))
        self.diverged[env_ids] = False

    def set_model_values(self, env_ids: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        """Give environments their own masses, friction, gains, ...: fields of ``mjModel``.

        The first call copies the model once per environment. What MuJoCo derives from masses and
        geometry is computed anew. The simulations must be reset afterwards.

        Args:
            env_ids: ``(R,)`` int64.
            values: Field name to ``(R, *shape of the field)``.

        Raises:
            UserError: The model has no such field of numbers, or a shape does not fit.
        """
        for name, rows in values.items():
            default = getattr(self.model, name, None)
            if not isinstance(default, np.ndarray):
                known = [n for n in dir(self.model) if n[0] != "_" and isinstance(getattr(self.model, n), np.ndarray)]
                raise unknown_name("MjModel field", name, known)
            if rows.shape != (len(env_ids), *default.shape):
                raise UserError(f"{name} must have the shape {(len(env_ids), *default.shape)}, found {rows.shape}")
            if name not in self.model_values:
                self.model_values[name] = np.stack([default] * self.num_envs)
            self.model_values[name][env_ids] = rows
        if self.model_values and self.models[0] is self.model:
            self.models = [copy.copy(self.model) for _ in range(self.num_envs)]
            self._read_model_pointers()
        derive = any(name in _CONSTANT_SOURCES for name in values)
        for env in env_ids.tolist():
            for name in values:
                getattr(self.models[env], name)[:] = self.model_values[name][env]
            if derive:
                mujoco.mj_setConst(self.models[env], self._datas[0])

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next steps depend on, as tensors."""
        # The fields travel too: xpos, contact forces and sensors lag behind the state or depend on
        # how it was reached, so they cannot be computed from it.
        return {
            "physics": torch.from_numpy(self.states.copy()),
            "fields": {name: torch.from_numpy(values.copy()) for name, values in self._fields.items()},
            "model_values": {name: torch.from_numpy(values.copy()) for name, values in self.model_values.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state that ``state_dict`` returned.

        Raises:
            UserError: The state is one of another model, number of environments or MuJoCo release.
        """
        physics = state["physics"].numpy()
        if physics.shape != self.states.shape:
            raise UserError(
                f"the simulation state has the shape {physics.shape}, this model has {self.states.shape}: "
                "it was saved from another model, another num_envs, or another release of MuJoCo"
            )
        if state["model_values"]:
            everyone = np.arange(self.num_envs)
            self.set_model_values(everyone, {name: values.numpy() for name, values in state["model_values"].items()})
        np.copyto(self.states, physics)
        for name, values in state["fields"].items():
            np.copyto(self.field(name), values.numpy())
        self.diverged[:] = False

    def _share_out(self, function: Callable[[int, int], None], count: int) -> None:
        """Call ``function(thread, item)`` for all items; MuJoCo releases the GIL inside."""

        def work(thread: int) -> None:
            for item in range(thread, count, self.num_threads):
                function(thread, item)

        self._on_all_threads(work)

    def _on_all_threads(self, work: Callable[[int], None]) -> None:
        """Call ``work(thread)`` on every thread, this one included, and wait for the last."""
        futures = []
        if self._pool is not None:
            futures = [self._pool.submit(work, thread) for thread in range(1, self.num_threads)]
        work(0)
        for future in futures:
            future.result()

    def _step_one(self, thread: int, env: int) -> None:
        model, data, counts = self.models[env], self._datas[thread], self._warnings[thread]
        mujoco.mj_setState(model, data, self.states[env], _STATE)
        counts[:] = 0
        for name, values in self._inputs.items():
            getattr(data, name).reshape(-1)[:] = values[env]
        mujoco.mj_step(model, data, self.num_substeps)
        if self.forward_after_step:
            mujoco.mj_forward(model, data)
        if self._post_constraint:
            mujoco.mj_rnePostConstraint(model, data)
        for name, values in self._fields.items():
            values[env] = getattr(data, name).reshape(-1)
        self.diverged[env] = any(counts[kind] for kind in _FATAL_WARNINGS)
        mujoco.mj_getState(model, data, self.states[env], _STATE)

    def _reset_one(self, thread: int, env: int, qpos: np.ndarray, qvel: np.ndarray) -> None:
        model, data = self.models[env], self._datas[thread]
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:] = qpos, qvel
        mujoco.mj_forward(model, data)
        if self._post_constraint and self.forward_after_step:
            mujoco.mj_rnePostConstraint(model, data)
        for name, values in self._fields.items():
            values[env] = getattr(data, name).reshape(-1)
        mujoco.mj_getState(model, data, self.states[env], _STATE)

    def _read_model_pointers(self) -> None:
        if self.compiled:
            self._model_pointers = np.array([model._address for model in self.models], dtype=np.int64)

    def _allocate_inputs(self, inputs: Mapping[str, np.ndarray]) -> None:
        for name in inputs:
            if not _is_fixed_float_field(self._datas[0], name):
                raise unknown_name("MjData field", name, _field_names(self._datas[0]))
        sizes = {name: getattr(self._datas[0], name).size for name in inputs}
        self._inputs = {name: np.zeros((self.num_envs, size)) for name, size in sizes.items()}
        self._input_tables = [self._table(data, self._inputs) for data in self._datas]

    @staticmethod
    def _table(data: mujoco.MjData, buffers: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the fields' addresses in an mjData, the buffers', and the row sizes in bytes, each ``(F,)``."""
        inside = [getattr(data, name).ctypes.data for name in buffers]
        outside = [buffer.ctypes.data for buffer in buffers.values()]
        sizes = [buffer.shape[1] * buffer.itemsize for buffer in buffers.values()]
        return np.array(inside, dtype=np.int64), np.array(outside, dtype=np.int64), np.array(sizes, dtype=np.int64)

    def _functions(self, *names: str | None) -> np.ndarray:
        assert self._addresses is not None
        return np.array([self._addresses[name] if name else 0 for name in names], dtype=np.int64)

    def _step_compiled(self) -> None:
        assert self._kernel is not None
        loop = self._kernel.step_until_empty
        functions = self._functions(
            "mj_setState",
            "mj_getState",
            "mj_step",
            "mj_forward" if self.forward_after_step else None,
            "mj_rnePostConstraint" if self._post_constraint else None,
        )
        self._ticket[0] = 0

        def work(thread: int) -> None:
            targets, sources, sizes = self._input_tables[thread]
            numbers = self._warnings[thread]
            warning_pointers = numbers.ctypes.data + np.array(_FATAL_WARNINGS, dtype=np.int64) * numbers.strides[0]
            loop(
                self._ticket.ctypes.data,
                _ENVS_PER_TICKET,
                self.num_substeps,
                functions,
                self._model_pointers,
                self._datas[thread]._address,
                self.states.ctypes.data,
                self.states.strides[0],
                _STATE,
                sources,
                targets,
                sizes,
                *self._outputs[thread],
                warning_pointers,
                self.diverged,
            )

        self._on_all_threads(work)

    def _reset_compiled(self, env_ids: np.ndarray, qpos: np.ndarray, qvel: np.ndarray) -> None:
        assert self._kernel is not None
        loop = self._kernel.reset_until_empty
        post_constraint = self._post_constraint and self.forward_after_step
        functions = self._functions(
            "mj_resetData", "mj_forward", "mj_rnePostConstraint" if post_constraint else None, "mj_getState"
        )
        env_ids = np.ascontiguousarray(env_ids, dtype=np.int64)
        initial = {"qpos": qpos, "qvel": qvel}
        self._ticket[0] = 0

        def work(thread: int) -> None:
            targets, sources, sizes = self._table(self._datas[thread], initial)
            loop(
                self._ticket.ctypes.data,
                functions,
                env_ids,
                self._model_pointers,
                self._datas[thread]._address,
                self.states.ctypes.data,
                self.states.strides[0],
                _STATE,
                sources,
                targets,
                sizes,
                *self._outputs[thread],
            )

        self._on_all_threads(work)


def _field_names(data: mujoco.MjData) -> list[str]:
    """Return the names of ``mjData``'s fields of floats whose size the model fixes."""
    return [name for name in dir(data) if _is_fixed_float_field(data, name)]


def _is_fixed_float_field(data: mujoco.MjData, name: str) -> bool:
    # Constraint fields live in an arena that is laid out anew at every step.
    if name.startswith(("_", "efc_", "iefc_", "efm_", "iacc", "ifrc_")):
        return False
    value = getattr(data, name, None)
    return isinstance(value, np.ndarray) and value.dtype == np.float64 and bool(value.flags.c_contiguous)
