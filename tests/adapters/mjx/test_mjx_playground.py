"""Playground itself: its wrapper beside ours, its parameters as settings, and what goes wrong with names."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

pytest.importorskip("jax")
pytest.importorskip("mujoco_playground")

import jax
import jax.numpy as jnp
import numpy as np
from sim_rl_mjx import tuned
from sim_rl_mjx.open import open_task
from sim_rl_mjx.tasks import load_environment, task_names

from sim_rl_plugin.config import dump_config, load_config
from sim_rl_plugin.config.loading import with_overrides
from sim_rl_plugin.config.yaml_text import parse_value
from sim_rl_plugin.env import Command
from sim_rl_plugin.errors import UserError

# Physics and resets beside Playground's own wrapper


def wrapped(env: Any, task: str, limit: int, full_reset: bool) -> tuple[Any, Any]:
    """Return Playground's wrapper around another copy of the task, and its state with our first states."""
    from mujoco_playground import wrapper

    theirs = wrapper.wrap_for_brax_training(
        load_environment(task, {"impl": "jax"}), episode_length=limit, full_reset=full_reset
    )
    first = env._carry.state
    state = jax.jit(theirs.reset)(jax.random.split(jax.random.PRNGKey(0), env.num_envs))
    info = {**state.info, **first.info}
    info |= {"AutoResetWrapper_first_data": first.data, "AutoResetWrapper_first_obs": first.obs}
    return jax.jit(theirs.step), state.replace(data=first.data, obs=first.obs, info=info)


