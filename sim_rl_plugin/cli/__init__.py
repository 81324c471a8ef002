"""The command ``sim-rl``: one file per sub-command, imported when it is called."""
