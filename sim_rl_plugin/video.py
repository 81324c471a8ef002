"""Films a policy: frames of environment 0, to MP4, GIF or a window."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.evaluation import Policy, own_memory, step_policy

# Enough to judge a gait by; every frame more costs rendering time.
_MAX_FRAMES_PER_S = 30


def frames_of(policy: Policy, env: VecEnv, num_steps: int, every: int = 1) -> Iterator[np.ndarray]:
    """Yield frames ``(height, width, 3)``, uint8, while the policy runs.

    Args:
        policy: Observations to actions.
        env: An environment that was opened for rendering.
        num_steps: Control steps.
        every: Control steps per frame.

    Raises:
        UserError: The environment cannot render.
    """
    obs = env.get_observations()
    with own_memory(policy):
        for step in range(num_steps):
            if step % every == 0:
                yield _frame(env)
            obs, _, _ = step_policy(policy, env, obs)


def write_video(policy: Policy, env: VecEnv, path: Path, num_steps: int) -> Path:
    """Film a policy in the simulation's own time.

    Args:
        policy: Observations to actions.
        env: An environment that was opened for rendering.
        path: The file, ``.mp4`` or ``.gif``.
        num_steps: Control steps.

    Returns:
        The file that was written: a GIF where MP4 was asked for and imageio-ffmpeg is not installed.

    Raises:
        UserError: The environment cannot render, or the file cannot be written.
    """
    rate = 1.0 / step_time_s(env)
    every = math.ceil(rate / _MAX_FRAMES_PER_S)
    frames = frames_of(policy, env, num_steps, every)
    # Before a file is opened, so that an environment that cannot render leaves none.
    first = next(frames)
    if path.suffix.lower() != ".gif" and not _has_ffmpeg():
        path = path.with_suffix(".gif")
    write = _write_gif if path.suffix.lower() == ".gif" else _write_mp4
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, first, frames, rate / every)
    except OSError as error:
        raise UserError(f"cannot write the video {path}: {error.strerror or error}") from error
    return path


def show(policy: Policy, env: VecEnv, num_steps: int) -> None:
    """Show a policy in a window until ``num_steps`` are done or the window is closed."""
    import matplotlib.pyplot as plt

    pause_s = step_time_s(env)
    figure, axes = plt.subplots()
    axes.set_axis_off()
    picture = None
    for frame in frames_of(policy, env, num_steps):
        if picture is None:
            picture = axes.imshow(frame)
        picture.set_data(frame)
        plt.pause(pause_s)
        if not plt.fignum_exists(figure.number):
            return


def step_time_s(env: Any) -> float:
    """Return the simulated seconds of a control step, as far as the environment tells, or else 1/30."""
    return known_step_time_s(env) or 1 / 30


def known_step_time_s(env: Any) -> float | None:
    """Return the simulated seconds of a control step; None if the environment does not tell."""
    cfg = getattr(env, "cfg", None)
    candidates = [getattr(env, "step_dt", None), cfg.get("step_dt") if isinstance(cfg, dict) else None]
    for value in candidates:
        if isinstance(value, int | float) and value > 0:
            return float(value)
    return None


def _frame(env: VecEnv) -> np.ndarray:
    frame = env.render()
    if frame is None:
        raise UserError("the environment cannot render")
    frame = np.asarray(frame)
    # The usual video codec wants even sizes.
    return np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2, :3], dtype=np.uint8)


def _has_ffmpeg() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("imageio", "imageio_ffmpeg"))


def _write_mp4(path: Path, first: np.ndarray, frames: Iterator[np.ndarray], rate: float) -> None:
    import imageio.v2

    writer: Any
    with imageio.v2.get_writer(path, format="FFMPEG", fps=rate, macro_block_size=2) as writer:
        writer.append_data(first)
        for frame in frames:
            writer.append_data(frame)


def _write_gif(path: Path, first: np.ndarray, frames: Iterator[np.ndarray], rate: float) -> None:
    from PIL import Image

    Image.fromarray(first).save(
        path,
        save_all=True,
        append_images=(Image.fromarray(frame) for frame in frames),
        # Viewers slow down what is faster than 50 frames per second.
        duration=max(20, round(1000 / rate)),
        loop=0,
    )
