"""Checkpoints: written whole or not at all, read without running code.

A checkpoint is rsl_rl's dict (``actor_state_dict``, ``critic_state_dict``, ``optimizer_state_dict``,
``iter``, ``infos``), so rsl_rl loads ours and we load its. Everything beyond that lies under the key
``sim_rl``: the resolved config, the layout of observations and actions, counters, random states and
the state of the simulation.
"""

from __future__ import annotations

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
from sim_rl_plugin.checkpoint_manifest import check_bytes, describe, read_manifest, seal
from sim_rl_plugin.checkpoint_migrations import migrate_checkpoint
from sim_rl_plugin.errors import UserError, os_errors_named
from sim_rl_plugin.whole_file import remove_unfinished, whole_file

BEST_FILE = "model_best.pt"
"""In a run folder: the checkpoint with the highest return of all evaluations while training."""

_FILE_NAME = re.compile(r"model_(\d+)\.pt")

# What torch says of files that hold other objects, and of its format before 2018, which it cannot read safely.
_UNSAFE = re.compile(
    r"unsupported (?:global|class)|can only (?:create|build)|to load (?:nested|DTensor)|\.tar format", re.I
)

# Files that were loaded with their code: a command reads one several times, and says so once.
_told_of_trust: set[Path] = set()


def save_checkpoint(path: str | Path, contents: dict[str, Any], *, with_manifest: bool = True) -> None:
    """Write a checkpoint so that a crash leaves either the new file or what was there before.

    Args:
        path: The file; its folder is created if needed.
        contents: Tensors, numbers, strings, None, and dicts, lists and tuples of them. What NumPy holds
            is converted: arrays to tensors, scalars to numbers.
        with_manifest: Whether the file gets a manifest and a digest, see ``checkpoint_manifest``.

    Raises:
        ValueError: The folder cannot be written to, the disk is full, or the contents hold anything
            that could not be loaded without running code.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            contents = _plain("checkpoint", contents)
            torch.save(contents, file)
            if with_manifest:
                seal(file, describe(contents))
    except (OSError, RuntimeError) as error:
        reason = _system_error(error)
        if reason is None:
            raise
        raise UserError(f"cannot write the checkpoint {path}: {reason.strerror or reason}") from error


def _system_error(error: BaseException | None) -> OSError | None:
    """Return the error of the system that is behind an exception: torch says only that something was not written."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def load_checkpoint(
    path: str | Path, map_location: str | torch.device | None = "cpu", *, trust: bool = False
) -> dict[str, Any]:
    """Read a checkpoint, ours or rsl_rl's, without running any code that it may hold.

    A file of another kind is offered to the plugins (``sim_rl_load_foreign_checkpoint``). One of an
    older rsl_rl comes back in the shape of 5.x, and a warning says what was changed.

    Args:
        path: The file.
        map_location: Device of the tensors; None keeps the one they were saved from.
        trust: Load a file that holds more than tensors and plain data, too, after a warning. That runs
            whatever code it holds.

    Raises:
        ValueError: The file is missing, damaged, holds code, or is no checkpoint.
    """
    contents = read_checkpoint(path, map_location, trust=trust)
    try:
        contents, note = migrate_checkpoint(contents)
    except UserError as error:
        raise UserError(f"the checkpoint {path} cannot be used: {' '.join(str(error).split())}") from error
    except Exception as error:  # an older one's inner shape shows when it is taken apart
        raise UserError(f"the checkpoint {path} cannot be used: {_first_sentence(error)}") from error
    if note is not None:
        warnings.warn(f"the checkpoint {path}: {note}", stacklevel=2)
    return contents


