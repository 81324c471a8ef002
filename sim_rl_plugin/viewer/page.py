"""The page of the viewer: a picture, numbers, plots and controls, made of viser's elements."""

from __future__ import annotations

import html
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sim_rl_plugin.env.commands import Command, Range, command_terms
from sim_rl_plugin.video import step_time_s
from sim_rl_plugin.viewer.playback import Playback

if TYPE_CHECKING:
    from sim_rl_plugin.viewer.viewer import Viewer

SPEEDS = {"0.1x": 0.1, "0.25x": 0.25, "0.5x": 0.5, "1x": 1.0, "2x": 2.0, "4x": 4.0, "as fast as it can": math.inf}
"""What stands in the page, and simulated seconds per second."""

# Seconds between two updates; a browser gains nothing by more, and every one costs time of the simulation.
_PICTURE_S = 1 / 30
_SHARE_OF_PICTURES = 0.5
"""Of the time, at most, so that the simulation keeps its pace where pictures are drawn without a GPU."""
_NUMBERS_S = 0.2
_PLOTS_S = 0.5

# Pictures that are slow to draw make the pace uneven within less.
_PACE_S = 1.0

_MARGIN_COLOR = 32
# Pictures smaller than this are enlarged to at least this, pixel by pixel: compressed and stretched they would blur.
_SMALL = 128
_RECENT_EPISODES = 20
# The first point of a plot stands for nothing: viser wants one.
_NOTHING = np.zeros(1)


