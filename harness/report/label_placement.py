"""Places the names of points in a plot so that they hide neither each other nor a point. Pure."""

from __future__ import annotations

from collections.abc import Sequence

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels
CHARACTER, LINE, DOT = 6.3, 13.0, 6.0  # pixels: a letter at 11.5 px, a line's height, a point's radius


def place(
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    width: float,
    height: float,
    obstacles: Sequence[Box] = (),
) -> list[tuple[float, float, str]]:
    """Returns (x, y, align) for the name of each named point. `points` are in pixels, y downwards; points without a
    name come last.

    Tries right, left, above, below, then further away; y is the middle of the line of text.
    """
    taken: list[Box] = [*obstacles, *((x - DOT, y - DOT, x + DOT, y + DOT) for x, y in points)]
    found = []
    for (x, y), name in zip(points, names, strict=False):
        long = CHARACTER * len(name)
        choices = []
        for away in (0.0, 11.0, 22.0, 33.0, 44.0):
            for down in (-away, away) if away else (0.0,):
                choices += [(x + DOT + 4, y + down, "left"), (x - DOT - 4, y + down, "right")]
            choices += [(x, y - DOT - 9 - away, "center"), (x, y + DOT + 9 + away, "center")]
        best = min(choices, key=lambda choice: crowding(box(choice, long), taken, width, height))
        taken.append(box(best, long))
        found.append(best)
    return found


def box(choice: tuple[float, float, str], long: float) -> Box:
    """Returns the box that a name takes: `choice` is (x, y, align) as `place` returns it, `long` its length in
    pixels."""
    x, y, align = choice
    left = {"left": x, "right": x - long, "center": x - long / 2}[align]
    return (left, y - LINE / 2, left + long, y + LINE / 2)


def crowding(one: Box, taken: Sequence[Box], width: float, height: float) -> float:
    """Returns the square pixels of this box that other boxes cover or that lie outside the plot."""
    inside = overlap(one, (0.0, 0.0, width, height))
    outside = (one[2] - one[0]) * (one[3] - one[1]) - inside
    return round(outside + sum(overlap(one, other) for other in taken), 6)


def overlap(one: Box, other: Box) -> float:
    """Returns the square pixels that two boxes share; 0 where they do not touch."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return max(across, 0.0) * max(down, 0.0)
