"""Trainings in several stages, each of which may start from the checkpoints of earlier ones."""

from sim_rl_plugin.pipelines.definition import Pipeline, Stage

__all__ = ["Pipeline", "Stage"]
