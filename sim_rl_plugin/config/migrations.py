"""Training dicts from before rsl_rl 5.0, brought into today's shape.

What the releases on PyPI read:

- 2.1 to 2.3: ``policy`` describes both networks, ``empirical_normalization`` normalises the
  observations of both, and one runner serves PPO and, since 2.3, Distillation.
- 3.0 to 3.3: the same ``policy`` with one normalisation key per network, ``obs_groups`` with the sets
  ``policy`` and ``critic`` or ``teacher``, and a runner of its own for Distillation.
- 4.0: ``actor``, ``critic``, ``student`` and ``teacher`` as today, but ``stochastic`` and three keys
  beside it instead of ``distribution_cfg``.

Isaac Lab hands over every key of its config classes, those that nobody set included: as None, as
``dataclasses.MISSING``, or as ``{}``, which is what its ``to_dict`` makes of ``MISSING``.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, NamedTuple

from sim_rl_plugin.config.signature import shorten, unknown_key
from sim_rl_plugin.errors import UserError, unknown_name

_MISSING_TEXTS = ("<MISSING>", "???")
"""``dataclasses.MISSING`` and OmegaConf's missing value, written to a file."""

_MODELS = ("actor", "critic", "student", "teacher")
_STOCHASTIC_KEYS = ("stochastic", "init_noise_std", "noise_std_type", "state_dependent_std")
_RNN_KEYS = ("rnn_type", "rnn_hidden_dim", "rnn_hidden_size", "rnn_num_layers")

_PPO_DEFAULTS_OF_2 = {
    "num_learning_epochs": 1,
    "num_mini_batches": 1,
    "gamma": 0.998,
    "entropy_coef": 0.0,
    "schedule": "fixed",
}
"""Defaults of PPO in 2.x that are others since 3.0."""


class _PolicyClass(NamedTuple):
    """A class that ``policy`` could name."""

    sections: tuple[str, str]
    """The sections that its two networks became; the first one is stochastic."""
    model: str
    init_noise_std: float
    """Its default."""


_POLICY_CLASSES = {
    "ActorCritic": _PolicyClass(("actor", "critic"), "MLPModel", 1.0),
    "ActorCriticRecurrent": _PolicyClass(("actor", "critic"), "RNNModel", 1.0),
    "ActorCriticCNN": _PolicyClass(("actor", "critic"), "CNNModel", 1.0),
    "StudentTeacher": _PolicyClass(("student", "teacher"), "MLPModel", 0.1),
    "StudentTeacherRecurrent": _PolicyClass(("student", "teacher"), "RNNModel", 0.1),
}


