"""A correct environment is found correct, and each deviation yields its own problem and no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from sim_rl_plugin.env import Term, VecEnv, check_env, require_env
from sim_rl_plugin.env.problems import AREAS
from sim_rl_plugin.errors import UserError
from sim_rl_plugin.testing import PointEnv, VecEnvContract


class BrokenEnv(PointEnv):
    """A correct environment, whose results ``corrupt`` may spoil."""

    step_count = 0

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        self.step_count += 1
        return self.corrupt(*super().step(actions))

    def corrupt(self, obs: TensorDict, rewards: torch.Tensor, dones: torch.Tensor, extras: dict[str, Any]) -> Any:
        return obs, rewards, dones, extras


# Attributes.


class NoNumActions(BrokenEnv):
    def __init__(self) -> None:
        super().__init__()
        del self.num_actions


class NoCfg(BrokenEnv):
    def __init__(self) -> None:
        super().__init__()
        del self.cfg


class FloatLimit(BrokenEnv):
    def __init__(self) -> None:
        super().__init__()
        self.max_episode_length = np.ceil(31.5)


class LimitOfWrongShape(BrokenEnv):
    def __init__(self) -> None:
        super().__init__()
        self.max_episode_length = torch.full((3,), 32)


class NumEnvsAsText(BrokenEnv):
    def __init__(self) -> None:
        super().__init__()
        self.num_envs = "8"


class UnknownDevice(BrokenEnv):
    def __init__(self) -> None:
        super().__init__()
        self.device = "gpu-1"


class FloatCounters(BrokenEnv):
    def __init__(self) -> None:
        super().__init__()
        self.episode_length_buf = self.episode_length_buf.float()


class CountersOfWrongShape(BrokenEnv):
    def __init__(self) -> None:
        super().__init__()
        self.episode_length_buf = torch.zeros(8, 1, dtype=torch.long)


# Terms.


class TermsOfNoGroup(BrokenEnv):
    def __init__(self) -> None:
        super().__init__()
        self.observation_terms = {"actor": [Term("position", (2,))]}


class TermsAsNames(BrokenEnv):
    def __init__(self) -> None:
        super().__init__()
        self.observation_terms = {"policy": ["position"]}


class TermTwice(BrokenEnv):
    def __init__(self) -> None:
        super().__init__()
        self.observation_terms = {"policy": [Term("x", (1,)), Term("x", (1,))]}


class TermsOfWrongSize(BrokenEnv):
    def __init__(self) -> None:
        super().__init__()
        self.action_terms = [Term("velocity", (3,))]


class ElementsOfWrongNumber(BrokenEnv):
    def __init__(self) -> None:
        super().__init__()
        self.action_terms = [Term("velocity", (2,), ("x", "y", "z"))]


class ScalesOfWrongNumber(BrokenEnv):
    def __init__(self) -> None:
        super().__init__()
        self.action_terms = [Term("velocity", (2,), scale=(1.0, 2.0, 3.0))]


class HistoryThatDoesNotFit(BrokenEnv):
    def __init__(self) -> None:
        super().__init__()
        self.observation_terms = {"policy": [Term("position", (2,), history=3)]}


# Types, shapes, dtypes, devices.


class PlainDictObs(BrokenEnv):
    def corrupt(self, obs, rewards, dones, extras):
        return dict(obs.items()), rewards, dones, extras


class FiveResults(BrokenEnv):
    def corrupt(self, obs, rewards, dones, extras):
        return obs, rewards, dones, extras["time_outs"], extras


class NumpyRewards(BrokenEnv):
    def corrupt(self, obs, rewards, dones, extras):
        return obs, rewards.numpy(), dones, extras


class NestedGroups(BrokenEnv):
    def corrupt(self, obs, rewards, dones, extras):
        return TensorDict({"policy": obs}, batch_size=[self.num_envs]), rewards, dones, extras


class NoBatchSize(BrokenEnv):
    def corrupt(self, obs, rewards, dones, extras):
        return TensorDict(dict(obs.items()), batch_size=[]), rewards, dones, extras


class FlatGroup(BrokenEnv):
    def get_observations(self) -> TensorDict:
        obs = super().get_observations()
        return TensorDict({"policy": obs["policy"][:, 0]}, batch_size=[self.num_envs])


class ColumnRewards(BrokenEnv):
    def corrupt(self, obs, rewards, dones, extras):
        return obs, rewards.unsqueeze(-1), dones, extras


class ColumnDones(BrokenEnv):
    def corrupt(self, obs, rewards, dones, extras):
        return obs, rewards, dones.unsqueeze(-1), extras


class ShortTimeOuts(BrokenEnv):
    def corrupt(self, obs, rewards, dones, extras):
        return obs, rewards, dones, extras | {"time_outs": extras["time_outs"][:3]}


class FinalObsOfEndedRowsOnly(BrokenEnv):
    def corrupt(self, obs, rewards, dones, extras):
        if "final_obs" in extras:
            extras["final_obs"] = extras["final_obs"][dones]
        return obs, rewards, dones, extras


class GroupAppearsLater(BrokenEnv):
    def corrupt(self, obs, rewards, dones, extras):
        if self.step_count == 5:
            obs["extra"] = obs["policy"].clone()
        return obs, rewards, dones, extras


class GroupGrows(BrokenEnv):
    def corrupt(self, obs, rewards, dones, extras):
        if self.step_count == 5:
            obs["policy"] = torch.cat((obs["policy"], obs["policy"]), dim=-1)
        return obs, rewards, dones, extras


class DoubleObs(BrokenEnv):
    def get_observations(self) -> TensorDict:
        return super().get_observations().double()


class ByteVector(BrokenEnv):
    def get_observations(self) -> TensorDict:
        return super().get_observations().to(torch.uint8)


class DoubleRewards(BrokenEnv):
    def corrupt(self, obs, rewards, dones, extras):
        return obs, rewards.double(), dones, extras


class FloatDones(BrokenEnv):
    def corrupt(self, obs, rewards, dones, extras):
        return obs, rewards, dones.float(), extras


class IntegerTimeOuts(BrokenEnv):
    def corrupt(self, obs, rewards, dones, extras):
        return obs, rewards, dones, extras | {"time_outs": extras["time_outs"].long()}


class DoubleFinalObs(BrokenEnv):
    def corrupt(self, obs, rewards, dones, extras):
        if "final_obs" in extras:
            extras["final_obs"] = extras["final_obs"].double()
        return obs, rewards, dones, extras


class RewardsElsewhere(BrokenEnv):
    def corrupt(self, obs, rewards, dones, extras):
        return obs, rewards.to("meta"), dones, extras


class ObsElsewhere(BrokenEnv):
    def get_observations(self) -> TensorDict:
        obs = super().get_observations()
        return TensorDict({"policy": obs["policy"].to("meta")}, batch_size=[self.num_envs])


class LogOfText(BrokenEnv):
    def corrupt(self, obs, rewards, dones, extras):
        return obs, rewards, dones, extras | {"log": {"status": "running"}}


# Buffers.


class ReusedObs(BrokenEnv):
    buffer: TensorDict | None = None

    def get_observations(self) -> TensorDict:
        obs = super().get_observations()
        if self.buffer is None:
            self.buffer = obs
        self.buffer["policy"].copy_(obs["policy"])
        return TensorDict({"policy": self.buffer["policy"], "critic": obs["critic"]}, batch_size=[self.num_envs])

    def corrupt(self, obs, rewards, dones, extras):
        if "final_obs" in extras:
            extras["final_obs"]["policy"] = extras["final_obs"]["critic"][:, :2].clone()
        return obs, rewards, dones, extras


class ReusedGetObservations(BrokenEnv):
    """``step`` returns new tensors, ``get_observations`` always the same ones."""

    own: TensorDict | None = None
    stepping = False

    def get_observations(self) -> TensorDict:
        obs = super().get_observations()
        if self.stepping:
            return obs
        if self.own is None:
            self.own = obs
        for key, value in obs.items():
            self.own[key].copy_(value)
        return self.own

    def step(self, actions):
        self.stepping = True
        result = super().step(actions)
        self.stepping = False
        return result


class ReusedTensorDict(BrokenEnv):
    """Every tensor is new, but they are put into one TensorDict, which the caller still holds."""

    def __init__(self) -> None:
        super().__init__()
        self.container = super().get_observations()

    def corrupt(self, obs, rewards, dones, extras):
        self.container.update(obs)
        return self.container, rewards, dones, extras


class ReusedTensor(BrokenEnv):
    name = ""

    def reused(self, name: str, value: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, f"_{name}_buffer"):
            setattr(self, f"_{name}_buffer", torch.zeros_like(value))
        return getattr(self, f"_{name}_buffer").copy_(value)


class ReusedRewards(ReusedTensor):
    def corrupt(self, obs, rewards, dones, extras):
        return obs, self.reused("rewards", rewards), dones, extras


class ReusedDones(ReusedTensor):
    def corrupt(self, obs, rewards, dones, extras):
        return obs, rewards, self.reused("dones", dones), extras


class ReusedTimeOuts(ReusedTensor):
    def corrupt(self, obs, rewards, dones, extras):
        return obs, rewards, dones, extras | {"time_outs": self.reused("time_outs", extras["time_outs"])}


class ReusedFinalObs(ReusedTensor):
    def corrupt(self, obs, rewards, dones, extras):
        if "final_obs" in extras:
            extras["final_obs"]["critic"] = self.reused("final", extras["final_obs"]["critic"])
        return obs, rewards, dones, extras


class ReusedLog(ReusedTensor):
    def corrupt(self, obs, rewards, dones, extras):
        log = {"Step/distance": self.reused("log", extras["log"]["Step/distance"])}
        return obs, rewards, dones, extras | {"log": log}


class LiveState(BrokenEnv):
    """The state holds the tensor that the next steps write into."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = torch.zeros(1, dtype=torch.long)

    def corrupt(self, obs, rewards, dones, extras):
        self.steps += 1
        return obs, rewards, dones, extras

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"steps": self.steps}


