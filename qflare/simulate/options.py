"""What a person can ask of `qflare simulate`, and the round policy that follows from it."""

import os
import shlex
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from qflare import zoo
from qflare.compression import CODECS
from qflare.crypto.provider import provider_of
from qflare.crypto.suites import DEFAULT
from qflare.faults import LocalFault, PeerFault
from qflare.host.broker import BrokerKind
from qflare.host.link_types import parse_url
from qflare.host.model import ModelFile
from qflare.host.model.file import read_model_file
from qflare.host.suites import suite_named
from qflare.policy import PolicyBounds, RoundPolicy
from qflare.schedule import Schedule
from qflare.simulate.data import DATASETS, folder
from qflare.simulate.data.fit import verify_fits
from qflare.tensors import check_bounds

DEVICES_MAX = 1000
AUTO = "auto"


# For a model that nobody has tried: three epochs, and what has served the zoo's.
UNKNOWN = Schedule(
    rounds=20,
    local_epochs=3,
    learning_rate=0.03,
    learning_rate_final_fraction=0.03,
    server_momentum=0.6,
    server_learning_rate=1.0,
)


@dataclass(frozen=True)
class Options:
    """The command's options, each with a value.

    Making them raises LocalFault for any that can't be met, before anything is started or removed.
    `complete` fills in what follows from the model and the data.
    """

    devices: int = 20
    rounds: int = 20
    cohort: int = 0  # devices invited to a round; 0: all
    dataset: str = "watch"  # a name, or a folder with one file a device
    model: str = "watch_cnn"  # a name, or the path of a .tflite
    learning_rate: float = 0.0  # of the devices in the first round; 0: as suits the model
    local_epochs: int = 0  # 0: as suits the model
    proximal_mu: float = 0.0  # FedProx; 0: none
    example_clip: float = 0.0  # of private training; 0: none
    noise_multiplier: float = 0.0  # the same
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
            (
                self.codec in CODECS,
                f"--codec: no {self.codec[:40]!r}; choose from {', '.join(CODECS)}",
            ),
        ):
            if not ok:
                raise LocalFault(problem)
        if "://" in self.broker:
            parse_url(self.broker)
        elif self.broker not in (AUTO, *BrokerKind):
            choices = ", ".join((AUTO, *BrokerKind))
            raise LocalFault(
                f"--broker: no {self.broker[:40]!r}; choose from {choices}, or mqtt://host:port"
            )
        try:
            provider_of(suite_named(self.suite))  # whose library may be missing
        except LocalFault as fault:
            raise LocalFault(f"--suite: {fault}") from None
        policy(self)
        if self.example_clip and not self.model_file.manifest.private:
            raise LocalFault(
                f"--example-clip: {self.model} can't clip; build it with: qflare model build "
                "--private"
            )
        verify_fits(self.model_file.manifest, self.dataset, self.devices)

    @cached_property
    def model_file(self) -> ModelFile:
        """The model, read once; LocalFault if there is no such thing."""
        if self.model in zoo.MODELS:
            return zoo.load(self.model)
        if self.model.endswith(".tflite") or "/" in self.model:
            return read_model_file(Path(self.model))
        known = ", ".join(zoo.MODELS)
        raise LocalFault(
            f"--model: no {self.model[:40]!r}; choose from {known}, or give the path of a .tflite"
        )

    @property
    def schedule(self) -> Schedule:
        """The model's own schedule, but for what was asked otherwise; PeerFault if it is none."""
        if self.model in zoo.MODELS:
            plan = zoo.recommended_schedule(self.model, self.rounds)
        else:
            adam = self.model_file.manifest.optimiser.name == "adam"
            plan = replace(UNKNOWN, rounds=self.rounds, learning_rate=0.003 if adam else 0.03)
        return replace(
            plan,
            learning_rate=self.learning_rate or plan.learning_rate,
            local_epochs=self.local_epochs or plan.local_epochs,
            proximal_mu=self.proximal_mu,
            example_clip=self.example_clip,
            noise_multiplier=self.noise_multiplier,
        )

    @property
    def command(self) -> str:
        """The command that repeats the run."""
        said = [
            f"--{field.name.removesuffix('_s').replace('_', '-')}={getattr(self, field.name)}"
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


def complete(asked: dict[str, Any]) -> Options:
    """Options of what was asked; None is left to the model and its data.

    A model of the zoo has a data set and a number of rounds; a folder has as many devices as files.
    """
    model = asked["model"]
    found = dict(asked)
    if found["dataset"] is None:
        if model not in zoo.MODELS and model.endswith(".tflite"):
            raise LocalFault(
                f"--dataset: name what {model} is to train on: {', '.join(sorted(DATASETS))}, or a "
                "folder as `qflare data import` makes it"
            )
        found["dataset"] = zoo.entry(model).dataset if model in zoo.MODELS else Options.dataset
    elif found["dataset"] in DATASETS and any(Path(found["dataset"]).glob("*.npz")):
        raise LocalFault(
            f"--dataset: {found['dataset']} is a data set's name, and a folder here; say "
            f"./{found['dataset']} for the folder, or go elsewhere"
        )
    if found["rounds"] is None:
        known = model in zoo.MODELS
        found["rounds"] = zoo.entry(model).schedule.rounds if known else UNKNOWN.rounds
    if found["devices"] is None:
        own = found["dataset"] not in DATASETS
        found["devices"] = len(folder.files(Path(found["dataset"]))) if own else Options.devices
    return Options(**found)


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
            schedule=options.schedule,
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