class Page:
    """What browsers see; made once, for the first environment, and kept for those with another seed."""

    def __init__(self, server: Any, viewer: Viewer, title: str) -> None:
        """Build the page.

        Args:
            server: A ``viser.ViserServer``.
            viewer: Whom to ask for what the controls say.
            title: Heading of the page.
        """
        self._server = server
        self._viewer = viewer
        self._last_s = {"picture": -math.inf, "numbers": -math.inf, "plots": -math.inf}
        self._pace = _Pace()
        self._frame: np.ndarray | None = None
        self._picture_cost_s = 0.0
        self._sizes: dict[int, tuple[int, int]] = {}
        env = viewer.playback.env
        gui = server.gui
        gui.set_panel_label(title)
        # Beside the picture, not on it: viser 1.1 has a name of its own for that.
        layout = {} if hasattr(gui, "main_panel") else {"control_layout": "fixed"}
        # What is shared goes through servers of viser's makers.
        gui.configure_theme(**layout, show_logo=False, show_share_button=False)
        if not layout:
            gui.main_panel.dock_right()
        self._numbers = gui.add_html("")
        self._add_playing(gui)
        for command in command_terms(env):
            CommandControls(gui, viewer, command)
        self._add_choices(gui)
        self._rewards = _plot(gui, "reward", "step")
        self._returns = _plot(gui, "return of an episode", "episode")

    def _add_playing(self, gui: Any) -> None:
        viewer = self._viewer
        with gui.add_folder("Play"):
            self._pause = gui.add_button("Pause")
            step = gui.add_button("Single step")
            reset = gui.add_button("Reset")
            speed = gui.add_dropdown("Speed", tuple(SPEEDS), initial_value="1x")
        self._pause.on_click(lambda _: viewer.ask(self._toggle_pause))
        step.on_click(lambda _: viewer.ask(self._step_once))
        reset.on_click(lambda _: viewer.ask(viewer.reset))
        speed.on_update(lambda _: setattr(viewer, "speed", SPEEDS[speed.value]))

    def _add_choices(self, gui: Any) -> None:
        viewer, env = self._viewer, self._viewer.playback.env
        with gui.add_folder("Episodes"):
            if env.num_envs > 1:
                shown = gui.add_slider("Environment", 0, env.num_envs - 1, 1, 0)
                shown.on_update(lambda _: viewer.ask(_call(viewer.show, int(shown.value))))
            if not getattr(env, "one_per_process", False):
                seed = gui.add_number("Seed", viewer.seed, min=0, step=1)
                again = gui.add_button("Start again with this seed")
                again.on_click(lambda _: viewer.ask(_call(viewer.reopen, int(seed.value))))

    def _toggle_pause(self) -> None:
        self._viewer.set_paused(not self._viewer.paused)
        self._label_pause()

    def _step_once(self) -> None:
        self._viewer.step_once()
        self._label_pause()

    def _label_pause(self) -> None:
        self._pause.label = "Go on" if self._viewer.paused else "Pause"
        self._pace = _Pace()

    def update(self, playback: Playback, *, everything: bool) -> None:
        """Bring the page up to date, as far as it is time for it.

        Args:
            playback: What is played.
            everything: Do not wait until it is time.
        """
        interval_s = max(_PICTURE_S, self._picture_cost_s / _SHARE_OF_PICTURES)
        if self._is_due("picture", interval_s, everything) and self._server.get_clients():
            start_s = time.perf_counter()
            self._frame = playback.frame()
            self._send_picture(self._server.get_clients())
            self._picture_cost_s = time.perf_counter() - start_s
        if self._is_due("numbers", _NUMBERS_S, everything):
            self.update_numbers(playback)
        if self._is_due("plots", _PLOTS_S, everything):
            rewards = np.array(playback.rewards or [(0, 0.0)], dtype=float)
            self._rewards.data = (rewards[:, 0], rewards[:, 1])
            totals = np.array([episode.total for episode in playback.episodes] or [0.0])
            self._returns.data = (np.arange(len(totals), dtype=float), totals)

    def update_numbers(self, playback: Playback) -> None:
        """Bring the numbers alone up to date, which cost nothing."""
        self._numbers.content = _table(self._rows(playback))

    def keep(self) -> None:
        """Look after browsers that came, or changed their size, while nothing moves."""
        clients = self._server.get_clients()
        sizes = {name: _window(client) for name, client in clients.items()}
        changed = {name: clients[name] for name, size in sizes.items() if self._sizes.get(name) != size}
        if changed:
            if self._frame is None:
                self._frame = self._viewer.playback.frame()
            self._send_picture(changed)
            self._sizes = sizes

    def _is_due(self, what: str, interval_s: float, everything: bool) -> bool:
        now_s = time.perf_counter()
        if not everything and now_s - self._last_s[what] < interval_s:
            return False
        self._last_s[what] = now_s
        return True

    def _send_picture(self, clients: dict[int, Any]) -> None:
        if self._frame is None:
            return
        for client in clients.values():
            width, height = _window(client)
            client.scene.set_background_image(with_margins(self._frame, width / height), format="jpeg", jpeg_quality=85)

    def _rows(self, playback: Playback) -> list[tuple[str, str]]:
        episode, recent = playback.episode, list(playback.episodes)[-_RECENT_EPISODES:]
        rows = [
            ("step", str(playback.num_steps)),
            ("reward", f"{playback.rewards[-1][1]:.3f}" if playback.rewards else "-"),
            ("episode", f"return {episode.total:.2f}, length {episode.length}"),
        ]
        if recent:
            total = statistics.fmean(item.total for item in recent)
            length = statistics.fmean(item.length for item in recent)
            rows.append((f"last {len(recent)} episodes", f"return {total:.2f}, length {length:.1f}"))
        for command in command_terms(playback.env):
            held = " (held)" if command.name in self._viewer.held else ""
            values = _current(playback.env, command, playback.shown)
            rows.append((command.name, ", ".join(f"{value:.2f}" for value in values) + held))
        rows.append(("seed", str(self._viewer.seed)))
        rows.append(("pace", "paused" if self._viewer.paused else f"{self._pace.measure(playback):.2f}x real time"))
        if self._frame is None and self._server.get_clients():
            rows.append(("picture", "none: this environment cannot render here"))
        return rows


