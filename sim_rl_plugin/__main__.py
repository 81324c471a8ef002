"""``python -m sim_rl_plugin`` is ``sim-rl``."""

from sim_rl_plugin.cli.main import main

if __name__ == "__main__":
    main()
