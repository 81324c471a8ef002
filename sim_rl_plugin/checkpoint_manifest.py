"""The manifest of a checkpoint: what the file is, readable without torch, and a digest of its bytes.

A checkpoint is the zip archive that ``torch.save`` writes. The manifest is one more entry of it, JSON, which
torch and rsl_rl pass over. The archive's comment, the last bytes of the file, is the sha256 of all bytes before
it, so that a changed byte is noticed wherever it lies. A digest tells damage, not who wrote the file.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import os
import platform
import sys
import zipfile
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from sim_rl_plugin import __version__
from sim_rl_plugin.errors import UserError

MANIFEST_FORMAT = 1

# torch reads archives only if all entries lie in one folder, which is called so in a file that it did not name.
_ENTRY = "archive/manifest.json"
_MARK = b"sha256:"
_HEX_DIGITS = 64
_ZIP_START = b"PK\x03\x04"
_CHUNK = 1 << 20


def describe(contents: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest of a checkpoint.

    Args:
        contents: What the checkpoint holds; what our runner does not put there is left out.

    Returns:
        Plain data: when and with which versions it was written, its iteration, the number of values of each
        model, observation and action layout, evaluation, and the settings of the training.
    """
    ours = contents.get("sim_rl") or {}
    models = {
        key.removesuffix("_state_dict"): sum(value.numel() for value in state.values() if hasattr(value, "numel"))
        for key, state in contents.items()
        if key.endswith("state_dict") and "optimizer" not in key and isinstance(state, Mapping)
    }
    about = {
        "format": MANIFEST_FORMAT,
        "written": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "iteration": contents.get("iter"),
        "completed_iterations": ours.get("completed_iterations"),
        "versions": versions() | dict(ours.get("versions") or {}),
        "models": models,
        "layout": ours.get("layout"),
        "evaluation": ours.get("evaluation"),
        "config": ours.get("config"),
    }
    return {key: value for key, value in about.items() if value is not None}


def versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """Return the versions of Python, sim-rl-plugin, torch, and further packages by their import names."""
    found = {"python": platform.python_version(), "sim_rl_plugin": __version__}
    return found | {name: _version_of(name) for name in ("torch", "numpy", *packages)}


@functools.cache
def _version_of(package: str) -> str:
    """Return the version of an installed package by its import name, or ``unknown``."""
    own = getattr(sys.modules.get(package), "__version__", None)
    if own is not None:
        return str(own)
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        pass
    # Asked last: it looks into every distribution that is installed.
    for distribution in metadata.packages_distributions().get(package, ()):
        return metadata.version(distribution)
    return "unknown"


def seal(file: IO[bytes], manifest: Mapping[str, Any]) -> None:
    """Add the manifest and the digest to the archive that ``torch.save`` has written into ``file``.

    Args:
        file: Open for reading and writing.
        manifest: Plain data.
    """
    with zipfile.ZipFile(file, "a") as archive:
        # With an own ZipInfo, whose date is constant: a clock before 1980 would be an error.
        archive.writestr(zipfile.ZipInfo(_ENTRY), json.dumps(manifest, indent=1, default=str))
        archive.comment = _MARK + b"0" * _HEX_DIGITS
    size = file.seek(0, os.SEEK_END) - _HEX_DIGITS
    digest = _sha256(file, size)
    file.seek(size)
    file.write(digest)


def read_manifest(path: Path) -> dict[str, Any] | None:
    """Return the manifest of a checkpoint, or None for a file that has none: rsl_rl's, or older than manifests.

    Raises:
        UserError: The file is missing, cannot be read, or is damaged.
    """
    check_bytes(path)
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(_ENTRY)) if _ENTRY in archive.namelist() else None


def read_digest(path: Path) -> str | None:
    """Return the sha256 that a checkpoint carries, in hexadecimal digits, or None."""
    with path.open("rb") as file:
        return _read_digest(file)[1]


def check_bytes(path: Path) -> None:
    """Raise unless the bytes of a checkpoint are those that were written.

    Of a file with a manifest, every byte is checked. Of one without, the checksums that a zip archive has of
    its entries; what torch wrote before 1.6 has none.

    Raises:
        UserError: The file is missing, cannot be read, or is damaged.
    """
    try:
        with path.open("rb") as file:
            size, digest = _read_digest(file)
            if digest is not None:
                if _sha256(file, size) != digest.encode():
                    raise UserError(f"the checkpoint {path} is damaged: its sha256 is not that of its content")
                return
            file.seek(0)
            is_archive = file.read(len(_ZIP_START)) == _ZIP_START
    except FileNotFoundError as error:
        raise UserError(f"no checkpoint at {path}") from error
    except OSError as error:
        raise UserError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
    if is_archive:
        _check_archive(path)


def _check_archive(path: Path) -> None:
    """Check an archive without a digest by the checksums of its entries."""
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
            has_manifest = _ENTRY in archive.namelist()
    except Exception as error:  # zipfile raises whatever the damage makes it stumble over
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"the checkpoint {path} is damaged: {reason}") from error
    if wrong is not None:
        raise UserError(f"the checkpoint {path} is damaged: the checksum of {wrong} in it is wrong")
    if has_manifest:
        raise UserError(f"the checkpoint {path} is damaged: it has a manifest, but its sha256 is gone")


def _read_digest(file: IO[bytes]) -> tuple[int, str | None]:
    """Return how many bytes come before the digest, and the digest, or None without one."""
    size = file.seek(0, os.SEEK_END) - _HEX_DIGITS
    start = size - len(_MARK)
    if start < 0:
        return size, None
    file.seek(start)
    end = file.read()
    return size, end[len(_MARK) :].decode("latin-1") if end.startswith(_MARK) else None


def _sha256(file: IO[bytes], size: int) -> bytes:
    """Return the digest of the first ``size`` bytes in hexadecimal digits."""
    file.seek(0)
    digest = hashlib.sha256()
    while size > 0 and (chunk := file.read(min(size, _CHUNK))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest().encode()
