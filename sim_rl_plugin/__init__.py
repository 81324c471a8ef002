"""A training backend that plugs into robot simulators.

Importing this package imports neither torch nor a simulator, so that the command line starts at
once. Import what you need from its sub-packages, which carry rsl_rl's names.
"""

__version__ = "0.1.0"
