"""Has everything the right form: type, shape, dtype, device, and the same groups each time?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase

from sim_rl_plugin.env.problems import Findings
from sim_rl_plugin.env.terms import fault_in_terms
from sim_rl_plugin.env.vec_env import VecEnv

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class Unsound(Exception):
    """Something has the wrong form, so its values mean nothing."""


class FormCheck:
    """The form of one environment's attributes and results."""

    def __init__(self, env: VecEnv, findings: Findings) -> None:
        self._env = env
        self._report, self._found = findings.report, findings.found
        self._groups: dict[str, tuple[torch.Size, torch.dtype]] | None = None

    def attributes(self) -> None:
        """Check what stands on the environment itself."""
        for name in ("num_envs", "num_actions", "max_episode_length", "episode_length_buf", "device", "cfg"):
            try:
                getattr(self._env, name)
            except AttributeError as error:
                self._report(
                    "missing-attribute",
                    name,
                    f"reading it raises AttributeError ({error}); set env.{name} before the first step",
                )
        if self._found("missing-attribute"):
            raise Unsound
        for name in ("num_envs", "num_actions"):
            value = getattr(self._env, name)
            if not _is_integer(value) or value < 1:
                self._report("wrong-attribute", name, f"found {value!r}, expected an int of at least 1")
        try:
            torch.device(self._env.device)
        except (TypeError, RuntimeError):
            self._report(
                "wrong-attribute",
                "device",
                f"found {self._env.device!r}, expected a torch.device or a string such as 'cpu' or 'cuda:0'",
            )
        self.stop_if_unsound()
        self._limit()
        self.tensor("episode_length_buf", self._env.episode_length_buf, (self._env.num_envs,), INTEGERS)
        self.stop_if_unsound()

    def _limit(self) -> None:
        limit: Any = self._env.max_episode_length
        if isinstance(limit, torch.Tensor):
            if limit.shape != (self._env.num_envs,):
                self._report(
                    "wrong-attribute",
                    "max_episode_length",
                    f"found a tensor of shape {tuple(limit.shape)}, expected ({self._env.num_envs},) or one int",
                )
            elif not bool((limit > 0).all()):
                self._report("wrong-attribute", "max_episode_length", "found limits below 1, expected control steps")
        elif not _is_integer(limit) or limit < 1:
            self._report(
                "wrong-attribute",
                "max_episode_length",
                f"found {limit!r}, expected an int of at least 1, in control steps, or a tensor (num_envs,)",
            )

    def tensor(self, where: str, value: object, shape: tuple[int, ...] | None, dtypes: tuple[torch.dtype, ...]) -> None:
        """Check type, shape, dtype and device of one tensor; None accepts any shape."""
        if not isinstance(value, torch.Tensor):
            self._report("wrong-type", where, f"found a {type(value).__name__}, expected a torch.Tensor")
            return
        if shape is not None and tuple(value.shape) != shape:
            self._report("wrong-shape", where, f"found shape {tuple(value.shape)}, expected {shape}")
        if value.dtype not in dtypes:
            names = " or ".join(str(dtype) for dtype in dtypes)
            self._report("wrong-dtype", where, f"found {value.dtype}, expected {names}; convert it once in the adapter")
        if not _same_device(value.device, torch.device(self._env.device)):
            self._report(
                "wrong-device",
                where,
                f"found a tensor on {value.device}, expected env.device, which is {self._env.device}",
            )

    def _obs(self, where: str, obs: object) -> None:
        if not isinstance(obs, TensorDictBase):
            self._report(
                "wrong-type",
                where,
                f"found a {type(obs).__name__}, expected a TensorDict of named groups: "
                "TensorDict({'policy': tensor}, batch_size=[num_envs])",
            )
            return
        num_envs = self._env.num_envs
        if tuple(obs.batch_size) != (num_envs,):
            self._report(
                "wrong-shape", where, f"found batch_size {list(obs.batch_size)}, expected [{num_envs}] (num_envs)"
            )
        if len(obs.keys()) == 0:
            self._report("wrong-type", where, "found no observation group, expected at least one")
        for key, value in obs.items():
            self._group(f"{where}[{key!r}]", value)

    def _group(self, where: str, value: object) -> None:
        if not isinstance(value, torch.Tensor):
            self._report("wrong-type", where, f"found a {type(value).__name__}, expected a tensor; groups do not nest")
            return
        is_image = value.ndim == 4
        if value.ndim not in (2, 4) or value.shape[0] != self._env.num_envs:
            self._report(
                "wrong-shape",
                where,
                f"found shape {tuple(value.shape)}, expected ({self._env.num_envs}, size), "
                f"or ({self._env.num_envs}, channels, height, width) for an image",
            )
        self.tensor(where, value, None, (torch.float32, torch.uint8) if is_image else (torch.float32,))

    def _same_groups(self, where: str, obs: TensorDictBase) -> None:
        groups = {str(key): (value.shape, value.dtype) for key, value in obs.items()}
        if self._groups is None:
            self._groups = groups
        elif groups != self._groups:
            self._report(
                "groups-changed",
                where,
                f"found {_describe(groups)}, earlier {_describe(self._groups)}; every call must return the same "
                "groups with the same shapes and dtypes, so fill what is not available with zeros",
            )

    def _extras(self, extras: object) -> None:
        if not isinstance(extras, dict):
            self._report("wrong-type", "extras", f"found a {type(extras).__name__}, expected a dict (may be empty)")
            return
        if "time_outs" in extras:
            self.tensor("time_outs", extras["time_outs"], (self._env.num_envs,), (torch.bool,))
        if "skipped" in extras:
            self.tensor("skipped", extras["skipped"], (self._env.num_envs,), (torch.bool,))
        if "final_obs" in extras:
            self._obs("final_obs", extras["final_obs"])
        log = extras.get("log", {})
        if not isinstance(log, dict):
            self._report(
                "wrong-type", "log", f"found a {type(log).__name__}, expected a dict of str to number or tensor"
            )
            return
        for key, value in log.items():
            is_number = isinstance(value, (int, float, np.number, torch.Tensor))
            if not isinstance(key, str) or not is_number:
                self._report(
                    "wrong-type", f"log[{key!r}]", f"found a {type(value).__name__}, expected str to number or tensor"
                )

    def result(self, result: object) -> tuple[TensorDictBase, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Check what ``step`` returned, and return it typed."""
        if not isinstance(result, tuple) or len(result) != 4:
            found = f"a tuple of {len(result)}" if isinstance(result, tuple) else f"a {type(result).__name__}"
            self._report("wrong-type", "step()", f"found {found}, expected (obs, rewards, dones, extras)")
            raise Unsound
        obs, rewards, dones, extras = result
        self._obs("obs", obs)
        self.tensor("rewards", rewards, (self._env.num_envs,), (torch.float32,))
        self.tensor("dones", dones, (self._env.num_envs,), (torch.bool, *INTEGERS))
        self._extras(extras)
        self.stop_if_unsound()
        self._same_groups("obs", obs)
        if "final_obs" in extras:
            self._final_groups(obs, extras["final_obs"])
        self.stop_if_unsound()
        return obs, rewards, dones, extras

    def _final_groups(self, obs: TensorDictBase, final_obs: TensorDictBase) -> None:
        expected = {str(key): value.shape for key, value in obs.items()}
        found = {str(key): value.shape for key, value in final_obs.items()}
        if found != expected:
            self._report(
                "final-obs-groups",
                "final_obs",
                f"found groups {_describe_shapes(found)}, expected those of obs, {_describe_shapes(expected)}: "
                "the critic is evaluated on final_obs and needs every group that it reads",
            )

    def terms(self, obs: TensorDictBase) -> None:
        """Check what the environment tells of the contents of its observations and actions."""
        by_group: Any = getattr(self._env, "observation_terms", {})
        actions: Any = getattr(self._env, "action_terms", ())
        if not isinstance(by_group, Mapping):
            found = type(by_group).__name__
            self._report("wrong-terms", "observation_terms", f"found a {found}, expected groups to lists of Term")
            by_group = {}
        for group, terms in by_group.items():
            where = f"observation_terms[{group!r}]"
            if group not in obs.keys():
                names = ", ".join(map(str, obs.keys()))
                self._report("wrong-terms", where, f"there is no such observation group, only {names}")
            elif fault := fault_in_terms(terms, obs[group][0].numel()):
                self._report("wrong-terms", where, fault)
        if not isinstance(actions, Sequence) or actions:
            fault = fault_in_terms(actions, self._env.num_actions)
            if fault:
                self._report("wrong-terms", "action_terms", fault)

    def stop_if_unsound(self) -> None:
        """End the examination if anything has the wrong form."""
        if self._found("wrong-attribute", "wrong-type", "wrong-shape", "wrong-dtype", "wrong-device", "groups-changed"):
            raise Unsound

    def observations(self, obs: object) -> TensorDictBase:
        """Check what ``get_observations`` returned, and return it typed."""
        self._obs("get_observations()", obs)
        self.stop_if_unsound()
        assert isinstance(obs, TensorDictBase)
        self._same_groups("get_observations()", obs)
        self.stop_if_unsound()
        return obs


def _is_integer(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _same_device(found: torch.device, expected: torch.device) -> bool:
    # "cuda" means the current device, which only the tensor's own index can tell.
    return found.type == expected.type and (None in (found.index, expected.index) or found.index == expected.index)


def _describe(groups: dict[str, tuple[torch.Size, torch.dtype]]) -> str:
    return "{" + ", ".join(f"{key}: {tuple(shape)} {dtype}" for key, (shape, dtype) in groups.items()) + "}"


def _describe_shapes(groups: dict[str, torch.Size]) -> str:
    return "{" + ", ".join(f"{key}: {tuple(shape)}" for key, shape in groups.items()) + "}"
