"""MuJoCo Playground, and environments with its or Brax's interface, simulated in JAX."""
