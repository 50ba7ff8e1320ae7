"""The open round in memory: who is in, exactly once each, and what was refused."""

from collections import Counter
from threading import Condition

from enclave.admission import Contribution, RoundContext, admit
from enclave.aggregate import Accumulator
from qflare.enclave_wire import Admit, Admitted
from qflare.faults import PeerFault, Reason
from qflare.merkle import root
from qflare.messages import update_leaf
from qflare.names import DeviceId, Digest
from qflare.tallies import Tallies
from qflare.tensors import DoubleVector


class AdmissionDesk:
    """Any number of threads may call `admit`; the rest is for one thread, when none is in it."""

    def __init__(self, context: RoundContext) -> None:
        self.context = context
        self._sum = Accumulator(context.limits)
        self._admitted: dict[DeviceId, Digest] = {}
        self._adding: set[DeviceId] = set()  # between "is it in?" and the end of the addition
        self._refused: Counter[str] = Counter()
        self._door = Condition()

    def admit(self, request: Admit) -> Admitted:
        """Admit an update once; raise PeerFault, counted, for anything that breaks a rule."""
        try:
            return self._enter(admit(request.update, request.certificate, self.context))
        except PeerFault as fault:
            with self._door:
                self._refused[fault.reason.value] += 1
            raise

    def _enter(self, it: Contribution) -> Admitted:
        with self._door:
            # A copy that comes while the first is being added has to wait for its fate.
            self._door.wait_for(lambda: it.device not in self._adding)
            found = self._admitted.get(it.device)
            if found == it.digest:
                return Admitted(it.device, it.digest, again=True)
            if found is not None:
                raise PeerFault(Reason.DUPLICATE, f"{it.device} is in with another update")
            self._adding.add(it.device)
        try:
            self._sum.admit(it.vector, it.weight, it.tallies)
            self._admitted[it.device] = it.digest
        finally:
            with self._door:
                self._adding.discard(it.device)
                self._door.notify_all()
        return Admitted(it.device, it.digest, again=False)

    @property
    def count(self) -> int:
        """How many updates are in."""
        return self._sum.count

    @property
    def total_weight(self) -> int:
        """The sum of their weights."""
        return self._sum.total_weight

    @property
    def tallies(self) -> Tallies:
        """The sums of their tallies."""
        return self._sum.tallies

    @property
    def refused(self) -> tuple[tuple[str, int], ...]:
        """How many were refused by reason, sorted."""
        return tuple(sorted(self._refused.items()))

    def mean(self) -> DoubleVector:
        """The weighted mean float64[size]; raise PeerFault(BELOW_MIN_COHORT)."""
        return self._sum.mean()

    def root(self) -> Digest:
        """The Merkle root over the admitted updates, in order of device."""
        return root(
            update_leaf(device, self._admitted[device]) for device in sorted(self._admitted)
        )
