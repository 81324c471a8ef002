"""Faster routes through PPO to the same numbers: passes written by hand over kept buffers.

The plain path in ``ppo.py`` says what is computed; ``selection.py`` decides when these routes may stand in for it.
"""
