"""Environments that cannot be trained on are refused when the runner meets them, or in the first step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fuzzing import attempt, short, values
from hypothesis import given
from hypothesis import strategies as st
from small_configs import ppo_cfg
from tensordict import TensorDict

from sim_rl_plugin.errors import UserError
from sim_rl_plugin.runners import OnPolicyRunner
from sim_rl_plugin.testing import PointEnv


class _Bent(PointEnv):
    """An environment whose attributes, observations or steps are replaced."""

    bend_obs: Any = staticmethod(lambda obs: obs)
    bend: Any = staticmethod(lambda *result: result)

    def get_observations(self) -> Any:
        # Of three points, whatever the attributes say.
        groups = {"policy": self.position.clone(), "critic": torch.zeros(3, 3)}
        return self.bend_obs(TensorDict(groups, batch_size=[3]))

    def step(self, actions: torch.Tensor) -> Any:
        return self.bend(*super().step(actions))


def _train(env: PointEnv) -> None:
    cfg = ppo_cfg(num_learning_epochs=1, num_mini_batches=1) | {"num_steps_per_env": 2, "logger": []}
    OnPolicyRunner(env, cfg).learn(1)


def _bent(**members: Any) -> _Bent:
    env = _Bent(num_envs=3)
    for name, value in members.items():
        setattr(env, name, value)
    return env


def _groups(obs: TensorDict, **groups: torch.Tensor) -> TensorDict:
    return TensorDict({**dict(obs.items()), **groups}, batch_size=[])


WRONG = {
    "num_envs": (lambda: _bent(num_envs=0), "_Bent.num_envs: expected a whole number of at least 1, found 0"),
    "num_actions": (lambda: _bent(num_actions=2.0), "_Bent.num_actions: expected a whole number"),
    "other num_envs": (
        lambda: _bent(num_envs=4),
        "get_observations()['policy']: expected a tensor of numbers with 4 rows",
    ),
    "device": (lambda: _bent(device="gpu"), "_Bent.device: expected such as 'cpu' or 'cuda:0', found 'gpu'"),
    "no device": (lambda: _bent(device=None), "_Bent.device"),
    "dict": (lambda: _bent(bend_obs=lambda obs: dict(obs.items())), "get_observations(): expected a TensorDict"),
    "empty": (lambda: _bent(bend_obs=lambda obs: obs.select()), "get_observations(): expected a TensorDict of groups"),
    "vector": (
        lambda: _bent(bend_obs=lambda obs: _groups(obs, policy=torch.zeros(3))),
        "['policy']: expected a tensor",
    ),
    "complex": (lambda: _bent(bend_obs=lambda obs: _groups(obs, policy=torch.zeros(3, 2) * 1j)), "torch.complex64"),
    "four": (lambda: _bent(bend=lambda o, r, d, e: (o, r, d)), "step(): expected (obs, rewards, dones, extras)"),
    "five": (lambda: _bent(bend=lambda o, r, d, e: (o, r, d, d, e)), "step(): expected (obs, rewards, dones, extras)"),
    "obs": (lambda: _bent(bend=lambda o, r, d, e: (o.select("policy"), r, d, e)), "the groups of get_observations()"),
    "rewards": (
        lambda: _bent(bend=lambda o, r, d, e: (o, r[:2], d, e)),
        "step(): rewards: expected one number for each of 3",
    ),
    "no tensor": (lambda: _bent(bend=lambda o, r, d, e: (o, r.tolist(), d, e)), "step(): rewards: expected a tensor"),
    "dones": (lambda: _bent(bend=lambda o, r, d, e: (o, r, d[:, None, None].expand(3, 2, 2), e)), "step(): dones"),
    "extras": (lambda: _bent(bend=lambda o, r, d, e: (o, r, d, None)), "step(): extras: expected a dict, found None"),
    "time_outs": (lambda: _bent(bend=lambda o, r, d, e: (o, r, d, {"time_outs": True})), "extras['time_outs']"),
    "final_obs": (
        lambda: _bent(bend=lambda o, r, d, e: (o, r, d, {**e, "final_obs": o.select("policy")})),
        "step(): extras['final_obs']: expected the groups of obs",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name: str):
    make, message = WRONG[name]
    error = attempt("environment, by hand", lambda: _train(make()))
    assert isinstance(error, UserError)
    assert message in str(error)


@pytest.mark.parametrize(
    "bend",
    [
        lambda o, r, d, e: (o, r.double(), d.long(), {}),
        lambda o, r, d, e: (o, r[:, None].squeeze(-1), d.float(), {"time_outs": e["time_outs"].float()}),
        lambda o, r, d, e: (o, r, d, {**e, "anything": object()}),
    ],
)
def test_what_rsl_rl_takes_is_taken(bend):
    _train(_bent(bend=bend))


@short(25)
@given(name=st.sampled_from(["num_envs", "num_actions", "device"]), value=values)
def test_anything_as_attribute(name: str, value: Any):
    def use() -> None:
        OnPolicyRunner(_bent(**{name: value}), ppo_cfg() | {"logger": []})

    if name == "num_actions" and isinstance(value, int) and value > 1000:
        return  # a number, if one that fills the memory
    attempt("environment, attributes", use)


@short(25)
@given(
    place=st.integers(0, 3),
    value=st.one_of(values, st.lists(st.integers(0, 4), max_size=3).map(torch.zeros)),
)
def test_anything_from_step(place: int, value: Any):
    def bend(*result: Any) -> tuple[Any, ...]:
        return (*result[:place], value, *result[place + 1 :])

    attempt("environment, steps", lambda: _train(_bent(bend=bend)))
