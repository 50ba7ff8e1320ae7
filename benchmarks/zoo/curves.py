"""The picture of a race: federated and central training by round."""

from collections.abc import Sequence

from benchmarks.zoo.race import Race
from qflare import zoo
from qflare.simulate.report.style import ACCENT, PLAIN, canvas, svg

NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def draw(name: str, races: Sequence[Race]) -> str:
    """An SVG file with a line for each seed; accuracy, or AUC for an autoencoder."""
    figure, axes = canvas(500, 300)
    figure.patch.set_facecolor("white")
    what = "AUC" if zoo.load(name).manifest.task == "autoencoder" else "accuracy"
    for i, race in enumerate(races):
        for curve, colour, label in (
            (race.central, PLAIN, "central"),
            (race.federated, ACCENT, "federated"),
        ):
            rounds = range(1, len(curve.score) + 1)
            axes.plot(rounds, curve.score, color=colour, label=None if i else label)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("round")
    axes.set_ylabel(f"test {what}")
    axes.legend(loc="lower right", frameon=False)
    inline = svg(figure, name, f"Test {what} of {name} by round, federated and central")
    return inline.replace("<svg", f"<svg {NAMESPACES}", 1)
