"""Checkpoints of rsl_rl 2.1 to 4.0, brought into today's shape.

Up to 3.3 one module held both networks and was saved as ``model_state_dict``; its optimizer numbers the
parameters in that module's order. 2.x kept the observation statistics outside of it. 4.0 saves
the models one by one, as today, with the standard deviation under another name.
"""

from __future__ import annotations

from typing import Any

from sim_rl_plugin.errors import UserError

_STD_NAMES = {"std": "distribution.std_param", "log_std": "distribution.log_std_param"}

# Module in `model_state_dict` -> section, and module in that section's model. The standard deviation
# belongs to the section that is first in its pair.
_PARTS = {
    "actor": ("actor", "mlp"),
    "critic": ("critic", "mlp"),
    "student": ("student", "mlp"),
    "teacher": ("teacher", "mlp"),
    "memory_a": ("actor", "rnn"),
    "memory_c": ("critic", "rnn"),
    "memory_s": ("student", "rnn"),
    "memory_t": ("teacher", "rnn"),
    "actor_cnns": ("actor", "cnns"),
    "critic_cnns": ("critic", "cnns"),
    "actor_obs_normalizer": ("actor", "obs_normalizer"),
    "critic_obs_normalizer": ("critic", "obs_normalizer"),
    "student_obs_normalizer": ("student", "obs_normalizer"),
    "teacher_obs_normalizer": ("teacher", "obs_normalizer"),
}

# The order in which our models, and rsl_rl's since 4.0, register their modules.
_MODULE_ORDER = ("obs_normalizer", "distribution", "mlp", "rnn", "cnns")

# Names of 2.x for the statistics of the second network's observations, before 2.3 and since.
_SECOND_STATISTICS = ("critic_obs_norm_state_dict", "privileged_obs_norm_state_dict")

_BUFFERS = ("_mean", "_var", "_std", "count", "running_mean", "running_var", "num_batches_tracked")


def migrate_checkpoint(contents: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Return a checkpoint in the shape of rsl_rl 5.x.

    Args:
        contents: What a file holds; not modified.

    Returns:
        The contents, and a sentence that says what was changed, or None where nothing was.

    Raises:
        UserError: The checkpoint holds parameters that rsl_rl's own networks do not have.
    """
    if "sim_rl" in contents:
        return contents, None  # ours, and so never older than 5.x
    if _is_one_module(contents.get("model_state_dict")):
        return _split(contents)
    renamed = {
        key: {_STD_NAMES.get(name, name): value for name, value in state.items()}
        for key, state in contents.items()
        if key.endswith("_state_dict") and isinstance(state, dict) and not _STD_NAMES.keys().isdisjoint(state)
    }
    if not renamed:
        return contents, None
    names = " and ".join(key.removesuffix("_state_dict") for key in renamed)
    return {**contents, **renamed}, f"from rsl_rl 4.x, the standard deviation of {names} was renamed"


def _is_one_module(state: Any) -> bool:
    """Return whether this is the state of rsl_rl's actor-critic or student-teacher module."""
    modules = {name.partition(".")[0] for name in state} if isinstance(state, dict) else set()
    return {"actor", "critic"} <= modules or {"student", "teacher"} <= modules


def _split(contents: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Take the one module of 2.x and 3.x apart."""
    old = contents["model_state_dict"]
    first, second = ("student", "teacher") if "student.0.weight" in old else ("actor", "critic")
    places = {name: _place(name, first) for name in old}
    unknown = [name for name, place in places.items() if place is None]
    if unknown:
        raise UserError(
            f"it is from before rsl_rl 4.0 and holds parameters that no network of rsl_rl has ({', '.join(unknown[:3])}"
            f"{', ...' if len(unknown) > 3 else ''}): load it with the class that wrote it, and save its networks one "
            "by one"
        )
    models: dict[str, dict[str, Any]] = {first: {}, second: {}}
    for name, place in _in_todays_order(places, (first, second)):
        section, own_name = place
        models[section][own_name] = old[name]
    _add_statistics(models, contents, first, second)

    outdated = {"model_state_dict", "obs_norm_state_dict", "optimizer_state_dict", *_SECOND_STATISTICS}
    new = {f"{section}_state_dict": state for section, state in models.items()}
    note = f"from before rsl_rl 4.0, became {first} and {second}"
    if "optimizer_state_dict" in contents:
        # Distillation used to hand the teacher's parameters to the optimizer too, which never changed them.
        sections = (first, second) if first == "actor" else (first,)
        optimizer = _renumbered(contents["optimizer_state_dict"], places, sections)
        if optimizer is None:
            note += "; the state of its optimizer was left out, because it belongs to other parameters"
        else:
            new["optimizer_state_dict"] = optimizer
    new.update((key, value) for key, value in contents.items() if key not in outdated)
    return new, note


def _place(name: str, first: str) -> tuple[str, str] | None:
    """Return the section and the name there of a parameter or buffer, or None if there is none."""
    if name in _STD_NAMES:
        return first, _STD_NAMES[name]
    module, dot, rest = name.partition(".")
    if not dot or module not in _PARTS:
        return None
    section, own_module = _PARTS[module]
    return section, f"{own_module}.{rest}"


def _in_todays_order(
    places: dict[str, tuple[str, str] | None], sections: tuple[str, ...]
) -> list[tuple[str, tuple[str, str]]]:
    """Return old names with their places, in the order in which today's models list their parameters.

    Within a module the order has stayed as it was.
    """
    known = [(name, place) for name, place in places.items() if place is not None and place[0] in sections]
    return sorted(
        known,
        key=lambda item: (sections.index(item[1][0]), _MODULE_ORDER.index(item[1][1].partition(".")[0])),
    )


def _add_statistics(models: dict[str, dict[str, Any]], contents: dict[str, Any], first: str, second: str) -> None:
    """Put the observation statistics of 2.x into the models."""
    own = contents.get("obs_norm_state_dict")
    if own is None:
        return
    other = next((contents[key] for key in _SECOND_STATISTICS if key in contents), own)
    if not int(other.get("count", 1)):
        # Without a group of its own, the second network was given the first one's normalised
        # observations, and its statistics were never used.
        other = own
    for section, statistics in ((first, own), (second, other)):
        models[section].update({f"obs_normalizer.{name}": value for name, value in statistics.items()})


def _renumbered(
    optimizer: dict[str, Any], places: dict[str, tuple[str, str] | None], sections: tuple[str, ...]
) -> dict[str, Any] | None:
    """Return the state of an optimizer with its parameters in today's order, or None if they are others.

    A module lists its parameters in the order of its state dict, where buffers stand between them.
    """
    old_order = [name for name in places if name.rpartition(".")[2] not in _BUFFERS]
    groups = optimizer["param_groups"]
    if len(groups) != 1 or list(groups[0]["params"]) != list(range(len(old_order))):
        return None
    new_order = [name for name, _ in _in_todays_order({name: places[name] for name in old_order}, sections)]
    state = optimizer["state"]
    moved = {new: state[old] for new, name in enumerate(new_order) if (old := old_order.index(name)) in state}
    return {"state": moved, "param_groups": [{**groups[0], "params": list(range(len(new_order)))}]}