class ModifiesActions(BrokenEnv):
    def step(self, actions):
        return super().step(actions.clamp_(-0.5, 0.5))


# get_observations.


class GetAdvances(BrokenEnv):
    """Asking moves the points."""

    def corrupt(self, obs, rewards, dones, extras):
        self.stepped = True
        return obs, rewards, dones, extras

    def get_observations(self) -> TensorDict:
        if getattr(self, "stepped", False):
            self.position = self.position * 0.99
        return super().get_observations()

    def step(self, actions):
        self.stepped = False
        return super().step(actions)


class GetAdvancesUnseen(GetAdvances):
    def state_dict(self):
        return None


class GetCounts(BrokenEnv):
    """Asking advances a counter that only a state could show otherwise."""

    calls = 0

    def get_observations(self) -> TensorDict:
        self.calls += 1
        return super().get_observations()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.calls = state["calls"]


class GetBeforeReset(BrokenEnv):
    """Asking gives the old episode's end until the next step."""

    last: TensorDict | None = None

    def corrupt(self, obs, rewards, dones, extras):
        self.last = extras.get("final_obs", obs).clone()
        return obs, rewards, dones, extras

    def get_observations(self) -> TensorDict:
        return super().get_observations() if self.last is None else self.last.clone()

    def step(self, actions):
        self.last = None
        return super().step(actions)


