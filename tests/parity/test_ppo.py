"""PPO against rsl_rl 5.5.1: same weights, same rollout, same permutation, number by number.

Runs where rsl-rl-lib is installed (``make parity`` builds such an environment) and is skipped
elsewhere; rsl_rl is never needed at run time.
"""

import copy

import pytest
import torch
from tensordict import TensorDict

from sim_rl_plugin.algorithms import PPO

pytest.importorskip("rsl_rl", reason="`make parity` installs rsl-rl-lib beside us")
from rsl_rl.algorithms import PPO as ReferencePPO

NUM_ENVS, NUM_STEPS, NUM_ACTIONS = 64, 24, 5
ROLLOUT_TOLERANCE = 1e-5
"""Largest relative difference of what is computed from one rollout, in float32."""
MOVED_TOLERANCE = 1e-3
"""Largest difference of parameters after three updates, as a share of the distance they moved."""


class Shapes:
    """What construct_algorithm reads of an environment."""

    num_envs = NUM_ENVS
    num_actions = NUM_ACTIONS


def observations() -> TensorDict:
    groups = {"policy": 3.0 * torch.randn(NUM_ENVS, 11) + 1.0, "privileged": torch.randn(NUM_ENVS, 7)}
    return TensorDict(groups, batch_size=[NUM_ENVS])


def training_dict(algorithm: dict, std_type: str = "scalar", normalization: bool = True) -> dict:
    model = {"class_name": "MLPModel", "hidden_dims": [32, 16], "activation": "elu", "obs_normalization": normalization}
    distribution = {"class_name": "GaussianDistribution", "init_std": 0.8, "std_type": std_type}
    return {
        "num_steps_per_env": NUM_STEPS,
        "obs_groups": {"actor": ["policy"], "critic": ["policy", "privileged"]},
        "algorithm": {"class_name": "PPO", "num_learning_epochs": 3, **algorithm},
        "actor": {**model, "distribution_cfg": distribution},
        "critic": dict(model),
        "multi_gpu": None,
    }


def collect(algorithm, seed: int, fast: bool = False) -> None:
    """Play one rollout of random observations and rewards, with time-outs and terminations."""
    torch.manual_seed(seed)
    steps = [observations() for _ in range(NUM_STEPS + 1)]
    rewards = torch.randn(NUM_STEPS, NUM_ENVS)
    dones = torch.rand(NUM_STEPS, NUM_ENVS) < 0.1
    time_outs = dones & (torch.rand(NUM_STEPS, NUM_ENVS) < 0.5)
    torch.manual_seed(seed)
    if fast:
        algorithm.begin_rollout()
    with torch.inference_mode():
        for step in range(NUM_STEPS):
            algorithm.act(steps[step])
            extras = {"time_outs": time_outs[step]}
            algorithm.process_env_step(steps[step + 1], rewards[step], dones[step], extras)
        algorithm.compute_returns(steps[-1])


def flat_parameters(algorithm) -> torch.Tensor:
    models = (algorithm.actor, algorithm.critic)
    return torch.cat([p.detach().reshape(-1) for model in models for p in model.parameters()])


def assert_relative(ours: torch.Tensor, theirs: torch.Tensor, what: str) -> None:
    difference = (ours - theirs).abs().max() / theirs.abs().max()
    assert difference <= ROLLOUT_TOLERANCE, f"{what} differ by {difference:.2e} of the largest"


ROWS = {
    "defaults": ({}, {}),
    "fixed schedule": ({"schedule": "fixed"}, {}),
    "plain value loss": ({"use_clipped_value_loss": False}, {}),
    "advantages per mini-batch": ({"normalize_advantage_per_mini_batch": True}, {}),
    "log std": ({}, {"std_type": "log"}),
    "no normalisation": ({}, {"normalization": False}),
    "adamw": ({"optimizer": "adamw"}, {}),
    "sgd": ({"optimizer": "sgd", "learning_rate": 1e-2}, {}),
    "rmsprop": ({"optimizer": "rmsprop"}, {}),
    "uneven mini-batches": ({"num_mini_batches": 7}, {}),
}


def build_pair(algorithm: dict, model: dict) -> tuple[PPO, ReferencePPO]:
    cfg = training_dict(algorithm, **model)
    torch.manual_seed(0)
    obs = observations()
    ours = PPO.construct_algorithm(obs, Shapes(), copy.deepcopy(cfg), "cpu")
    theirs = ReferencePPO.construct_algorithm(obs, Shapes(), copy.deepcopy(cfg), "cpu")
    theirs.actor.load_state_dict(ours.actor.state_dict())
    theirs.critic.load_state_dict(ours.critic.state_dict())
    for algorithm_ in (ours, theirs):
        algorithm_.train_mode()
    return ours, theirs