def test_steps_and_resets_are_those_of_playgrounds_wrapper() -> None:
    task, limit = "CartpoleSwingup", 6
    with open_task(task, num_envs=3, impl="jax", max_episode_steps=limit, seed=2) as env:
        step, state = wrapped(env, task, limit, full_reset=False)
        generator = torch.Generator().manual_seed(1)
        ended = 0
        for _ in range(15):
            actions = 2.0 * torch.rand(3, 1, generator=generator) - 1.0
            state = step(state, actions.numpy())
            obs, rewards, dones, extras = env.step(actions)
            torch.testing.assert_close(obs["state"], torch.tensor(np.asarray(state.obs)), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(rewards, torch.tensor(np.asarray(state.reward)), rtol=1e-5, atol=1e-5)
            assert dones.tolist() == (state.done > 0).tolist()
            assert extras["time_outs"].tolist() == (state.info["truncation"] > 0).tolist()
            ended += int(dones.sum())
        assert ended == 2 * 3


def test_time_outs_that_playgrounds_full_reset_loses_are_kept() -> None:
    task, limit = "CartpoleSwingup", 4
    with open_task(task, num_envs=3, impl="jax", max_episode_steps=limit, full_reset=True) as env:
        step, state = wrapped(env, task, limit, full_reset=True)
        free = env.get_observations()["state"]
        for _ in range(limit):
            state = step(state, np.zeros((3, 1), np.float32))
            obs, _, dones, extras = env.step(torch.zeros(3, 1))
        # Theirs: done, and no trace of a time limit. That is what makes this test worth having.
        assert (state.done > 0).all()
        assert not (state.info["truncation"] > 0).any()
        assert dones.all() and extras["time_outs"].all()
        assert not torch.equal(extras["final_obs"]["state"], obs["state"])
        assert not torch.equal(obs["state"], free)


def test_the_final_observation_is_where_an_unlimited_episode_would_be() -> None:
    options: dict[str, Any] = {"num_envs": 4, "impl": "jax", "seed": 3}
    with (
        open_task("CartpoleSwingup", max_episode_steps=7, **options) as env,
        open_task("CartpoleSwingup", max_episode_steps=1000, **options) as unlimited,
    ):
        for _ in range(7):
            _, _, dones, extras = env.step(torch.full((4, 1), 0.5))
            expected, *_ = unlimited.step(torch.full((4, 1), 0.5))
        assert dones.all()
        torch.testing.assert_close(extras["final_obs"]["state"], expected["state"], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("go1")
def test_the_actuators_of_go1_are_told() -> None:
    with open_task("Go1JoystickFlatTerrain", num_envs=2) as env:
        (term,) = env.action_terms
        assert term.elements[:3] == ("FR_hip", "FR_thigh", "FR_calf") and term.size == 12


def test_go1_resumes_bit_for_bit_and_its_critic_sees_more() -> None:
    options: dict[str, Any] = {"num_envs": 3, "max_episode_steps": 12}
    with (
        open_task("Go1JoystickFlatTerrain", seed=1, **options) as env,
        open_task("Go1JoystickFlatTerrain", seed=2, **options) as fresh,
    ):
        obs = env.get_observations()
        assert {name: tuple(values.shape) for name, values in obs.items()} == {
            "state": (3, 48),
            "privileged_state": (3, 123),
        }
        assert env.num_actions == 12
        assert env.step_dt == pytest.approx(0.02)
        actions = 2.0 * torch.rand(20, 3, 12) - 1.0
        for action in actions[:5]:
            env.step(action)
        fresh.load_state_dict(env.state_dict())
        for action in actions[5:]:
            for one, other in zip(env.step(action)[:3], fresh.step(action)[:3], strict=True):
                assert bool((one == other).all())


# Settings


@pytest.mark.parametrize("task", ["CartpoleBalance", "PandaPickCube", "Go1JoystickFlatTerrain"])
def test_default_settings_are_complete_and_survive_a_run_folder(task: str) -> None:
    config = load_config("mjx", task)
    parameters = tuned.playground_parameters(task)
    assert parameters is not None
    assert config.num_envs == parameters["num_envs"]
    assert config.algorithm["gamma"] == parameters["discounting"]
    assert config.algorithm["entropy_coef"] == parameters["entropy_cost"]
    assert config.algorithm["reward_scale"] == parameters["reward_scaling"]
    samples = config.num_envs * config.num_steps_per_env
    # As many samples per gradient step as in Brax.
    assert samples / config.algorithm["num_mini_batches"] == parameters["batch_size"] * parameters["unroll_length"]
    total = samples * config.max_iterations * parameters["action_repeat"]
    assert 0 <= total - parameters["num_timesteps"] < samples * parameters["action_repeat"]
    assert with_overrides(parse_value(dump_config(config))) == config


def test_every_task_has_settings_that_load() -> None:
    for task in task_names():
        assert load_config("mjx", task).algorithm["num_mini_batches"] >= 1


def test_the_critic_of_go1_reads_the_privileged_state() -> None:
    groups = load_config("mjx", "Go1JoystickFlatTerrain").obs_groups
    assert groups == {"actor": ["state"], "critic": ["privileged_state"]}


def test_the_groups_of_an_environment_of_ones_own_are_found() -> None:
    expected = {"actor": ["state"], "critic": ["privileged_state"]}
    assert load_config("mjx", "jax_tasks:Line").obs_groups == expected
    flat = {"actor": ["state"], "critic": ["state"]}
    assert load_config("mjx", "jax_tasks:NoSuchThing").obs_groups == flat


def test_what_playground_leaves_out_is_what_brax_takes() -> None:
    from brax.training.agents.ppo import networks, train

    defaults = {name: p.default for name, p in inspect.signature(train.train).parameters.items()}
    assert {name: defaults[name] for name in tuned.BRAX_DEFAULTS} == tuned.BRAX_DEFAULTS
    defaults = {name: p.default for name, p in inspect.signature(networks.make_ppo_networks).parameters.items()}
    assert {name: defaults[name] for name in tuned.BRAX_NETWORKS} == tuned.BRAX_NETWORKS
    assert defaults["activation"] is jax.nn.swish or defaults["activation"].__name__ in ("swish", "silu")


@pytest.mark.parametrize("set_by_user", [None, "true"])
def test_memory_is_not_preallocated_when_jax_is_imported(set_by_user: str | None) -> None:
    # The first thing that imports JAX may be the search for settings or the opening of the task.
    code = (
        "import builtins, os, sys\n"
        "original, seen = builtins.__import__, []\n"
        "def watched(name, *args, **kwargs):\n"
        "    if name == 'jax' and not seen: seen.append(os.environ.get('XLA_PYTHON_CLIENT_PREALLOCATE'))\n"
        "    return original(name, *args, **kwargs)\n"
        "builtins.__import__ = watched\n"
        "from sim_rl_plugin.config import load_config\n"
        "from sim_rl_plugin.registry import load, load_tasks\n"
        "{what}\n"
        "print(seen)"
    )
    environ = {key: value for key, value in os.environ.items() if key != "XLA_PYTHON_CLIENT_PREALLOCATE"}
    if set_by_user is not None:
        environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = set_by_user
    for what in ("load_config('mjx', 'CartpoleBalance')", "load('adapters', 'mjx')", "load_tasks('mjx')"):
        command = [sys.executable, "-c", code.replace("{what}", what)]
        result = subprocess.run(command, capture_output=True, text=True, check=True, env=environ)
        assert result.stdout.splitlines()[-1] == repr([set_by_user or "false"]), what


# Names


def test_the_registry_is_listed() -> None:
    names = task_names()
    assert {"CartpoleBalance", "Go1JoystickFlatTerrain", "PandaPickCube"} <= set(names)
    assert names == sorted(names)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("CartpoleBalanse", {}, r"unknown task 'CartpoleBalanse': did you mean 'CartpoleBalance'"),
        ("CartpoleBalance", {"num_envs": 0}, "num_envs is 0, expected at least 1"),
        ("CartpoleBalance", {"action_repeat": 0}, "action_repeat is 0, expected at least 1"),
        ("CartpoleBalance", {"impl": "jax", "max_episode_steps": 0}, "max_episode_steps is 0, expected at least 1"),
        (
            "CartpoleBalance",
            {"config_overrides": {"episode_lenght": 5}},
            "'config_overrides.episode_lenght': did you mean 'config_overrides.episode_length'",
        ),
        ("CartpoleBalance", {"config_overrides": {"episode_length": "long"}}, "cannot be opened with config_overrides"),
        ("CartpoleBalance", {"config_overrides": {"impl": "cuda"}}, "cannot be opened with config_overrides"),
        ("CartpoleBalance", {"task_options": {"wall": 1}}, "task_options are for a package.module:factory"),
        ("no_such_module:Line", {}, "there is no module 'no_such_module'"),
        ("jax_tasks:Lime", {}, "unknown factory in jax_tasks 'Lime': did you mean 'Line'"),
        ("jax_tasks:Line", {"task_options": {"wal": 1}}, r"'jax_tasks:Line' cannot be called with \['wal'\]"),
        ("jax_tasks:Line", {"task_options": {"episode_length": None}}, "no episode_length of its own: set max_episode"),
        ("math:sqrt", {"task_options": {}}, "cannot be called with"),
        ("types:SimpleNamespace", {}, "made a SimpleNamespace without 'reset'"),
    ],
)
def test_what_cannot_be_opened_is_one_clear_message(task: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message), open_task(task, **({"num_envs": 1} | options)):
        pass


