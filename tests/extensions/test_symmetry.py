"""Mirrored samples and the mirror loss, by hand."""

import copy

import pytest
import torch
from small_configs import GRU, mirror, ppo_cfg, ppo_cfg_with
from tensordict import TensorDict

from sim_rl_plugin.algorithms import PPO
from sim_rl_plugin.extensions import Symmetry
from sim_rl_plugin.storage import RolloutStorage
from sim_rl_plugin.testing import PointEnv


class Shifted(torch.nn.Module):
    """Acts ``observation + 1``; symmetric would be ``observation``."""

    def forward(self, obs: TensorDict) -> torch.Tensor:
        return obs["policy"] + 1.0


def batch() -> RolloutStorage.Batch:
    column = torch.tensor([[1.0], [2.0]])
    return RolloutStorage.Batch(
        observations=TensorDict({"policy": torch.tensor([[3.0], [4.0]])}, batch_size=[2]), actions=column.clone(),
        values=column + 10, advantages=column + 20, returns=column + 30, old_actions_log_prob=column + 40,
        old_distribution_params=(column,),
    )  # fmt: skip


def test_mirror_images_lie_behind_the_originals_and_keep_their_numbers():
    augmented = batch()
    Symmetry(None, mirror, use_data_augmentation=True).augment_batch(augmented, 2)
    assert augmented.observations["policy"].flatten().tolist() == [3, 4, -3, -4]
    assert augmented.actions.flatten().tolist() == [1, 2, -1, -2]
    assert augmented.values.flatten().tolist() == [11, 12, 11, 12]
    assert augmented.advantages.flatten().tolist() == [21, 22, 21, 22]
    assert augmented.returns.flatten().tolist() == [31, 32, 31, 32]
    assert augmented.old_actions_log_prob.flatten().tolist() == [41, 42, 41, 42]
    assert augmented.old_distribution_params[0].shape == (2, 1)
    untouched = batch()
    Symmetry(None, mirror).augment_batch(untouched, 2)
    assert untouched.observations["policy"].flatten().tolist() == [3, 4]


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("use", [False, True])
def test_the_mirror_loss_compares_both_ways_around(augment: bool, use: bool):
    symmetry = Symmetry(None, mirror, augment, use, 1.0)
    samples, actor = batch(), Shifted()
    symmetry.augment_batch(samples, 2)
    samples.observations["policy"].requires_grad_()
    # Actions at -3 and -4 are -2 and -3; mirrored actions at 3 and 4 are -4 and -5: two apart, squared four.
    assert symmetry.compute_loss(actor, samples, 2).item() == pytest.approx(4.0)
    scale = torch.nn.Parameter(torch.ones(()))
    loss = symmetry.compute_loss(lambda obs: scale * (obs["policy"] + 1.0), batch_of(augment, symmetry), 2)
    assert loss.requires_grad is use
    if use:
        # d/ds of mean (s (o' + 1) - target)^2 with the target fixed: mean of 2 * 2 * [-2, -3].
        (gradient,) = torch.autograd.grad(loss, scale)
        assert gradient.item() == pytest.approx(-10.0)


def batch_of(augment: bool, symmetry: Symmetry) -> RolloutStorage.Batch:
    samples = batch()
    symmetry.augment_batch(samples, 2)
    return samples


def trained(cfg: dict) -> tuple[PPO, dict]:
    torch.manual_seed(0)
    env = PointEnv(num_envs=8)
    algorithm = PPO.construct_algorithm(env.get_observations(), env, cfg, "cpu")
    obs = env.get_observations()
    for _ in range(algorithm.storage.num_transitions_per_env):
        obs, rewards, dones, extras = env.step(algorithm.act(obs))
        algorithm.process_env_step(obs, rewards, dones, extras)
    algorithm.compute_returns(obs)
    return algorithm, algorithm.update()


def asymmetry(algorithm: PPO) -> float:
    obs = PointEnv(num_envs=64, seed=3).get_observations()
    both, _ = mirror(None, obs, None)
    actions = algorithm.actor(both)
    return (actions[:64] + actions[64:]).square().mean().item()


def test_the_loss_makes_ppos_policy_more_symmetric_and_the_config_stays_as_it_was():
    cfg = ppo_cfg(learning_rate=1e-3, schedule="fixed")
    plain, losses = trained(cfg)
    assert "symmetry" not in losses
    cfg["algorithm"]["symmetry_cfg"] = {
        "data_augmentation_func": mirror, "use_mirror_loss": True, "mirror_loss_coeff": 10.0,
    }  # fmt: skip
    before = copy.deepcopy(cfg)
    mirrored, losses = trained(cfg)
    assert cfg == before
    assert losses["symmetry"] > 0.0
    assert asymmetry(mirrored) < 0.8 * asymmetry(plain)


def test_without_a_use_the_loss_is_reported_and_changes_nothing():
    plain, _ = trained(ppo_cfg())
    watched, losses = trained(ppo_cfg(symmetry_cfg={"data_augmentation_func": mirror}))
    assert losses["symmetry"] > 0.0
    for name, value in plain.actor.state_dict().items():
        torch.testing.assert_close(watched.actor.state_dict()[name], value)


def test_augmentation_and_a_function_by_name():
    plain, _ = trained(ppo_cfg())
    cfg = {"data_augmentation_func": "small_configs:mirror", "use_data_augmentation": True}
    augmented, losses = trained(ppo_cfg(symmetry_cfg=cfg))
    assert losses["symmetry"] > 0.0
    assert not torch.equal(augmented.actor.mlp[0].weight, plain.actor.mlp[0].weight)


def test_what_cannot_be_mirrored_is_refused():
    with pytest.raises(ValueError, match=r"algorithm\.symmetry_cfg\.data_augmentation_func: .*no_such_module"):
        trained(ppo_cfg(symmetry_cfg={"data_augmentation_func": "no_such_module:mirror"}))
    with pytest.raises(ValueError, match=r"algorithm\.symmetry_cfg: mirror images need models without a memory"):
        trained(ppo_cfg_with(GRU, symmetry_cfg={"data_augmentation_func": mirror}))
