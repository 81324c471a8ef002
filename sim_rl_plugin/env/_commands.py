"""Does a command stay at what somebody holds it at?"""

from __future__ import annotations

from collections.abc import Callable

import torch

from sim_rl_plugin.env._trees import same
from sim_rl_plugin.env.commands import Command, fault_in_commands
from sim_rl_plugin.env.problems import Findings
from sim_rl_plugin.env.vec_env import VecEnv

_STEPS = 3


def check_commands(env: VecEnv, findings: Findings, step: Callable[[bool], None]) -> None:
    """Hold every command once, through steps and through the end of every episode.

    Args:
        env: The environment; its commands are its own again afterwards.
        findings: Where problems are reported.
        step: Takes one step; if true is given, all episodes end in it, where that can be brought about.
    """
    commands = getattr(env, "command_terms", ())
    if not isinstance(commands, (list, tuple)) or commands:
        if fault := fault_in_commands(commands):
            findings.report("wrong-commands", "command_terms", fault)
            return
        for command in commands:
            if _has_form(env, command, findings):
                _check_held(env, command, findings, step)


def _has_form(env: VecEnv, command: Command, findings: Findings) -> bool:
    found, expected = env.get_command(command.name), (env.num_envs, command.size)
    shape = tuple(found.shape) if isinstance(found, torch.Tensor) else None
    if shape != expected or found.dtype != torch.float32 or found.device.type != torch.device(env.device).type:
        what = f"a {type(found).__name__}" if shape is None else f"{shape} {found.dtype} on {found.device}"
        findings.report(
            "wrong-commands",
            f"get_command({command.name!r})",
            f"found {what}, expected {expected} torch.float32 on {env.device}",
        )
        return False
    return True


def _check_held(env: VecEnv, command: Command, findings: Findings, step: Callable[[bool], None]) -> None:
    where = f"hold_command({command.name!r})"
    # A quarter into the range: neither what a command is at rest, nor at a limit.
    values = [0.25 if limits is None else 0.75 * limits[0] + 0.25 * limits[1] for limits in _ranges(command)]
    held = torch.tensor(values, dtype=torch.float32, device=env.device)
    handed_in = held.clone()
    env.hold_command(command.name, handed_in)
    handed_in.zero_()  # what was handed in is the caller's
    try:
        for index in range(_STEPS):
            step(index == 1)
            found = env.get_command(command.name)
            if not same(found, held.expand_as(found)):
                findings.report(
                    "command-not-held",
                    where,
                    f"after {index + 1} steps{', in which all episodes ended,' if index else ''} the command is "
                    f"{found[0].tolist()} in environment 0, expected {held.tolist()} in all; write it again after "
                    "whatever draws or computes commands, resets included",
                )
                return
        found.zero_()
        if not same(env.get_command(command.name), held.expand_as(found)):
            findings.report("buffer-reused", f"get_command({command.name!r})", "expected a copy, found its own memory")
    finally:
        env.hold_command(command.name, None)


def _ranges(command: Command) -> list[tuple[float, float] | None]:
    return [command.range_of(index) for index in range(command.size)]