class NoiseInStepOnly(BrokenEnv):
    def corrupt(self, obs, rewards, dones, extras):
        obs["policy"] = obs["policy"] + 0.001 * (self.step_count % 3 + 1)
        return obs, rewards, dones, extras


# Episode lengths.


class CountsTwice(BrokenEnv):
    def corrupt(self, obs, rewards, dones, extras):
        self.episode_length_buf = torch.where(dones, 0, self.episode_length_buf + 1)
        return self.get_observations(), rewards, dones, extras


class CounterKept(BrokenEnv):
    def step(self, actions):
        before = self.episode_length_buf
        _, rewards, dones, extras = super().step(actions)
        self.episode_length_buf = torch.where(dones, before + 1, self.episode_length_buf)
        return self.get_observations(), rewards, dones, extras


class ReadOnlyCounter(BrokenEnv):
    inside = False

    @property
    def episode_length_buf(self) -> torch.Tensor:
        return self.counter

    @episode_length_buf.setter
    def episode_length_buf(self, value: torch.Tensor) -> None:
        if self.step_count and not self.inside:
            raise AttributeError("episode_length_buf is read-only")
        self.counter = value

    def step(self, actions):
        self.inside = True
        result = super().step(actions)
        self.inside = False
        return result

    def state_dict(self):
        return None


