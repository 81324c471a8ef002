"""Pictures without OpenGL: one ray per pixel through MuJoCo's own ray caster."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import mujoco
import numpy as np

from sim_rl_plugin.ranks import usable_cores

_SKY_TOP = np.array([0.35, 0.52, 0.75], dtype=np.float32)
_SKY_HORIZON = np.array([0.86, 0.91, 0.96], dtype=np.float32)
_CHECKER_DARK = np.array([0.30, 0.35, 0.41], dtype=np.float32)
_CHECKER_LIGHT = np.array([0.41, 0.46, 0.52], dtype=np.float32)
_CHECKER_SIZE_M = 1.0
_TOWARDS_LIGHT = np.array([0.36, -0.48, 0.8])  # unit length
_LIGHT_DISTANCE_M = 30.0
_FOG_DISTANCE_M = 25.0
_AMBIENT = 0.4
_SHADOW_TOLERANCE = 5e-4
# The first three groups are what MuJoCo's own viewers show.
_GROUPS = np.array([1, 1, 1, 0, 0, 0], dtype=np.uint8)


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
        self._pool = ThreadPoolExecutor(self._num_threads, "raycast")
        self._copies: list[mujoco.MjData] = []

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()

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
        """Return the geom hit (-1 for none), the distance in lengths of the ray, and the surface normal.

        Args:
            model: The model.
            data: Its state.
            eye: Where all rays start, ``(3,)``.
            rays: ``(P, 3)``.
        """
        geom = np.full(len(rays), -1, dtype=np.int32)
        distance = np.zeros(len(rays))
        normal = np.zeros((len(rays), 3))

        def cast(part: slice, own: mujoco.MjData) -> None:
            vectors, normals = rays[part].reshape(-1), normal[part].reshape(-1)
            count = len(geom[part])
            args = (model, own, eye, vectors, _GROUPS, True, -1, geom[part], distance[part])
            try:
                mujoco.mj_multiRay(*args, normals, count, mujoco.mjMAXVAL)
            except TypeError:  # an older MuJoCo gives no normals; facing the camera is the next best
                mujoco.mj_multiRay(*args, count, mujoco.mjMAXVAL)
                normal[part] = -rays[part]

        edges = np.linspace(0, len(rays), self._num_threads + 1).astype(int)
        parts = [slice(first, last) for first, last in pairwise(edges.tolist())]
        futures = [
            self._pool.submit(cast, part, own) for part, own in zip(parts, self._simulations(model, data), strict=True)
        ]
        for future in futures:
            future.result()
        return geom, distance, normal

    def _simulations(self, model: mujoco.MjModel, data: mujoco.MjData) -> list[mujoco.MjData]:
        """Return the state once per thread: the ray caster uses the stack of the one it is given."""
        while len(self._copies) < self._num_threads - 1:
            self._copies.append(mujoco.MjData(model))
        for copy in self._copies:
            copy.geom_xpos[:], copy.geom_xmat[:] = data.geom_xpos, data.geom_xmat
            copy.xpos[:], copy.xmat[:], copy.xquat[:] = data.xpos, data.xmat, data.xquat
            copy.xipos[:], copy.ximat[:] = data.xipos, data.ximat
        return [data, *self._copies]

    def _shade(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        points: np.ndarray,
        normal: np.ndarray,
        geom: np.ndarray,
        rays: np.ndarray,
    ) -> np.ndarray:
        """Return the colours ``(H, 3)`` of the points that were hit."""
        normal = np.where(np.sum(normal * rays, axis=1, keepdims=True) > 0.0, -normal, normal)
        diffuse = np.maximum(normal @ _TOWARDS_LIGHT, 0.0)
        centre = points.mean(axis=0)
        light = centre + _LIGHT_DISTANCE_M * _TOWARDS_LIGHT
        # All rays of one call start at one point, so the light is a lamp far away.
        _, reached, _ = self._cast(model, data, light, points - light)
        lit = np.abs(reached - 1.0) < _SHADOW_TOLERANCE
        shine = np.maximum(np.sum((normal * (2.0 * diffuse[:, None]) - _TOWARDS_LIGHT) * -rays, axis=1), 0.0) ** 20
        plane = model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_PLANE
        colour = _geom_colours(model)[geom]
        colour[plane] = _checker(data, points[plane], geom[plane])
        strength = _AMBIENT + (1.0 - _AMBIENT) * diffuse * np.where(lit, 1.0, 0.25)
        return colour * strength[:, None].astype(np.float32) + (0.15 * shine * lit * ~plane)[:, None].astype(np.float32)


def _sky(rays: np.ndarray) -> np.ndarray:
    height = np.clip(rays[:, 2:] * 1.6, 0.0, 1.0).astype(np.float32)
    return _SKY_HORIZON + height * (_SKY_TOP - _SKY_HORIZON)


def _checker(data: mujoco.MjData, points: np.ndarray, geom: np.ndarray) -> np.ndarray:
    """Return the colours of points on planes: squares fixed to the plane, so that motion shows."""
    local = np.einsum("pij,pi->pj", data.geom_xmat[geom].reshape(-1, 3, 3), points - data.geom_xpos[geom])
    odd = np.floor(local[:, :2] / _CHECKER_SIZE_M).sum(axis=1).astype(int) % 2
    return np.where(odd[:, None] == 1, _CHECKER_DARK, _CHECKER_LIGHT)


def _geom_colours(model: mujoco.MjModel) -> np.ndarray:
    """Return one colour per geom ``(ngeom, 3)``: its own, or its material's times the mean of the texture."""
    colours = model.geom_rgba[:, :3].copy()
    for i, material in enumerate(model.geom_matid):
        if material < 0:
            continue
        # A geom keeps this grey unless the model gave it a colour, which then wins over the material.
        if np.allclose(colours[i], 0.5):
            colours[i] = model.mat_rgba[material, :3]
        texture = int(np.max(model.mat_texid[material]))
        if texture >= 0:
            first, channels = model.tex_adr[texture], int(model.tex_nchannel[texture])
            pixels = model.tex_data[first : first + model.tex_width[texture] * model.tex_height[texture] * channels]
            colours[i] *= pixels.reshape(-1, channels)[:, :3].mean(axis=0) / 255.0
    return colours
