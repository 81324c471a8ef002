"""Any Gymnasium environment with continuous actions, as a batch that the learner can train on."""