def read_checkpoint(
    path: str | Path, map_location: str | torch.device | None = "cpu", *, trust: bool = False
) -> dict[str, Any]:
    """Return what a checkpoint holds, as ``load_checkpoint`` does but in whatever shape it was written."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        return _load_own(path, map_location, trust)
    except UserError:
        foreign = plugins.get_manager().first("sim_rl_load_foreign_checkpoint", path=path)
        if foreign is None:
            raise
        check_contents(foreign, path)
        return foreign


def _load_own(path: Path, map_location: str | torch.device | None, trust: bool) -> dict[str, Any]:
    """Read a file that ``torch.save`` wrote."""
    check_bytes(path)
    try:
        contents = _load_plain(path, map_location)
    except Exception as error:  # torch raises whatever the damage makes it stumble over
        if "TorchScript archive" in str(error):
            raise UserError(f"{path} is no checkpoint but a policy exported as TorchScript") from error
        if not _UNSAFE.search(str(error)):
            raise UserError(f"the checkpoint {path} is damaged: {_first_sentence(error)}") from error
        if not trust:
            raise UserError(
                f"the checkpoint {path} holds {_unsafe_part(error)} beside tensors and plain data; loading that could "
                "run code, so it was not read. If you trust whoever wrote it, say --trust, or make a file without it: "
                "sim-rl checkpoint convert OLD NEW --trust"
            ) from error
        contents = _load_trusted(path, map_location, _unsafe_part(error))
    check_contents(contents, path)
    return contents


def _load_plain(path: Path, map_location: str | torch.device | None) -> Any:
    """Read tensors and plain data; anything else is an exception."""
    with _only_torchs_own_types(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of what it is about to refuse
        return torch.load(path, map_location=map_location, weights_only=True)


def _load_trusted(path: Path, map_location: str | torch.device | None, part: str) -> Any:
    if path.resolve() not in _told_of_trust:
        _told_of_trust.add(path.resolve())
        warnings.warn(f"the checkpoint {path} holds {part}: trusted, and its code is run", stacklevel=1)
    try:
        return torch.load(path, map_location=map_location, weights_only=False)
    except Exception as error:
        raise UserError(f"the checkpoint {path} cannot be loaded: {_first_sentence(error)}") from error


@contextmanager
def _only_torchs_own_types() -> Iterator[None]:
    """Take back what packages have declared safe to load for their own files, as tensordict does, for a moment."""
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        yield
    finally:
        torch.serialization.add_safe_globals(allowed)


def _unsafe_part(error: BaseException) -> str:
    """Return what torch has refused to load."""
    name = re.search(r"GLOBAL ([\w.]+)", str(error))
    return name[1] if name else "something"


def numbered_checkpoints(folder: Path) -> dict[int, Path]:
    """Return the files ``model_<iteration>.pt`` of a run folder by their iterations, in ascending order."""
    found = {int(match[1]): file for file in folder.iterdir() if (match := _FILE_NAME.fullmatch(file.name))}
    return dict(sorted(found.items()))


@os_errors_named
def find_checkpoint(run_or_file: str | Path, *, best: bool = False, trust: bool = False) -> Path:
    """Return the file itself, or the last checkpoint of a run folder that can be read.

    A damaged file is skipped with a warning, for the one before it.

    Args:
        run_or_file: A run folder or a checkpoint.
        best: Return the run folder's best checkpoint by evaluation instead.
        trust: See ``load_checkpoint``.

    Raises:
        ValueError: There is no such path, or no checkpoint in it that can be read.
    """
    path = Path(run_or_file)
    if path.is_file():
        if best:
            raise UserError(f"{path} is one checkpoint, of which there is no best: give its run folder")
        return path
    if not path.is_dir():
        raise UserError(f"no run folder or checkpoint at {path}")
    if best:
        if not (path / BEST_FILE).is_file():
            raise UserError(f"no {BEST_FILE} in {path}: it is written by evaluations while training (evaluation.every)")
        return path / BEST_FILE
    numbered = numbered_checkpoints(path)
    if not numbered:
        raise UserError(f"no checkpoint (model_<iteration>.pt) in {path}")
    for iteration in reversed(numbered):
        try:
            read_checkpoint(numbered[iteration], trust=trust)
        except UserError as error:
            warnings.warn(f"skipped: {error}", stacklevel=2)
            continue
        return numbered[iteration]
    raise UserError(f"no checkpoint in {path} can be read")


def set_aside_later_checkpoints(resumed: str | Path, folder: str | Path | None) -> None:
    """Rename the checkpoints of a run folder that are newer than the one it is resumed from.

    They would otherwise be taken for the last ones of the resumed run. The new name is
    ``model_<iteration>.pt.superseded``. What a kill left half written is removed.

    Raises:
        ValueError: The folder cannot be written to.
    """
    resumed = Path(resumed)
    if folder is None or resumed.parent.resolve() != Path(folder).resolve():
        return
    iteration = _iteration_of(resumed)
    try:
        for file in list(resumed.parent.iterdir()):
            other = _FILE_NAME.fullmatch(file.name)
            if iteration is not None and other is not None and int(other[1]) > iteration:
                file.replace(file.with_name(f"{file.name}.superseded"))
        remove_unfinished(resumed.parent)
    except OSError as error:
        raise UserError(f"cannot write to the run folder {folder}: {error.strerror or error}") from error


def _iteration_of(checkpoint: Path) -> int | None:
    """Return the iteration of a run folder's checkpoint, the best one's too."""
    match = _FILE_NAME.fullmatch(checkpoint.name)
    if match is not None:
        return int(match[1])
    return (read_manifest(checkpoint) or {}).get("iteration")


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


def plain_settings(value: Any) -> Any:
    """Return a training dict as plain data: classes and functions by their ``module:name``, tuples as lists."""
    if isinstance(value, dict):
        return {str(key): plain_settings(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_settings(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}:{value.__qualname__}"
    return str(value)


def plain_parts(contents: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return what of a checkpoint can be saved so that it loads without code, and the keys of what cannot.

    Raises:
        ValueError: A model or an optimizer cannot.
    """
    kept, left_out = {}, []
    for key, value in contents.items():
        try:
            kept[key] = _plain(f"checkpoint[{key!r}]", value)
        except UserError:
            if str(key).endswith("state_dict"):
                raise
            left_out.append(str(key))
    return kept, left_out


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
    # torch puts advice on how to load a file unsafely around what is wrong with it.
    text = str(error).rpartition("WeightsUnpickler error: ")[2].strip() or type(error).__name__
    return text.splitlines()[0].partition(". ")[0]
