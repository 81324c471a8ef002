"""What the tests of the MJX adapter share: compiled programs, and a Go1 without its meshes."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

_TETRAHEDRON = [((0, 0, 0), (1, 0, 0), (0, 1, 0)), ((0, 0, 0), (0, 0, 1), (1, 0, 0)),
                ((0, 0, 0), (0, 1, 0), (0, 0, 1)), ((1, 0, 0), (0, 0, 1), (0, 1, 0))]  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def _compile_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compile a task once per session, not at each opening."""
    jax = pytest.importorskip("jax")
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("jax_cache")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(scope="session")
def go1(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Make Playground's Go1 tasks open without MuJoCo Menagerie, whose meshes are for the eye only."""
    mjx_env = pytest.importorskip("mujoco_playground._src.mjx_env")
    assets = tmp_path_factory.mktemp("menagerie") / "unitree_go1" / "assets"
    assets.mkdir(parents=True)
    for name in ("trunk", "hip", "thigh_mirror", "calf", "thigh"):
        _write_stl(assets / f"{name}.stl")
    patch = pytest.MonkeyPatch()
    patch.setattr(mjx_env, "MENAGERIE_PATH", type(mjx_env.MENAGERIE_PATH)(assets.parents[1]))
    patch.setattr(mjx_env, "ensure_menagerie_exists", lambda: None)
    yield
    patch.undo()


def _write_stl(path: Path) -> None:
    """Write a tetrahedron of 5 cm as binary STL."""
    triangles = b"".join(
        struct.pack("<12fH", 0, 0, 0, *(0.05 * value for corner in triangle for value in corner), 0)
        for triangle in _TETRAHEDRON
    )
    path.write_bytes(bytes(80) + struct.pack("<I", len(_TETRAHEDRON)) + triangles)