class CounterDropped(ReadOnlyCounter):
    """An assignment is accepted and forgotten."""

    @property
    def episode_length_buf(self) -> torch.Tensor:
        return self.counter

    @episode_length_buf.setter
    def episode_length_buf(self, value: torch.Tensor) -> None:
        if self.inside or not self.step_count:
            self.counter = value


class CounterForShow(BrokenEnv):
    """The simulator counts for itself; the assigned value is shown and has no effect."""

    def __init__(self) -> None:
        super().__init__(max_episode_length=200)
        self.max_episode_length = 200
        self.terminate_at = 1.0

    def step(self, actions):
        shown = self.episode_length_buf
        self.episode_length_buf = torch.zeros_like(shown)
        _, rewards, dones, extras = super().step(actions)
        self.episode_length_buf = torch.where(dones, 0, shown + 1)
        return self.get_observations(), rewards, dones, extras


class LimitTooSmall(BrokenEnv):
    """Says 20, and ends episodes at 32."""

    def __init__(self) -> None:
        super().__init__(terminate_at=None)
        self.max_episode_length = 20
        del self.observation_terms

    def step(self, actions):
        self.max_episode_length = 32
        result = super().step(actions)
        self.max_episode_length = 20
        return result

    def get_observations(self) -> TensorDict:
        obs = super().get_observations()
        return obs.select("policy")


# Time-outs.


class TimeOutsAreDones(BrokenEnv):
    def __init__(self) -> None:
        super().__init__(terminate_at=1.0)

    def corrupt(self, obs, rewards, dones, extras):
        return obs, rewards, dones, extras | {"time_outs": dones.clone()}


class SomeTimeOutsEarly(BrokenEnv):
    def __init__(self) -> None:
        super().__init__(terminate_at=1.0)

    def corrupt(self, obs, rewards, dones, extras):
        time_outs = extras["time_outs"] | (dones & (torch.arange(self.num_envs) % 2 == 0))
        return obs, rewards, dones, extras | {"time_outs": time_outs}


class TimeOutsWithoutDone(BrokenEnv):
    def corrupt(self, obs, rewards, dones, extras):
        time_outs = extras["time_outs"] | (self.episode_length_buf == 7)
        return obs, rewards, dones, extras | {"time_outs": time_outs}


class NoTimeOuts(BrokenEnv):
    def corrupt(self, obs, rewards, dones, extras):
        del extras["time_outs"]
        return obs, rewards, dones, extras


class TimeOutsNeverTrue(BrokenEnv):
    def corrupt(self, obs, rewards, dones, extras):
        return obs, rewards, dones, extras | {"time_outs": torch.zeros_like(dones)}


# Resets and final_obs.


