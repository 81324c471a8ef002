"""The adapter's promises, each with its arithmetic, on a task that can be followed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("jax")
pytest.importorskip("mujoco_playground")

import jax
import jax.numpy as jnp
import numpy as np
from sim_rl_mjx.open import open_task
from sim_rl_mjx.vec_env import MjxVecEnv

from sim_rl_plugin.errors import UserError


def open_line(num_envs: int = 3, **options: Any):
    task_options = {name: options.pop(name) for name in ("wall", "mark", "typed_keys", "flat") if name in options}
    return open_task("jax_tasks:Line", num_envs=num_envs, task_options=task_options, **options)


def moves(*values: float) -> torch.Tensor:
    return torch.tensor(values).unsqueeze(1)


def play(env: MjxVecEnv, actions: torch.Tensor) -> list[torch.Tensor]:
    """Return all that a learner sees, in one list."""
    seen = []
    for action in actions:
        obs, rewards, dones, extras = env.step(action)
        seen += [*obs.values(), rewards, dones, extras["time_outs"], env.episode_length_buf]
        if "final_obs" in extras:
            seen += [values[dones] for values in extras["final_obs"].values()]
    return seen


def assert_equal(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


def actions_for(env: MjxVecEnv, steps: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(steps, env.num_envs, env.num_actions, generator=generator) * 2.0 - 1.0


# Ends


@pytest.mark.parametrize("full_reset", [False, True])
def test_the_final_observation_and_the_time_out_are_those_before_the_reset(full_reset: bool) -> None:
    with open_line(num_envs=2, full_reset=full_reset) as env:
        start = env.get_observations()["state"][:, 0]
        for _ in range(4):
            _, _, dones, extras = env.step(moves(0.5, -0.25))
            assert not dones.any()
            assert "final_obs" not in extras
        obs, rewards, dones, extras = env.step(moves(0.5, -0.25))  # the limit is 5
        end = start + torch.tensor([5 * 0.5, 5 * -0.25])
        assert dones.tolist() == extras["time_outs"].tolist() == [True, True]
        torch.testing.assert_close(extras["final_obs"]["state"][:, 0], end)
        torch.testing.assert_close(rewards, end)
        assert extras["final_obs"]["privileged_state"][:, 2].tolist() == [5.0, 5.0]
        # A full reset draws another start; without it, the environment's own first state comes back.
        assert torch.equal(obs["state"][:, 0], start) is not full_reset
        assert bool(((obs["state"][:, 0] >= 0) & (obs["state"][:, 0] <= 1)).all())
        assert env.episode_length_buf.tolist() == [0, 0]


@pytest.mark.parametrize("full_reset", [False, True])
def test_a_fall_is_no_time_out_not_even_at_the_limit(full_reset: bool) -> None:
    with open_line(num_envs=3, wall=3.0, full_reset=full_reset) as env:
        # Starts lie in 0..1: one step of 1 stays inside; 5 of them do not, and 5 of -0.1 do.
        env.episode_length_buf = torch.tensor([0, 1, 4])
        falls, time_outs = [], []
        for _ in range(4):
            _, _, dones, extras = env.step(moves(1.0, -0.1, -0.1))
            falls.append((dones & ~extras["time_outs"]).tolist())
            time_outs.append(extras["time_outs"].tolist())
        assert [row[0] for row in falls].count(True) == 1
        assert not any(row[0] for row in time_outs)
        # From 1, the limit of 5 is reached in the 4th step; from 4 in the 1st.
        assert [row[1] for row in time_outs] == [False, False, False, True]
        assert [row[2] for row in time_outs] == [True, False, False, False]
        # Beyond the wall in the very step of the limit.
        env.episode_length_buf = torch.full((3,), 4)
        state = env._carry.state
        env._carry = env._carry._replace(state=state.replace(data=jnp.full((3, 1), 2.9)))
        _, _, dones, extras = env.step(moves(1.0, 0.0, 1.0))
        assert dones.all()
        assert extras["time_outs"].tolist() == [False, True, False]


@pytest.mark.parametrize("full_reset", [False, True])
def test_a_truncation_by_the_task_itself_survives_the_reset_of_info(full_reset: bool) -> None:
    with open_line(num_envs=2, mark=1.5, full_reset=full_reset, max_episode_steps=100) as env:
        for _ in range(3):
            _, _, dones, extras = env.step(moves(0.8, 0.0))
            if dones[0]:
                break
        assert dones.tolist() == extras["time_outs"].tolist() == [True, False]
        assert extras["final_obs"]["state"][0, 0] > 1.5


def test_full_resets_renew_info_and_others_keep_it() -> None:
    counts = {}
    for full_reset in (False, True):
        with open_line(num_envs=2, full_reset=full_reset) as env:
            for _ in range(7):
                obs, *_ = env.step(moves(0.1, 0.1))
            counts[full_reset] = obs["privileged_state"][:, 2].tolist()
    # Seven steps with a reset after the fifth.
    assert counts == {False: [7.0, 7.0], True: [2.0, 2.0]}


def test_a_full_reset_is_of_the_environments_that_ended() -> None:
    with open_line(num_envs=3, full_reset=True) as env:
        env.episode_length_buf = torch.tensor([0, 4, 0])
        before = env.get_observations()["state"][:, 0]
        obs, *_ = env.step(moves(0.5, 0.5, 0.5))
        moved = obs["state"][:, 0] - before
        assert torch.allclose(moved[[0, 2]], torch.tensor(0.5))
        assert not torch.allclose(moved[1], torch.tensor(0.5))
        keys = env._carry.keys
        env.step(moves(0.5, 0.5, 0.5))  # nothing ends, nothing is drawn
        assert jnp.array_equal(keys, env._carry.keys)


def test_repeated_actions_add_up_and_count_once() -> None:
    with open_line(num_envs=1, action_repeat=3, max_episode_steps=2) as env:
        assert env.step_dt == pytest.approx(3 * 0.05)
        x = env.get_observations()["state"][0, 0]
        _, rewards, dones, _ = env.step(moves(0.5))
        # x + 0.5, x + 1.0, x + 1.5
        torch.testing.assert_close(rewards[0], 3 * x + 3.0)
        assert not dones
        _, _, dones, extras = env.step(moves(0.0))
        assert dones and extras["time_outs"]
        torch.testing.assert_close(extras["final_obs"]["state"][0, 0], x + 1.5)
    with open_line(num_envs=1, action_repeat=3) as env:
        assert env.max_episode_length == 2  # ceil(5 / 3)


def test_a_diverged_environment_is_ended_and_forgotten() -> None:
    options: dict[str, Any] = {"max_episode_steps": 100, "clip_actions": False}
    with open_line(**options) as env, open_line(**options) as twin:
        env.step(moves(0.1, 0.2, 0.3))
        twin.step(moves(0.1, 0.2, 0.3))
        before = env.get_observations()["state"]
        obs, rewards, dones, extras = env.step(moves(0.1, float("nan"), 0.3))
        expected, *_ = twin.step(moves(0.1, 0.0, 0.3))
        assert dones.tolist() == [False, True, False]
        assert not extras["time_outs"].any()
        assert rewards[1] == 0.0
        # The last observation that was sound.
        assert torch.equal(extras["final_obs"]["state"][1], before[1])
        assert extras["log"]["Step/diverged"] == pytest.approx(1 / 3)
        for _ in range(3):
            assert torch.equal(obs["state"][[0, 2]], expected["state"][[0, 2]])
            assert all(torch.isfinite(values).all() for values in obs.values())
            obs, rewards, dones, extras = env.step(moves(0.1, 0.2, 0.3))
            expected, *_ = twin.step(moves(0.1, 0.2, 0.3))
            assert not dones.any()
            assert all(torch.isfinite(value) for value in extras["log"].values())


# Time limit


def test_the_time_limit_looks_at_the_buffer_that_the_runner_assigns() -> None:
    with open_line(num_envs=4, max_episode_steps=10) as env:
        ages = env.episode_length_buf
        env.episode_length_buf = torch.tensor([0, 7, 9, 3], dtype=torch.int64)
        env.episode_length_buf[3] = 8  # in place, as scripts do
        ends = []
        for _ in range(10):
            _, _, dones, extras = env.step(moves(0, 0, 0, 0))
            assert torch.equal(dones, extras["time_outs"])
            ends.append(dones.nonzero().flatten().tolist())
        # Limit 10: from 9 at the 1st step, from 8 at the 2nd, from 7 at the 3rd, from 0 at the 10th.
        assert ends == [[2], [3], [1], [], [], [], [], [], [], [0]]
        assert env.episode_length_buf.tolist() == [0, 7, 9, 8]
        assert ages.tolist() == [0, 0, 0, 0]


# Buffers


def test_observations_can_be_asked_for_at_any_time() -> None:
    with open_line() as env, open_line() as other:
        actions = actions_for(env, 8)
        for action in actions:
            seen, *_ = env.step(action)
            for _ in range(3):
                again = env.get_observations()
                assert all(torch.equal(again[name], seen[name]) for name in seen.keys())
            assert_equal(list(seen.values()), list(other.step(action)[0].values()))
        assert torch.equal(env.episode_length_buf, other.episode_length_buf)


def test_what_was_returned_stays_and_changing_it_changes_nothing() -> None:
    with open_line(wall=2.0) as env, open_line(wall=2.0) as other:
        kept, copies = [], []
        for action in actions_for(env, 12):
            obs, rewards, dones, extras = env.step(action)
            groups = [*obs.values(), *env.get_observations().values(), *extras.get("final_obs", {}).values()]
            tensors = [*groups, rewards, dones, extras["time_outs"], *extras["log"].values()]
            kept += tensors
            copies += [tensor.clone() for tensor in tensors]
            theirs, their_rewards, *_, their_extras = other.step(action)
            assert_equal(list(obs.values()), list(theirs.values()))
            for tensor in (*theirs.values(), their_rewards, *their_extras["log"].values()):
                tensor.fill_(float("nan"))
            for tensor in other.get_observations().values():
                tensor.fill_(float("nan"))
        assert_equal(kept, copies)


def test_nothing_that_is_handed_out_lies_in_the_simulations_memory() -> None:
    with open_line(flat=True, clip_actions=False) as env:
        for action in actions_for(env, 6):
            action_copy = action.clone()
            obs, rewards, dones, extras = env.step(action)
            handed = [*obs.values(), rewards, dones, extras["time_outs"], *extras["log"].values(), action]
            handed += [env.episode_length_buf, *env.get_observations().values(), *extras.get("final_obs", {}).values()]
            theirs = {tensor.untyped_storage().data_ptr() for tensor in handed}
            leaves = jax.tree.leaves((env._carry, env._first))
            assert not theirs & {leaf.unsafe_buffer_pointer() for leaf in leaves}
            assert torch.equal(action, action_copy)


def test_an_action_buffer_may_be_overwritten_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # The task remembers its last action, so JAX may keep what it was given for good.
    options: dict[str, Any] = {"num_envs": 64, "clip_actions": False, "max_episode_steps": 1000}
    with open_line(**options) as env, open_line(**options) as other:
        buffer, given = torch.empty(64, 1), []
        hand_over = env._bridge.to_jax
        monkeypatch.setattr(env._bridge, "to_jax", lambda tensor: given.append(tensor) or hand_over(tensor))
        copies = []
        for action in actions_for(env, 10):
            buffer.copy_(action)
            ours = env.step(buffer)[0]
            copies.append(given[-1].clone())
            buffer.fill_(float("nan"))
            env.episode_length_buf += 1
            assert_equal(list(ours.values()), list(other.step(action)[0].values()))
        # JAX runs behind: whether it reads too late shows by chance only, so look at the memory itself.
        assert len({tensor.untyped_storage().data_ptr() for tensor in (*given, buffer)}) == 11
        assert_equal(given, copies)


def test_a_step_is_compiled_once() -> None:
    with open_line(full_reset=True) as env:
        for action in actions_for(env, 8):
            env.step(action)
            env.episode_length_buf = torch.randint_like(env.episode_length_buf, high=5)
        env.load_state_dict(env.state_dict())
        with torch.inference_mode():
            env.step(action)
        assert env._batch.step._cache_size() == 1


def test_metrics_stay_on_the_device_in_one_tensor() -> None:
    with open_line() as env:
        x = env.get_observations()["state"][:, 0]
        *_, extras = env.step(moves(0.5, 0.0, -0.5))
        log = extras["log"]
        assert set(log) == {"Step/diverged", "Step/x"}
        assert all(isinstance(value, torch.Tensor) for value in log.values())
        assert len({value.untyped_storage().data_ptr() for value in log.values()}) == 1
        torch.testing.assert_close(log["Step/x"], x.mean())


# Seeds and states


def test_seeds_decide_and_the_number_of_environments_does_not() -> None:
    with open_line(num_envs=2, seed=4) as few, open_line(num_envs=5, seed=4) as many, open_line(2, seed=5) as other:
        assert torch.equal(few.get_observations()["state"], many.get_observations()["state"][:2])
        assert not torch.equal(few.get_observations()["state"], other.get_observations()["state"])
        assert many.get_observations()["state"][:, 0].unique().numel() == 5


@pytest.mark.parametrize("full_reset", [False, True])
@pytest.mark.parametrize("typed_keys", [False, True])
def test_a_saved_simulation_continues_bit_for_bit(full_reset: bool, typed_keys: bool, tmp_path: Path) -> None:
    options: dict[str, Any] = {"full_reset": full_reset, "typed_keys": typed_keys}
    with open_line(seed=1, **options) as env, open_line(seed=9, **options) as fresh:
        play(env, actions_for(env, 7))
        torch.save(env.state_dict(), tmp_path / "state.pt")
        expected = play(env, actions_for(env, 12, seed=2))
        play(fresh, actions_for(fresh, 3, seed=3))
        fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert_equal(play(fresh, actions_for(env, 12, seed=2)), expected)


def test_a_state_of_something_else_is_refused() -> None:
    with open_line(2) as env, open_line(3) as more:
        state = env.state_dict()
        with pytest.raises(UserError, match="num_envs 2, this one has 3"):
            more.load_state_dict(state)
        with pytest.raises(UserError, match="task 'Ant', this one has 'jax_tasks:Line'"):
            env.load_state_dict(state | {"task": "Ant"})
        without = {name: value for name, value in state["simulation"].items() if "last_act" not in name}
        with pytest.raises(UserError, match=r"no \".*last_act.*\": it was written by another version of the task"):
            env.load_state_dict(state | {"simulation": without})
        wider = {name: torch.cat((value, value)) for name, value in state["simulation"].items()}
        with pytest.raises(UserError, match=r"has shape \(4,.*\), expected \(2,"):
            env.load_state_dict(state | {"simulation": wider})


# Form


def test_observations_become_groups() -> None:
    from sim_rl_mjx.batch import to_groups

    groups = to_groups(
        {
            "state": jnp.zeros((2, 3), jnp.int32),
            "grid": jnp.zeros((2, 4, 5)),
            "number": jnp.zeros(2),
            "pixels/view_0": jnp.arange(2 * 4 * 6 * 3, dtype=jnp.uint8).reshape(2, 4, 6, 3),
        }
    )
    assert {name: (values.shape, values.dtype.name) for name, values in groups.items()} == {
        "state": ((2, 3), "float32"),
        "grid": ((2, 20), "float32"),
        "number": ((2, 1), "float32"),
        "pixels/view_0": ((2, 3, 4, 6), "uint8"),
    }
    assert groups["pixels/view_0"][1, 2, 3, 5] == 2 * 4 * 6 * 3 - 1
    assert list(to_groups(jnp.zeros((2, 3)))) == ["state"]


def test_actions_are_clipped_unless_told_otherwise() -> None:
    for clip, expected in ((True, 1.0), (False, 3.0)):
        with open_line(1, clip_actions=clip) as env:
            x = env.get_observations()["state"][0, 0]
            torch.testing.assert_close(env.step(moves(3.0))[1][0], x + expected)
            with pytest.raises(UserError, match=r"actions have shape \(1, 2\).*which is \(1, 1\)"):
                env.step(torch.zeros(1, 2))


def test_arrays_are_handed_over_without_a_copy() -> None:
    from sim_rl_mjx.transfer import Bridge

    array = jnp.arange(6.0)
    assert Bridge(torch.device("cpu")).to_torch(array).data_ptr() == array.unsafe_buffer_pointer()
    assert Bridge(torch.device("cpu")).jax_device == jax.devices("cpu")[0]


def test_devices_are_paired_by_handing_a_tensor_over(monkeypatch: pytest.MonkeyPatch) -> None:
    from sim_rl_mjx import transfer

    class SecondGpu:
        """Where JAX finds what torch has on its first GPU: the two need not count alike."""

    gpu, handed = SecondGpu(), []

    def from_dlpack(tensor: torch.Tensor) -> Any:
        handed.append(tensor.device.type)
        return type("Array", (), {"devices": lambda self: {gpu}})()

    monkeypatch.setattr(transfer.jax.dlpack, "from_dlpack", from_dlpack)
    # A device that torch has on every machine, and that is not the CPU.
    assert transfer._jax_device_of(torch.device("meta")) is gpu
    assert handed == ["meta"]

    def refuse(tensor: torch.Tensor) -> Any:
        raise RuntimeError("no such platform")

    monkeypatch.setattr(transfer.jax.dlpack, "from_dlpack", refuse)
    assert transfer._jax_device_of(torch.device("meta")) == jax.devices("cpu")[0]


def test_pictures_are_the_tasks_own_or_none(caplog: pytest.LogCaptureFixture) -> None:
    with open_line(2, render_width=8, render_height=4) as env:
        frame = env.render()
        assert frame.shape == (4, 8, 3)
        env.step(moves(1.0, 0.0))  # beyond 0.5, the picture is white
        assert env.render().min() == 255
    with open_line(2) as env:
        env._film._env.frames = None
        assert env.render() is None
        assert env.render() is None
    assert [record.getMessage() for record in caplog.records] == ["no pictures: Line cannot render here: no OpenGL"]


def test_a_state_without_common_types_is_stored_as_integers() -> None:
    from sim_rl_mjx.transfer import from_state_dict, to_state_dict

    tree = {"key": jax.random.PRNGKey(3), "half": jnp.array([0.5, jnp.nan], jnp.bfloat16), "none": jnp.zeros((0, 2))}
    stored = to_state_dict(tree)
    assert {value.dtype for value in stored.values()} == {torch.int32, torch.int16, torch.float32}
    back = from_state_dict(stored, tree, jax.devices("cpu")[0])
    for name, leaf in tree.items():
        assert back[name].dtype == leaf.dtype
        assert np.asarray(back[name]).tobytes() == np.asarray(leaf).tobytes()


# Resetting some


@pytest.mark.parametrize("full_reset", [False, True])
def test_some_environments_are_reset_out_of_any_state_and_the_others_go_on(full_reset: bool) -> None:
    with (
        open_line(num_envs=3, full_reset=full_reset, seed=4) as env,
        open_line(num_envs=3, full_reset=full_reset, seed=4) as untouched,
    ):
        actions = actions_for(env, 3)
        assert_equal(play(env, actions[:2]), play(untouched, actions[:2]))
        state = env._carry.state
        broken = state.data.at[1].set(jnp.nan)
        info = {**state.info, "last_act": state.info["last_act"].at[1].set(jnp.nan)}
        env._carry = env._carry._replace(state=state.replace(data=broken, obs=state.obs, info=info))
        assert env.reset_envs(torch.tensor([1]))
        obs, other = env.get_observations(), untouched.get_observations()
        assert env.episode_length_buf.tolist() == [2, 0, 2]
        for name in obs.keys():
            assert torch.equal(obs[name][[0, 2]], other[name][[0, 2]])
        ours, theirs = env.step(actions[2]), untouched.step(actions[2])
        for name in obs.keys():
            assert torch.isfinite(ours[0][name]).all()
            assert torch.equal(ours[0][name][[0, 2]], theirs[0][name][[0, 2]])
        assert not ours[2].any()
