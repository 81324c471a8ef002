"""Opens a task of any simulator, on the device that the settings mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from sim_rl_plugin.allocator import keep_freed_memory
from sim_rl_plugin.config import RunConfig, check_env_options
from sim_rl_plugin.config.signature import parameters_of
from sim_rl_plugin.env import VecEnv, as_vec_env
from sim_rl_plugin.env.clip_actions import ClipActions
from sim_rl_plugin.errors import UserError, unknown_name
from sim_rl_plugin.evaluation import seed_everything
from sim_rl_plugin.ranks import Place, usable_cores
from sim_rl_plugin.registry import is_own_function, load_tasks


def resolve_device(name: str) -> str:
    """Return the device that a name means; ``auto`` is CUDA where there is some, or else the CPU.

    Raises:
        UserError: torch does not know the name, or the machine does not have the device.
    """
    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device: expected cpu, cuda:<index> or auto, found {name!r}") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = f"{torch.cuda.device_count()} CUDA devices" if torch.cuda.is_available() else "no CUDA device"
        raise UserError(f"device: {name!r} was asked for, and torch finds {found}: say auto or cpu")
    if device.type not in ("cpu", "cuda"):
        try:
            torch.zeros(1, device=device).item()
        except (RuntimeError, NotImplementedError) as error:
            raise UserError(f"device: {name!r} cannot be used here: say cpu, cuda:<index> or auto") from error
    # With its index, as a launcher's ranks and checkpoints name it.
    return f"cuda:{device.index or 0}" if device.type == "cuda" else str(device)


def prepare_process(config: RunConfig, seed: int | None = None) -> None:
    """Seed torch on every device, NumPy and Python; set torch's threads and precision, and the allocator.

    Args:
        config: The settings. Without a number of threads torch's choice stays, or, where ranks share a machine,
            this rank's share of the cores is taken.
        seed: That of this rank; None takes the config's.
    """
    seed_everything(config.seed if seed is None else seed)
    if config.keep_freed_memory:
        keep_freed_memory()
    if config.torch_num_threads is not None:
        torch.set_num_threads(config.torch_num_threads)
    elif Place.here().local_world_size > 1:
        torch.set_num_threads(usable_cores())
    if config.float32_matmul_precision is not None:
        torch.set_float32_matmul_precision(config.float32_matmul_precision)


@contextmanager
def open_env(
    config: RunConfig,
    *,
    device: str,
    num_envs: int | None = None,
    seed: int | None = None,
    render: bool = False,
) -> Iterator[VecEnv]:
    """Open the task of a config, and close it on exit.

    Args:
        config: Names simulator, task, the adapter's options and the limit of the actions.
        device: Where the environment returns its tensors, resolved.
        num_envs: Number of environments; None takes the config's.
        seed: Seed of the environments; None takes the config's.
        render: Whether frames will be asked for.

    Yields:
        The environment.

    Raises:
        UserError: The simulator, its options, or the task is unknown, or a package is missing.
    """
    adapter = check_env_options(config.simulator, config.env)
    with ExitStack() as stack:
        try:
            opened = _call(
                adapter,
                config,
                num_envs=config.num_envs if num_envs is None else num_envs,
                device=device,
                seed=config.seed if seed is None else seed,
                render=render,
            )
            is_context = hasattr(opened, "__exit__")
            env = stack.enter_context(opened) if is_context else opened
        except UserError:
            raise
        except Exception as error:
            # An adapter that does not say it itself: the likeliest reason is the task's name.
            tasks = load_tasks(config.simulator)
            if tasks and config.task not in tasks:
                raise unknown_name("task", config.task, tasks) from error
            raise
        env = as_vec_env(env)
        if not is_context and hasattr(env, "close"):
            stack.callback(env.close)
        yield env if config.clip_actions is None else ClipActions(env, config.clip_actions)


def _call(adapter: Any, config: RunConfig, **provided: Any) -> Any:
    """Return what an adapter opens; a function of the user's is given only what it asks for."""
    options = config.to_dict()["env"]
    if not is_own_function(config.simulator):
        return adapter(config.task, **provided, **options)
    parameters = parameters_of(adapter)
    provided["task"] = config.task
    if not parameters.accepts_any:
        provided = {name: value for name, value in provided.items() if name in parameters.annotations}
    return adapter(**provided, **options)