def record_kl(algorithm) -> list[float]:
    """Return a list that fills with the mean KL divergence of every mini-batch."""
    kl_means: list[float] = []
    get_kl_divergence = algorithm.actor.get_kl_divergence

    def recorded(old_params, new_params):
        kl = get_kl_divergence(old_params, new_params)
        kl_means.append(kl.mean().item())
        return kl

    algorithm.actor.get_kl_divergence = recorded
    return kl_means


def compare(ours: PPO, theirs: ReferencePPO, fast: bool) -> None:
    start = flat_parameters(theirs)
    our_kl, their_kl = record_kl(ours), record_kl(theirs)
    for update in range(3):
        collect(ours, seed=update, fast=fast)
        collect(theirs, seed=update)
        if update == 0:  # later rollouts differ by what the parameters do
            for name in ("actions", "values", "actions_log_prob", "rewards", "returns", "advantages"):
                assert_relative(getattr(ours.storage, name), getattr(theirs.storage, name), name)
        torch.manual_seed(100 + update)
        our_losses = ours.update()
        torch.manual_seed(100 + update)
        their_losses = theirs.update()
        assert our_losses.keys() == their_losses.keys()
        for name, value in their_losses.items():
            tolerance = ROLLOUT_TOLERANCE if update == 0 else 1e-3
            assert our_losses[name] == pytest.approx(value, rel=tolerance, abs=tolerance), f"{name}, update {update}"
        assert ours.learning_rate == pytest.approx(theirs.learning_rate, rel=1e-6), f"update {update}"
    assert our_kl == pytest.approx(their_kl, rel=1e-3, abs=1e-7)
    moved = (flat_parameters(theirs) - start).norm()
    apart = (flat_parameters(ours) - flat_parameters(theirs)).norm()
    assert apart <= MOVED_TOLERANCE * moved, f"parameters are {apart / moved:.2e} of their way apart"
    for kind in ("actor", "critic"):
        for name, value in getattr(theirs, kind).state_dict().items():
            if "obs_normalizer" in name:
                torch.testing.assert_close(getattr(ours, kind).state_dict()[name], value, rtol=1e-5, atol=1e-5)


@pytest.fixture(autouse=True)
def _no_spurious_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep rsl_rl from raising its learning rate by rounding alone (a KL of about 1e-14), as we do."""
    from rsl_rl.models import MLPModel as ReferenceModel

    original = ReferenceModel.get_kl_divergence

    def without_rounding(self, old_params, new_params):
        kl = original(self, old_params, new_params)
        return kl if kl.mean() > 1e-8 else torch.zeros_like(kl)

    monkeypatch.setattr(ReferenceModel, "get_kl_divergence", without_rounding)


@pytest.mark.parametrize("fast", [False, True], ids=["step by step", "deferred"])
@pytest.mark.parametrize("row", ROWS)
def test_same_numbers(row: str, fast: bool):
    compare(*build_pair(*ROWS[row]), fast)


BREAKAGES = {
    "gamma off by 1 %": lambda ppo: setattr(ppo, "gamma", ppo.gamma * 0.99),
    "lam off by 1 %": lambda ppo: setattr(ppo, "lam", ppo.lam * 0.99),
    "clip off by 1 %": lambda ppo: setattr(ppo, "clip_param", ppo.clip_param * 0.99),
    "entropy bonus off by 1 %": lambda ppo: setattr(ppo, "entropy_coef", ppo.entropy_coef * 0.99),
    "value loss off by 1 %": lambda ppo: setattr(ppo, "value_loss_coef", ppo.value_loss_coef * 0.99),
    "no gradient clipping": lambda ppo: setattr(ppo, "max_grad_norm", 1e9),
    "learning rate off by 1 %": lambda ppo: setattr(ppo, "learning_rate", ppo.learning_rate * 0.99),
    "other KL target": lambda ppo: setattr(ppo, "desired_kl", 0.02),
    "no time-out bootstrap": lambda ppo: setattr(
        ppo, "process_env_step", lambda obs, r, d, extras: PPO.process_env_step(ppo, obs, r, d, {})
    ),
    "KL the wrong way round": lambda ppo: setattr(
        ppo.actor, "get_kl_divergence", lambda old, new: type(ppo.actor).get_kl_divergence(ppo.actor, new, old)
    ),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_the_comparison_notices_broken_mathematics(breakage: str):
    ours, theirs = build_pair({"learning_rate": 3e-3}, {})
    BREAKAGES[breakage](ours)
    with pytest.raises(AssertionError):
        compare(ours, theirs, fast=False)


def test_checkpoints_load_both_ways():
    ours, theirs = build_pair({}, {})
    collect(ours, seed=0)
    ours.update()
    theirs.load(copy.deepcopy(ours.save()), None, True)
    assert theirs.learning_rate == ours.learning_rate
    compare(ours, theirs, fast=False)

    ours, theirs = build_pair({}, {})
    collect(theirs, seed=0)
    theirs.update()
    ours.load(copy.deepcopy(theirs.save()), None, True)
    assert theirs.learning_rate == ours.learning_rate
    compare(ours, theirs, fast=True)
