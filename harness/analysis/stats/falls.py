"""Allows for seeds that fall: trainings that went well under every seed that was run, and fail under another. Pure.

Fine-tuning that works under most seeds may collapse under some, and ends near the score of the untouched model (Dodge
et al. 2020, arXiv:2002.06305; Mosbach et al. 2021, arXiv:2006.04884). A method that falls under one seed in five shows
nothing of it in a third of all cases with five seeds, and in half with three. Its own spread between seeds is then too
small, and its score too high.

So the share of seeds under which a method falls is drawn, for each method of whose n seeds none fell, from
Beta(a, n): a = 2 where seeds of other methods in the same table fell (as though two more of its own had), and a = 0.3
where none did. A fall costs the way down to the lowest score of the table, and for shares of right answers at least
four tenths of the score. What a method that did fall loses is in its own scores already. `docs/lab-notes.md` has the
simulations that chose these numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

    from harness.analysis.stats.intervals import Array

UNSEEN, SEEN = 0.3, 2.0  # the first parameter of the share's distribution, without and with a fall in the table
DEPTH = 0.4  # the part of a share of right answers that a fall costs, where the table shows no deeper one
FAR = 5.0  # a fallen seed lies this many usual deviations below the median of its method ...
LEAST_WAY = 0.2  # ... and this share of the way from there to the lowest score of the table
MAD_TO_SD = 1.4826  # a normal's standard deviation, in median absolute deviations


def fallen(merits: Sequence[Array], floor: float) -> list[int]:
    """Counts the seeds of each method that fell: whose training failed, as their score lies far below the others of the
    method. `merits` holds the scores [seeds] of each method, more is better; `floor` is the lowest score of the table.

    Far is more than `FAR` usual deviations, and more than `LEAST_WAY` of the way from the method's median to the floor.
    The usual deviation is the median distance of all methods' scores from the median of their method, without those
    that are it; 0 where most scores are. So a method with two or three seeds can only be seen to fall beside others.
    """
    import numpy

    away = [abs(scores - numpy.median(scores)) for scores in merits if scores.size > 1]
    distances = numpy.concatenate(away) if away else numpy.zeros(1)
    if not distances.any():
        return [0] * len(merits)
    usual = MAD_TO_SD * float(numpy.median(distances[distances > 0])) if numpy.median(distances) else 0.0
    counts = []
    for scores in merits:
        middle = float(numpy.median(scores)) if scores.size else 0.0
        reach = max(FAR * usual, LEAST_WAY * (middle - floor))
        counts.append(int((scores < middle - reach).sum()) if scores.size > 1 else 0)
    return counts


def unseen_losses(merits: Sequence[Array], floor: float, draws: int, random: numpy.random.Generator) -> Array:
    """Draws [draws, methods] of what each method's score loses by seeds whose training would fail, though none that was
    run did. `merits` and `floor` are as in `fallen`; methods without seeds (an empty array) and those that fell lose
    nothing."""
    import numpy

    counts = fallen(merits, floor)
    strength = SEEN if any(counts) else UNSEEN
    losses = numpy.zeros((draws, len(merits)))
    for place, (scores, count) in enumerate(zip(merits, counts, strict=True)):
        if scores.size and not count:
            share = random.beta(strength, scores.size, draws)
            losses[:, place] = share * max(float(scores.mean()) - floor, 0.0)
    return losses
