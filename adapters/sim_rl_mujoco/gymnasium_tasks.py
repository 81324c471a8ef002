"""The ten robots of Gymnasium's MuJoCo environments, version 5, as batches.

Observations, rewards and terminations are Gymnasium's bit for bit in float64, given the same state
and actions, and are rounded to float32 once. Where the order of floating-point operations decides
the last bit, the order here is Gymnasium's; such places are marked.

Shapes: N environments, B bodies. A field is ``(N, size)``, flattened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import torch

from sim_rl_mujoco.driver import Driver, Outcome, control_range
from sim_rl_mujoco.engine import Engine, load_model
from sim_rl_plugin.env import Term
from sim_rl_plugin.env.mujoco_elements import position_elements, velocity_elements
from sim_rl_plugin.errors import UserError, unknown_name

Fields = Callable[[str], np.ndarray]
"""Field name to ``(rows, size)``."""
Terms = dict[str, np.ndarray]
"""Reward term, as Gymnasium's ``info`` calls it, to ``(N,)``."""
ObservationTerms = dict[str, np.ndarray]
"""Part of the observation to ``(rows, size)`` float64, in Gymnasium's order."""

POLICY = "policy"
"""The observation group with every term: Gymnasium's observation."""

_ASSETS = Path(__file__).parent / "assets"