def migrate(train_cfg: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a training dict in the shape of rsl_rl 5.x.

    Args:
        train_cfg: A training dict of any rsl_rl from 2.1 on, or a layer of settings that holds part of
            one; not modified.

    Returns:
        A copy, in which settings that nobody made are left out; and a sentence for every change of
        meaning. A dict of 5.x comes back equal, without a sentence.

    Raises:
        UserError: Something has no counterpart today; the message begins with its key path.
    """
    cfg = _copy_of_what_is_set(train_cfg)
    for key in ("policy", "empirical_normalization", *_MODELS):
        if key in cfg and _is_unset(cfg[key]):
            del cfg[key]
    if cfg.get("obs_groups", {}) is None:
        del cfg["obs_groups"]
    notes: list[str] = []
    pair = next((pair for pair in (_MODELS[:2], _MODELS[2:]) if all(section in cfg for section in pair)), None)
    if "policy" in cfg and pair is not None:
        del cfg["policy"]
        notes.append(f"policy: has no effect beside {' and '.join(pair)}")
    if "policy" in cfg:
        _migrate_policy(cfg, notes)
    elif cfg.get("empirical_normalization"):
        _migrate_normalization(cfg, notes)
    for section in _MODELS:
        if isinstance(cfg.get(section), dict):
            _migrate_model(cfg[section], section, notes)
    for key in ("rnd_cfg", "symmetry_cfg"):
        if cfg.get(key):
            notes.append(f"{key}: has no effect here, in no release of rsl_rl: it belongs into algorithm.{key}")
    return cfg, notes


def _is_unset(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and not value) or _is_missing(value)


def _is_missing(value: Any) -> bool:
    # A deep copy of MISSING is another object of its class.
    return isinstance(value, type(dataclasses.MISSING)) or (isinstance(value, str) and value in _MISSING_TEXTS)


def _copy_of_what_is_set(value: Any) -> Any:
    """Copy dicts, lists and tuples, without the entries of dicts that are MISSING."""
    if isinstance(value, dict):
        return {key: _copy_of_what_is_set(item) for key, item in value.items() if not _is_missing(item)}
    if type(value) in (list, tuple):
        return type(value)(_copy_of_what_is_set(item) for item in value)
    return value


# Before 4.0: `policy`


def _migrate_policy(cfg: dict[str, Any], notes: list[str]) -> None:
    """Replace ``policy`` and what belongs to it."""
    policy, kind = _read_policy(cfg.pop("policy"))
    # Only 2.x demands this key and knows no obs_groups.
    is_2 = "empirical_normalization" in cfg and "obs_groups" not in cfg
    normalization = cfg.pop("empirical_normalization", None)
    first, second = kind.sections
    became = []
    for section in kind.sections:
        if section not in cfg:  # Isaac Lab lets a config describe one of them in the new way already
            model = cfg[section] = _model_of(policy, kind, section, bool(normalization))
            classes = [model["class_name"], model.get("distribution_cfg", {}).get("class_name")]
            became.append(f"{section} ({', '.join(filter(None, classes))})")
    notes.append(f"policy: from before rsl_rl 4.0, became {' and '.join(became)}")
    if normalization is not None:
        notes.append(
            f"empirical_normalization: from before rsl_rl 4.0, became obs_normalization: "
            f"{str(bool(normalization)).lower()}, where policy does not say otherwise"
        )
    _migrate_obs_groups(cfg, first, second, notes)
    _migrate_algorithm(cfg, first, is_2, notes)


def _read_policy(policy: Any) -> tuple[dict[str, Any], _PolicyClass]:
    """Return the settings of ``policy`` that are set, and its class."""
    if not isinstance(policy, dict):
        raise UserError(f"policy: expected a mapping of settings, found {shorten(policy)}")
    if _is_unset(policy.get("class_name")):
        raise UserError(f"policy.class_name is missing: expected one of {', '.join(_POLICY_CLASSES)}")
    name = _name_in_rsl_rl(policy["class_name"])
    if name is None:
        raise UserError(
            f"policy.class_name: {shorten(policy['class_name'])} is a class of your own for rsl_rl before 4.0: write "
            "its networks as models, and name them in the sections actor and critic (or student and teacher)"
        )
    if name not in _POLICY_CLASSES:
        raise unknown_name("policy.class_name", name, _POLICY_CLASSES)
    kind = _POLICY_CLASSES[name]
    known = ["class_name", "activation", "init_noise_std", "noise_std_type"]
    known += [f"{section}_{key}" for section in kind.sections for key in ("hidden_dims", "obs_normalization")]
    if "actor" in kind.sections:
        known.append("state_dependent_std")
    if kind.model == "RNNModel":
        known += _RNN_KEYS
    if kind.model == "CNNModel":
        known += [f"{section}_cnn_cfg" for section in kind.sections]
    if name == "StudentTeacherRecurrent":
        known.append("teacher_recurrent")
    found = {key: value for key, value in policy.items() if not _is_unset(value)}
    for key, value in found.items():
        # A switch of another class that is off changes nothing.
        if key not in known and value is not False:
            raise unknown_key("policy", key, known)
    return found, kind


def _model_of(policy: dict[str, Any], kind: _PolicyClass, section: str, normalization: bool) -> dict[str, Any]:
    """Return the section of one of the two networks, with every default written out."""
    model: dict[str, Any] = {
        "class_name": kind.model,
        "hidden_dims": policy.get(f"{section}_hidden_dims", [256, 256, 256]),
        "activation": policy.get("activation", "elu"),
        "obs_normalization": policy.get(f"{section}_obs_normalization", normalization),
    }
    if section == kind.sections[0]:
        model["distribution_cfg"] = _distribution(policy, kind.init_noise_std)
    if kind.model == "RNNModel" and (section != "teacher" or policy.get("teacher_recurrent")):
        model["rnn_type"] = policy.get("rnn_type", "lstm")
        model["rnn_hidden_dim"] = _rnn_hidden_dim(policy)
        model["rnn_num_layers"] = policy.get("rnn_num_layers", 1)
    elif kind.model == "CNNModel" and f"{section}_cnn_cfg" in policy:
        model["cnn_cfg"] = policy[f"{section}_cnn_cfg"]
    else:
        model["class_name"] = "MLPModel"
    return model


def _rnn_hidden_dim(policy: dict[str, Any]) -> Any:
    """Return the size under its name of 2.3 and later, or of before; with both, as rsl_rl chose."""
    size = policy.get("rnn_hidden_dim", 256)
    return policy.get("rnn_hidden_size", size) if size == 256 else size


def _distribution(old: dict[str, Any], init_noise_std: float) -> dict[str, Any]:
    """Return the distribution that the keys of 2.x to 4.x stand for."""
    return {
        "class_name": (
            "HeteroscedasticGaussianDistribution" if old.get("state_dependent_std") else "GaussianDistribution"
        ),
        "init_std": old.get("init_noise_std", init_noise_std),
        "std_type": old.get("noise_std_type", "scalar"),
    }


def _migrate_obs_groups(cfg: dict[str, Any], first: str, second: str, notes: list[str]) -> None:
    """Rename the set ``policy``."""
    groups = cfg.get("obs_groups")
    if not isinstance(groups, dict) or "policy" not in groups or first in groups:
        return
    cfg["obs_groups"] = {first if name == "policy" else name: value for name, value in groups.items()}
    notes.append(f"obs_groups.policy: from before rsl_rl 4.0, became obs_groups.{first}")
    needed = [second] + (["rnd_state"] if _section(cfg, "algorithm").get("rnd_cfg") else [])
    for name in needed:
        # Up to 3.3 a missing set became the group of its name or else the set `policy`, since then the
        # group `policy`; which of them applies shows only when the environment is there.
        if name not in groups and groups["policy"] not in (["policy"], ("policy",)):
            raise UserError(
                f"obs_groups.{name} is missing: before rsl_rl 4.0 it was ['{name}'], or, in an environment without "
                f"this group, the same as policy ({groups['policy']}): write down which of them"
            )


def _migrate_algorithm(cfg: dict[str, Any], first: str, is_2: bool, notes: list[str]) -> None:
    """Write down what the algorithm's settings meant in their release."""
    algorithm = _section(cfg, "algorithm")
    name = _name_in_rsl_rl(algorithm.get("class_name"))
    runner = cfg.get("class_name")
    if first == "student" and (_is_unset(runner) or _name_in_rsl_rl(runner) == "OnPolicyRunner"):
        cfg["class_name"] = "DistillationRunner"
        notes.append("class_name: from before rsl_rl 3.0, became DistillationRunner")
    filled_in = {key: value for key, value in _PPO_DEFAULTS_OF_2.items() if key not in algorithm}
    if is_2 and name == "PPO" and filled_in:
        algorithm.update(filled_in)
        values = ", ".join(f"{key} {value}" for key, value in filled_in.items())
        notes.append(f"algorithm: what is not set became the default of rsl_rl 2.x ({values})")
    symmetry = algorithm.get("symmetry_cfg")
    if isinstance(symmetry, dict):
        symmetry.pop("_env", None)  # a runner of 2.x or 3.x has left it there
        _check_symmetry_function(symmetry.get("data_augmentation_func"), is_2)


def _check_symmetry_function(function: Any, is_2: bool) -> None:
    """Refuse a function that takes the observations of one network as a tensor, as up to 2.3."""
    if not callable(function):
        return  # it is named by a string, and is imported when the simulator is there
    parameters = inspect.signature(function).parameters
    for name in ("obs_type", "is_critic"):
        if name in parameters and (is_2 or parameters[name].default is inspect.Parameter.empty):
            raise UserError(
                f"algorithm.symmetry_cfg.data_augmentation_func: {function.__qualname__} takes {name!r}, the form of "
                "rsl_rl 2.x: let it take (env, obs, actions), where obs is the TensorDict of all groups or None"
            )


def _migrate_normalization(cfg: dict[str, Any], notes: list[str]) -> None:
    """Treat the switch of 2.x where there is no ``policy`` that it could belong to."""
    described = [section for section in _MODELS if section in cfg]
    switch = cfg.pop("empirical_normalization")
    if described:
        keys = " and ".join(f"{section}.obs_normalization" for section in described)
        notes.append(f"empirical_normalization: has no effect beside {' and '.join(described)}: set {keys}")
        return
    for section in ("actor", "critic"):
        cfg[section] = {"obs_normalization": switch}
    notes.append(
        "empirical_normalization: from before rsl_rl 4.0, became actor.obs_normalization and critic.obs_normalization"
    )


# 4.0: models without `distribution_cfg`


def _migrate_model(model: dict[str, Any], section: str, notes: list[str]) -> None:
    """Replace ``stochastic`` and the keys beside it by ``distribution_cfg``."""
    if not _is_unset(model.get("class_name")) and _name_in_rsl_rl(model["class_name"]) is None:
        return  # they may be parameters of a model of the user's own
    found = {key: model.pop(key) for key in _STOCHASTIC_KEYS if key in model}
    old = {key: value for key, value in found.items() if not _is_unset(value)}
    names = ", ".join(old)
    if not _is_unset(model.get("distribution_cfg")):
        fate = "left out beside distribution_cfg"
    elif old.get("stochastic"):
        distribution = model["distribution_cfg"] = _distribution(old, 1.0)
        fate = f"became distribution_cfg ({distribution['class_name']})"
    else:
        fate = "left out: the model is not stochastic"
    # Isaac Lab's classes hand these over even where nobody asks for them; today's default is the same.
    if any(value not in (False, "scalar") for value in old.values()):
        notes.append(f"{section}: {names} from before rsl_rl 5.0, {fate}")


def _section(cfg: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a section, or an empty dict where there is none; what else it is, is complained about later."""
    return cfg[key] if isinstance(cfg.get(key), dict) else {}


def _name_in_rsl_rl(class_name: Any) -> str | None:
    """Return the simple name of a class of rsl_rl or of ours; None for a class of somebody else."""
    if isinstance(class_name, str):
        module, _, name = class_name.strip().replace(":", ".").rpartition(".")
    else:
        module, name = getattr(class_name, "__module__", "?"), getattr(class_name, "__name__", "")
    return name if module.partition(".")[0] in ("", "rsl_rl", "sim_rl_plugin") else None
