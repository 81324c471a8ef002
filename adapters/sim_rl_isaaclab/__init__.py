"""Isaac Lab's tasks, on whatever physics it brings, and our runner for its own training scripts."""
