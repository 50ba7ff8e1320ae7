"""For simulations that are run to be measured or attacked, and not to be watched."""

from qflare.simulate.display import DisplayState


class Quiet:
    """A display that shows nothing."""

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def update(self, state: DisplayState) -> None:
        pass
