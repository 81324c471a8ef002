"""Checkpoints: written whole or not at all, read without running code.

A checkpoint is rsl_rl's dict (``actor_state_dict``, ``critic_state_dict``, ``optimizer_state_dict``,
``iter``, ``infos``), so rsl_rl loads ours and we load its. Everything beyond that lies under the key
``sim_rl``: the resolved config, the layout of observations and actions, counters, random states and
the state of the simulation.
"""

from __future__ import annotations

import pickle
import random
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sim_rl_plugin import plugins
from sim_rl_plugin.checkpoint_contents import check_contents
from sim_rl_plugin.checkpoint_migrations import migrate_checkpoint
from sim_rl_plugin.errors import UserError, os_errors_named
from sim_rl_plugin.whole_file import whole_file

_FILE_NAME = re.compile(r"model_(\d+)\.pt")


def save_checkpoint(path: str | Path, contents: dict[str, Any]) -> None:
    """Write a checkpoint so that a crash leaves either the new file or what was there before.

    Args:
        path: The file; its folder is created if needed.
        contents: Tensors, numbers, strings, None, and dicts, lists and tuples of them. What NumPy holds
            is converted: arrays to tensors, scalars to numbers.

    Raises:
        ValueError: The folder cannot be written to, the disk is full, or the contents hold anything
            that could not be loaded without running code.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            torch.save(_plain("checkpoint", contents), file)
    except OSError as error:
        raise UserError(f"cannot write the checkpoint {path}: {error.strerror or error}") from error


def load_checkpoint(path: str | Path, map_location: str | torch.device | None = "cpu") -> dict[str, Any]:
    """Read a checkpoint, ours or rsl_rl's, without running any code that it may hold.

    A file of another kind is offered to the plugins (``sim_rl_load_foreign_checkpoint``). One of an
    older rsl_rl comes back in the shape of 5.x, and a warning says what was changed.

    Args:
        path: The file.
        map_location: Device of the tensors; None keeps the one they were saved from.

    Raises:
        ValueError: The file is missing, damaged, holds code, or is no checkpoint.
    """
    contents = read_checkpoint(path, map_location)
    try:
        contents, note = migrate_checkpoint(contents)
    except UserError as error:
        raise UserError(f"the checkpoint {path} cannot be used: {' '.join(str(error).split())}") from error
    except Exception as error:  # an older one's inner shape shows when it is taken apart
        raise UserError(f"the checkpoint {path} cannot be used: {_first_sentence(error)}") from error
    if note is not None:
        warnings.warn(f"the checkpoint {path}: {note}", stacklevel=2)
    return contents


def read_checkpoint(path: str | Path, map_location: str | torch.device | None = "cpu") -> dict[str, Any]:
    """Return what a checkpoint holds, as ``load_checkpoint`` does but in whatever shape it was written."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        return _load_own(path, map_location)
    except UserError:
        foreign = plugins.get_manager().first("sim_rl_load_foreign_checkpoint", path=path)
        if foreign is None:
            raise
        check_contents(foreign, path)
        return foreign


def _load_own(path: Path, map_location: str | torch.device | None) -> dict[str, Any]:
    """Read a file that ``torch.save`` wrote."""
    try:
        contents = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "Unsupported class" in str(error):
            raise UserError(
                f"the checkpoint {path} holds objects other than tensors and plain data; loading them could run code, "
                "so it was not read"
            ) from error
        raise UserError(f"the checkpoint {path} is damaged: {_first_sentence(error)}") from error
    except Exception as error:  # torch raises whatever the damage makes it stumble over
        raise UserError(f"the checkpoint {path} is damaged: {_first_sentence(error)}") from error
    check_contents(contents, path)
    return contents


@os_errors_named
def find_checkpoint(run_or_file: str | Path) -> Path:
    """Return the file itself, or the last checkpoint of a run folder that can be read.

    A damaged file is skipped with a warning, for the one before it.

    Raises:
        ValueError: There is no such path, or no checkpoint in it that can be read.
    """
    path = Path(run_or_file)
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"no run folder or checkpoint at {path}")
    numbered = {int(match[1]): file for file in path.iterdir() if (match := _FILE_NAME.fullmatch(file.name))}
    if not numbered:
        raise UserError(f"no checkpoint (model_<iteration>.pt) in {path}")
    for iteration in sorted(numbered, reverse=True):
        try:
            read_checkpoint(numbered[iteration])
        except UserError as error:
            warnings.warn(f"skipped: {error}", stacklevel=2)
            continue
        return numbered[iteration]
    raise UserError(f"no checkpoint in {path} can be read")


def set_aside_later_checkpoints(resumed: str | Path, folder: str | Path | None) -> None:
    """Rename the checkpoints of a run folder that are newer than the one it is resumed from.

    They would otherwise be taken for the last ones of the resumed run. The new name is
    ``model_<iteration>.pt.superseded``.
    """
    resumed = Path(resumed)
    match = _FILE_NAME.fullmatch(resumed.name)
    if match is None or folder is None or resumed.parent.resolve() != Path(folder).resolve():
        return
    for file in list(resumed.parent.iterdir()):
        other = _FILE_NAME.fullmatch(file.name)
        if other is not None and int(other[1]) > int(match[1]):
            file.replace(file.with_name(f"{file.name}.superseded"))


def random_state() -> dict[str, Any]:
    """Return the states of the generators of torch, numpy and Python in plain data."""
    kind, keys, position, has_gauss, cached = np.random.get_state()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "python": random.getstate(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Continue the random numbers of ``random_state``."""
    torch.set_rng_state(state["torch"].cpu())
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    if "cuda" in state and torch.cuda.is_available():
        for device, generator in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(generator.cpu(), device)


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Put the generators back on exit, so that what was drawn meanwhile changes nothing."""
    before = random_state()
    try:
        yield
    finally:
        set_random_state(before)


def _plain(where: str, value: Any) -> Any:
    """Return contents with NumPy's values converted, or raise with the place of what cannot be stored."""
    if isinstance(value, dict):
        return {key: _plain(f"{where}[{key!r}]", item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_plain(f"{where}[{index}]", item) for index, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (torch.Tensor, bool, int, float, str, bytes)):
        return value
    raise UserError(f"a checkpoint holds tensors and plain data, but {where} is a {type(value).__name__}")


def _first_sentence(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    # What torch adds after its first sentence is advice on how to load the file unsafely.
    return text.splitlines()[0].partition(". ")[0]
