"""An algorithm, a simulator and a log writer for sim-rl."""