def test_models_that_cannot_be_fetched_are_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    from mujoco_playground._src import mjx_env

    def fail() -> None:
        raise subprocess.CalledProcessError(128, ["git", "clone"])

    monkeypatch.setattr(mjx_env, "ensure_menagerie_exists", fail)
    with (
        pytest.raises(UserError, match="needs the robot models of MuJoCo Menagerie"),
        open_task("Go1Getup", num_envs=1),
    ):
        pass


def test_overrides_and_options_reach_the_task() -> None:
    with open_task("CartpoleBalance", num_envs=1, config_overrides={"episode_length": 50, "impl": "jax"}) as env:
        assert env.max_episode_length == 50
        assert env.cfg["config"]["impl"] == "jax"
        assert env._carry.state.data.impl.value == "jax"
    with open_task("CartpoleBalance", num_envs=1, impl="jax", action_repeat=3) as env:
        assert env.max_episode_length == 334  # 1000 / 3, rounded up
    with open_task("jax_tasks:Line", num_envs=1, config_overrides={"episode_length": 7}) as env:
        assert env.max_episode_length == 7


def test_warps_list_of_contacts_belongs_to_no_environment() -> None:
    # As many contacts as environments, so that the shape alone would mislead.
    overrides = {"naconmax": 8}
    with open_task("CheetahRun", num_envs=8, impl="warp", config_overrides=overrides) as env:
        physics, rows = env._carry.state.data, env._batch.is_batched.data
        assert physics._impl.contact__dist.shape == (8,)
        assert rows._impl.contact__dist is False
        assert rows.qpos is True
        assert jnp.asarray(physics.qpos).shape[0] == 8


@pytest.mark.usefixtures("go1")
def test_the_joysticks_command_is_held_and_seen_by_the_policy() -> None:
    with open_task("Go1JoystickFlatTerrain", num_envs=3, max_episode_steps=6) as env:
        (command,) = env.command_terms
        assert command == Command(
            "command", ("lin_vel_x", "lin_vel_y", "ang_vel_yaw"), ((-1.5, 1.5), (-0.8, 0.8), (-1.2, 1.2))
        )
        drawn = env.get_command("command")
        held = torch.tensor([0.5, -0.25, 1.0])
        env.hold_command("command", held)
        for _ in range(8):
            obs = env.step(torch.zeros(3, env.num_actions))[0]
            # It stands at the end of the 48 numbers.
            if env.episode_length_buf.all():
                torch.testing.assert_close(obs["state"][:, -3:], held.expand(3, 3))
            assert torch.equal(env.get_command("command"), held.expand(3, 3))
        assert not torch.equal(drawn, held.expand(3, 3))
        env.hold_command("command", None)
        assert torch.equal(env.step(torch.zeros(3, env.num_actions))[0]["state"][:, -3:], held.expand(3, 3))


def test_a_task_without_a_command_has_none() -> None:
    with open_task("CartpoleSwingup", num_envs=2, impl="jax") as env:
        assert env.command_terms == ()
