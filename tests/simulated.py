"""Scores with a known truth: items of different difficulty, seeds that scatter, answers that are right or wrong.

An answer is right with probability Phi(x), x = skill + item + method x item + seed, all normal. Averaged over all three
the share of right answers is Phi(skill / sqrt(1 + their variances)), so that the truth is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from scipy.stats import norm


@dataclass(frozen=True)
class World:
    """Standard deviations on the probit scale; for losses, in their own unit."""

    item: float = 1.0
    own_item: float = 0.5  # of an item for one method alone
    seed: float = 0.1
    noise: float = 0.5  # of a loss, from seed to seed on one item
    binary: bool = True

    def answers(self, random: Any, seeds: int, item: Any) -> Any:
        """Right or wrong answers [seeds, items] of one method that is right half the time, to items of given ease."""
        x = item + random.normal(0, self.own_item, len(item)) + random.normal(0, self.seed, (seeds, 1))
        return (random.random(x.shape) < norm.cdf(x)).astype(float)

    def draw(self, random: Any, seeds: int, items: int, effect: float = 0.0, methods: int = 2) -> Any:
        """[methods, seeds, items]; the expected score of the first is `effect` above that of the others, about 1/2."""
        of_items = random.normal(0, self.item, items) + random.normal(0, self.own_item, (methods, 1, items))
        x = of_items + random.normal(0, self.seed, (methods, seeds, 1))
        if not self.binary:
            x = x + random.normal(0, self.noise, x.shape)
            x[0] += effect
            return x
        skill = float(norm.ppf(0.5 + effect / 2)) * math.sqrt(1 + self.item**2 + self.own_item**2 + self.seed**2)
        x[0] += skill
        x[1:] -= skill
        return (random.random(x.shape) < norm.cdf(x)).astype(float)
