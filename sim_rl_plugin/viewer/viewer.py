"""The loop of the viewer: steps, pace, and what the page asks for."""

from __future__ import annotations

import math
import queue
import socket
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any

import torch

from sim_rl_plugin.env import VecEnv
from sim_rl_plugin.env.commands import command_terms
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.evaluation import Policy, seed_everything
from sim_rl_plugin.video import step_time_s
from sim_rl_plugin.viewer.playback import Playback

if TYPE_CHECKING:
    from sim_rl_plugin.viewer.page import Page

Opener = Callable[[int], AbstractContextManager[tuple[Policy, VecEnv]]]
"""Opens the environment with a seed, and loads the policy for it."""

_FIRST_PORT = 8080
_PORTS = 100
# While nothing moves, the page is looked after this often.
_IDLE_S = 0.05
# As far behind its pace may a simulation fall, by pictures that are slow to draw, and make up for it afterwards.
_LAG_S = 0.5


def import_viser() -> Any:
    """Return the package that serves the page.

    Raises:
        UserError: It is not installed.
    """
    try:
        import viser
    except ImportError as error:
        raise UserError('the web viewer needs viser: pip install "sim-rl-plugin[web]"') from error
    return viser


def view(
    open_played: Opener,
    *,
    seed: int,
    num_steps: int | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    title: str = "sim-rl",
    say: Callable[[str], None] = print,
) -> None:
    """Show a policy in browsers until Ctrl-C, or for a number of control steps.

    Args:
        open_played: Opens environment and policy; asked again when somebody wants another seed.
        seed: The first seed.
        num_steps: Control steps to show; None for no end. Steps while paused are not taken and do not count.
        host: Address to serve at; ``0.0.0.0`` lets other machines see and steer.
        port: Port to serve at, 0 for any that is free; None for the first free one from 8080 on.
        title: Heading of the page.
        say: Told where the page is, once the policy is ready.

    Raises:
        UserError: viser is not installed, or the port cannot be used.
    """
    viser = import_viser()
    server = viser.ViserServer(host=host, port=_free_port(host, port), verbose=False)
    try:
        with suppress(KeyboardInterrupt), warnings.catch_warnings():
            # A browser may be closed while it is sent something.
            warnings.filterwarnings("ignore", message=".*closed connection")
            Viewer(server, open_played, title, say).run(seed, num_steps)
    finally:
        server.stop()


