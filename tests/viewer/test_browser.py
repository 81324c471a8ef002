"""``sim-rl play --web`` as somebody sees it: the page in a browser, its picture, and its controls.

Skipped where viser, playwright or a browser is missing. ``VIEWER_SCREENSHOTS`` names a folder for what was seen.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_configs import ppo_cfg

from sim_rl_plugin.config.yaml_text import dump

pytest.importorskip("viser")
playwright = pytest.importorskip("playwright.sync_api")

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LIMIT_S = 120
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if BROWSER is None:
    pytest.skip("no Chromium is installed", allow_module_level=True)


def _environ() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "adapters"), str(HERE)])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "SIM_RL_PLUGINS": ""}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a training of one iteration."""
    folder = tmp_path_factory.mktemp("viewer")
    settings = {**ppo_cfg(), "simulator": "steered:make", "num_envs": 4, "max_iterations": 1, "logger": ["csv"]}
    (folder / "config.yaml").write_text(dump(settings))
    command = ["train", "--config", "config.yaml", "--run-dir", "run", "--no-video", "--eval-episodes", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "sim_rl_plugin", *command], env=_environ(), cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def page(run: Path) -> Iterator[Any]:
    """The viewer's page in a browser, and the command that serves it; Ctrl-C ends the command with status 0."""
    command = [sys.executable, "-u", "-m", "sim_rl_plugin", "play", str(run), "--web", "--port", "0", "--num-envs", "3"]
    serving = subprocess.Popen([*command, "--seed", "3"], env=_environ(), stdout=subprocess.PIPE, text=True)
    try:
        lines = []
        for line in serving.stdout:
            lines.append(line)
            if found := re.search(r"viewer: (http://\S+)", line):
                break
        else:
            pytest.fail("".join(lines))
        with playwright.sync_playwright() as started:
            # Software rendering: a machine that tests has no GPU.
            arguments = ["--no-sandbox", "--enable-unsafe-swiftshader"]
            browser = started.chromium.launch(executable_path=BROWSER, args=arguments)
            page = browser.new_page(viewport={"width": 1000, "height": 900})
            page.set_default_timeout(1000 * LIMIT_S)
            page.goto(found[1].replace("localhost", "127.0.0.1"))
            page.get_by_role("button", name="Pause").wait_for()
            yield page
            browser.close()
        serving.send_signal(signal.SIGINT)
        assert serving.wait(60) == 0
    finally:
        serving.kill()
        serving.wait()


def _until(condition: Callable[[], Any], what: str, page: Any) -> Any:
    end_s = time.monotonic() + LIMIT_S
    while not (found := condition()):
        assert time.monotonic() < end_s, what
        page.wait_for_timeout(100)
    return found


def _picture(page: Any, name: str = "") -> np.ndarray:
    """Return the left part of the window, which holds the picture, ``(900, 600, 3)``."""
    shot = page.screenshot()
    folder = os.environ.get("VIEWER_SCREENSHOTS")
    if folder and name:
        Path(folder, f"{name}.png").write_bytes(shot)
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))[:, :600].astype(int)


def _point(page: Any, name: str = "") -> tuple[float, float] | None:
    """Return column and row of the point's centre in the picture, or None if it is not there."""
    below_notices = _picture(page, name)[200:]
    rows, columns = (below_notices.min(axis=-1) > 180).nonzero()
    return (columns.mean(), 200 + rows.mean()) if len(rows) else None


def _number(page: Any, row: str) -> str:
    return page.locator("tr", has_text=row).locator("td").nth(1).inner_text()


def _field(page: Any, label: str) -> Any:
    """Return what belongs to a label: a slider's or number's field, or a box to tick."""
    return page.locator(f"xpath=//label[.='{label}']/following::input[not(@type='hidden')][1]")


def test_it_plays_pauses_and_takes_single_steps(page: Any) -> None:
    first = int(_number(page, "step"))
    _until(lambda: int(_number(page, "step")) > first, "nothing moves", page)
    assert _until(lambda: _point(page, "playing"), "there is no picture", page)
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Go on").wait_for()
    _until(lambda: _number(page, "pace") == "paused", "it does not pause", page)
    before = int(_number(page, "step"))
    page.wait_for_timeout(500)
    assert int(_number(page, "step")) == before
    page.get_by_role("button", name="Single step").click()
    _until(lambda: int(_number(page, "step")) == before + 1, "no single step was taken", page)
    page.get_by_role("button", name="Go on").click()
    _until(lambda: int(_number(page, "step")) > before + 1, "it does not go on", page)


def test_a_point_goes_where_its_command_says(page: Any) -> None:
    seen = {}
    for name, goal in (("left", "-0.5"), ("right", "0.5")):
        for label in ("goal_0", "goal_1"):
            field = _field(page, label)
            field.fill(goal)
            field.press("Enter")
        _until(lambda: _field(page, "Hold").is_checked(), "moving a slider does not hold", page)
        wanted = f"{float(goal):.2f}, {float(goal):.2f} (held)"
        _until(lambda wanted=wanted: _number(page, "goal") == wanted, f"the command is not {wanted}", page)

        def arrived(name: str = name) -> Any:
            # Episodes of two seconds begin anywhere; one that stands still has arrived.
            first, _, second = _point(page), page.wait_for_timeout(400), _point(page, name)
            return first is not None and second is not None and np.abs(np.subtract(first, second)).max() < 1 and second

        seen[name] = _until(arrived, f"it does not stand still at {goal}", page)
    # The picture shows [-2, 2] in its smaller side of about 600 pixels: a goal 1 further is 150 pixels on.
    moved = np.subtract(seen["right"], seen["left"])
    assert (np.abs(moved - 150) < 30).all(), (seen, moved)


def test_another_environment_and_another_seed(page: Any) -> None:
    page.get_by_role("button", name="Start again with this seed").wait_for()
    field = _field(page, "Environment")
    field.fill("2")
    field.press("Enter")
    seed = _field(page, "Seed")
    seed.fill("7")
    seed.press("Enter")
    page.get_by_role("button", name="Start again with this seed").click()
    _until(lambda: _number(page, "seed") == "7", "it does not start again", page)
    _until(lambda: int(_number(page, "step")) > 5, "it does not play", page)
    assert _number(page, "goal") == "0.50, 0.50 (held)"
    _picture(page, "seed")


def test_zero_holds_and_without_the_tick_the_task_decides(page: Any) -> None:
    page.get_by_role("button", name="Zero").click()
    _until(lambda: _number(page, "goal") == "0.00, 0.00 (held)", "the command is not zero", page)
    _field(page, "Hold").uncheck()
    _until(lambda: "held" not in _number(page, "goal"), "the command is still held", page)
    # Drawn at the end of an episode, which comes at every two seconds.
    _until(lambda: _number(page, "goal") != "0.00, 0.00", "the task does not draw", page)
