"""An environment seen through a layout map: it shows what the policy reads, and takes what the policy gives.

Legend of shapes: ``n`` environments.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict

from sim_rl_plugin.env.terms import Term, action_terms, fault_in_terms, observation_terms
from sim_rl_plugin.env.wrapper import EnvWrapper
from sim_rl_plugin.errors import UserError, unknown_name
from sim_rl_plugin.sim_to_sim.layout_map import Factor, LayoutMap, TermMap


@dataclass(frozen=True)
class _Columns:
    """Numbers of one vector made of those of another: ``out = source[:, index] * scale + offset``."""

    index: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor

    def of(self, values: torch.Tensor) -> torch.Tensor:
        device = values.device
        return values[:, self.index.to(device)] * self.scale.to(device) + self.offset.to(device)


class MappedEnv(EnvWrapper):
    """Another simulator's environment in the layout of a policy; whatever is not about layout is the inner one's."""

    def __init__(
        self, env: Any, layout: Mapping[str, Any], layout_map: LayoutMap, read_groups: Collection[str]
    ) -> None:
        """Compare the layouts term by term.

        Args:
            env: The environment.
            layout: The policy's, see ``sim_rl_plugin.layout``.
            layout_map: What is called what.
            read_groups: Groups that the policy itself reads. The others, which only a critic or a teacher would
                read, are zeros where the environment does not have them.

        Raises:
            UserError: Something has no counterpart, or another size; with its key path in the map.
        """
        super().__init__(env)
        self.num_actions = int(layout["num_actions"])
        shown = env.get_observations()
        self._layout = layout
        self._groups: dict[str, tuple[str, _Columns | None]] = {}
        self._zeros: dict[str, tuple[int, ...]] = {}
        for name in layout_map.observations:
            if name not in layout["observations"]:
                raise unknown_name("group of the policy in observations:", name, layout["observations"])
        for name, description in layout["observations"].items():
            source = (layout_map.observations[name].group if name in layout_map.observations else "") or name
            if source not in shown.keys():
                if name in read_groups:
                    raise unknown_name(f"group of the environment in observations.{name}.group:", source, shown.keys())
                self._zeros[name] = tuple(description["shape"])
                continue
            terms = layout_map.environment_observations.get(source) or observation_terms(env).get(source, ())
            self._groups[name] = (source, _observation_columns(name, description, shown[source], terms, layout_map))
        self._actions = _action_columns(layout, env, layout_map)

    @property
    def observation_terms(self) -> Mapping[str, Sequence[Term]]:  # type: ignore[override]
        """The policy's."""
        groups = self._layout["observations"]
        return {
            name: tuple(map(Term.from_dict, group["terms"])) for name, group in groups.items() if group.get("terms")
        }

    @property
    def action_terms(self) -> Sequence[Term]:  # type: ignore[override]
        """The policy's."""
        return tuple(map(Term.from_dict, self._layout.get("actions") or ()))

    def get_observations(self) -> TensorDict:
        """Return what the policy reads."""
        return self._shown(self.env.get_observations())

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Step with the policy's actions ``(n, num_actions)``; final observations are the policy's, too."""
        obs, rewards, dones, extras = self.env.step(self._actions.of(actions))
        if extras.get("final_obs") is not None:
            extras = {**extras, "final_obs": self._shown(extras["final_obs"])}
        return self._shown(obs), rewards, dones, extras

    def _shown(self, obs: TensorDict) -> TensorDict:
        groups = {
            name: obs[source] if columns is None else columns.of(obs[source])
            for name, (source, columns) in self._groups.items()
        }
        for name, shape in self._zeros.items():
            groups[name] = torch.zeros(obs.batch_size[0], *shape, device=self.env.device)
        return TensorDict(groups, batch_size=obs.batch_size)


def _observation_columns(
    group: str, description: Mapping[str, Any], shown: torch.Tensor, env_terms: Sequence[Term], layout_map: LayoutMap
) -> _Columns | None:
    """Return how a policy's group is made of the environment's; None where it is taken as it is."""
    path = f"observations.{group}"
    maps = layout_map.observations[group].terms if group in layout_map.observations else {}
    own_terms = tuple(map(Term.from_dict, description.get("terms") or ()))
    if not own_terms or not env_terms:
        if maps:
            whose = "environment" if own_terms else "policy"
            raise UserError(
                f"{path}.terms: the {whose} does not tell the terms of this group"
                + (": list them in environment.observations" if own_terms else ", so it can only be taken as a whole")
            )
        if list(shown.shape[1:]) != list(description["shape"]):
            sizes = list(shown.shape[1:]), description["shape"]
            raise UserError(f"{path}: the group has size {sizes[0]}, the policy reads {sizes[1]}")
        return None
    if fault := fault_in_terms(env_terms, shown[0].numel()):
        raise UserError(f"the terms of the environment's group for {path} do not add up: {fault}")
    for name in maps:
        if name not in [term.name for term in own_terms]:
            raise unknown_name(f"term of the policy in {path}.terms:", name, [term.name for term in own_terms])
    starts = _starts(env_terms)
    pieces = [_piece(term, maps.get(term.name, TermMap()), starts, f"{path}.terms.{term.name}") for term in own_terms]
    return _joined(pieces)


def _action_columns(layout: Mapping[str, Any], env: Any, layout_map: LayoutMap) -> _Columns:
    """Return how the environment's actions are made of the policy's: as observations are, the other way round."""
    own_terms = tuple(map(Term.from_dict, layout.get("actions") or ()))
    env_terms = layout_map.environment_actions or action_terms(env)
    if not own_terms or not env_terms:
        if layout_map.actions:
            raise UserError("actions: the policy or the environment does not tell the terms of its actions")
        if layout["num_actions"] != env.num_actions:
            counts = env.num_actions, layout["num_actions"]
            raise UserError(f"the environment takes {counts[0]} actions, the policy gives {counts[1]}")
        return _joined([(list(range(env.num_actions)), 1.0, 0.0)])
    if fault := fault_in_terms(env_terms, env.num_actions):
        raise UserError(f"environment.actions: {fault}")
    own_names = [term.name for term in own_terms]
    for name in layout_map.actions:
        if name not in own_names:
            raise unknown_name("term of the policy in actions:", name, own_names)
    # The other way round: every term of the environment's is made of one of the policy's.
    source_of = {layout_map.actions.get(name, TermMap()).term or name: name for name in own_names}
    starts = _starts(own_terms)
    pieces = []
    for term in env_terms:
        if term.name not in source_of:
            raise UserError(
                f"actions: nothing of the policy's goes to the environment's term {term.name!r}: "
                f"its own are {', '.join(own_names)}"
            )
        name = source_of.pop(term.name)
        term_map = layout_map.actions.get(name, TermMap())
        turned = {theirs: ours for ours, theirs in term_map.elements.items()}
        backwards = TermMap(name, term_map.scale, term_map.offset, turned)
        pieces.append(_piece(term, backwards, starts, f"actions.{name}", factors_in_source_order=True))
    if source_of:
        wanted, name = next(iter(source_of.items()))
        raise unknown_name(
            f"term of the environment in actions.{name}.term:", wanted, [term.name for term in env_terms]
        )
    return _joined(pieces)


def _starts(terms: Sequence[Term]) -> dict[str, tuple[int, Term]]:
    """Return each term with where it begins in its vector."""
    found, start = {}, 0
    for term in terms:
        found[term.name] = (start, term)
        start += term.size
    return found


_Piece = tuple[list[int], Factor, Factor]


def _piece(
    target: Term,
    term_map: TermMap,
    sources: Mapping[str, tuple[int, Term]],
    path: str,
    *,
    factors_in_source_order: bool = False,
) -> _Piece:
    """Return columns, scale and offset of one term, made of a term of the other side."""
    if term_map.value is not None:
        return [0] * target.size, 0.0, term_map.value
    name = term_map.term or target.name
    if name not in sources:
        raise unknown_name(f"{path}: term of the environment", name, sources)
    start, source = sources[name]
    if source.size != target.size or source.history != target.history:
        raise UserError(
            f"{path}: {name!r} has {source.size} values of {source.history} control steps, expected {target.size} of "
            f"{target.history}"
        )
    per_step = target.size // target.history
    order = _order(target, source, term_map.elements, per_step, path)
    factors = []
    for key in ("scale", "offset"):
        values = getattr(term_map, key)
        if isinstance(values, tuple):
            if len(values) != per_step:
                raise UserError(f"{path}.{key}: found {len(values)} numbers, expected one or {per_step}")
            values = tuple(values[i] for i in order) if factors_in_source_order else values
            values = values * target.history
        factors.append(values)
    columns = [start + step * per_step + i for step in range(target.history) for i in order]
    return columns, factors[0], factors[1]


def _order(target: Term, source: Term, renamed: Mapping[str, str], per_step: int, path: str) -> list[int]:
    """Return which of the source's elements each of the target's is."""
    if not target.elements or not source.elements:
        if renamed:
            raise UserError(f"{path}.elements: the names of the elements are not known on both sides")
        return list(range(per_step))
    for name in renamed:
        if name not in target.elements:
            raise unknown_name(f"element in {path}.elements:", name, target.elements)
    wanted = [renamed.get(name, name) for name in target.elements]
    for name in wanted:
        if name not in source.elements:
            raise unknown_name(f"element of the other side in {path}.elements:", name, source.elements)
    if len(set(wanted)) != len(wanted):
        raise UserError(f"{path}.elements: two elements are made of {max(wanted, key=wanted.count)!r}")
    return [source.elements.index(name) for name in wanted]


def _joined(pieces: Sequence[_Piece]) -> _Columns:
    """Return the columns of several terms, one behind the other."""
    index = [column for columns, _, _ in pieces for column in columns]
    scale = [value for columns, values, _ in pieces for value in _spread(values, len(columns))]
    offset = [value for columns, _, values in pieces for value in _spread(values, len(columns))]
    return _Columns(torch.tensor(index, dtype=torch.long), torch.tensor(scale), torch.tensor(offset))


def _spread(values: Factor, size: int) -> tuple[float, ...]:
    return tuple(map(float, values)) if isinstance(values, tuple) else (float(values),) * size