class Viewer:
    """Plays for a page; what the page asks for is done between two steps, by the thread that steps.

    Simulators are not made for several threads, and viser calls back from threads of its own: its callbacks hand
    over functions with ``ask``.
    """

    def __init__(self, server: Any, open_played: Opener, title: str = "sim-rl", say: Callable[[str], None] = print):
        """Prepare a viewer.

        Args:
            server: A ``viser.ViserServer``.
            open_played: See ``view``.
            title: See ``view``.
            say: See ``view``.
        """
        self._server = server
        self._open = open_played
        self._title = title
        self._say = say
        self._requests: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._page: Page | None = None
        self._playback: Playback | None = None
        self._next_seed: int | None = None
        self._single_steps = 0
        self._shown = 0
        self.seed = 0
        self.paused = False
        self.speed = 1.0
        """Simulated seconds per second; infinity for as fast as possible."""
        self.held: dict[str, list[float]] = {}
        """Commands that the page holds, with their values."""

    @property
    def playback(self) -> Playback:
        """What is played."""
        assert self._playback is not None
        return self._playback

    def run(self, seed: int, num_steps: int | None = None) -> None:
        """Play until ``num_steps`` are taken; see ``view``."""
        next_seed: int | None = seed
        left = math.inf if num_steps is None else num_steps
        while next_seed is not None:
            self.seed = next_seed
            seed_everything(next_seed)
            with self._open(next_seed) as (policy, env):
                self._begin(policy, env)
                next_seed, left = self._play(left)

    # What the page may ask for.

    def ask(self, request: Callable[[], None]) -> None:
        """Have something done between two steps; may be called from any thread."""
        self._requests.put(request)

    def set_paused(self, paused: bool) -> None:
        """Stop or go on."""
        self.paused = paused
        self._show_numbers()

    def step_once(self) -> None:
        """Pause, and take a single step."""
        self.paused = True
        self._single_steps += 1

    def reset(self) -> None:
        """Begin new episodes."""
        self.playback.reset()
        self._redraw()

    def show(self, index: int) -> None:
        """Watch another environment."""
        self.playback.show(index)
        self._shown = index
        self._redraw()

    def reopen(self, seed: int) -> None:
        """Open the environment again, with another seed."""
        self._next_seed = seed

    def hold(self, name: str, values: list[float] | None) -> None:
        """Hold a command at some values, or give it back to the task."""
        env = self.playback.env
        env.hold_command(name, None if values is None else torch.tensor(values, device=env.device))
        if values is None:
            self.held.pop(name, None)
        else:
            self.held[name] = values
        self._show_numbers()

    # The loop.

    def _begin(self, policy: Policy, env: VecEnv) -> None:
        from sim_rl_plugin.viewer.page import Page

        if env.num_envs > 1:
            Playback(policy, env, shown=1)  # now, not when somebody moves the slider
        self._playback = Playback(policy, env)
        self._playback.show(self._shown)
        known = {command.name for command in command_terms(env)}
        for name, values in self.held.items():
            if name in known:
                env.hold_command(name, torch.tensor(values, device=env.device))
        if self._page is None:
            self._page = Page(self._server, self, self._title)
            host = self._server.get_host()
            address = "localhost" if host in ("127.0.0.1", "0.0.0.0") else host
            self._say(f"viewer: http://{address}:{self._server.get_port()} (Ctrl-C ends it)")
        self._redraw()

    def _play(self, left: float) -> tuple[int | None, float]:
        """Play until another seed is wanted or no steps are left; return the seed, and how many are left."""
        assert self._page is not None
        step_s = step_time_s(self.playback.env)
        due_s = time.perf_counter()
        while left > 0:
            if self._next_seed is not None:
                seed, self._next_seed = self._next_seed, None
                return seed, left
            is_single = self._single_steps > 0
            if self.paused and not is_single:
                self._page.keep()
                due_s = time.perf_counter() + _IDLE_S
            else:
                self._single_steps -= is_single
                self.playback.step()
                left -= 1
                self._page.update(self.playback, everything=is_single)
                due_s = max(due_s + step_s / self.speed, time.perf_counter() - _LAG_S)
            self._attend_until(due_s)
        return None, 0

    def _attend_until(self, due_s: float) -> None:
        """Do what the page asks for, until it is time for the next step."""
        while True:
            wait_s = due_s - time.perf_counter()
            try:
                request = self._requests.get(timeout=wait_s) if wait_s > 0 else self._requests.get_nowait()
            except queue.Empty:
                return
            request()

    def _show_numbers(self) -> None:
        if self._page is not None:
            self._page.update_numbers(self.playback)

    def _redraw(self) -> None:
        if self._page is not None:
            self._page.update(self.playback, everything=True)


def _free_port(host: str, port: int | None) -> int:
    """Return a port that can be served at; viser itself would take another without a word.

    Raises:
        UserError: There is none.
    """
    candidates = range(_FIRST_PORT, _FIRST_PORT + _PORTS) if port is None else (port,)
    for candidate in candidates:
        try:
            with socket.create_server((host, candidate)) as taken:
                return int(taken.getsockname()[1])
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
    where = f"port {port}" if port is not None else f"a port from {_FIRST_PORT} to {_FIRST_PORT + _PORTS - 1}"
    raise UserError(f"cannot serve the viewer at {host}, {where}: {reason}; choose others with --host and --port")
