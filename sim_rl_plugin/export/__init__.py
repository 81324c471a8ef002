"""Policies into files that run without us, checked against the policy before they are left behind."""

from sim_rl_plugin.export.exporting import SUFFIXES, Exported, export_policy, export_policy_of
from sim_rl_plugin.export.formats import write_onnx

__all__ = ["SUFFIXES", "Exported", "export_policy", "export_policy_of", "write_onnx"]
