"""Networks, normalisation and distributions."""

import copy
import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from sim_rl_plugin.modules import MLP, EmpiricalNormalization, GaussianDistribution
from sim_rl_plugin.modules.activation import _ACTIVATIONS, apply_in_place, resolve_nn_activation


def test_mlp_has_the_layer_names_of_rsl_rl():
    mlp = MLP(3, 2, [5, -1])
    assert {name: tuple(value.shape) for name, value in mlp.state_dict().items()} == {
        "0.weight": (5, 3), "0.bias": (5,), "2.weight": (3, 5), "2.bias": (3,), "4.weight": (2, 3), "4.bias": (2,),
    }  # fmt: skip
    assert MLP(3, [2, 4], [5])(torch.zeros(7, 3)).shape == (7, 2, 4)


@pytest.mark.parametrize("activation", sorted(_ACTIVATIONS))
def test_activations_in_place_change_neither_output_nor_gradient(activation: str):
    torch.manual_seed(0)
    mlp = MLP(3, 2, [8, 8], activation, last_activation="tanh")
    plain = torch.nn.Sequential(*copy.deepcopy(list(mlp)))
    inputs = torch.randn(16, 3, requires_grad=True)
    other = inputs.detach().clone().requires_grad_()
    mlp(inputs).square().sum().backward()
    plain(other).square().sum().backward()
    assert torch.equal(mlp(inputs), plain(other))
    assert inputs.grad is not None
    torch.testing.assert_close(inputs.grad, other.grad)
    torch.testing.assert_close([p.grad for p in mlp.parameters()], [p.grad for p in plain.parameters()])


def test_elu_keeps_its_derivative_in_bfloat16():
    """At -8 the output is -1 to bfloat16's last bit, so that the derivative exp(-8) is not in it."""
    x = torch.full((1,), -8.0, dtype=torch.bfloat16, requires_grad=True)
    apply_in_place(torch.nn.ELU(), x * 1.0).backward()
    assert x.grad.item() == pytest.approx(math.exp(-8.0), rel=0.01)


def test_unknown_activation_and_no_hidden_layer():
    with pytest.raises(ValueError, match="did you mean 'relu'"):
        resolve_nn_activation("rellu")
    with pytest.raises(ValueError, match="hidden_dims"):
        MLP(3, 2, [])


def test_init_weights_is_orthogonal():
    mlp = MLP(4, 4, [4])
    mlp.init_weights(2.0)
    torch.testing.assert_close(mlp[0].weight @ mlp[0].weight.T, 4.0 * torch.eye(4))
    assert not mlp[0].bias.any()


def test_normalizer_learns_mean_and_deviation_of_everything_seen():
    torch.manual_seed(0)
    normalizer = EmpiricalNormalization(3)
    data = torch.randn(1000, 3) * torch.tensor([1.0, 10.0, 0.1]) + torch.tensor([0.0, 100.0, -5.0])
    for part in data.split([1, 99, 400, 500]):
        normalizer.update(part)
    torch.testing.assert_close(normalizer.mean, data.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(normalizer.std, data.std(0, unbiased=False), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(normalizer.inverse(normalizer(data)), data, rtol=1e-4, atol=1e-4)
    assert normalizer.count.item() == 1000


def test_normalizer_rests_in_evaluation_mode_and_after_until():
    normalizer = EmpiricalNormalization(1, until=10).eval()
    normalizer.update(torch.ones(10, 1))
    assert normalizer.count.item() == 0
    normalizer.train()
    normalizer.update(torch.ones(10, 1))
    normalizer.update(torch.zeros(10, 1))
    assert normalizer.mean.item() == 1.0


def test_normalizer_updated_in_inference_mode_still_trains():
    normalizer = EmpiricalNormalization(2)
    with torch.inference_mode():
        normalizer.update(torch.randn(8, 2))
    weight = torch.ones(2, requires_grad=True)
    (normalizer(torch.randn(4, 2)) * weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("std_type", ["scalar", "log"])
def test_gaussian_agrees_with_torch(std_type: str):
    torch.manual_seed(0)
    gaussian = GaussianDistribution(3, init_std=0.5, std_type=std_type)
    mean, actions = torch.randn(7, 3), torch.randn(7, 3)
    gaussian.update(mean)
    reference = Normal(mean, torch.full((3,), 0.5).expand_as(mean))
    torch.testing.assert_close(gaussian.log_prob(actions), reference.log_prob(actions).sum(-1))
    torch.testing.assert_close(gaussian.entropy, reference.entropy().sum(-1))
    torch.testing.assert_close(gaussian.std, reference.stddev)
    old = (mean + 0.1, torch.full_like(mean, 0.7))
    torch.testing.assert_close(
        gaussian.kl_divergence(old, gaussian.params), kl_divergence(Normal(*old), reference).sum(-1)
    )
    torch.manual_seed(1)
    sample = gaussian.sample()
    torch.manual_seed(1)
    assert torch.equal(sample, reference.sample())


@pytest.mark.parametrize("std_type", ["scalar", "log"])
def test_deviation_never_gets_negative(std_type: str):
    gaussian = GaussianDistribution(2, init_std=0.0, std_type=std_type)
    gaussian.update(torch.zeros(1, 2))
    assert gaussian.std.flatten().tolist() == pytest.approx([1e-6, 1e-6])
    gaussian = GaussianDistribution(2, init_std=0.1, std_type=std_type)
    with torch.no_grad():
        for parameter in gaussian.parameters():
            parameter.fill_(-100.0)
    gaussian.update(torch.zeros(4, 2))
    assert (gaussian.std >= 0.99e-6).all()
    assert torch.isfinite(gaussian.log_prob(gaussian.sample())).all()


def test_gaussian_refuses_nonsense():
    with pytest.raises(ValueError, match="std_type"):
        GaussianDistribution(2, std_type="logarithmic")
    with pytest.raises(ValueError, match="init_std"):
        GaussianDistribution(2, init_std=-0.1)
