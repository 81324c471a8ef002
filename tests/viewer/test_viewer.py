"""The loop: its end, its pace, and what the page asks for; with viser's server, and no browser."""

import socket
import sys
import threading
import time
from contextlib import contextmanager

import pytest
import torch

from sim_rl_plugin.errors import UserError
from sim_rl_plugin.testing import PointEnv, SteeredPointEnv
from sim_rl_plugin.viewer.viewer import Viewer, import_viser, view


class Opened:
    """Opens points, and remembers them."""

    def __init__(self, make=SteeredPointEnv, act=None, **options):
        self.make, self.options, self.act = make, {"num_envs": 2, **options}, act
        self.envs, self.seeds, self.closed = [], [], 0

    @contextmanager
    def __call__(self, seed):
        env = self.make(seed=seed, **self.options)
        env.step_dt = 0.01
        self.envs.append(env)
        self.seeds.append(seed)
        try:
            yield self.act or (lambda obs: torch.zeros(2, 2)), env
        finally:
            self.closed += 1


def test_without_viser_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(UserError, match=r'the web viewer needs viser: pip install "sim-rl-plugin\[web\]"'):
        import_viser()


@pytest.fixture
def _viser():
    pytest.importorskip("viser")


@pytest.mark.usefixtures("_viser")
class TestView:
    def test_steps_end_it_and_close_the_environment(self, capsys):
        opened = Opened()
        view(opened, seed=4, num_steps=7, port=0)
        assert (opened.seeds, opened.closed) == ([4], 1)
        assert opened.envs[0].episode_length_buf.tolist() == [7, 7]
        assert "viewer: http://localhost:" in capsys.readouterr().out

    def test_ctrl_c_ends_it_and_closes_the_environment(self):
        steps = []

        def act(obs):
            steps.append(obs)
            if len(steps) == 3:
                raise KeyboardInterrupt
            return torch.zeros(2, 2)

        opened = Opened(act=act)
        view(opened, seed=0, port=0)
        assert (len(steps), opened.closed) == (3, 1)

    def test_it_goes_at_the_simulations_pace(self):
        start_s = time.perf_counter()
        view(Opened(), seed=0, num_steps=31, port=0)
        # 30 pauses of 0.01 s.
        assert time.perf_counter() - start_s >= 0.3

    def test_a_port_that_is_taken_is_named(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(UserError, match=rf"cannot serve the viewer at 127.0.0.1, port {port}: .*in use"):
                view(Opened(), seed=0, num_steps=1, port=port)

    def test_an_address_that_is_not_ours_is_named(self):
        with pytest.raises(UserError, match=r"cannot serve the viewer at 192.0.2.1, a port from 8080 to 8179"):
            view(Opened(), seed=0, num_steps=1, host="192.0.2.1")

    def test_several_environments_need_a_renderer_of_each(self):
        class Single(PointEnv):
            def show_env(self, index):
                return index == 0

        opened = Opened(Single)
        with pytest.raises(UserError, match="draws its environment 0 only"):
            view(opened, seed=0, num_steps=1, port=0)
        assert opened.closed == 1
        view(Opened(Single, num_envs=1, act=lambda obs: torch.zeros(1, 2)), seed=0, num_steps=1, port=0)


@pytest.fixture
def playing(_viser):
    """A viewer that plays in a thread, its environments, and a function that has it do something."""
    import viser

    server = viser.ViserServer(host="127.0.0.1", port=0, verbose=False)
    opened = Opened()
    viewer = Viewer(server, opened, say=lambda text: started.set())
    started = threading.Event()

    class _End(BaseException):
        pass

    def play():
        with pytest.raises(_End):
            viewer.run(seed=5)

    def do(request, *arguments):
        done = threading.Event()
        viewer.ask(lambda: (request(*arguments), done.set()))
        assert done.wait(30)

    def end():
        raise _End

    thread = threading.Thread(target=play)
    thread.start()
    assert started.wait(30)
    yield viewer, opened, do
    viewer.ask(end)
    thread.join(30)
    server.stop()
    assert not thread.is_alive()
    assert opened.closed == len(opened.envs)


def _until(condition):
    end_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_pause_and_single_steps(playing):
    viewer, _, do = playing
    do(viewer.set_paused, True)
    before = viewer.playback.num_steps
    time.sleep(0.2)
    assert viewer.playback.num_steps == before
    do(viewer.step_once)
    do(viewer.step_once)
    _until(lambda: viewer.playback.num_steps == before + 2)
    time.sleep(0.2)
    assert viewer.playback.num_steps == before + 2
    do(viewer.set_paused, False)
    _until(lambda: viewer.playback.num_steps > before + 2)


def test_reset_and_another_environment(playing):
    viewer, opened, do = playing
    do(viewer.set_paused, True)
    do(viewer.step_once)
    do(viewer.reset)
    assert viewer.playback.episode.length <= 1
    do(viewer.show, 1)
    assert viewer.playback.shown == opened.envs[0]._shown == 1


def test_a_held_command_survives_another_seed(playing):
    viewer, opened, do = playing
    do(viewer.show, 1)
    do(viewer.hold, "goal", [0.25, -0.5])
    assert opened.envs[0].get_command("goal").tolist() == [[0.25, -0.5]] * 2
    do(viewer.reopen, 9)
    _until(lambda: len(opened.envs) == 2)
    _until(lambda: viewer.playback.env is opened.envs[1] and viewer.playback.num_steps > 0)
    assert (opened.seeds, viewer.seed, viewer.playback.shown) == ([5, 9], 9, 1)
    assert opened.envs[1].get_command("goal").tolist() == [[0.25, -0.5]] * 2
    do(viewer.hold, "goal", None)
    assert viewer.held == {}
    do(viewer.reset)
    assert opened.envs[1].get_command("goal").tolist() != [[0.25, -0.5]] * 2


def test_speed(playing):
    viewer, _, _ = playing
    viewer.speed = 0.01  # a step of 0.01 s takes a second
    time.sleep(0.1)
    before = viewer.playback.num_steps
    time.sleep(0.5)
    assert viewer.playback.num_steps <= before + 1
