"""The compiled inner loop: libmujoco called by address, without the GIL.

Everything travels as an address, because that is what lets numba keep the compiled code on disk:
a ctypes function captured by the kernel would change from process to process.

Legend of the tables: N environments, I input fields, O output fields; all addresses int64.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

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
    datas: np.ndarray,
    input_sources: np.ndarray,
    input_targets: np.ndarray,
    input_bytes: np.ndarray,
    output_sources: np.ndarray,
    output_targets: np.ndarray,
    output_bytes: np.ndarray,
    warnings: np.ndarray,
    warning_offsets: np.ndarray,
    diverged: np.ndarray,
) -> None:
    """Step chunks of environments until no ticket is left; several threads run this at once.

    Args:
        ticket: Address of the int64 counter that the threads share, zero at the start.
        chunk: Environments per ticket.
        num_substeps: Physics steps per control step.
        functions: Addresses of mj_step, mj_forward, mj_rnePostConstraint ``(3,)``; the last two may
            be 0, for "do not call".
        models: mjModel pointers ``(N,)``.
        datas: mjData pointers ``(N,)``.
        input_sources: Start of each input buffer ``(I,)``, rows contiguous.
        input_targets: Where the row belongs inside each mjData ``(N, I)``.
        input_bytes: Row sizes ``(I,)``.
        output_sources: Where a field lies inside each mjData ``(N, O)``.
        output_targets: Start of each output buffer ``(O,)``, rows contiguous.
        output_bytes: Row sizes ``(O,)``.
        warnings: Address of each environment's first warning counter ``(N,)``.
        warning_offsets: Byte offsets of the counters that mean divergence ``(K,)``.
        diverged: Written ``(N,)``, bool.
    """
    num_envs = models.shape[0]
    while True:
        first = _take_ticket(ticket) * chunk
        if first >= num_envs:
            return
        for env in range(first, min(first + chunk, num_envs)):
            model, data = models[env], datas[env]
            for i in range(input_bytes.shape[0]):
                _copy(input_targets[env, i], input_sources[i] + env * input_bytes[i], input_bytes[i])
            for _ in range(num_substeps):
                _call(functions[0], model, data)
            if functions[1] != 0:
                _call(functions[1], model, data)
            if functions[2] != 0:
                _call(functions[2], model, data)
            for o in range(output_bytes.shape[0]):
                _copy(output_targets[o] + env * output_bytes[o], output_sources[env, o], output_bytes[o])
            count = 0
            for k in range(warning_offsets.shape[0]):
                count += _load_int32(warnings[env] + warning_offsets[k])
            diverged[env] = count > 0


@numba.njit(nogil=True, cache=True)
def reset_until_empty(
    ticket: int,
    functions: np.ndarray,
    env_ids: np.ndarray,
    models: np.ndarray,
    datas: np.ndarray,
    qpos_source: int,
    qvel_source: int,
    qpos_targets: np.ndarray,
    qvel_targets: np.ndarray,
    qpos_bytes: int,
    qvel_bytes: int,
    output_sources: np.ndarray,
    output_targets: np.ndarray,
    output_bytes: np.ndarray,
) -> None:
    """Reset environments one by one until no ticket is left; several threads run this at once.

    Args:
        ticket: Address of the int64 counter that the threads share, zero at the start.
        functions: Addresses of mj_resetData, mj_forward, mj_rnePostConstraint ``(3,)``; the last may be 0.
        env_ids: The environments to reset ``(R,)``.
        models: mjModel pointers ``(N,)``.
        datas: mjData pointers ``(N,)``.
        qpos_source: Start of the initial positions ``(R, nq)``.
        qvel_source: Start of the initial velocities ``(R, nv)``.
        qpos_targets: Where qpos lies inside each mjData ``(N,)``.
        qvel_targets: Where qvel lies inside each mjData ``(N,)``.
        qpos_bytes: Size of a row of qpos.
        qvel_bytes: Size of a row of qvel.
        output_sources: As in ``step_until_empty``.
        output_targets: As in ``step_until_empty``.
        output_bytes: As in ``step_until_empty``.
    """
    while True:
        row = _take_ticket(ticket)
        if row >= env_ids.shape[0]:
            return
        env = env_ids[row]
        model, data = models[env], datas[env]
        _call(functions[0], model, data)
        _copy(qpos_targets[env], qpos_source + row * qpos_bytes, qpos_bytes)
        _copy(qvel_targets[env], qvel_source + row * qvel_bytes, qvel_bytes)
        _call(functions[1], model, data)
        if functions[2] != 0:
            _call(functions[2], model, data)
        for o in range(output_bytes.shape[0]):
            _copy(output_targets[o] + env * output_bytes[o], output_sources[env, o], output_bytes[o])
