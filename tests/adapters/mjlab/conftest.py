from __future__ import annotations

import importlib.util
import os

# Before mjlab is imported: warp tells every kernel that it loads, and OpenGL is opened off screen.
os.environ.setdefault("MJLAB_WARP_QUIET", "1")
if importlib.util.find_spec("mjlab") is not None:  # for other tests have been collected, too
    os.environ.setdefault("MUJOCO_GL", "egl")
