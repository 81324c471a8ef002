from __future__ import annotations

import os

# Before mjlab is imported: warp tells every kernel that it loads, and OpenGL is opened off screen.
os.environ.setdefault("MJLAB_WARP_QUIET", "1")
os.environ.setdefault("MUJOCO_GL", "egl")
