"""Which observation groups a model reads."""

from __future__ import annotations

import warnings

from tensordict import TensorDict

from sim_rl_plugin.errors import UserError, unknown_name


def resolve_obs_groups(
    obs: TensorDict, obs_groups: dict[str, list[str]], default_sets: list[str]
) -> dict[str, list[str]]:
    """Check observation sets against the observations, and fill in the ones that are missing.

    A missing set becomes the group of the same name, else the group ``policy``, as in rsl_rl.

    Args:
        obs: Observations as the environment gives them.
        obs_groups: Sets to lists of groups; completed in place.
        default_sets: The sets that the algorithm needs.

    Returns:
        ``obs_groups``.

    Raises:
        ValueError: A set is empty, names a group that does not exist, or cannot be filled in.
    """
    for set_name, groups in obs_groups.items():
        if isinstance(groups, str) or not groups:
            raise UserError(f"obs_groups.{set_name}: expected a list of observation groups, found {groups!r}")
        for group in groups:
            if group not in obs.keys():
                raise unknown_name(f"observation group in obs_groups.{set_name}", group, map(str, obs.keys()))
    for set_name in default_sets:
        if set_name in obs_groups:
            continue
        candidates = [name for name in (set_name, "policy") if name in obs.keys()]
        if not candidates:
            raise UserError(
                f"obs_groups.{set_name} is missing, and the environment has neither a group {set_name!r} nor "
                f"'policy'; it has {', '.join(map(str, obs.keys()))}"
            )
        group = candidates[0]
        if group != set_name and set_name != "actor":
            warnings.warn(f"obs_groups.{set_name} is missing; using group {group!r}", stacklevel=2)
        obs_groups[set_name] = [group]
    return obs_groups
