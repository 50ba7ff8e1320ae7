"""Deal labelled examples to devices that see different things; pure."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.intp]


def dirichlet(
    labels: Sequence[NDArray[np.int32]],
    sizes: Sequence[int],
    devices: int,
    alpha: float,
    random: np.random.Generator,
) -> list[list[Indices]]:
    """Deal out several sets of examples (training, test), by one mixture of classes per device.

    Each device draws its mixture from a Dirichlet distribution whose parameters are `alpha` times
    the classes' shares times their number, then `sizes[s]` examples of set s by it, as far as each
    class lasts (Hsu, Qi, Brown 2019, arXiv:1909.06335, section 3). No example is dealt twice.
    Returns the indices, sorted, for each device and set. ValueError if a set has too few examples.
    """
    for found, size in zip(labels, sizes, strict=True):
        if size * devices > len(found):
            raise ValueError(f"{devices} devices want {size} examples each, there are {len(found)}")
    classes = int(max(found.max() for found in labels)) + 1
    piles = [
        [list(random.permutation(np.flatnonzero(found == c))) for c in range(classes)]
        for found in labels
    ]
    prior = np.bincount(labels[0], minlength=classes) / len(labels[0]) * classes
    hands: list[list[Indices]] = []
    for _ in range(devices):
        mixture = random.dirichlet(np.maximum(alpha * prior, 1e-9))
        hands.append(
            [_draw(pile, size, mixture, random) for pile, size in zip(piles, sizes, strict=True)]
        )
    return hands


def _draw(
    piles: list[list[int]], size: int, mixture: NDArray[np.float64], random: np.random.Generator
) -> Indices:
    """Take `size` examples off the piles, by the mixture over those that aren't empty yet."""
    hand: list[int] = []
    while len(hand) < size:
        there = np.array([len(pile) > 0 for pile in piles])
        odds = np.where(there, mixture + 1e-9, 0.0)
        for c, wanted in enumerate(random.multinomial(size - len(hand), odds / odds.sum())):
            for _ in range(min(int(wanted), len(piles[c]))):
                hand.append(piles[c].pop())
    return np.sort(np.array(hand, np.intp))
