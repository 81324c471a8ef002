"""Distributions whose shape the network gives, against torch's."""

import copy
import math
import pickle

import pytest
import torch
from torch.distributions import AffineTransform, Beta, Normal, TransformedDistribution, kl_divergence

from sim_rl_plugin.modules import (
    MLP,
    BetaDistribution,
    GaussianDistribution,
    HeteroscedasticGaussianDistribution,
)


@pytest.mark.parametrize("std_type", ["scalar", "log"])
def test_a_gaussian_with_its_own_deviation_agrees_with_torch(std_type: str):
    torch.manual_seed(0)
    gaussian = HeteroscedasticGaussianDistribution(3, std_type=std_type)
    assert gaussian.input_dim == [2, 3]
    assert not list(gaussian.parameters())
    mean, std, actions = torch.randn(7, 3), torch.rand(7, 3) + 0.1, torch.randn(7, 3)
    gaussian.update(torch.stack((mean, std if std_type == "scalar" else std.log()), dim=-2))
    reference = Normal(mean, std)
    torch.testing.assert_close(gaussian.mean, mean)
    torch.testing.assert_close(gaussian.std, std)
    torch.testing.assert_close(gaussian.log_prob(actions), reference.log_prob(actions).sum(-1))
    torch.testing.assert_close(gaussian.entropy, reference.entropy().sum(-1))
    old = (mean + 0.1, torch.full_like(mean, 0.7))
    torch.testing.assert_close(
        gaussian.kl_divergence(old, gaussian.params), kl_divergence(Normal(*old), reference).sum(-1)
    )


@pytest.mark.parametrize("std_type", ["scalar", "log"])
def test_a_deviation_starts_at_init_std_wherever_the_robot_is_and_stays_in_its_range(std_type: str):
    gaussian = HeteroscedasticGaussianDistribution(3, init_std=0.3, std_range=(0.2, 2.0), std_type=std_type)
    mlp = MLP(4, gaussian.input_dim, [8])
    gaussian.init_mlp_weights(mlp)
    gaussian.update(mlp(torch.randn(5, 4)))
    torch.testing.assert_close(gaussian.std, torch.full((5, 3), 0.3))
    assert gaussian.mean.std() > 0
    gaussian.update(torch.full((5, 2, 3), -50.0))
    torch.testing.assert_close(gaussian.std, torch.full((5, 3), 0.2))
    gaussian.update(torch.full((5, 2, 3), 50.0))
    torch.testing.assert_close(gaussian.std, torch.full((5, 3), 2.0))


def stretched_beta(output: torch.Tensor, low: float, high: float) -> tuple[Beta, TransformedDistribution]:
    unit = Beta(*(torch.nn.functional.softplus(output) + 1.0).unbind(-2))
    return unit, TransformedDistribution(unit, AffineTransform(low, high - low))


@pytest.mark.parametrize("limits", [(-1.0, 1.0), (-0.5, 3.0)])
def test_beta_agrees_with_torchs_stretched_one(limits: tuple[float, float]):
    torch.manual_seed(0)
    low, high = limits
    beta, output = BetaDistribution(3, limits), 2.0 * torch.randn(7, 2, 3)
    beta.update(output)
    unit, reference = stretched_beta(output, low, high)
    actions = low + (high - low) * (0.01 + 0.98 * torch.rand(7, 3))
    # The density of a stretched variable is divided by the stretch, once per action.
    torch.testing.assert_close(beta.log_prob(actions), reference.log_prob(actions).sum(-1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(beta.mean, low + (high - low) * unit.mean)
    torch.testing.assert_close(beta.deterministic_output(output), beta.mean)
    torch.testing.assert_close(beta.std, (high - low) * unit.stddev)
    # rsl_rl's entropy is that on [0, 1].
    torch.testing.assert_close(beta.entropy, unit.entropy().sum(-1))
    other = BetaDistribution(3, limits)
    other.update(output + 0.3)
    old, _ = stretched_beta(output + 0.3, low, high)
    torch.testing.assert_close(beta.kl_divergence(other.params, beta.params), kl_divergence(old, unit).sum(-1))
    torch.testing.assert_close(beta.kl_divergence(beta.params, beta.params), torch.zeros(7))


def test_beta_samples_stay_in_range_have_its_moments_and_a_finite_density():
    torch.manual_seed(0)
    beta = BetaDistribution(2, (-2.0, 1.0))
    beta.update(torch.tensor([[-30.0, 4.0], [30.0, -1.0]]).expand(20000, 2, 2))
    samples = beta.sample()
    assert not samples.requires_grad
    assert samples.min() >= -2.0
    assert samples.max() <= 1.0
    torch.testing.assert_close(samples.mean(0), beta.mean[0], atol=0.02, rtol=0.0)
    torch.testing.assert_close(samples.std(0), beta.std[0], atol=0.02, rtol=0.0)
    assert torch.isfinite(beta.log_prob(samples)).all()
    assert torch.isfinite(beta.log_prob(torch.tensor([-2.0, 1.0]).expand(20000, 2))).all()


def test_betas_second_parameter_starts_the_same_for_every_observation():
    beta = BetaDistribution(2)
    mlp = MLP(4, beta.input_dim, [8])
    beta.init_mlp_weights(mlp)
    beta.update(mlp(torch.randn(5, 4)))
    torch.testing.assert_close(beta.params[1], torch.full((5, 2), math.log(2.0) + 1.0))


@pytest.mark.parametrize(
    "distribution",
    [GaussianDistribution(3), HeteroscedasticGaussianDistribution(3, 0.5), BetaDistribution(3, (-2.0, 1.0))],
    ids=lambda distribution: type(distribution).__name__,
)
def test_the_exported_module_gives_the_deterministic_output(distribution):
    size = distribution.input_dim
    output = torch.randn(5, size) if isinstance(size, int) else torch.randn(5, *size)
    module = torch.jit.script(distribution.as_deterministic_output_module())
    torch.testing.assert_close(module(output), distribution.deterministic_output(output))


@pytest.mark.parametrize("kind", [GaussianDistribution, HeteroscedasticGaussianDistribution, BetaDistribution])
def test_a_copy_leaves_the_last_pass_behind(kind):
    distribution = kind(3)
    size = distribution.input_dim
    output = torch.randn(5, size) if isinstance(size, int) else torch.randn(5, *size)
    distribution.update(output.requires_grad_() * 1.0)
    for copied in (copy.deepcopy(distribution), pickle.loads(pickle.dumps(distribution))):
        with pytest.raises(AssertionError, match="update"):
            _ = copied.mean
        copied.update(output)
        torch.testing.assert_close(copied.mean, distribution.mean)


@pytest.mark.parametrize("kind", [HeteroscedasticGaussianDistribution, BetaDistribution])
def test_the_shape_is_held_in_full_precision(kind):
    """In bfloat16 the divergence of two equal distributions would be larger than the usual target of 0.01."""
    torch.manual_seed(0)
    distribution, output = kind(3), torch.randn(64, 2, 3).abs()
    distribution.update(output)
    actions = distribution.sample()
    expected = distribution.log_prob(actions)
    distribution.update(output.to(torch.bfloat16))
    assert distribution.params[1].dtype == torch.float32
    assert (distribution.log_prob(actions) - expected).abs().mean() < 0.01


def test_empty_ranges_are_refused():
    with pytest.raises(ValueError, match="action_range"):
        BetaDistribution(2, (1.0, 1.0))
    with pytest.raises(ValueError, match="std_range"):
        HeteroscedasticGaussianDistribution(2, std_range=(2.0, 1.0))
