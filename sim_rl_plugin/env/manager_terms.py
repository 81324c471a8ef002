"""Terms of environments with an observation manager and an action manager, as Isaac Lab's and mjlab's have."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from sim_rl_plugin.env.terms import Term


def manager_observation_terms(base: Any, separator: str) -> dict[str, tuple[Term, ...]]:
    """Return the terms of every observation group; empty where there is no observation manager.

    Args:
        base: The simulator's own environment.
        separator: Stands between group and term where terms are not concatenated and are groups of their own.
    """
    manager: Any = getattr(base, "observation_manager", None)
    names, shapes = getattr(manager, "active_terms", None), getattr(manager, "group_obs_term_dim", None)
    if not isinstance(names, Mapping) or not isinstance(shapes, Mapping):
        return {}
    found: dict[str, tuple[Term, ...]] = {}
    for group in names:
        # The settings of the terms are not public in either simulator, but the same in all releases.
        settings = getattr(manager, "_group_obs_term_cfgs", {}).get(group) or [None] * len(names[group])
        terms = tuple(
            _observation_term(base, name, tuple(shape), cfg)
            for name, shape, cfg in zip(names[group], shapes[group], settings, strict=True)
        )
        if not manager.group_obs_concatenate[group]:
            found.update({f"{group}{separator}{term.name}": (term,) for term in terms})
        elif len(terms) == 1 or all(len(term.shape) == 1 for term in terms):
            found[group] = terms
    return found


def _observation_term(base: Any, name: str, shape: tuple[int, ...], cfg: Any) -> Term:
    if cfg is None:
        return Term(name, shape)
    history = max(1, int(getattr(cfg, "history_length", 0) or 0))
    term = Term(name, shape, history=history)
    scale = getattr(cfg, "scale", None)
    return Term(
        name,
        shape,
        elements=_joints(base, cfg, term.size // history),
        scale=1.0 if scale is None else _per_element(scale),
        history=history,
    )


def _joints(base: Any, cfg: Any, size: int) -> tuple[str, ...]:
    """Return the joints of a term that reads joints: one whose function says so, and that has one value for each."""
    function: Any = getattr(cfg, "func", None)
    params = getattr(cfg, "params", None) or {}
    name = getattr(function, "__name__", type(function).__name__)
    if "joint" not in name.lower():
        return ()
    try:
        asset = params.get("asset_cfg") or inspect.signature(function).parameters["asset_cfg"].default
        known = list(base.scene[asset.name].joint_names)
        chosen = known[asset.joint_ids] if isinstance(asset.joint_ids, slice) else [known[i] for i in asset.joint_ids]
    except Exception:
        return ()  # a function of the user's own, which may take anything
    return tuple(chosen) if len(chosen) == size else ()


def manager_action_terms(base: Any) -> tuple[Term, ...]:
    """Return the terms of the action vector; none where there is no action manager."""
    manager = getattr(base, "action_manager", None)
    names = getattr(manager, "active_terms", None)
    if manager is None or not names:
        return ()
    return tuple(_action_term(name, manager.get_term(name)) for name in names)


def _action_term(name: str, term: Any) -> Term:
    size = int(term.action_dim)
    elements = getattr(term, "target_names", None) or getattr(term, "_joint_names", None) or ()
    return Term(
        name,
        (size,),
        elements=tuple(elements) if len(elements) == size else (),
        scale=_per_element(getattr(term, "_scale", None)),
        offset=_per_element(getattr(term, "_offset", None)),
    )


def _per_element(value: Any) -> float | tuple[float, ...] | None:
    """Return one number, or one per element; None if it is unknown or not the same in all environments."""
    if isinstance(value, torch.Tensor):
        if value.ndim == 2 and not bool((value == value[:1]).all()):
            return None
        value = value.flatten(1)[0] if value.ndim > 1 else value
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return tuple(float(number) for number in value)
    return float(value) if isinstance(value, (int, float)) else None
