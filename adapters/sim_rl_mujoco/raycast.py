"""Pictures without OpenGL: one ray per pixel through MuJoCo's own ray caster."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import mujoco
import numpy as np

from sim_rl_mujoco.engine import usable_cores

_SKY_TOP = np.array([0.35, 0.52, 0.75], dtype=np.float32)
_SKY_HORIZON = np.array([0.86, 0.91, 0.96], dtype=np.float32)
_CHECKER_DARK = np.array([0.30, 0.35, 0.41], dtype=np.float32)
_CHECKER_LIGHT = np.array([0.41, 0.46, 0.52], dtype=np.float32)
_CHECKER_SIZE_M = 1.0
_TOWARDS_LIGHT = np.array([0.35, -0.45, 0.82])
_LIGHT_DISTANCE_M = 30.0
_FOG_DISTANCE_M = 25.0


class RaycastRenderer:
    """Draws primitives and meshes with diffuse light, shadows and a checker floor, on the CPU."""

    def __init__(self, width: int, height: int) -> None:
        """Start the threads.

        Args:
            width: Pixels.
            height: Pixels.
        """
        self.width, self.height = width, height
        self._num_threads = usable_cores()

    def render(self, model: mujoco.MjModel, data: mujoco.MjData, camera: mujoco.MjvCamera) -> np.ndarray:
        """Return the picture ``(height, width, 3)`` uint8.

        Args:
            model: The model.
            data: Its state, with positions of geoms and cameras computed.
            camera: The view.
        """
        eye, rays = self._rays(model, data, camera)
        geom, distance, normal = self._cast(model, data, eye, rays)
        hit = geom >= 0
        points = eye + rays * distance[:, None]
        colour = _sky(rays)
        colour[hit] = self._shade(model, data, points[hit], normal[hit], geom[hit], rays[hit])
        fog = np.exp(-np.maximum(distance[hit] - 6.0, 0.0) / _FOG_DISTANCE_M)[:, None].astype(np.float32)
        colour[hit] = fog * colour[hit] + (1.0 - fog) * _SKY_HORIZON
        picture = np.clip(colour, 0.0, 1.0) * 255.0
        return picture.reshape(self.height, self.width, 3).astype(np.uint8)

    def _rays(
        self, model: mujoco.MjModel, data: mujoco.MjData, camera: mujoco.MjvCamera
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return where the camera stands ``(3,)`` and a unit vector per pixel ``(P, 3)``."""
        if camera.type == mujoco.mjtCamera.mjCAMERA_FIXED:
            eye = data.cam_xpos[camera.fixedcamid]
            right, up, backward = data.cam_xmat[camera.fixedcamid].reshape(3, 3).T
            fovy_deg = model.cam_fovy[camera.fixedcamid]
        else:
            target = np.array(camera.lookat)
            if camera.type == mujoco.mjtCamera.mjCAMERA_TRACKING:
                target = data.subtree_com[camera.trackbodyid].copy()
            azimuth, elevation = np.deg2rad([camera.azimuth, camera.elevation])
            forward = np.array(
                [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
            )
            right = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
            backward, up = -forward, np.cross(right, forward)
            eye = target - camera.distance * forward
            fovy_deg = model.vis.global_.fovy
        half = np.tan(np.deg2rad(fovy_deg) / 2.0)
        y = half * (1.0 - (2.0 * np.arange(self.height) + 1.0) / self.height)
        x = half * ((2.0 * np.arange(self.width) + 1.0) - self.width) / self.height
        rays = x[None, :, None] * right + y[:, None, None] * up - backward
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        return eye, np.ascontiguousarray(rays.reshape(-1, 3))

    def _cast(
        self, model: mujoco.MjModel, data: mujoco.MjData, eye: np.ndarray, rays: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the geom hit (-1 for none), its distance and surface normal for rays from one point."""
        groups = np.array([1, 1, 1, 0, 0, 0], dtype=np.uint8)
        geom = np.full(len(rays), -1, dtype=np.int32)
        distance = np.zeros(len(rays))
        normal = np.zeros((len(rays), 3))

        def cast(part: slice, own: mujoco.MjData) -> None:
            vectors, normals = rays[part].reshape(-1), normal[part].reshape(-1)
            args = (model, own, eye, vectors, groups, True, -1, geom[part], distance[part])
            count = len(geom[part])
            try:
                mujoco.mj_multiRay(*args, normals, count, mujoco.mjMAXVAL)
            except TypeError:  # before 3.5 there are no normals; facing the camera is the next best
                mujoco.mj_multiRay(*args, count, mujoco.mjMAXVAL)
                normal[part] = -rays[part]

        mujoco.mj_multiRay
        _in_parts(cast, len(rays), [data, *self._copies(model, data)])
        return geom, distance, normal

    def _copies(self, model: mujoco.MjModel, data: mujoco.MjData) -> list[mujoco.MjData]:
        # The ray caster uses the stack of the simulation it is given, so each thread needs its own.
        copies = []
        for _ in range(self._num_threads - 1):
            copy = mujoco.MjData(model)
            mujoco.mj_copyData(copy, model, data)
            copies.append(copy)
        return copies