class CommandControls:
    """A slider for each number of a command, and a box that says who decides.

    The sliders are the user's alone: what the task decides stands among the numbers. Were they to follow the task, too,
    a command that is drawn while somebody moves a slider would take it out of their hand.
    """

    def __init__(self, gui: Any, viewer: Viewer, command: Command) -> None:
        """Add the controls to the page, at what the command is; it stays the task's until somebody moves one.

        Args:
            gui: viser's ``server.gui``.
            viewer: Whom to ask.
            command: The command.
        """
        self._viewer = viewer
        self._command = command
        values = _current(viewer.playback.env, command, viewer.playback.shown)
        with gui.add_folder(f"Command: {command.name}"):
            self._held = gui.add_checkbox("Hold", False)
            self._inputs = [_input(gui, command, index, value) for index, value in enumerate(values)]
            zero = gui.add_button("Zero")
        for handle in self._inputs:
            handle.on_update(self._moved)
        self._held.on_update(self._moved)
        zero.on_click(lambda _: viewer.ask(self._zero))

    def _moved(self, event: Any) -> None:
        if event.client is None:
            return  # by us, not by somebody
        if event.target is not self._held and not self._held.value:
            self._held.value = True
        self._viewer.ask(self._hold)

    def _zero(self) -> None:
        self._held.value = True
        for index, handle in enumerate(self._inputs):
            handle.value = _within(0.0, self._command.range_of(index))
        self._hold()

    def _hold(self) -> None:
        values = [float(handle.value) for handle in self._inputs]
        self._viewer.hold(self._command.name, values if self._held.value else None)


class _Pace:
    """How much simulated time passes per second of ours, over a second or more."""

    def __init__(self) -> None:
        self._playback: Playback | None = None
        self._start_s, self._start_step, self._last = 0.0, 0, 0.0

    def measure(self, playback: Playback) -> float:
        now_s = time.perf_counter()
        passed_s = now_s - self._start_s
        if playback is not self._playback:
            self._playback, self._last = playback, 0.0
        elif passed_s < _PACE_S:
            return self._last
        else:
            self._last = (playback.num_steps - self._start_step) * step_time_s(playback.env) / passed_s
        self._start_s, self._start_step = now_s, playback.num_steps
        return self._last


def with_margins(frame: np.ndarray, aspect: float) -> np.ndarray:
    """Return a picture with margins that give it an aspect ratio, or else a browser would stretch it.

    Args:
        frame: ``(height, width, 3)`` uint8.
        aspect: Width over height of the window.
    """
    factor = -(-_SMALL // min(frame.shape[:2]))
    frame = frame.repeat(factor, axis=0).repeat(factor, axis=1) if factor > 1 else frame
    height, width = frame.shape[:2]
    full_height, full_width = max(height, round(width / aspect)), max(width, round(height * aspect))
    full = np.full((full_height, full_width, 3), _MARGIN_COLOR, dtype=np.uint8)
    top, left = (full_height - height) // 2, (full_width - width) // 2
    full[top : top + height, left : left + width] = frame
    return full


def _window(client: Any) -> tuple[int, int]:
    """Return width and height of a browser's canvas, pixels or the like."""
    camera = client.camera
    return max(1, round(1000 * camera.aspect)), 1000


def _current(env: Any, command: Command, index: int) -> list[float]:
    return [round(value, 3) for value in env.get_command(command.name)[index].tolist()]


def _input(gui: Any, command: Command, index: int, value: float) -> Any:
    """Add the control of one number: a slider where the range is known."""
    limits, element = command.range_of(index), command.elements[index]
    if limits is None or limits[0] == limits[1]:
        return gui.add_number(element, value, step=0.01)
    low, high = limits
    return gui.add_slider(element, low, high, (high - low) / 200, _within(value, limits))


def _within(value: float, limits: Range | None) -> float:
    return value if limits is None else min(max(value, limits[0]), limits[1])


def _plot(gui: Any, title: str, axis: str) -> Any:
    series = ({"label": axis}, {"label": title, "stroke": "#1f77b4", "width": 2, "points": {"show": False}})
    return gui.add_uplot((_NOTHING, _NOTHING), series, title=title, scales={"x": {"time": False}}, aspect=2.2)


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(
        f'<tr><td style="padding-right: 1em; opacity: 0.7">{html.escape(name)}</td><td>{html.escape(text)}</td></tr>'
        for name, text in rows
    )
    return f'<table style="font-size: 0.85em; margin: 0.5em 0.75em">{cells}</table>'


def _call(function: Callable[[Any], None], argument: Any) -> Callable[[], None]:
    return lambda: function(argument)
