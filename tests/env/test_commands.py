"""Commands: their description, and holding those of a manager; the real managers are in the adapters' tests."""

from types import SimpleNamespace

import pytest
import torch

from sim_rl_plugin.env import Command, as_vec_env, check_env
from sim_rl_plugin.env.clip_actions import ClipActions
from sim_rl_plugin.env.commands import command_terms, fault_in_commands
from sim_rl_plugin.env.manager_commands import ManagerCommands
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.testing import PointEnv, SteeredPointEnv, VecEnvContract

TWIST = Command("twist", ("x", "yaw"), ((-1.0, 1.0), None))


class TestSteeredPoints(VecEnvContract):
    def make_env(self):
        return SteeredPointEnv()


class TestClippedSteeredPoints(VecEnvContract):
    def make_env(self):
        return ClipActions(SteeredPointEnv(), 1.0)


def test_points_go_to_the_goal_that_is_held():
    env = SteeredPointEnv(max_episode_length=1000)
    env.hold_command("goal", torch.tensor([0.5, -0.25]))
    obs = env.get_observations()
    for _ in range(30):
        # The error times 10 is the action that makes up for it at once, 0.1 a step at most.
        obs, rewards, _, _ = env.step(-10.0 * obs["policy"])
    torch.testing.assert_close(env.position, torch.tensor([[0.5, -0.25]]).expand(8, 2))
    torch.testing.assert_close(rewards, torch.ones(8))


def test_goals_are_drawn_again_once_given_back():
    env = SteeredPointEnv(max_episode_length=2)
    env.hold_command("goal", torch.tensor([0.0, 0.0]))
    env.hold_command("goal", None)
    assert env.get_command("goal").eq(0.0).all()
    for _ in range(2):
        env.step(torch.zeros(8, 2))
    assert env.get_command("goal").ne(0.0).all()


@pytest.mark.parametrize(
    ("commands", "fault"),
    [
        ([TWIST], ""),
        (["twist"], "found ['twist'], expected a list or tuple of sim_rl_plugin.env.Command"),
        ([TWIST, TWIST], "two commands are called 'twist'"),
        ([Command("none", ())], "none: there is no number in it"),
        ([Command("x", ("x", "y"), ((0.0, 1.0),))], "x: 1 ranges are given for 2 numbers"),
        ([Command("x", ("x",), ((1.0, 0.0),))], "x: the range of x is (1.0, 0.0), expected (low, high)"),
    ],
)
def test_descriptions_that_do_not_add_up(commands, fault):
    assert fault_in_commands(commands) == fault


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("gaol", torch.zeros(2), "unknown command 'gaol': did you mean 'goal'?"),
        ("goal", torch.zeros(3), r"expected a tensor \(2,\) of goal_0, goal_1, found shape \(3,\)"),
        ("goal", [0.0, 0.0], "found a list"),
        ("goal", torch.tensor([0.0, torch.nan]), "expected finite numbers, found"),
    ],
)
def test_what_cannot_be_held_is_said(name, values, message):
    for env in (SteeredPointEnv(), ClipActions(SteeredPointEnv(), 1.0)):
        with pytest.raises(UserError, match=message):
            env.hold_command(name, values)


def test_an_environment_without_commands_says_so():
    for env in (PointEnv(), ClipActions(PointEnv(), 1.0)):
        assert command_terms(env) == ()
        with pytest.raises(UserError, match="unknown command 'goal': none is known"):
            env.hold_command("goal", torch.zeros(2))
        with pytest.raises(UserError, match="unknown command 'goal'"):
            env.get_command("goal")


class Forgetful(SteeredPointEnv):
    """Draws a goal at the end of an episode, held or not."""

    def _reset(self, dones):
        self._held = None
        super()._reset(dones)


class KeepsWhatItWasGiven(SteeredPointEnv):
    def hold_command(self, name, values):
        super().hold_command(name, values)
        if values is not None:
            self.goal = values.expand(self.num_envs, -1)
            self._held = values


class GivesItsOwn(SteeredPointEnv):
    def get_command(self, name):
        return self.goal


class Flat(SteeredPointEnv):
    def get_command(self, name):
        return self.goal[:, 0]


