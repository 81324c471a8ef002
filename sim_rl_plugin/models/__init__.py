"""Models: from observation groups to actions or values."""

from sim_rl_plugin.models.cnn_model import CNNModel
from sim_rl_plugin.models.exported_policy import ExportedPolicy
from sim_rl_plugin.models.mlp_model import MLPModel
from sim_rl_plugin.models.rnn_model import RNNModel
from sim_rl_plugin.models.teacher_ensemble import TeacherEnsemble

__all__ = ["CNNModel", "ExportedPolicy", "MLPModel", "RNNModel", "TeacherEnsemble"]