class NextStepReset(BrokenEnv):
    """Gymnasium's default: the step after an end ignores its action, earns nothing and resets."""

    last: TensorDict | None = None
    pending: torch.Tensor | None = None

    def step(self, actions):
        pending, start = self.pending, self.position
        self.last = None
        obs, rewards, dones, extras = super().step(actions)
        if pending is not None:
            self.position = torch.where(pending.unsqueeze(-1), start, self.position)
            self.episode_length_buf = torch.where(pending, 1, self.episode_length_buf)
            rewards, dones = rewards.masked_fill(pending, 0.0), dones & ~pending
            extras["time_outs"] = extras["time_outs"] & dones
            obs = super().get_observations()
        self.pending = dones
        if "final_obs" in extras:
            rows = dones.unsqueeze(-1)
            obs = extras["final_obs"].apply(lambda end, start: torch.where(rows, end, start), obs)
        self.last = obs.clone()
        return obs, rewards, dones, extras

    def get_observations(self) -> TensorDict:
        return super().get_observations() if self.last is None else self.last.clone()

    def state_dict(self):
        return None


class DoneTwice(BrokenEnv):
    """The end is announced, and announced again with the step that resets."""

    previous: torch.Tensor | None = None

    def corrupt(self, obs, rewards, dones, extras):
        again = torch.zeros_like(dones) if self.previous is None else self.previous & ~dones
        self.previous = dones
        if again.any():
            extras["final_obs"] = extras.get("final_obs", obs).clone()
            self._reset(again)
        return self.get_observations(), rewards, dones | again, extras

    def state_dict(self):
        return None


class ObsNotReset(BrokenEnv):
    last: TensorDict | None = None

    def corrupt(self, obs, rewards, dones, extras):
        if "final_obs" in extras:
            rows = dones.unsqueeze(-1)
            obs = extras["final_obs"].apply(lambda end, start: torch.where(rows, end, start), obs)
        self.last = obs.clone()
        return obs, rewards, dones, extras

    def step(self, actions):
        self.last = None
        return super().step(actions)

    def get_observations(self) -> TensorDict:
        return super().get_observations() if self.last is None else self.last.clone()


class FinalObsAfterReset(BrokenEnv):
    def corrupt(self, obs, rewards, dones, extras):
        if "final_obs" in extras:
            extras["final_obs"] = obs.clone()
        return obs, rewards, dones, extras


class EndsNever(CounterDropped):
    def __init__(self) -> None:
        super().__init__(terminate_at=None, max_episode_length=10_000)


class FinalObsOfTimeOutsOnly(BrokenEnv):
    def __init__(self) -> None:
        super().__init__(terminate_at=1.0)

    def corrupt(self, obs, rewards, dones, extras):
        if not extras["time_outs"].any():
            extras.pop("final_obs", None)
        return obs, rewards, dones, extras


class FinalObsWithoutCritic(BrokenEnv):
    def corrupt(self, obs, rewards, dones, extras):
        if "final_obs" in extras:
            del extras["final_obs"]["critic"]
        return obs, rewards, dones, extras


# Finite values.


class NanObs(BrokenEnv):
    def get_observations(self) -> TensorDict:
        obs = super().get_observations()
        if self.step_count >= 5:
            obs["policy"][2, 0] = float("nan")
        return obs

    def corrupt(self, obs, rewards, dones, extras):
        if "final_obs" in extras:
            extras["final_obs"] = extras["final_obs"].apply(lambda value: value.nan_to_num())
        return obs, rewards, dones, extras


class InfiniteRewards(BrokenEnv):
    def corrupt(self, obs, rewards, dones, extras):
        return obs, rewards.masked_fill(dones, float("-inf")), dones, extras


class NanFinalObs(BrokenEnv):
    def corrupt(self, obs, rewards, dones, extras):
        if "final_obs" in extras:
            extras["final_obs"]["policy"][dones] = float("nan")
        return obs, rewards, dones, extras


# Log.


class SameLogDict(BrokenEnv):
    """The statistics of the last ended episodes stay in the extras, as in Isaac Lab."""

    kept: dict[str, Any] = {}

    def corrupt(self, obs, rewards, dones, extras):
        if dones.any():
            self.kept = extras["log"]
        return obs, rewards, dones, extras | {"log": self.kept}


