"""What a person can ask of `qflare simulate`, and the round policy that follows from it."""

import os
import shlex
from dataclasses import dataclass, fields
from pathlib import Path

from qflare import zoo
from qflare.compression import CODECS
from qflare.crypto.suites import DEFAULT, SUITES
from qflare.faults import LocalFault, PeerFault
from qflare.host.broker import BrokerKind
from qflare.host.link_types import LinkConfig, parse_url
from qflare.policy import PolicyBounds, RoundPolicy
from qflare.simulate.data import DATASETS
from qflare.tensors import check_bounds

DEVICES_MAX = 1000
AUTO = "auto"


@dataclass(frozen=True)
class Options:
    """The command's options with their defaults.

    Making them raises LocalFault for any that can't be met, before anything is started or removed.
    """

    devices: int = 20
    rounds: int = 20
    cohort: int = 0  # devices invited to a round; 0: all
    dataset: str = "watch"
    model: str = "watch_cnn"
    seed: int = 0
    suite: str = DEFAULT.name
    codec: str = "q4z"
    broker: str = AUTO  # auto, mosquitto, nats, or the URL of a broker that lets anybody in
    workers: int = 0  # processes that the devices share; 0: one a core
    deadline_s: int = 120
    workdir: Path = Path("runs")
    keep: bool = False
    reference: bool = True
    json: bool = False

    def __post_init__(self) -> None:
        for ok, problem in (
            (1 <= self.devices <= DEVICES_MAX, f"--devices: between 1 and {DEVICES_MAX}"),
            (1 <= self.rounds <= 10_000, "--rounds: between 1 and 10,000"),
            (0 <= self.cohort <= self.devices, "--cohort: between 1 and --devices, or 0 for all"),
            (0 <= self.seed < 2**31, "--seed: between 0 and 2,147,483,647"),
            (0 <= self.workers <= 64, "--workers: between 1 and 64, or 0 for one a core"),
            (1 <= self.deadline_s <= 86_400, "--deadline: between 1 and 86,400 seconds"),
            *(
                (value in known, f"{name}: no {value[:40]!r}; choose from {', '.join(known)}")
                for name, value, known in (
                    ("--dataset", self.dataset, sorted(DATASETS)),
                    ("--model", self.model, zoo.MODELS),
                    ("--suite", self.suite, [suite.name for suite in SUITES]),
                    ("--codec", self.codec, list(CODECS)),
                )
            ),
        ):
            if not ok:
                raise LocalFault(problem)
        if "://" in self.broker:
            parse_url(LinkConfig(self.broker, ""))
        elif self.broker not in (AUTO, *BrokerKind):
            choices = ", ".join((AUTO, *BrokerKind))
            raise LocalFault(
                f"--broker: no {self.broker[:40]!r}; choose from {choices}, or mqtt://host:port"
            )

    @property
    def command(self) -> str:
        """The command that repeats the run."""
        said = [
            f"--{field.name.removesuffix('_s')}={getattr(self, field.name)}"
            for field in fields(self)
            if field.name not in ("workdir", "keep", "reference", "json")
            and getattr(self, field.name) != field.default
        ]
        return shlex.join(["qflare", "simulate", *said])

    @property
    def invited(self) -> int:
        """Devices that are asked each round."""
        return self.cohort or self.devices

    @property
    def processes(self) -> int:
        """Fleet processes to start."""
        return min(self.workers or os.cpu_count() or 1, self.devices)


def policy(options: Options) -> RoundPolicy:
    """The round policy of a simulation; raise LocalFault for options that make none."""
    try:
        made = RoundPolicy(
            suite=options.suite,
            codec=options.codec,
            min_cohort=max(1, -(-options.invited // 2)),
            max_cohort=options.invited,
            clip_norm=16.0,
            weight_cap=4096,
            deadline_s=options.deadline_s,
            schedule=zoo.recommended_schedule(options.model, options.rounds),
        )
        check_bounds(made.clip_norm, made.weight_cap, made.max_cohort)
    except PeerFault as fault:
        raise LocalFault(fault.detail) from None
    return made


def bounds(made: RoundPolicy) -> PolicyBounds:
    """What the simulated owner allows: this policy, and other codecs."""
    return PolicyBounds(
        suites=(made.suite,),
        codecs=tuple(sorted(CODECS)),
        min_cohort_floor=made.min_cohort,
        clip_norm_max=made.clip_norm,
        weight_cap_max=made.weight_cap,
    )
