"""The recurrent model: steps, trajectories, and its place among models without a memory."""

import copy
import pickle

import pytest
import torch
from small_configs import GAUSSIAN
from tensordict import TensorDict

from sim_rl_plugin.models import RNNModel
from sim_rl_plugin.modules.trajectories import split_and_pad_trajectories

GROUPS = {"actor": ["policy", "speed"], "critic": ["camera"]}
KINDS = pytest.mark.parametrize("kind", ["gru", "lstm"])


def observations(*size: int) -> TensorDict:
    return TensorDict({"speed": torch.randn(*size, 1), "policy": torch.randn(*size, 2)}, batch_size=list(size))


def model(kind: str = "gru", **arguments) -> RNNModel:
    arguments = {"obs_normalization": True, "distribution_cfg": dict(GAUSSIAN), **arguments}
    return RNNModel(
        observations(4), GROUPS, "actor", 2, [6], rnn_type=kind, rnn_hidden_dim=5, rnn_num_layers=2, **arguments
    )


@KINDS
def test_a_rollout_gives_the_same_step_by_step_and_as_trajectories(kind: str):
    torch.manual_seed(0)
    policy, rollout = model(kind), observations(6, 4)
    policy.update_normalization(rollout.flatten(0, 1))
    dones = torch.rand(6, 4, 1) < 0.3
    steps = []
    for step in range(6):
        steps.append(policy(rollout[step]))
        policy.reset(dones[step].squeeze(-1))
    padded, masks = split_and_pad_trajectories(rollout, dones)
    zeros = torch.zeros(2, masks.shape[1], 5)
    together = policy(padded, masks, zeros if kind == "gru" else (zeros, zeros))
    torch.testing.assert_close(together, torch.stack(steps))
    # The parts of a pass make the whole.
    prepared = split_and_pad_trajectories(policy.prepare(rollout), dones)[0]
    latent = policy.encode(prepared, masks, zeros if kind == "gru" else (zeros, zeros))
    torch.testing.assert_close(policy.forward_latent(latent), together)
    assert policy.has_fixed_input


@KINDS
def test_one_step_trajectories_keep_their_time(kind: str):
    policy, zeros = model(kind), torch.zeros(2, 4, 5)
    masks = torch.ones(1, 4, dtype=torch.bool)
    assert policy(observations(1, 4), masks, zeros if kind == "gru" else (zeros, zeros)).shape == (1, 4, 2)


@KINDS
def test_copies_of_a_model_that_has_learned(kind: str):
    policy, obs = model(kind), observations(4)
    policy(obs, stochastic_output=True)
    policy.output_mean.sum().backward()
    policy.detach_hidden_state()
    memory = policy.get_hidden_state()
    copies = [copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))]
    expected = policy(obs)
    for copied in copies:
        torch.testing.assert_close(copied.get_hidden_state(), memory)
        torch.testing.assert_close(copied(obs), expected)


def test_state_dict_has_the_keys_of_rsl_rl():
    names = {name for name in model().state_dict() if name.startswith("rnn")}
    assert names == {
        f"rnn.rnn.{kind}_{part}_l{n}" for kind in ("weight", "bias") for part in ("ih", "hh") for n in "01"
    }


def test_images_are_refused_by_name():
    obs = TensorDict({"camera": torch.zeros(4, 1, 3, 3)}, batch_size=[4])
    with pytest.raises(ValueError, match=r"RNNModel reads flat observation groups .* 'camera' of obs_groups.critic"):
        RNNModel(obs, GROUPS, "critic", 1)