class SameLogValues(SameLogDict):
    def corrupt(self, obs, rewards, dones, extras):
        obs, rewards, dones, extras = super().corrupt(obs, rewards, dones, extras)
        return obs, rewards, dones, extras | {"log": {k: v.clone() for k, v in extras["log"].items()}}


# Resetting some.


class ResetsEverybody(BrokenEnv):
    def reset_envs(self, env_ids: torch.Tensor) -> bool:
        return super().reset_envs(torch.arange(self.num_envs))


class ForgetsTheirAges(BrokenEnv):
    def reset_envs(self, env_ids: torch.Tensor) -> bool:
        ages = self.episode_length_buf
        super().reset_envs(env_ids)
        self.episode_length_buf = ages
        return True


# State.


class ForgetsRandomState(BrokenEnv):
    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        del state["generator"]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state | {"generator": self._generator.get_state()})


class StateWithoutLoad(BrokenEnv):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        VecEnv.load_state_dict(self, state)


class NumpyState(BrokenEnv):
    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"velocities": [np.zeros(3)]}


CASES: list[tuple[Callable[[], VecEnv], str, str]] = [
    (NoNumActions, "missing-attribute", "num_actions"),
    (NoCfg, "missing-attribute", "cfg"),
    (FloatLimit, "wrong-attribute", "max_episode_length"),
    (LimitOfWrongShape, "wrong-attribute", "max_episode_length"),
    (TermsOfNoGroup, "wrong-terms", "observation_terms['actor']"),
    (TermsAsNames, "wrong-terms", "observation_terms['policy']"),
    (TermTwice, "wrong-terms", "observation_terms['policy']"),
    (TermsOfWrongSize, "wrong-terms", "action_terms"),
    (ElementsOfWrongNumber, "wrong-terms", "action_terms"),
    (ScalesOfWrongNumber, "wrong-terms", "action_terms"),
    (HistoryThatDoesNotFit, "wrong-terms", "observation_terms['policy']"),
    (NumEnvsAsText, "wrong-attribute", "num_envs"),
    (UnknownDevice, "wrong-attribute", "device"),
    (FloatCounters, "wrong-dtype", "episode_length_buf"),
    (CountersOfWrongShape, "wrong-shape", "episode_length_buf"),
    (PlainDictObs, "wrong-type", "obs"),
    (FiveResults, "wrong-type", "step()"),
    (NumpyRewards, "wrong-type", "rewards"),
    (NestedGroups, "wrong-type", "obs['policy']"),
    (NoBatchSize, "wrong-shape", "obs"),
    (FlatGroup, "wrong-shape", "get_observations()['policy']"),
    (ColumnRewards, "wrong-shape", "rewards"),
    (ColumnDones, "wrong-shape", "dones"),
    (ShortTimeOuts, "wrong-shape", "time_outs"),
    (FinalObsOfEndedRowsOnly, "wrong-shape", "final_obs"),
    (GroupAppearsLater, "groups-changed", "obs"),
    (GroupGrows, "groups-changed", "obs"),
    (DoubleObs, "wrong-dtype", "get_observations()['policy']"),
    (ByteVector, "wrong-dtype", "get_observations()['policy']"),
    (DoubleRewards, "wrong-dtype", "rewards"),
    (FloatDones, "wrong-dtype", "dones"),
    (IntegerTimeOuts, "wrong-dtype", "time_outs"),
    (DoubleFinalObs, "wrong-dtype", "final_obs['policy']"),
    (RewardsElsewhere, "wrong-device", "rewards"),
    (ObsElsewhere, "wrong-device", "get_observations()['policy']"),
    (LogOfText, "wrong-type", "log['status']"),
    (ReusedObs, "buffer-reused", "obs['policy']"),
    (ReusedGetObservations, "buffer-reused", "get_observations()['policy']"),
    (ReusedTensorDict, "buffer-reused", "obs['policy']"),
    (ReusedRewards, "buffer-reused", "rewards"),
    (ReusedDones, "buffer-reused", "dones"),
    (ReusedTimeOuts, "buffer-reused", "time_outs"),
    (ReusedFinalObs, "buffer-reused", "final_obs['critic']"),
    (ReusedLog, "buffer-reused", "log['Step/distance']"),
    (LiveState, "buffer-reused", "state_dict()"),
    (ModifiesActions, "actions-modified", "actions"),
    (GetAdvances, "get-observations-changes-simulation", "get_observations()"),
    (GetCounts, "get-observations-changes-simulation", "get_observations()"),
    (GetAdvancesUnseen, "get-observations-unstable", "get_observations()"),
    (GetBeforeReset, "get-observations-differs", "get_observations()['policy']"),
    (NoiseInStepOnly, "get-observations-differs", "get_observations()['policy']"),
    (CountsTwice, "episode-length-not-counted", "episode_length_buf"),
    (CounterKept, "episode-length-not-reset", "episode_length_buf"),
    (ReadOnlyCounter, "episode-length-not-settable", "episode_length_buf"),
    (CounterDropped, "episode-length-not-settable", "episode_length_buf"),
    (CounterForShow, "episode-length-ignored", "episode_length_buf"),
    (LimitTooSmall, "limit-passed", "max_episode_length"),
    (TimeOutsAreDones, "time-outs-are-dones", "time_outs"),
    (SomeTimeOutsEarly, "time-outs-early", "time_outs"),
    (TimeOutsWithoutDone, "time-out-without-done", "time_outs"),
    (NoTimeOuts, "time-outs-missing", "time_outs"),
    (TimeOutsNeverTrue, "time-outs-missing", "time_outs"),
    (NextStepReset, "reset-late", "obs"),
    (DoneTwice, "reset-late", "obs"),
    (ObsNotReset, "obs-is-final-obs", "obs"),
    (FinalObsAfterReset, "obs-is-final-obs", "obs"),
    (FinalObsOfTimeOutsOnly, "final-obs-missing", "final_obs"),
    (FinalObsWithoutCritic, "final-obs-groups", "final_obs"),
    (NanObs, "not-finite", "obs['policy']"),
    (InfiniteRewards, "not-finite", "rewards"),
    (NanFinalObs, "not-finite", "final_obs['policy']"),
    (SameLogDict, "log-stale", "log"),
    (SameLogValues, "log-stale", "log"),
    (ResetsEverybody, "reset-envs-others", "reset_envs()"),
    (ForgetsTheirAges, "reset-envs-without-effect", "reset_envs()"),
    (ForgetsRandomState, "state-not-restored", "load_state_dict()"),
    (StateWithoutLoad, "state-not-restored", "load_state_dict()"),
    (NumpyState, "state-not-plain", "state_dict()['velocities'][0] (a ndarray)"),
]


