"""Hyperparameter searches: many trainings with settings that Optuna chooses, in processes of their own."""
