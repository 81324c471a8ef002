"""PPO whose entropy bonus fades."""

from typing import Any

from sim_rl_plugin.algorithms import PPO
from sim_rl_plugin.errors import UserError


class AnnealedPPO(PPO):
    """PPO with an entropy bonus that falls in a straight line, so that a policy explores first and settles later."""

    def __init__(
        self, *args: Any, final_entropy_coef: float = 0.0, annealing_updates: int = 100, **kwargs: Any
    ) -> None:
        """Take PPO's arguments and two more.

        Args:
            *args: As PPO's.
            final_entropy_coef: Weight of the entropy bonus after annealing, per nat.
            annealing_updates: Updates until then.
            **kwargs: As PPO's.

        Raises:
            ValueError: ``annealing_updates`` is below 1.
        """
        super().__init__(*args, **kwargs)
        if annealing_updates < 1:
            raise UserError(f"algorithm.annealing_updates: expected 1 or more, found {annealing_updates}")
        self.initial_entropy_coef = self.entropy_coef
        self.final_entropy_coef = final_entropy_coef
        self.annealing_updates = annealing_updates
        self.updates = 0

    def update(self) -> dict[str, float]:
        """Update with the current bonus, and report it."""
        progress = min(1.0, self.updates / self.annealing_updates)
        change = self.final_entropy_coef - self.initial_entropy_coef
        self.entropy_coef = self.initial_entropy_coef + progress * change
        self.updates += 1
        return {**super().update(), "entropy_coef": self.entropy_coef}

    def save(self) -> dict[str, Any]:
        """Return PPO's state and the number of updates, so that a resumed run goes on fading."""
        return {**super().save(), "annealed_ppo": {"updates": self.updates}}

    def load(self, loaded_dict: dict[str, Any], load_cfg: dict[str, bool] | None, strict: bool) -> bool:
        """Load what ``save`` returned; a checkpoint of plain PPO starts the fading anew."""
        self.updates = loaded_dict.get("annealed_ppo", {"updates": 0})["updates"]
        return super().load(loaded_dict, load_cfg, strict)
