"""Pictures by the environment's own ``render``, where some OpenGL works."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

_OFF_SCREEN_BACKENDS = ("egl", "osmesa")

_log = logging.getLogger("sim_rl_plugin")


class Film:
    """Draws states of one environment, until it turns out that this machine cannot.

    Args:
        env: One environment with Playground's or Brax's ``render``.
        size: Height and width, pixels.
        camera: A camera of the model, or None for its default view.
    """

    def __init__(self, env: Any, size: tuple[int, int], camera: str | None) -> None:
        self._env = env
        self._size = size
        self._camera = camera
        self._works: bool | None = None

    def frame(self, state: Any) -> np.ndarray | None:
        """Return the picture ``(height, width, 3)`` uint8 of one environment's state, or None."""
        if self._works is None:
            return self._first_frame(state)
        return self._draw(state) if self._works else None

    def _first_frame(self, state: Any) -> np.ndarray | None:
        reason: Exception | None = None
        for _ in _opengl_backends():
            try:
                frame = self._draw(state)
            except Exception as error:
                # OpenGL fails in as many ways as there are graphics stacks.
                reason = error
            else:
                self._works = True
                return frame
        self._works = False
        _log.warning("no pictures: %s cannot render here: %s", type(self._env).__name__, reason)
        return None

    def _draw(self, state: Any) -> np.ndarray:
        height, width = self._size
        # Brax draws the state of its physics, Playground the whole state.
        shown = state if hasattr(state, "data") else state.pipeline_state
        return np.asarray(self._env.render(shown, height=height, width=width, camera=self._camera), dtype=np.uint8)


def _opengl_backends() -> Iterator[str]:
    """Yield names of OpenGL backends, each set up for MuJoCo's renderer while the caller looks at it.

    A value of ``MUJOCO_GL`` decides, and outside Linux MuJoCo itself. Elsewhere EGL and OSMesa are tried,
    which need no screen. GLFW is not: where it fails without a screen, EGL aborts the process afterwards.
    """
    if os.environ.get("MUJOCO_GL") or sys.platform != "linux":
        yield "default"
        return
    for backend in _OFF_SCREEN_BACKENDS:
        with contextlib.suppress(Exception):
            import mujoco

            context = importlib.import_module(mujoco.Renderer.__module__).gl_context
            context.GLContext = importlib.import_module(f"mujoco.{backend}").GLContext
            yield backend