@pytest.mark.parametrize(("make_env", "code", "where"), CASES, ids=[case[0].__name__ for case in CASES])
def test_each_deviation_is_found_and_nothing_else(make_env: Callable[[], VecEnv], code: str, where: str) -> None:
    problems = check_env(make_env())

    assert {problem.code for problem in problems} == {code}, "\n".join(map(str, problems))
    assert where in {problem.where for problem in problems}


def test_an_environment_that_never_ends_is_reported_as_not_examined() -> None:
    problems = check_env(EndsNever())

    assert {problem.code for problem in problems} == {"no-reset-seen", "episode-length-not-settable"}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_envs": 1},
        {"num_envs": 33, "num_actions": 3, "obs_size": 7},
        {"max_episode_length": 1000},
        {"terminate_at": None},
        {"terminate_at": 1.0},
        {"final_obs": False},
        {"max_episode_length": 1},
    ],
    ids=str,
)
def test_a_correct_environment_has_no_problem(options: dict[str, Any]) -> None:
    assert check_env(PointEnv(**options)) == []


def test_an_environment_need_not_be_able_to_reset_some() -> None:
    class AllOrNone(PointEnv):
        def reset_envs(self, env_ids: torch.Tensor) -> bool:
            return False

    assert check_env(AllOrNone()) == []