class GymnasiumTask(Driver):
    """What the ten tasks share: one random generator per environment, and float64 inside.

    Attributes:
        rewards_float64: ``(N,)`` rewards of the last step, before rounding.
        generators: One random generator per environment, seeded by ``(seed, index)``, so that the
            episodes of an environment do not depend on how many others there are.
    """

    xml_name: str
    max_episode_steps = 1000
    camera: dict[str, Any] = {}

    def __init__(self, *, xml_file: str | None = None, frame_skip: int) -> None:
        """Load the model.

        Args:
            xml_file: A model to use instead of the task's own, with the same joints and actuators.
            frame_skip: Physics steps per control step.
        """
        self.model = load_model(Path(xml_file) if xml_file else _ASSETS / self.xml_name)
        self.num_substeps = frame_skip
        self.dt_s = self.model.opt.timestep * frame_skip
        self.num_actions = self.model.nu
        self.action_range = control_range(self.model)
        self.cfg = {"frame_skip": frame_skip}
        self.initial_qpos = self.model.qpos0.copy()
        self.observation_groups: dict[str, tuple[str, ...]] = {}

    def attach(self, engine: Engine, device: torch.device, seed: int) -> None:
        """See ``Driver``."""
        self.engine = engine
        self.device = device
        self.generators = [
            np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, env)))) for env in range(engine.num_envs)
        ]
        # A field that is first asked for after a step would be computed from the state, and not lag as it should.
        self.remember(engine.field)
        self.evaluate(engine.field, np.zeros((engine.num_envs, self.num_actions)))
        self._check_groups(self.observation_terms(engine.field))

    def add_observation_groups(self, groups: Mapping[str, Sequence[str]]) -> None:
        """Give observation groups beside ``policy``, each made of some of the observation's terms.

        Args:
            groups: Name to the names of its terms, which are joined in this order; see
                ``observation_terms`` for those that a task has. Checked in ``attach``.
        """
        self.observation_groups = {name: tuple(terms) for name, terms in groups.items()}
        self.cfg |= {"observation_groups": {name: list(terms) for name, terms in groups.items()}}

    def _check_groups(self, terms: ObservationTerms) -> None:
        for group, names in self.observation_groups.items():
            path = f"observation_groups.{group}"
            if group == POLICY:
                raise UserError(f"{path}: this group is always the whole observation: choose another name")
            if not names:
                raise UserError(f"{path}: expected some of {', '.join(terms)}, found none")
            for name in names:
                if name not in terms:
                    raise unknown_name(f"observation term in {path}:", name, terms)

    def inputs(self, actions: np.ndarray) -> dict[str, np.ndarray]:
        """See ``Driver``."""
        self.remember(self.engine.field)
        return {"ctrl": actions}

    def outcome(self, actions: np.ndarray) -> Outcome:
        """See ``Driver``."""
        fields = self.engine.field
        rewards, terminated, terms = self.evaluate(fields, actions)
        self.rewards_float64 = rewards
        return Outcome(
            self._observe(fields),
            torch.from_numpy(rewards.astype(np.float32)).to(self.device),
            torch.from_numpy(terminated).to(self.device),
            {name: float(values.mean()) for name, values in terms.items()},
        )

    def reset(self, env_ids: np.ndarray) -> None:
        """See ``Driver``."""
        qpos = np.empty((len(env_ids), self.model.nq))
        qvel = np.empty((len(env_ids), self.model.nv))
        for row, env in enumerate(env_ids.tolist()):
            qpos[row], qvel[row] = self.initial_state(self.generators[env])
        self.engine.reset(env_ids, qpos, qvel)

    def observations_after_reset(
        self, observations: dict[str, torch.Tensor] | None, env_ids: np.ndarray
    ) -> dict[str, torch.Tensor]:
        """See ``Driver``."""
        if observations is None:
            return self._observe(self.engine.field)
        fresh = self._observe(lambda name: self.engine.field(name)[env_ids])
        merged = {}
        for group, values in observations.items():
            # In numpy, because torch would wake its own threads for a batch of this size.
            rows = values.cpu().numpy().copy()
            rows[env_ids] = fresh[group].cpu().numpy()
            merged[group] = torch.from_numpy(rows).to(self.device)
        return merged

    def observation_float64(self) -> np.ndarray:
        """Return the current observations before rounding, ``(N, size)``."""
        return np.concatenate(list(self.observation_terms(self.engine.field).values()), axis=1)

    def state_dict(self) -> dict[str, Any]:
        """Return the random states; everything else follows from the engine's fields."""
        rows = [_generator_words(generator) for generator in self.generators]
        return {"generators": torch.from_numpy(np.array(rows, dtype=np.uint64).view(np.int64))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Driver``."""
        for generator, words in zip(self.generators, state["generators"].numpy().view(np.uint64), strict=True):
            _set_generator_words(generator, words.tolist())

    def remember(self, fields: Fields) -> None:
        """Keep what the reward compares with after the step."""

    def observation_terms(self, fields: Fields) -> ObservationTerms:
        """Return the parts of the observation by name, in order, each ``(rows, size)`` float64."""
        raise NotImplementedError

    def observation_terms_by_group(self) -> dict[str, tuple[Term, ...]]:
        """See ``Driver``."""
        known = {"position": position_elements(self.model), "velocity": velocity_elements(self.model)}
        terms = {}
        for name, values in self.observation_terms(self.engine.field).items():
            size = values.shape[1]
            # What is left out of an observation comes first: how far the robot has come.
            elements = known[name][-size:] if name in known and 0 < size <= len(known[name]) else ()
            terms[name] = Term(name, values.shape[1:], elements)
        groups = {POLICY: tuple(terms), **self.observation_groups}
        return {group: tuple(terms[name] for name in names) for group, names in groups.items()}

    def evaluate(self, fields: Fields, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, Terms]:
        """Return rewards ``(N,)``, terminations ``(N,)`` and the reward's terms."""
        raise NotImplementedError

    def initial_state(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw the first ``(nq,)`` positions and ``(nv,)`` velocities of an episode."""
        raise NotImplementedError

    def _observe(self, fields: Fields) -> dict[str, torch.Tensor]:
        terms = self.observation_terms(fields)
        observations = {POLICY: self._rounded(terms.values())}
        for group, names in self.observation_groups.items():
            observations[group] = self._rounded(terms[name] for name in names)
        return observations

    def _rounded(self, parts: Iterable[np.ndarray]) -> torch.Tensor:
        # Concatenating straight into float32 saves a pass over the batch.
        with np.errstate(over="ignore"):  # of a diverged environment, which is found and zeroed later
            joined = np.concatenate(list(parts), axis=1, dtype=np.float32, casting="same_kind")
        return torch.from_numpy(joined).to(self.device)


def _generator_words(generator: np.random.Generator) -> list[int]:
    """Return a PCG64 generator's state as six 64-bit words."""
    state = generator.bit_generator.state
    words = []
    for number in (state["state"]["state"], state["state"]["inc"]):
        words += [number >> 64, number & (2**64 - 1)]
    return [*words, state["has_uint32"], state["uinteger"]]


def _set_generator_words(generator: np.random.Generator, words: list[int]) -> None:
    generator.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": words[0] << 64 | words[1], "inc": words[2] << 64 | words[3]},
        "has_uint32": words[4],
        "uinteger": words[5],
    }


def _sum_of_squares(values: np.ndarray) -> np.ndarray:
    return np.sum(np.square(values), axis=1)


def _norm(vectors: np.ndarray) -> np.ndarray:
    """Return Euclidean norms ``(N,)`` of ``(N, K)``: the dot product that ``np.linalg.norm`` takes of one vector."""
    return np.sqrt((vectors[:, None, :] @ vectors[:, :, None])[:, 0, 0])


def _squares_by_pow(values: np.ndarray) -> np.ndarray:
    """Return ``values**2`` as C's ``pow`` rounds it, which Gymnasium's scalars go through.

    Of random numbers one in a thousand differs from ``x * x`` in the last bit.
    """
    return np.array([value**2 for value in values.ravel().tolist()]).reshape(values.shape)


class _Planar(GymnasiumTask):
    """Robots whose progress is the first coordinate: the runners in a plane, and the swimmer."""

    num_hidden_positions = 1
    velocity_limit: float | None = None
    normal_velocity_noise = False

    def __init__(
        self,
        *,
        xml_file: str | None,
        frame_skip: int,
        forward_reward_weight: float,
        ctrl_cost_weight: float,
        reset_noise_scale: float,
        exclude_current_positions_from_observation: bool,
    ) -> None:
        super().__init__(xml_file=xml_file, frame_skip=frame_skip)
        self.forward_reward_weight = forward_reward_weight
        self.ctrl_cost_weight = ctrl_cost_weight
        self.reset_noise_scale = reset_noise_scale
        self.first_position = self.num_hidden_positions * exclude_current_positions_from_observation
        self.cfg |= {
            "forward_reward_weight": forward_reward_weight,
            "ctrl_cost_weight": ctrl_cost_weight,
            "reset_noise_scale": reset_noise_scale,
            "exclude_current_positions_from_observation": exclude_current_positions_from_observation,
        }

    def remember(self, fields: Fields) -> None:
        """Keep the progress before the step."""
        self.progress_before_m = self.progress_m(fields)

    def progress_m(self, fields: Fields) -> np.ndarray:
        """Return how far each robot has come, ``(N,)``, in memory of its own."""
        return fields("qpos")[:, 0].copy()

    def observation_terms(self, fields: Fields) -> ObservationTerms:
        """``position`` without the coordinates that progress changes, and ``velocity``."""
        qvel = fields("qvel")
        if self.velocity_limit is not None:
            qvel = np.clip(qvel, -self.velocity_limit, self.velocity_limit)
        return {"position": fields("qpos")[:, self.first_position :], "velocity": qvel}

    def forward_reward(self, fields: Fields) -> np.ndarray:
        """Return the weighted velocity over the control step, ``(N,)``."""
        return self.forward_reward_weight * ((self.progress_m(fields) - self.progress_before_m) / self.dt_s)

    def evaluate(self, fields: Fields, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, Terms]:
        """Progress minus the cost of control; no termination."""
        forward = self.forward_reward(fields)
        control = self.ctrl_cost_weight * _sum_of_squares(actions)
        terms = {"reward_forward": forward, "reward_ctrl": -control}
        return forward - control, np.zeros(len(forward), dtype=bool), terms

    def initial_state(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Noise around the model's initial position, and around standing still."""
        scale = self.reset_noise_scale
        qpos = self.initial_qpos + random.uniform(-scale, scale, self.model.nq)
        if self.normal_velocity_noise:
            return qpos, scale * random.standard_normal(self.model.nv)
        return qpos, random.uniform(-scale, scale, self.model.nv)


class HalfCheetah(_Planar):
    """``HalfCheetah-v5``: run forward. 17 observations, 6 actions, 0.05 s per step, no termination."""

    xml_name = "half_cheetah.xml"
    camera = {"distance": 4.0}
    normal_velocity_noise = True

    def __init__(
        self,
        *,
        xml_file: str | None = None,
        frame_skip: int = 5,
        forward_reward_weight: float = 1.0,
        ctrl_cost_weight: float = 0.1,
        reset_noise_scale: float = 0.1,
        exclude_current_positions_from_observation: bool = True,
    ) -> None:
        super().__init__(
            xml_file=xml_file,
            frame_skip=frame_skip,
            forward_reward_weight=forward_reward_weight,
            ctrl_cost_weight=ctrl_cost_weight,
            reset_noise_scale=reset_noise_scale,
            exclude_current_positions_from_observation=exclude_current_positions_from_observation,
        )


class Swimmer(_Planar):
    """``Swimmer-v5``: swim forward. 8 observations, 2 actions, 0.04 s per step, no termination."""

    xml_name = "swimmer.xml"
    num_hidden_positions = 2

    def __init__(
        self,
        *,
        xml_file: str | None = None,
        frame_skip: int = 4,
        forward_reward_weight: float = 1.0,
        ctrl_cost_weight: float = 1e-4,
        reset_noise_scale: float = 0.1,
        exclude_current_positions_from_observation: bool = True,
    ) -> None:
        super().__init__(
            xml_file=xml_file,
            frame_skip=frame_skip,
            forward_reward_weight=forward_reward_weight,
            ctrl_cost_weight=ctrl_cost_weight,
            reset_noise_scale=reset_noise_scale,
            exclude_current_positions_from_observation=exclude_current_positions_from_observation,
        )


class _Survivor(_Planar):
    """Planar robots that end the episode when they fall."""

    velocity_limit: float | None = 10.0

    def __init__(
        self,
        *,
        healthy_reward: float,
        terminate_when_unhealthy: bool,
        healthy_z_range: Sequence[float],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.healthy_reward = healthy_reward
        self.terminate_when_unhealthy = terminate_when_unhealthy
        self.healthy_z_range_m = _pair(healthy_z_range)
        self.cfg |= {
            "healthy_reward": healthy_reward,
            "terminate_when_unhealthy": terminate_when_unhealthy,
            "healthy_z_range": list(healthy_z_range),
        }

    def is_healthy(self, fields: Fields) -> np.ndarray:
        """Return which robots stand, ``(N,)`` bool."""
        raise NotImplementedError

    def costs(self, fields: Fields, actions: np.ndarray) -> Terms:
        """Return what is subtracted, positive, in the order of addition."""
        return {"reward_ctrl": self.ctrl_cost_weight * _sum_of_squares(actions)}

    def evaluate(self, fields: Fields, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, Terms]:
        """Progress and survival minus the costs, summed in Gymnasium's order."""
        healthy = self.is_healthy(fields)
        forward = self.forward_reward(fields)
        survive = healthy * self.healthy_reward
        costs = self.costs(fields, actions)
        total = sum(costs.values())
        rewards = (forward + survive) - total
        terms = {"reward_forward": forward, "reward_survive": survive} | {name: -cost for name, cost in costs.items()}
        if not self.terminate_when_unhealthy:
            return rewards, np.zeros(len(healthy), dtype=bool), terms
        return rewards, ~healthy, terms


class Hopper(_Survivor):
    """``Hopper-v5``: hop forward on one leg. 11 observations, 3 actions, 0.008 s per step."""

    xml_name = "hopper.xml"
    camera = {"trackbodyid": 2, "distance": 3.0, "lookat": (0.0, 0.0, 1.15), "elevation": -20.0}

    def __init__(
        self,
        *,
        xml_file: str | None = None,
        frame_skip: int = 4,
        forward_reward_weight: float = 1.0,
        ctrl_cost_weight: float = 1e-3,
        healthy_reward: float = 1.0,
        terminate_when_unhealthy: bool = True,
        healthy_state_range: Sequence[float] = (-100.0, 100.0),
        healthy_z_range: Sequence[float] = (0.7, float("inf")),
        healthy_angle_range: Sequence[float] = (-0.2, 0.2),
        reset_noise_scale: float = 5e-3,
        exclude_current_positions_from_observation: bool = True,
    ) -> None:
        super().__init__(
            xml_file=xml_file,
            frame_skip=frame_skip,
            forward_reward_weight=forward_reward_weight,
            ctrl_cost_weight=ctrl_cost_weight,
            healthy_reward=healthy_reward,
            terminate_when_unhealthy=terminate_when_unhealthy,
            healthy_z_range=healthy_z_range,
            reset_noise_scale=reset_noise_scale,
            exclude_current_positions_from_observation=exclude_current_positions_from_observation,
        )
        self.healthy_state_range = _pair(healthy_state_range)
        self.healthy_angle_range_rad = _pair(healthy_angle_range)
        self.cfg |= {
            "healthy_state_range": list(healthy_state_range),
            "healthy_angle_range": list(healthy_angle_range),
        }

    def is_healthy(self, fields: Fields) -> np.ndarray:
        """Height, tilt, and everything but the position in range."""
        qpos, qvel = fields("qpos"), fields("qvel")
        low, high = self.healthy_state_range
        healthy = _inside(qpos[:, 1], self.healthy_z_range_m) & _inside(qpos[:, 2], self.healthy_angle_range_rad)
        for values in (qpos[:, 2:], qvel):
            healthy &= ((values > low) & (values < high)).all(axis=1)
        return healthy


class Walker2d(_Survivor):
    """``Walker2d-v5``: walk forward on two legs. 17 observations, 6 actions, 0.008 s per step."""

    xml_name = "walker2d.xml"
    camera = {"trackbodyid": 2, "distance": 4.0, "lookat": (0.0, 0.0, 1.15), "elevation": -20.0}

    def __init__(
        self,
        *,
        xml_file: str | None = None,
        frame_skip: int = 4,
        forward_reward_weight: float = 1.0,
        ctrl_cost_weight: float = 1e-3,
        healthy_reward: float = 1.0,
        terminate_when_unhealthy: bool = True,
        healthy_z_range: Sequence[float] = (0.8, 2.0),
        healthy_angle_range: Sequence[float] = (-1.0, 1.0),
        reset_noise_scale: float = 5e-3,
        exclude_current_positions_from_observation: bool = True,
    ) -> None:
        super().__init__(
            xml_file=xml_file,
            frame_skip=frame_skip,
            forward_reward_weight=forward_reward_weight,
            ctrl_cost_weight=ctrl_cost_weight,
            healthy_reward=healthy_reward,
            terminate_when_unhealthy=terminate_when_unhealthy,
            healthy_z_range=healthy_z_range,
            reset_noise_scale=reset_noise_scale,
            exclude_current_positions_from_observation=exclude_current_positions_from_observation,
        )
        self.healthy_angle_range_rad = _pair(healthy_angle_range)
        self.cfg |= {"healthy_angle_range": list(healthy_angle_range)}

    def is_healthy(self, fields: Fields) -> np.ndarray:
        """Height and tilt in range."""
        qpos = fields("qpos")
        return _inside(qpos[:, 1], self.healthy_z_range_m) & _inside(qpos[:, 2], self.healthy_angle_range_rad)


class Ant(_Survivor):
    """``Ant-v5``: run forward on four legs. 105 observations, 8 actions, 0.05 s per step."""

    xml_name = "ant.xml"
    camera = {"distance": 4.0}
    num_hidden_positions = 2
    velocity_limit = None
    normal_velocity_noise = True

    def __init__(
        self,
        *,
        xml_file: str | None = None,
        frame_skip: int = 5,
        forward_reward_weight: float = 1.0,
        ctrl_cost_weight: float = 0.5,
        contact_cost_weight: float = 5e-4,
        healthy_reward: float = 1.0,
        main_body: int | str = 1,
        terminate_when_unhealthy: bool = True,
        healthy_z_range: Sequence[float] = (0.2, 1.0),
        contact_force_range: Sequence[float] = (-1.0, 1.0),
        reset_noise_scale: float = 0.1,
        exclude_current_positions_from_observation: bool = True,
        include_cfrc_ext_in_observation: bool = True,
    ) -> None:
        super().__init__(
            xml_file=xml_file,
            frame_skip=frame_skip,
            forward_reward_weight=forward_reward_weight,
            ctrl_cost_weight=ctrl_cost_weight,
            healthy_reward=healthy_reward,
            terminate_when_unhealthy=terminate_when_unhealthy,
            healthy_z_range=healthy_z_range,
            reset_noise_scale=reset_noise_scale,
            exclude_current_positions_from_observation=exclude_current_positions_from_observation,
        )
        self.contact_cost_weight = contact_cost_weight
        self.contact_force_range = _pair(contact_force_range)
        self.main_body_id = self.model.body(main_body).id
        self.include_cfrc_ext = include_cfrc_ext_in_observation
        self.cfg |= {
            "contact_cost_weight": contact_cost_weight,
            "contact_force_range": list(contact_force_range),
            "main_body": main_body,
            "include_cfrc_ext_in_observation": include_cfrc_ext_in_observation,
        }

    def progress_m(self, fields: Fields) -> np.ndarray:
        """Return the x position of the main body, which MuJoCo leaves one physics step behind ``qpos``."""
        return fields("xpos")[:, 3 * self.main_body_id].copy()

    def is_healthy(self, fields: Fields) -> np.ndarray:
        """Height in range, bounds included, and everything finite."""
        qpos, qvel = fields("qpos"), fields("qvel")
        low, high = self.healthy_z_range_m
        finite = np.isfinite(qpos).all(axis=1) & np.isfinite(qvel).all(axis=1)
        return finite & (low <= qpos[:, 2]) & (qpos[:, 2] <= high)

    def contact_forces(self, fields: Fields) -> np.ndarray:
        """Return clipped contact forces and torques of all bodies, the world included, ``(rows, 6 B)``."""
        return np.clip(fields("cfrc_ext"), *self.contact_force_range)

    def costs(self, fields: Fields, actions: np.ndarray) -> Terms:
        """Control and contact."""
        return super().costs(fields, actions) | {
            "reward_contact": self.contact_cost_weight * _sum_of_squares(self.contact_forces(fields))
        }

    def observation_terms(self, fields: Fields) -> ObservationTerms:
        """``position``, ``velocity``, and ``contact_force`` of every body but the world."""
        terms = super().observation_terms(fields)
        if self.include_cfrc_ext:
            terms["contact_force"] = np.clip(fields("cfrc_ext")[:, 6:], *self.contact_force_range)
        return terms


class Humanoid(_Survivor):
    """``Humanoid-v5``: walk forward on two legs. 348 observations, 17 actions, 0.015 s per step."""

    xml_name = "humanoid.xml"
    camera = {"trackbodyid": 1, "distance": 4.0, "lookat": (0.0, 0.0, 2.0), "elevation": -20.0}
    num_hidden_positions = 2
    velocity_limit = None

    def __init__(
        self,
        *,
        xml_file: str | None = None,
        frame_skip: int = 5,
        forward_reward_weight: float = 1.25,
        ctrl_cost_weight: float = 0.1,
        contact_cost_weight: float = 5e-7,
        contact_cost_range: Sequence[float] = (-float("inf"), 10.0),
        healthy_reward: float = 5.0,
        terminate_when_unhealthy: bool = True,
        healthy_z_range: Sequence[float] = (1.0, 2.0),
        reset_noise_scale: float = 1e-2,
        exclude_current_positions_from_observation: bool = True,
        include_cinert_in_observation: bool = True,
        include_cvel_in_observation: bool = True,
        include_qfrc_actuator_in_observation: bool = True,
        include_cfrc_ext_in_observation: bool = True,
    ) -> None:
        super().__init__(
            xml_file=xml_file,
            frame_skip=frame_skip,
            forward_reward_weight=forward_reward_weight,
            ctrl_cost_weight=ctrl_cost_weight,
            healthy_reward=healthy_reward,
            terminate_when_unhealthy=terminate_when_unhealthy,
            healthy_z_range=healthy_z_range,
            reset_noise_scale=reset_noise_scale,
            exclude_current_positions_from_observation=exclude_current_positions_from_observation,
        )
        self.contact_cost_weight = contact_cost_weight
        self.contact_cost_range = _pair(contact_cost_range)
        # Term, field and first column: the world's rows and the root's six actuator forces are left out.
        wanted = {
            ("inertia", "cinert", 10): include_cinert_in_observation,
            ("body_velocity", "cvel", 6): include_cvel_in_observation,
            ("actuator_force", "qfrc_actuator", 6): include_qfrc_actuator_in_observation,
            ("contact_force", "cfrc_ext", 6): include_cfrc_ext_in_observation,
        }
        self.extra_terms = [term for term, included in wanted.items() if included]
        self.cfg |= {
            "contact_cost_weight": contact_cost_weight,
            "contact_cost_range": list(contact_cost_range),
            **{f"include_{name}_in_observation": included for (_, name, _), included in wanted.items()},
        }

    def progress_m(self, fields: Fields) -> np.ndarray:
        """Return the x position of the centre of mass, one physics step behind ``qpos``."""
        mass = self.model.body_mass
        xipos = fields("xipos").reshape(-1, len(mass), 3)
        # All three axes although one is used: for one, einsum would sum in another order.
        return np.einsum("b,nbj->nj", mass, xipos)[:, 0] / mass.sum()

    def is_healthy(self, fields: Fields) -> np.ndarray:
        """Height in range."""
        return _inside(fields("qpos")[:, 2], self.healthy_z_range_m)

    def costs(self, fields: Fields, actions: np.ndarray) -> Terms:
        """Control and contact, the latter limited."""
        contact = self.contact_cost_weight * _sum_of_squares(fields("cfrc_ext"))
        return super().costs(fields, actions) | {"reward_contact": np.clip(contact, *self.contact_cost_range)}

    def observation_terms(self, fields: Fields) -> ObservationTerms:
        """``position``, ``velocity``, ``inertia``, ``body_velocity``, ``actuator_force``, ``contact_force``."""
        extra = {term: fields(name)[:, first:] for term, name, first in self.extra_terms}
        return super().observation_terms(fields) | extra


class Reacher(GymnasiumTask):
    """``Reacher-v5``: bring a two-link arm's tip to a target. 10 observations, 2 actions, 50 steps of 0.02 s."""

    xml_name = "reacher.xml"
    camera = {"trackbodyid": 0}
    max_episode_steps = 50

    def __init__(
        self,
        *,
        xml_file: str | None = None,
        frame_skip: int = 2,
        reward_dist_weight: float = 1.0,
        reward_control_weight: float = 1.0,
    ) -> None:
        super().__init__(xml_file=xml_file, frame_skip=frame_skip)
        self.reward_dist_weight = reward_dist_weight
        self.reward_control_weight = reward_control_weight
        self.cfg |= {"reward_dist_weight": reward_dist_weight, "reward_control_weight": reward_control_weight}
        self.fingertip = _columns(self.model, "fingertip")
        self.target = _columns(self.model, "target")

    def _to_target_m(self, fields: Fields) -> np.ndarray:
        xpos = fields("xpos")
        return xpos[:, self.fingertip] - xpos[:, self.target]

    def observation_terms(self, fields: Fields) -> ObservationTerms:
        """``joint_cos``, ``joint_sin``, ``target``, ``joint_velocity``, and ``target_to_tip``."""
        qpos = fields("qpos")
        angles_rad = qpos[:, :2]
        return {
            "joint_cos": np.cos(angles_rad),
            "joint_sin": np.sin(angles_rad),
            "target": qpos[:, 2:],
            "joint_velocity": fields("qvel")[:, :2],
            "target_to_tip": self._to_target_m(fields)[:, :2],
        }

    def evaluate(self, fields: Fields, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, Terms]:
        """Minus the distance, minus the cost of control."""
        distance = -_norm(self._to_target_m(fields)) * self.reward_dist_weight
        control = -_sum_of_squares(actions) * self.reward_control_weight
        terms = {"reward_dist": distance, "reward_ctrl": control}
        return distance + control, np.zeros(len(distance), dtype=bool), terms

    def initial_state(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Noise on the joints; the target uniform in a disc of 0.2 m."""
        qpos = random.uniform(-0.1, 0.1, self.model.nq) + self.initial_qpos
        goal_m = random.uniform(-0.2, 0.2, 2)
        while goal_m @ goal_m >= 0.2**2:
            goal_m = random.uniform(-0.2, 0.2, 2)
        qpos[-2:] = goal_m
        qvel = random.uniform(-0.005, 0.005, self.model.nv)
        qvel[-2:] = 0.0
        return qpos, qvel


class Pusher(GymnasiumTask):
    """``Pusher-v5``: push a cylinder to a goal with an arm. 23 observations, 7 actions, 100 steps of 0.05 s."""

    xml_name = "pusher.xml"
    camera = {"trackbodyid": -1, "distance": 4.0}
    max_episode_steps = 100

    def __init__(
        self,
        *,
        xml_file: str | None = None,
        frame_skip: int = 5,
        reward_near_weight: float = 0.5,
        reward_dist_weight: float = 1.0,
        reward_control_weight: float = 0.1,
    ) -> None:
        super().__init__(xml_file=xml_file, frame_skip=frame_skip)
        self.reward_near_weight = reward_near_weight
        self.reward_dist_weight = reward_dist_weight
        self.reward_control_weight = reward_control_weight
        self.cfg |= {
            "reward_near_weight": reward_near_weight,
            "reward_dist_weight": reward_dist_weight,
            "reward_control_weight": reward_control_weight,
        }
        self.tip = _columns(self.model, "tips_arm")
        self.object = _columns(self.model, "object")
        self.goal = _columns(self.model, "goal")

    def observation_terms(self, fields: Fields) -> ObservationTerms:
        """``joint_position`` and ``joint_velocity`` of the arm; places of ``tip``, ``object`` and ``goal``."""
        xpos = fields("xpos")
        return {
            "joint_position": fields("qpos")[:, :7],
            "joint_velocity": fields("qvel")[:, :7],
            "tip": xpos[:, self.tip],
            "object": xpos[:, self.object],
            "goal": xpos[:, self.goal],
        }

    def evaluate(self, fields: Fields, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, Terms]:
        """Minus both distances, minus the cost of control, summed in Gymnasium's order."""
        xpos = fields("xpos")
        near = -_norm(xpos[:, self.object] - xpos[:, self.tip]) * self.reward_near_weight
        distance = -_norm(xpos[:, self.object] - xpos[:, self.goal]) * self.reward_dist_weight
        control = -_sum_of_squares(actions) * self.reward_control_weight
        terms = {"reward_dist": distance, "reward_ctrl": control, "reward_near": near}
        return distance + control + near, np.zeros(len(near), dtype=bool), terms

    def initial_state(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The object somewhere on the table, at least 0.17 m from the goal."""
        object_m = np.zeros(2)
        while object_m @ object_m <= 0.17**2:
            object_m = random.uniform((-0.3, -0.2), (0.0, 0.2))
        qpos = self.initial_qpos.copy()
        qpos[-4:-2] = object_m
        qpos[-2:] = 0.0
        qvel = random.uniform(-0.005, 0.005, self.model.nv)
        qvel[-4:] = 0.0
        return qpos, qvel


class InvertedPendulum(GymnasiumTask):
    """``InvertedPendulum-v5``: balance a pole on a cart. 4 observations, 1 action, 0.04 s per step."""

    xml_name = "inverted_pendulum.xml"
    camera = {"trackbodyid": 0, "distance": 2.04}

    def __init__(self, *, xml_file: str | None = None, frame_skip: int = 2, reset_noise_scale: float = 0.01) -> None:
        super().__init__(xml_file=xml_file, frame_skip=frame_skip)
        self.reset_noise_scale = reset_noise_scale
        self.cfg |= {"reset_noise_scale": reset_noise_scale}

    def observation_terms(self, fields: Fields) -> ObservationTerms:
        """``position`` and ``velocity``."""
        return {"position": fields("qpos"), "velocity": fields("qvel")}

    def evaluate(self, fields: Fields, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, Terms]:
        """One per step until the pole leans by more than 0.2 rad."""
        qpos, qvel = fields("qpos"), fields("qvel")
        finite = np.isfinite(qpos).all(axis=1) & np.isfinite(qvel).all(axis=1)
        terminated = ~finite | (np.abs(qpos[:, 1]) > 0.2)
        rewards = (~terminated).astype(np.float64)
        return rewards, terminated, {"reward_survive": rewards}

    def initial_state(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Uniform noise around upright and still."""
        scale = self.reset_noise_scale
        qpos = self.initial_qpos + random.uniform(-scale, scale, self.model.nq)
        return qpos, random.uniform(-scale, scale, self.model.nv)


class InvertedDoublePendulum(GymnasiumTask):
    """``InvertedDoublePendulum-v5``: balance two poles on a cart. 9 observations, 1 action, 0.05 s per step."""

    xml_name = "inverted_double_pendulum.xml"
    camera = {"trackbodyid": 0, "distance": 4.1225, "lookat": (0.0, 0.0, 0.1225)}

    def __init__(
        self,
        *,
        xml_file: str | None = None,
        frame_skip: int = 5,
        healthy_reward: float = 10.0,
        reset_noise_scale: float = 0.1,
    ) -> None:
        super().__init__(xml_file=xml_file, frame_skip=frame_skip)
        self.healthy_reward = healthy_reward
        self.reset_noise_scale = reset_noise_scale
        self.cfg |= {"healthy_reward": healthy_reward, "reset_noise_scale": reset_noise_scale}

    def observation_terms(self, fields: Fields) -> ObservationTerms:
        """``cart_position``, ``pole_sin``, ``pole_cos``; ``velocity`` and ``constraint_force`` on the cart, clipped."""
        qpos = fields("qpos")
        return {
            "cart_position": qpos[:, :1],
            "pole_sin": np.sin(qpos[:, 1:]),
            "pole_cos": np.cos(qpos[:, 1:]),
            "velocity": np.clip(fields("qvel"), -10.0, 10.0),
            "constraint_force": np.clip(fields("qfrc_constraint")[:, :1], -10.0, 10.0),
        }

    def evaluate(self, fields: Fields, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, Terms]:
        """A bonus while the tip is above 1 m, minus penalties on its place and the joints' speeds."""
        tip_m, qvel = fields("site_xpos"), fields("qvel")
        x, z = tip_m[:, 0], tip_m[:, 2]
        terminated = z <= 1.0
        x2, z2, v1, v2 = _squares_by_pow(np.stack([x, z - 2.0, qvel[:, 1], qvel[:, 2]]))
        distance = 0.01 * x2 + z2
        velocity = 1e-3 * v1 + 5e-3 * v2
        bonus = self.healthy_reward * (~terminated).astype(np.float64)
        terms = {"reward_survive": bonus, "distance_penalty": -distance, "velocity_penalty": -velocity}
        return bonus - distance - velocity, terminated, terms

    def initial_state(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Uniform noise on the positions, normal noise on the velocities."""
        scale = self.reset_noise_scale
        qpos = self.initial_qpos + random.uniform(-scale, scale, self.model.nq)
        return qpos, random.standard_normal(self.model.nv) * scale


def _pair(bounds: Sequence[float]) -> tuple[float, float]:
    low, high = bounds
    return float(low), float(high)


def _inside(values: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    low, high = bounds
    return (low < values) & (values < high)


def _columns(model: mujoco.MjModel, body: str) -> slice:
    """Return the columns of a body in the flattened ``xpos``."""
    first = 3 * model.body(body).id
    return slice(first, first + 3)
