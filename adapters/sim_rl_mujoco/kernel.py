"""The compiled inner loop: libmujoco called by address, without the GIL.

Everything travels as an address, because that is what lets numba keep the compiled code on disk:
a ctypes function captured by the kernel would change from process to process.

Each thread has one ``mjData`` and plays all its environments on it, loading and saving their
states, as ``mujoco.rollout`` does: a state is a kilobyte or so, while an ``mjData`` is hundreds,
and a thousand of them would be fetched from main memory at every step.

Legend of the tables: N environments, I input fields, O output fields; all addresses int64.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic as _untyped_intrinsic

# numba hands the first parameter over by itself, which type checkers cannot know.
intrinsic: Any = _untyped_intrinsic


@intrinsic
def _call(typing_context: Any, function: Any, model: Any, data: Any) -> Any:
    """Call ``void function(const mjModel*, mjData*)``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = cgutils.voidptr_t
        kind = ir.FunctionType(ir.VoidType(), [pointer, pointer])
        callee = builder.inttoptr(args[0], kind.as_pointer())
        builder.call(callee, [builder.inttoptr(args[1], pointer), builder.inttoptr(args[2], pointer)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def _copy(typing_context: Any, target: Any, source: Any, num_bytes: Any) -> Any:
    """Copy bytes between two addresses that do not overlap."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target = builder.inttoptr(args[0], cgutils.voidptr_t)
        source = builder.inttoptr(args[1], cgutils.voidptr_t)
        cgutils.raw_memcpy(builder, target, source, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def _move_state(typing_context: Any, function: Any, model: Any, data: Any, state: Any, kind: Any) -> Any:
    """Call ``void function(const mjModel*, mjData*, mjtNum* state, int kind)``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = cgutils.voidptr_t
        integer = ir.IntType(32)
        callee_type = ir.FunctionType(ir.VoidType(), [pointer, pointer, pointer, integer])
        callee = builder.inttoptr(args[0], callee_type.as_pointer())
        model, data, state = (builder.inttoptr(arg, pointer) for arg in args[1:4])
        builder.call(callee, [model, data, state, builder.trunc(args[4], integer)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64, types.int64), generate


@intrinsic
def _store_int32(typing_context: Any, address: Any, value: Any) -> Any:
    """Write a C int."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        integer = ir.IntType(32)
        pointer = builder.inttoptr(args[0], integer.as_pointer())
        builder.store(builder.trunc(args[1], integer), pointer)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def _load_int32(typing_context: Any, address: Any) -> Any:
    """Read a C int."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], ir.IntType(32).as_pointer()))

    return types.int32(types.int64), generate


@intrinsic
def _take_ticket(typing_context: Any, address: Any) -> Any:
    """Add one to the int64 at an address, atomically, and return what it was."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", pointer, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(types.int64), generate


@numba.njit(nogil=True, cache=True)
def step_until_empty(
    ticket: int,
    chunk: int,
    num_substeps: int,
    functions: np.ndarray,
    models: np.ndarray,
    data: int,
    states: int,
    state_bytes: int,
    state_kind: int,
    input_sources: np.ndarray,
    input_targets: np.ndarray,
    input_bytes: np.ndarray,
    output_sources: np.ndarray,
    output_targets: np.ndarray,
    output_bytes: np.ndarray,
    warnings: np.ndarray,
    diverged: np.ndarray,
) -> None:
    """Step chunks of environments until no ticket is left; several threads run this at once.

    Args:
        ticket: Address of the int64 counter that the threads share, zero at the start.
        chunk: Environments per ticket.
        num_substeps: Physics steps per control step.
        functions: Addresses of mj_setState, mj_getState, mj_step, mj_forward, mj_rnePostConstraint
            ``(5,)``; the last two may be 0, for "do not call".
        models: mjModel pointers ``(N,)``.
        data: This thread's mjData.
        states: Start of the environments' states, rows contiguous.
        state_bytes: Size of a state.
        state_kind: What a state consists of, mjtState.
        input_sources: Start of each input buffer ``(I,)``, rows contiguous.
        input_targets: Where the row belongs inside the mjData ``(I,)``.
        input_bytes: Row sizes ``(I,)``.
        output_sources: Where a field lies inside the mjData ``(O,)``.
        output_targets: Start of each output buffer ``(O,)``, rows contiguous.
        output_bytes: Row sizes ``(O,)``.
        warnings: Addresses of the counters in the mjData that mean divergence ``(K,)``.
        diverged: Written ``(N,)``, bool.
    """
    num_envs = models.shape[0]
    while True:
        first = _take_ticket(ticket) * chunk
        if first >= num_envs:
            return
        for env in range(first, min(first + chunk, num_envs)):
            model, state = models[env], states + env * state_bytes
            _move_state(functions[0], model, data, state, state_kind)
            for k in range(warnings.shape[0]):
                _store_int32(warnings[k], 0)
            for i in range(input_bytes.shape[0]):
                _copy(input_targets[i], input_sources[i] + env * input_bytes[i], input_bytes[i])
            for _ in range(num_substeps):
                _call(functions[2], model, data)
            if functions[3] != 0:
                _call(functions[3], model, data)
            if functions[4] != 0:
                _call(functions[4], model, data)
            for o in range(output_bytes.shape[0]):
                _copy(output_targets[o] + env * output_bytes[o], output_sources[o], output_bytes[o])
            count = 0
            for k in range(warnings.shape[0]):
                count += _load_int32(warnings[k])
            diverged[env] = count > 0
            _move_state(functions[1], model, data, state, state_kind)


@numba.njit(nogil=True, cache=True)
def reset_until_empty(
    ticket: int,
    functions: np.ndarray,
    env_ids: np.ndarray,
    models: np.ndarray,
    data: int,
    states: int,
    state_bytes: int,
    state_kind: int,
    initial_sources: np.ndarray,
    initial_targets: np.ndarray,
    initial_bytes: np.ndarray,
    output_sources: np.ndarray,
    output_targets: np.ndarray,
    output_bytes: np.ndarray,
) -> None:
    """Reset environments one by one until no ticket is left; several threads run this at once.

    Args:
        ticket: Address of the int64 counter that the threads share, zero at the start.
        functions: Addresses of mj_resetData, mj_forward, mj_rnePostConstraint, mj_getState ``(4,)``;
            the third may be 0, for "do not call".
        env_ids: The environments to reset ``(R,)``.
        models: mjModel pointers ``(N,)``.
        data: This thread's mjData.
        states: As in ``step_until_empty``.
        state_bytes: As in ``step_until_empty``.
        state_kind: As in ``step_until_empty``.
        initial_sources: Start of the initial positions ``(R, nq)`` and velocities ``(R, nv)``, ``(2,)``.
        initial_targets: Where qpos and qvel lie inside the mjData ``(2,)``.
        initial_bytes: Their row sizes ``(2,)``.
        output_sources: As in ``step_until_empty``.
        output_targets: As in ``step_until_empty``.
        output_bytes: As in ``step_until_empty``.
    """
    while True:
        row = _take_ticket(ticket)
        if row >= env_ids.shape[0]:
            return
        env = env_ids[row]
        model = models[env]
        _call(functions[0], model, data)
        for i in range(initial_bytes.shape[0]):
            _copy(initial_targets[i], initial_sources[i] + row * initial_bytes[i], initial_bytes[i])
        _call(functions[1], model, data)
        if functions[2] != 0:
            _call(functions[2], model, data)
        for o in range(output_bytes.shape[0]):
            _copy(output_targets[o] + env * output_bytes[o], output_sources[o], output_bytes[o])
        _move_state(functions[3], model, data, states + env * state_bytes, state_kind)
