"""Modules, distributions, trajectories and storage against rsl_rl 5.5.1, one function at a time."""

import warnings
from typing import Any

import pytest
import torch
from tensordict import TensorDict

pytest.importorskip("rsl_rl", reason="`make parity` installs rsl-rl-lib beside us")
import rsl_rl.extensions
import rsl_rl.modules as reference
import rsl_rl.storage
import rsl_rl.utils
from parity.harness import relative

import sim_rl_plugin.extensions
import sim_rl_plugin.modules as ours
import sim_rl_plugin.storage
import sim_rl_plugin.utils

ACTIVATIONS = (
    "elu", "selu", "relu", "crelu", "lrelu", "tanh", "sigmoid", "softplus", "gelu", "swish", "mish", "identity",
)  # fmt: skip


def build_both(name: str, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """Return our and their module of one name, with the same weights."""
    modules = []
    for package in (ours, reference):
        torch.manual_seed(0)
        modules.append(getattr(package, name)(*args, **kwargs))
    for (our_name, our_value), (their_name, their_value) in zip(
        modules[0].state_dict().items(), modules[1].state_dict().items(), strict=True
    ):
        assert our_name == their_name
        assert torch.equal(our_value, their_value), f"{our_name} starts from other weights"
    return modules[0], modules[1]


def assert_same(our_value: Any, their_value: Any, tolerance: float = 1e-5) -> None:
    if isinstance(their_value, (tuple, list)):
        for our_part, their_part in zip(our_value, their_value, strict=True):
            assert_same(our_part, their_part, tolerance)
    elif their_value is None:
        assert our_value is None
    else:
        assert relative(our_value, their_value) <= tolerance


def assert_same_gradients(our_module: Any, their_module: Any) -> None:
    for our_parameter, their_parameter in zip(our_module.parameters(), their_module.parameters(), strict=True):
        assert_same(our_parameter.grad, their_parameter.grad)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("last_activation", [None, "tanh"])
def test_mlp(activation: str, last_activation: str | None):
    modules = build_both("MLP", 7, [2, 3], [16, -1, 8], activation, last_activation)
    outputs = []
    for module in modules:
        torch.manual_seed(1)
        output = module(3.0 * torch.randn(5, 7))
        output.square().sum().backward()
        outputs.append(output)
    assert_same(*outputs)
    assert_same_gradients(*modules)


def test_mlp_orthogonal_weights():
    modules = build_both("MLP", 7, 3, [16, 8])
    for module in modules:
        torch.manual_seed(1)
        module.init_weights((1.0, 0.0, 0.5, 0.0, 0.01))
    for our_parameter, their_parameter in zip(*(module.parameters() for module in modules), strict=True):
        assert torch.equal(our_parameter, their_parameter)


CNNS: list[dict[str, Any]] = [
    {"output_channels": [4, 6], "kernel_size": 3},
    {"output_channels": [4, 6], "kernel_size": [5, 3], "stride": [2, 1], "padding": "zeros"},
    {"output_channels": [4], "kernel_size": 3, "padding": "reflect", "activation": "relu"},
    {"output_channels": [4], "kernel_size": 3, "dilation": 2, "padding": "replicate"},
    {"output_channels": [4, 4], "kernel_size": 3, "padding": "circular", "norm": ["batch", "none"]},
    {"output_channels": [4, 4], "kernel_size": 3, "norm": "layer", "max_pool": [True, False]},
    {"output_channels": [4, 5], "kernel_size": 3, "norm": "batch", "max_pool": True},
    {"output_channels": [4], "kernel_size": 3, "global_pool": "avg"},
    {"output_channels": [4], "kernel_size": 3, "global_pool": "max"},
    {"output_channels": [4, 3], "kernel_size": 3, "flatten": False},
]


@pytest.mark.parametrize("settings", CNNS, ids=range(len(CNNS)))
def test_cnn(settings: dict[str, Any]):
    modules = build_both("CNN", (13, 11), 2, **settings)
    assert modules[0].output_dim == modules[1].output_dim
    assert modules[0].output_channels == modules[1].output_channels
    outputs = []
    for module in modules:
        torch.manual_seed(1)
        output = module(torch.randn(5, 2, 13, 11))
        output.square().sum().backward()
        outputs.append(output)
    assert_same(*outputs)
    assert_same_gradients(*modules)
    for module in modules:
        torch.manual_seed(2)
        module.init_weights()
    for our_parameter, their_parameter in zip(*(module.parameters() for module in modules), strict=True):
        assert torch.equal(our_parameter, their_parameter)


DISTRIBUTIONS: list[tuple[str, dict[str, Any]]] = [
    ("GaussianDistribution", {"init_std": 0.7}),
    ("GaussianDistribution", {"init_std": 0.7, "std_type": "log"}),
    ("GaussianDistribution", {"init_std": 2.0, "std_range": (0.1, 1.5), "learn_std": False}),
    ("HeteroscedasticGaussianDistribution", {"init_std": 0.7}),
    ("HeteroscedasticGaussianDistribution", {"init_std": 0.3, "std_type": "log", "std_range": (0.2, 1.5)}),
    ("BetaDistribution", {}),
    ("BetaDistribution", {"action_range": (-3.0, 1.0)}),
]


@pytest.mark.parametrize(("name", "settings"), DISTRIBUTIONS, ids=range(len(DISTRIBUTIONS)))
def test_distribution(name: str, settings: dict[str, Any]):
    distributions = build_both(name, 4, **settings)
    assert distributions[0].input_dim == distributions[1].input_dim
    size = distributions[0].input_dim
    shape = [size] if isinstance(size, int) else size
    found: list[list[Any]] = []
    for package, distribution in zip((ours, reference), distributions, strict=True):
        torch.manual_seed(1)
        mlp = package.MLP(6, size, [8])
        distribution.init_mlp_weights(mlp)
        old = (0.5 + torch.rand(9, 4), 0.5 + torch.rand(9, 4))
        mlp_output = (mlp(torch.randn(9, 6)) + 0.1 * torch.randn(9, *shape)).detach().requires_grad_()
        distribution.update(mlp_output)
        outputs = distribution.sample()
        log_prob, entropy = distribution.log_prob(outputs), distribution.entropy
        kl = distribution.kl_divergence(old, distribution.params)
        (log_prob.sum() + entropy.sum() + kl.sum()).backward()
        exported = distribution.as_deterministic_output_module()
        found.append(
            [
                outputs, distribution.mean, distribution.std, log_prob, entropy, kl, distribution.params,
                distribution.deterministic_output(mlp_output), exported(mlp_output), mlp_output.grad,
                [parameter.grad for parameter in distribution.parameters()],
                [parameter.detach() for parameter in mlp.parameters()],
            ]
        )  # fmt: skip
    assert_same(*found)


@pytest.mark.parametrize("until", [None, 40])
def test_normalisation(until: int | None):
    modules = build_both("EmpiricalNormalization", 5, until=until)
    torch.manual_seed(1)
    for batch in (3.0 * torch.randn(4, 30, 5) + 2.0).unbind():
        for module in modules:
            module.update(batch)
        assert_same(*(module(batch) for module in modules))
        assert_same(*(module.inverse(batch) for module in modules))
    assert_same(*([module.mean, module.std, module.count] for module in modules))


def test_reward_normalisation():
    modules = build_both("EmpiricalDiscountedVariationNormalization", [], gamma=0.9, until=200)
    torch.manual_seed(1)
    for rewards in torch.rand(8, 30).unbind():
        assert_same(*(module(rewards) for module in modules))
    for module in modules:
        module.eval()
    assert_same(*(module(rewards) for module in modules))


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_recurrent_network_step_by_step(cell: str):
    modules = build_both("RNN", 5, 6, 2, cell)
    torch.manual_seed(1)
    inputs, dones = torch.randn(4, 3, 5), torch.rand(4, 3) < 0.5
    for step in range(4):
        with torch.no_grad():
            assert_same(*(module(inputs[step]) for module in modules))
            for module in modules:
                module.reset(dones[step])
        assert_same(*(module.hidden_state for module in modules))
    for module in modules:
        module.detach_hidden_state(dones[0])
        module.detach_hidden_state()
    assert_same(*(module.hidden_state for module in modules))
    for module in modules:
        module.reset()
        assert module.hidden_state is None


def random_dones(num_steps: int, num_envs: int) -> torch.Tensor:
    dones = torch.rand(num_steps, num_envs, 1) < 0.2
    dones[:, 0] = False
    dones[-1, 1] = True
    return dones


@pytest.mark.parametrize("seed", range(5))
def test_trajectories(seed: int):
    torch.manual_seed(seed)
    num_steps, num_envs = 7, 5
    dones = random_dones(num_steps, num_envs)
    groups = {"a": torch.randn(num_steps, num_envs, 3), "b": torch.randn(num_steps, num_envs, 2, 2)}
    for value in (groups["a"], TensorDict(groups, batch_size=[num_steps, num_envs])):
        pieces = [module.split_and_pad_trajectories(value, dones) for module in (sim_rl_plugin.utils, rsl_rl.utils)]
        assert torch.equal(pieces[0][1], pieces[1][1])
        assert (pieces[0][0] == pieces[1][0]).all()
        whole = [
            module.unpad_trajectories(*piece)
            for module, piece in zip((sim_rl_plugin.utils, rsl_rl.utils), pieces, strict=True)
        ]
        assert (whole[0] == whole[1]).all()
        assert (whole[0] == value).all()


def filled_storage(package: Any, memory: str) -> Any:
    """Return a storage that is full; its memories are those of ``gru``, ``lstm`` or none."""
    torch.manual_seed(0)
    num_steps, num_envs = 7, 6
    obs = TensorDict({"policy": torch.randn(num_envs, 3)}, batch_size=[num_envs])
    storage = package.RolloutStorage("rl", num_envs, num_steps, obs, [2])
    dones = random_dones(num_steps, num_envs).squeeze(-1)
    for step in range(num_steps):
        transition = package.RolloutStorage.Transition()
        transition.observations = TensorDict({"policy": torch.randn(num_envs, 3)}, batch_size=[num_envs])
        transition.actions = torch.randn(num_envs, 2)
        transition.rewards, transition.values = torch.randn(num_envs), torch.randn(num_envs, 1)
        transition.actions_log_prob = torch.randn(num_envs)
        transition.distribution_params = (torch.randn(num_envs, 2), torch.rand(num_envs, 2))
        transition.dones = dones[step]
        if memory == "gru":
            transition.hidden_states = (torch.randn(1, num_envs, 4), torch.randn(2, num_envs, 3))
        elif memory == "lstm":
            transition.hidden_states = ((torch.randn(2, num_envs, 4), torch.randn(2, num_envs, 4)), None)
        storage.add_transition(transition)
    storage.returns, storage.advantages = torch.randn(num_steps, num_envs, 1), torch.randn(num_steps, num_envs, 1)
    return storage


@pytest.mark.parametrize("num_mini_batches", [1, 3, 4])
@pytest.mark.parametrize("memory", ["none", "gru", "lstm"])
def test_mini_batches(memory: str, num_mini_batches: int):
    batches = []
    for package in (sim_rl_plugin.storage, rsl_rl.storage):
        storage = filled_storage(package, memory)
        torch.manual_seed(1)
        recurrent = memory != "none"
        generator = storage.recurrent_mini_batch_generator if recurrent else storage.mini_batch_generator
        batches.append(list(generator(num_mini_batches, 2)))
    assert len(batches[0]) == len(batches[1]) == 2 * num_mini_batches
    for our_batch, their_batch in zip(*batches, strict=True):
        for name, their_value in vars(their_batch).items():
            our_value = getattr(our_batch, name)
            if isinstance(their_value, TensorDict):
                our_value, their_value = our_value["policy"], their_value["policy"]
            assert_same(our_value, their_value, tolerance=0.0)


def test_a_full_storage_refuses_more():
    for package in (sim_rl_plugin.storage, rsl_rl.storage):
        storage = filled_storage(package, "none")
        with pytest.raises(OverflowError):
            storage.add_transition(package.RolloutStorage.Transition())
        storage.clear()
        assert storage.step == 0


@pytest.mark.parametrize("obs_groups", [{}, {"actor": ["policy", "other"]}, {"critic": ["other"], "extra": ["policy"]}])
def test_observation_sets(obs_groups: dict[str, list[str]]):
    obs = TensorDict({"policy": torch.zeros(2, 3), "other": torch.zeros(2, 3)}, batch_size=[2])
    resolved = []
    for module in (sim_rl_plugin.utils, rsl_rl.utils):
        copied = {name: list(groups) for name, groups in obs_groups.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # both say what they assume
            resolved.append(module.resolve_obs_groups(obs, copied, ["actor", "critic"]))
    assert resolved[0] == resolved[1]


def test_the_first_intrinsic_reward_of_a_single_environment():
    """The reference scales it in place, and with it the running sum; from then on its rewards are others."""
    settings = {"num_outputs": 3, "predictor_hidden_dims": [8], "target_hidden_dims": [8], "weight": 0.5}
    sums = []
    for package in (sim_rl_plugin.extensions, rsl_rl.extensions):
        torch.manual_seed(0)
        rnd = package.RandomNetworkDistillation(4, {"rnd_state": ["policy"]}, reward_normalization=True, **settings)
        reward = rnd.get_intrinsic_reward(TensorDict({"policy": torch.ones(1, 4)}, batch_size=[1]))
        sums.append((reward.item(), rnd.reward_normalizer.disc_avg.avg.item()))
    (our_reward, our_sum), (their_reward, their_sum) = sums
    assert our_reward == pytest.approx(their_reward)
    assert our_sum == pytest.approx(our_reward / 0.5)
    assert their_sum == pytest.approx(their_reward)
