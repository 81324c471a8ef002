"""Pictures of one environment: OpenGL where it works off screen, otherwise rays on the CPU."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from sim_rl_mujoco.raycast import RaycastRenderer
from sim_rl_plugin.errors import unknown_name

_OPENGL_BACKENDS = ("egl", "osmesa")
_MUJOCO_BACKENDS = ("egl", "osmesa", "glfw")
_NO_OPENGL = frozenset({"disable", "disabled", "off", "false", "0", "raycast"})
_cannot_draw = False
"""Whether MuJoCo has failed in this process to draw in a context."""


@dataclass(frozen=True)
class Camera:
    """Size and view of the pictures.

    Attributes:
        width: Pixels.
        height: Pixels.
        name: A camera of the model; None takes the model's camera ``track``, else the task's view.
    """

    width: int = 320
    height: int = 240
    name: str | None = None


class Film:
    """A renderer with its own copy of the simulation, so that taking a picture changes nothing."""

    def __init__(self, model: mujoco.MjModel, camera: Camera, view: dict[str, Any]) -> None:
        """Open the first renderer that works.

        Args:
            model: The model.
            camera: Size and view.
            view: The task's own view, used without a named camera.

        Raises:
            UserError: The model has no camera of that name.
        """
        self._data = mujoco.MjData(model)
        self._camera = _view(model, camera.name, view)
        self._opengl = _open_opengl(model, camera.width, camera.height)
        self._rays = None if self._opengl else RaycastRenderer(camera.width, camera.height)

    def frame(self, model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
        """Return the picture ``(height, width, 3)`` uint8 of a simulation."""
        copy = self._data
        copy.qpos[:] = data.qpos
        copy.mocap_pos[:], copy.mocap_quat[:] = data.mocap_pos, data.mocap_quat
        mujoco.mj_kinematics(model, copy)
        mujoco.mj_comPos(model, copy)
        mujoco.mj_camlight(model, copy)
        if self._opengl is not None:
            mujoco.mj_tendon(model, copy)
            self._opengl.update_scene(copy, self._camera)
            return self._opengl.render()
        assert self._rays is not None
        return self._rays.render(model, copy, self._camera)

    def close(self) -> None:
        """Free the renderer."""
        if self._opengl is not None:
            self._opengl.close()
            self._opengl = None
        if self._rays is not None:
            self._rays.close()
            self._rays = None


def _view(model: mujoco.MjModel, name: str | None, view: dict[str, Any]) -> mujoco.MjvCamera:
    camera = mujoco.MjvCamera()
    names = [model.camera(i).name for i in range(model.ncam)]
    if name is not None and name not in names:
        raise unknown_name("camera", name, names)
    if name is None and "track" in names:
        name = "track"
    if name is not None:
        camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        camera.fixedcamid = names.index(name)
        return camera
    mujoco.mjv_defaultFreeCamera(model, camera)
    body = view.get("trackbodyid", -1)
    if body > 0:
        camera.type = mujoco.mjtCamera.mjCAMERA_TRACKING
        camera.trackbodyid = body
    camera.distance = view.get("distance", camera.distance)
    camera.elevation = view.get("elevation", camera.elevation)
    camera.azimuth = view.get("azimuth", camera.azimuth)
    if "lookat" in view:
        camera.lookat[:] = view["lookat"]
    return camera


def _open_opengl(model: mujoco.MjModel, width: int, height: int) -> Any:
    """Return an off-screen renderer, or None where OpenGL cannot be used.

    A value of ``MUJOCO_GL`` decides; without one, EGL and then OSMesa are tried. A missing library
    shows as almost any exception, from OSError to AttributeError, deep inside the bindings. Where a context could be
    made but MuJoCo cannot draw in it, nothing else is tried, now or later: MuJoCo would abort the process.
    """
    global _cannot_draw
    chosen = os.environ.get("MUJOCO_GL", "").lower().strip()
    if chosen in _NO_OPENGL or _cannot_draw:
        return None
    model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
    model.vis.global_.offheight = max(model.vis.global_.offheight, height)
    for backend in (chosen,) if chosen else _OPENGL_BACKENDS:
        try:
            return _renderer(model, width, height, backend)
        except mujoco.FatalError:
            _cannot_draw = True
            return None
        except Exception:
            continue
    return None


def _renderer(model: mujoco.MjModel, width: int, height: int, backend: str) -> Any:
    """Return MuJoCo's renderer on the given backend; an unknown one is that which MuJoCo chose when imported."""
    module = importlib.import_module(mujoco.Renderer.__module__)
    context = getattr(module, "gl_context", None)
    if backend in _MUJOCO_BACKENDS and context is not None:
        context.GLContext = importlib.import_module(f"mujoco.{backend}").GLContext
    renderer = mujoco.Renderer(model, height, width)
    renderer.update_scene(mujoco.MjData(model))
    renderer.render()
    return renderer