class Described(SteeredPointEnv):
    def __init__(self):
        super().__init__()
        self.command_terms = (Command("goal", ()),)


@pytest.mark.parametrize(
    ("env", "code"),
    [
        (Forgetful, "command-not-held"),
        (KeepsWhatItWasGiven, "command-not-held"),
        (GivesItsOwn, "buffer-reused"),
        (Flat, "wrong-commands"),
        (Described, "wrong-commands"),
    ],
)
def test_each_deviation_is_found(env, code):
    assert [problem.code for problem in check_env(env())] == [code]


# Managers.


class VelocityTerm:
    """As both simulators' terms: drawn when its time is up and at resets, then worked over in place."""

    def __init__(self, size=3, ranges=None):
        self.buffer = torch.zeros(4, size)
        self.cfg = SimpleNamespace(ranges=ranges)
        self.draws = 0

    @property
    def command(self):
        return self.buffer

    def compute(self, dt):
        self.draws += 1
        self.buffer[:] = self.draws

    def reset(self, env_ids=None):
        self.buffer[env_ids] = -1.0
        return {"error": 0.0}


class PutTogether(VelocityTerm):
    @property
    def command(self):
        return torch.cat((self.buffer, self.buffer), dim=-1)


VELOCITY = SimpleNamespace(x=(-1.0, 1.0), y=(0, 2), yaw_rate=(-3.0, 3.0), heading=(-3.14, 3.14), unused=None)
POSE = SimpleNamespace(**{name: (0.0, 1.0) for name in ("pos_x", "pos_y", "pos_z", "roll", "pitch", "yaw")})


def _manager(**terms):
    return SimpleNamespace(command_manager=SimpleNamespace(active_terms=list(terms), get_term=terms.__getitem__))


def test_terms_of_a_manager_and_their_ranges():
    base = _manager(
        twist=VelocityTerm(3, VELOCITY), pose=VelocityTerm(7, POSE), motion=PutTogether(), noise=VelocityTerm(2)
    )
    assert ManagerCommands(base).terms == (
        # The heading is drawn beside the three numbers of the command.
        Command("twist", ("x", "y", "yaw_rate"), ((-1.0, 1.0), (0.0, 2.0), (-3.0, 3.0))),
        # Angles became a quaternion.
        Command("pose", ("pos_x", "pos_y", "pos_z"), ((0.0, 1.0),) * 3),
        Command("noise", ("0", "1")),
    )
    assert ManagerCommands(SimpleNamespace()).terms == ()
    assert ManagerCommands(SimpleNamespace(command_manager=SimpleNamespace(active_terms=[]))).terms == ()


def test_a_managers_command_is_held_through_steps_and_resets():
    term = VelocityTerm(3, VELOCITY)
    commands = ManagerCommands(_manager(twist=term))
    term.compute(0.1)
    assert commands.get("twist").tolist() == [[1.0] * 3] * 4
    commands.hold("twist", torch.tensor([0.5, 0.25, -1.0]))
    held = [[0.5, 0.25, -1.0]] * 4
    assert term.command.tolist() == held
    term.compute(0.1)
    assert term.command.tolist() == held
    assert term.reset(env_ids=torch.tensor([1])) == {"error": 0.0}
    assert term.command.tolist() == held
    commands.hold("twist", None)
    assert term.command.tolist() == held
    term.compute(0.1)
    assert term.command.tolist() == [[3.0] * 3] * 4


def test_of_a_pose_only_the_position_is_held():
    term = VelocityTerm(7, POSE)
    commands = ManagerCommands(_manager(pose=term))
    commands.hold("pose", torch.tensor([0.1, 0.2, 0.3]))
    term.compute(0.1)
    torch.testing.assert_close(term.command[0], torch.tensor([0.1, 0.2, 0.3, 1.0, 1.0, 1.0, 1.0]))
    assert commands.get("pose").shape == (4, 3)


def test_an_older_environment_with_commands_of_its_own_kind_has_none():
    """legged_gym calls its tensor ``commands``; something else may be called as ours are."""
    env = PointEnv()
    env.command_terms = torch.zeros(8, 4)
    assert command_terms(as_vec_env(env)) == ()
