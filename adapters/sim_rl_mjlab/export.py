"""Policies as ONNX files that mjlab's tools for deployment read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

_OPSET = 18

# What a tracking policy's file gives beside the actions: the motion at a time step.
_MOTION_PARTS = ("joint_pos", "joint_vel", "body_pos_w", "body_quat_w", "body_lin_vel_w", "body_ang_vel_w")


class MotionPolicy(nn.Module):
    """A policy and the motion that it was trained to track, in one file."""

    def __init__(self, policy: Any, motion: Any) -> None:
        """Copy both to the host.

        Args:
            policy: A model for ``torch.onnx.export``, as ``MLPModel.as_onnx`` gives it.
            motion: mjlab's motion, with ``joint_pos (num_steps, num_joints)`` in rad, and the like.
        """
        super().__init__()
        self.policy = policy
        for name in _MOTION_PARTS:
            self.register_buffer(name, getattr(motion, name).to("cpu").clone())
        self.num_steps = int(motion.joint_pos.shape[0])

    def forward(self, obs: torch.Tensor, time_step: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the actions for ``obs``, and the motion at ``time_step (1, 1)``, or at its end."""
        step = torch.clamp(time_step.long().squeeze(-1), max=self.num_steps - 1)
        return (self.policy(obs), *(getattr(self, name)[step] for name in _MOTION_PARTS))


def write_onnx(policy: Any, env: Any, file: Path, verbose: bool = False) -> None:
    """Write a deterministic policy, with the motion if the task tracks one.

    The exporter is torch's older one, as in mjlab: it takes a fraction of the time, and this happens at
    every checkpoint.

    Args:
        policy: The model.
        env: mjlab's environment.
        file: Where to.
        verbose: Let the exporter print what it does.
    """
    model = policy.as_onnx(verbose=verbose).to("cpu").eval()
    inputs, input_names, output_names = model.get_dummy_inputs(), model.input_names, model.output_names
    motion = _tracked_motion(env)
    if motion is not None:
        inputs = (*inputs, torch.zeros(1, 1))
        input_names, output_names = [*input_names, "time_step"], [*output_names, *_MOTION_PARTS]
        model = MotionPolicy(model, motion.motion).eval()
    options: dict[str, Any] = {"dynamo": False, "dynamic_axes": {}}
    torch.onnx.export(
        model,
        inputs,
        str(file),
        opset_version=_OPSET,
        verbose=verbose,
        input_names=input_names,
        output_names=output_names,
        **options,
    )


def describes_robot(env: Any) -> bool:
    """Say whether mjlab's metadata has something to say: there is a robot whose joint positions are commanded."""
    return "robot" in env.scene.entities and "joint_pos" in env.action_manager.active_terms


def attach_metadata(file: Path, env: Any, run_path: str) -> None:
    """Write names, gains and scales of the robot into an ONNX file, as mjlab's runners do.

    Args:
        file: The file.
        env: mjlab's environment.
        run_path: Name of the training run.
    """
    from mjlab.rl.exporter_utils import attach_metadata_to_onnx, get_base_metadata

    metadata = get_base_metadata(env, run_path)
    motion = _tracked_motion(env)
    if motion is not None:
        metadata["anchor_body_name"] = motion.cfg.anchor_body_name
        metadata["body_names"] = list(motion.cfg.body_names)
    attach_metadata_to_onnx(str(file), metadata)


def _tracked_motion(env: Any) -> Any:
    """Return the command term of a tracking task, or None."""
    term = env.command_manager.get_term("motion") if "motion" in env.command_manager.active_terms else None
    return term if hasattr(term, "motion") else None