def test_limits_may_differ_between_environments() -> None:
    env = PointEnv(num_envs=4)
    env.max_episode_length = torch.tensor([16, 24, 32, 1000])

    assert check_env(env) == []


def test_noise_between_step_and_get_observations_is_a_warning_and_another_state_an_error() -> None:
    assert {problem.severity for problem in check_env(NoiseInStepOnly())} == {"warning"}
    assert {problem.severity for problem in check_env(GetBeforeReset())} == {"error"}


def test_early_time_outs_of_some_are_a_warning() -> None:
    assert {problem.severity for problem in check_env(SomeTimeOutsEarly())} == {"warning"}


def test_every_code_has_a_case_and_every_case_a_code() -> None:
    elsewhere = {"no-reset-seen", *AREAS["commands"]}  # the latter in test_commands
    assert {code for _, code, _ in CASES} | elsewhere == {code for codes in AREAS.values() for code in codes}


def test_the_global_random_states_are_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)

    check_env(PointEnv())

    assert torch.equal(torch.rand(4), expected)


def test_require_env_refuses_errors_and_accepts_warnings() -> None:
    with pytest.raises(UserError, match=r"DoubleRewards does not keep the contract(.|\n)*\[wrong-dtype\] rewards"):
        require_env(DoubleRewards())
    require_env(SomeTimeOutsEarly())


class TestPointEnv(VecEnvContract):
    def make_env(self) -> VecEnv:
        return PointEnv()


class TestAllowedCodes(VecEnvContract):
    allowed_codes = ("wrong-dtype",)

    def make_env(self) -> VecEnv:
        return DoubleRewards()


def test_the_contract_names_the_area_that_fails() -> None:
    class Adapter(VecEnvContract):
        def make_env(self) -> VecEnv:
            return DoubleRewards()

    Adapter().test_time_outs()
    with pytest.raises(AssertionError, match=r"error \[wrong-dtype\] rewards: found torch.float64"):
        Adapter().test_dtypes()


def test_the_contract_has_a_test_for_every_area() -> None:
    assert {f"test_{area}" for area in AREAS} <= set(dir(VecEnvContract))


def test_two_steps_of_a_point_worked_out_by_hand() -> None:
    env = PointEnv(num_envs=1, num_actions=1, max_episode_length=2)
    env.position = torch.tensor([[0.5]])

    obs, rewards, dones, extras = env.step(torch.tensor([[-1.0]]))
    # 0.5 - 0.1 = 0.4; exp(-4 * 0.16) = 0.5273
    torch.testing.assert_close(obs["policy"], torch.tensor([[0.4]]))
    torch.testing.assert_close(obs["critic"], torch.tensor([[0.4, 0.5]]))
    torch.testing.assert_close(rewards, torch.tensor([0.5273]), atol=1e-4, rtol=0)
    assert not dones.any()
    assert "final_obs" not in extras

    obs, rewards, dones, extras = env.step(torch.tensor([[-7.0]]))
    # The action counts as -1: 0.4 - 0.1 = 0.3; exp(-4 * 0.09) = 0.6977; the return is 1.2250.
    torch.testing.assert_close(extras["final_obs"]["critic"], torch.tensor([[0.3, 0.0]]))
    torch.testing.assert_close(extras["log"]["return"], torch.tensor(1.2250), atol=1e-4, rtol=0)
    assert dones.all()
    assert extras["time_outs"].all()
    assert not torch.equal(obs["policy"], extras["final_obs"]["policy"])


def test_points_are_rewarded_for_going_to_the_origin() -> None:
    def mean_reward(gain: float) -> float:
        env = PointEnv(num_envs=256, max_episode_length=64, terminate_at=None)
        obs = env.get_observations()
        total = 0.0
        for _ in range(64):
            obs, rewards, _, _ = env.step(-gain * obs["policy"])
            total += float(rewards.mean())
        return total / 64

    assert mean_reward(0.0) < 0.45
    assert mean_reward(10.0) > 0.9
