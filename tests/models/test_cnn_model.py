"""The convolutional model: which groups are images, how they are encoded, and what two models share."""

import copy

import pytest
import torch
from small_configs import CNN, GAUSSIAN, CameraEnv, ppo_cfg_with
from tensordict import TensorDict

from sim_rl_plugin.algorithms import PPO
from sim_rl_plugin.models import CNNModel

OBS = CameraEnv(num_envs=6).get_observations()
GROUPS = {"actor": ["policy", "camera", "depth"], "seeing": ["depth", "camera"], "blind": ["policy"], "one": ["depth"]}
ARGUMENTS = CNN["cnn_cfg"]


def model(obs_set: str = "actor", **arguments) -> CNNModel:
    return CNNModel(OBS, GROUPS, obs_set, 2, [8], **{"cnn_cfg": ARGUMENTS, **arguments})


def test_flat_groups_come_first_and_every_image_group_has_its_own_encoder():
    torch.manual_seed(0)
    net = model(obs_normalization=True)
    net.update_normalization(OBS)
    assert (net.obs_groups, net.obs_groups_2d) == (["policy"], ["camera", "depth"])
    position = net.obs_normalizer(OBS["policy"])
    camera = net.cnns["camera"](OBS["camera"].float() / 255.0)
    expected = torch.cat((position, camera, net.cnns["depth"](OBS["depth"])), dim=-1)
    torch.testing.assert_close(net.get_latent(OBS), expected)
    # Twice a kernel of 3 with stride 2: 12 x 10 leaves 2 x 1 pixels, 9 x 9 leaves 1 x 1, of 4 channels.
    assert net.cnn_latent_dim == 4 * 2 * 1 + 4 * 1 * 1
    assert net(OBS).shape == (6, 2)
    assert {name.split(".")[1] for name in net.state_dict() if name.startswith("cnns")} == {"camera", "depth"}


def test_images_without_flat_groups_and_settings_per_group():
    net = model("seeing", cnn_cfg={"camera": ARGUMENTS, "depth": {**ARGUMENTS, "global_pool": "max"}})
    assert net.cnn_latent_dim == 8 + 4
    net.update_normalization(OBS)
    assert net(OBS).shape == (6, 2)


def test_a_rollout_is_encoded_as_its_samples_are():
    net = model()
    rollout = torch.stack((OBS, OBS.flip(0)))
    torch.testing.assert_close(net(rollout), torch.stack((net(OBS), net(OBS.flip(0)))))
    # Beside a recurrent model, trajectories come padded.
    masks = torch.ones(2, 6, dtype=torch.bool)
    torch.testing.assert_close(net(rollout, masks=masks), net(rollout))
    assert not net.has_fixed_input


def test_batch_normalisation_mixes_samples():
    assert model().is_sample_wise
    assert not model(cnn_cfg={**ARGUMENTS, "norm": "batch"}).is_sample_wise


@pytest.mark.parametrize(
    ("obs_set", "arguments", "message"),
    [
        ("blind", {}, "obs_groups.blind: CNNModel needs an image group .* policy are flat: use MLPModel"),
        ("actor", {"cnn_cfg": None}, r"actor\.cnn_cfg is missing"),
        ("actor", {"cnn_cfg": {"camera": ARGUMENTS}}, r"actor\.cnn_cfg\.depth is missing"),
        ("actor", {"cnn_cfg": {"camra": ARGUMENTS, "depth": ARGUMENTS}}, "'camra': did you mean 'camera'"),
        ("actor", {"cnns": model("one").cnns}, "shared encoders are for depth, but the image groups here are camera"),
    ],
)
def test_what_does_not_fit_is_said(obs_set: str, arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        model(obs_set, **arguments)


def test_other_shapes_are_refused():
    obs = TensorDict({"cloud": torch.zeros(6, 4, 3)}, batch_size=[6])
    with pytest.raises(ValueError, match=r"group 'cloud' of obs_groups.actor has shape \(6, 4, 3\)"):
        CNNModel(obs, {"actor": ["cloud"]}, "actor", 2, cnn_cfg=ARGUMENTS)


def shared() -> tuple[PPO, CameraEnv]:
    env, cfg = CameraEnv(num_envs=4), ppo_cfg_with(CNN, share_cnn_encoders=True)
    del cfg["critic"]["cnn_cfg"]
    return PPO.construct_algorithm(env.get_observations(), env, cfg, "cpu"), env


def train(algorithm: PPO, env: CameraEnv) -> None:
    obs = env.get_observations()
    for _ in range(algorithm.storage.num_transitions_per_env):
        obs, rewards, dones, extras = env.step(algorithm.act(obs))
        algorithm.process_env_step(obs, rewards, dones, extras)
    algorithm.compute_returns(obs)
    algorithm.update()


def test_shared_encoders_are_one_set_of_parameters_before_and_after_a_checkpoint():
    algorithm, env = shared()
    assert algorithm.actor.cnns is algorithm.critic.cnns
    parameters = algorithm.optimizer.param_groups[0]["params"]
    assert len(parameters) == len(set(parameters))
    train(algorithm, env)
    assert algorithm.storage.observations["camera"].dtype == torch.uint8
    saved = copy.deepcopy(algorithm.save())
    # rsl_rl's optimizer lists what is shared twice.
    assert len(saved["optimizer_state_dict"]["param_groups"][0]["params"]) == len(parameters) + 8
    other, other_env = shared()
    other.load(saved, None, True)
    assert other.actor.cnns is other.critic.cnns
    for ours, theirs in zip(algorithm.optimizer.state.values(), other.optimizer.state.values(), strict=True):
        assert torch.equal(ours["exp_avg"], theirs["exp_avg"])
    other_env.load_state_dict(env.state_dict())
    for each, its_env in ((algorithm, env), (other, other_env)):
        torch.manual_seed(1)
        train(each, its_env)
    for name, value in algorithm.actor.state_dict().items():
        assert torch.equal(value, other.actor.state_dict()[name]), name


def test_encoders_are_shared_between_convolutional_models_only():
    for section in ("actor", "critic"):
        cfg = ppo_cfg_with(CNN, share_cnn_encoders=True)
        cfg[section] = {"class_name": "MLPModel"} | ({"distribution_cfg": GAUSSIAN} if section == "actor" else {})
        cfg["obs_groups"][section] = ["policy"]
        with pytest.raises(ValueError, match=f"algorithm.share_cnn_encoders: the {section} is no CNNModel"):
            PPO.construct_algorithm(OBS, CameraEnv(num_envs=6), cfg, "cpu")
