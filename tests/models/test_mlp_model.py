"""The MLP model and its observation sets."""

import pytest
import torch
from tensordict import TensorDict

from sim_rl_plugin.models import MLPModel
from sim_rl_plugin.models.observation_sets import resolve_obs_groups

OBS = TensorDict({"policy": torch.randn(6, 3), "critic": torch.randn(6, 2), "camera": torch.zeros(6, 1, 4, 4)}, [6])
GROUPS = {"actor": ["policy"], "critic": ["critic", "policy"], "seeing": ["camera"]}
GAUSSIAN = {"class_name": "GaussianDistribution", "init_std": 0.5}


def test_groups_are_concatenated_in_the_order_of_the_set():
    model = MLPModel(OBS, GROUPS, "critic", 1)
    assert model.obs_dim == 5
    assert torch.equal(model.get_latent(OBS), torch.cat((OBS["critic"], OBS["policy"]), dim=-1))
    assert model(OBS).shape == (6, 1)


def test_state_dict_has_the_keys_of_rsl_rl():
    model = MLPModel(OBS, GROUPS, "actor", 2, [8], obs_normalization=True, distribution_cfg=GAUSSIAN)
    assert set(model.state_dict()) == {
        "obs_normalizer._mean", "obs_normalizer._var", "obs_normalizer._std", "obs_normalizer.count",
        "distribution.std_param", "mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias",
    }  # fmt: skip


def test_output_is_deterministic_unless_asked():
    model = MLPModel(OBS, GROUPS, "actor", 2, [8], distribution_cfg=GAUSSIAN)
    assert torch.equal(model(OBS), model(OBS))
    assert not torch.equal(model(OBS, stochastic_output=True), model(OBS, stochastic_output=True))
    torch.testing.assert_close(model.output_mean, model(OBS))
    assert (model.output_std == 0.5).all()
    assert GAUSSIAN == {"class_name": "GaussianDistribution", "init_std": 0.5}


def test_both_halves_of_a_pass_make_the_whole():
    model = MLPModel(OBS, GROUPS, "actor", 2, [8], obs_normalization=True, distribution_cfg=GAUSSIAN)
    model.update_normalization(OBS)
    assert torch.equal(model.forward_latent(model.get_latent(OBS)), model(OBS))
    model.update_distribution(model.get_latent(OBS))
    assert torch.equal(model.output_mean, model(OBS))


def test_a_deterministic_model_has_no_distribution():
    with pytest.raises(ValueError, match="distribution_cfg"):
        _ = MLPModel(OBS, GROUPS, "critic", 1).output_std


def test_images_are_refused_by_name():
    with pytest.raises(ValueError, match=r"group 'camera' of obs_groups.seeing has shape \(6, 1, 4, 4\)"):
        MLPModel(OBS, GROUPS, "seeing", 1)


def test_scripted_copy_acts_the_same(tmp_path):
    model = MLPModel(OBS, GROUPS, "actor", 2, [8], "tanh", obs_normalization=True, distribution_cfg=GAUSSIAN)
    model.update_normalization(OBS)
    scripted = torch.jit.script(model.as_jit())
    scripted.save(str(tmp_path / "policy.pt"))
    loaded = torch.jit.load(str(tmp_path / "policy.pt"))
    loaded.reset()
    torch.testing.assert_close(loaded(OBS["policy"]), model(OBS))


def test_missing_sets_become_the_group_of_their_name_or_policy():
    assert resolve_obs_groups(OBS, {}, ["actor", "critic"]) == {"actor": ["policy"], "critic": ["critic"]}
    only_policy = OBS.select("policy")
    with pytest.warns(UserWarning, match=r"obs_groups.critic is missing; using group 'policy'"):
        assert resolve_obs_groups(only_policy, {}, ["critic"]) == {"critic": ["policy"]}
    with pytest.raises(ValueError, match="neither a group 'critic' nor 'policy'"):
        resolve_obs_groups(OBS.select("camera"), {}, ["critic"])


def test_wrong_groups_are_named():
    with pytest.raises(ValueError, match=r"obs_groups\.actor 'polcy': did you mean 'policy'"):
        resolve_obs_groups(OBS, {"actor": ["polcy"]}, ["actor"])
    with pytest.raises(ValueError, match=r"obs_groups\.actor: expected a list"):
        resolve_obs_groups(OBS, {"actor": []}, ["actor"])
