"""An algorithm, a simulator, a log writer and a pipeline for sim-rl."""
