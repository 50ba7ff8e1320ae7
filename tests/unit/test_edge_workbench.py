"""The worker on the real model: what it makes opens in the enclave, and repeats to the bit."""

from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from edge_runtime import events as ev
from edge_runtime import residual
from edge_runtime.training.messages import Bench, Failed
from edge_runtime.workbench import Workbench
from qflare.compression import parse_codec
from qflare.compression.codecs import decode
from qflare.envelope import Update
from qflare.faults import LocalFault
from qflare.messages import UpdatePayload
from qflare.names import Digest
from tests.edge_lab import POLICY, SIZE, TALLIES, Lab, make_update
from tests.training_kit import bench_in, elsewhere, evaluate, keep_blobs, order_of, train


@pytest.fixture(scope="module")
def lab() -> Lab:
    return Lab.with_zoo()


@pytest.fixture
def bench(lab: Lab, tmp_path: Path) -> Bench:
    keep_blobs(tmp_path, lab.graph, lab.genesis)
    rng = np.random.Generator(np.random.PCG64(3))
    arrays = {
        f"{kind}_{part}": values
        for part, n in (("train", 40), ("test", 10))
        for kind, values in (
            ("x", rng.normal(size=(n, 128, 6)).astype(np.float32)),
            ("y", rng.integers(0, 7, n).astype(np.int32)),
        )
    }
    np.savez(tmp_path / "data.npz", **arrays)
    return bench_in(tmp_path)


def order(lab: Lab) -> ev.Train:
    return ev.Train(lab.claims(1), POLICY, Digest.of(lab.graph))


def opened(lab: Lab, done: ev.TrainingFinished) -> UpdatePayload:
    update = Update.parse(done.update, 100_000)
    update.verify(lab.key.verify_key)
    return update.open(lab.kem)


def test_an_update_opens_in_the_enclave_and_repeats(lab: Lab, bench: Bench) -> None:
    workbench = Workbench()
    first, again = (train(workbench, lab, order(lab), bench) for _ in range(2))
    assert isinstance(first, ev.TrainingFinished)
    assert isinstance(again, ev.TrainingFinished)
    payload = opened(lab, first)
    assert payload == opened(lab, again)
    assert first.residual == again.residual
    assert first.update != again.update
    assert payload.weight == 40
    size = lab.manifest.genesis.size
    vector = decode(payload.encoded, parse_codec(POLICY.codec), size)
    assert np.abs(vector.values()).max() > 0
    counters = dict(first.stats.counters)
    assert counters["update_bytes"] == len(first.update)
    assert counters["encoded_bytes"] == len(payload.encoded)
    assert counters["float32_bytes"] == 4 * size
    assert counters["train_began_ms"] <= counters["train_ended_ms"]
    assert dict(first.stats.stages).keys() == {"compress", "seal", "train"}


def test_the_residual_goes_into_the_next_update(lab: Lab, bench: Bench) -> None:
    workbench = Workbench()
    size = lab.manifest.genesis.size
    plain = train(workbench, lab, order(lab), bench)
    left = residual.to_bytes(np.full(size, 0.01, np.float32))
    moved = train(workbench, lab, order(lab), bench, left)
    odd = train(workbench, lab, order(lab), bench, left[:-4])
    assert isinstance(plain, ev.TrainingFinished)
    assert isinstance(moved, ev.TrainingFinished)
    assert isinstance(odd, ev.TrainingFinished)
    assert opened(lab, plain) != opened(lab, moved)
    assert opened(lab, plain) == opened(lab, odd)  # left over from another model: no use


def test_a_stopped_job_says_so(lab: Lab, bench: Bench) -> None:
    stop = Event()
    stop.set()
    outcome = Workbench().do(order_of(order(lab), bench), stop)
    assert isinstance(outcome, Failed)
    assert outcome.stopped


def test_divergence_is_no_update(lab: Lab, bench: Bench) -> None:
    schedule = replace(POLICY.schedule, learning_rate=100.0, local_epochs=50)
    bad = replace(order(lab), policy=replace(POLICY, schedule=schedule))
    outcome = train(Workbench(), lab, bad, bench)
    assert isinstance(outcome, ev.TrainingFailed)
    assert "diverged" in outcome.reason


def test_missing_data_is_no_update(lab: Lab, bench: Bench, tmp_path: Path) -> None:
    outcome = train(Workbench(), lab, order(lab), elsewhere(bench, tmp_path / "none.npz"))
    assert isinstance(outcome, ev.TrainingFailed)
    assert "none.npz" in outcome.reason


@pytest.mark.parametrize("damage", [False, True])
def test_a_lost_blob_is_told_apart(lab: Lab, bench: Bench, damage: bool) -> None:
    blob = Path(bench.blobs) / str(Digest.of(lab.genesis))
    if damage:
        blob.write_bytes(lab.genesis[:-1] + b"?")
    else:
        blob.unlink()
    outcome = train(Workbench(), lab, order(lab), bench)
    assert isinstance(outcome, ev.BlobLost)
    assert outcome.blob == Digest.of(lab.genesis)


def test_evaluation(lab: Lab, bench: Bench) -> None:
    check = ev.Evaluate(Digest.of(lab.genesis), Digest.of(lab.graph))
    outcome = evaluate(Workbench(), check, bench)
    assert isinstance(outcome, ev.Evaluated)
    assert outcome.examples == 10
    nan = np.full(lab.manifest.genesis.size, np.nan, "<f4").tobytes()
    keep_blobs(Path(bench.blobs).parent, nan)
    outcome = evaluate(Workbench(), replace(check, model=Digest.of(nan)), bench)
    assert isinstance(outcome, ev.EvaluationFailed)


def test_weight_stops_at_the_cap() -> None:
    lab = Lab()
    rng = np.random.Generator(np.random.PCG64(1))
    delta, zero = np.full(SIZE, 0.1, np.float32), np.zeros(SIZE, np.float32)
    made = make_update(delta, zero, 10**6, TALLIES, lab.claims(1), POLICY, lab.identity, rng)
    payload = Update.parse(made.update, 100_000).open(lab.kem)
    assert payload.weight == POLICY.weight_cap
    for bad, count in ((np.full(SIZE, np.nan, np.float32), 1), (delta, 0)):
        with pytest.raises(LocalFault):
            make_update(bad, zero, count, TALLIES, lab.claims(1), POLICY, lab.identity, rng)


@pytest.mark.parametrize(
    "tallies",
    [
        TALLIES[:-1],
        (POLICY.weight_cap + 1, 0, 0, 0, 0),
        (1, 2, 0, 0, 0),
        (0, 0, 0, 1, 0),
    ],
)
def test_tallies_that_the_enclave_would_refuse_are_not_sent(tallies: tuple[int, ...]) -> None:
    lab = Lab()
    rng = np.random.Generator(np.random.PCG64(1))
    delta, zero = np.full(SIZE, 0.1, np.float32), np.zeros(SIZE, np.float32)
    with pytest.raises(LocalFault, match="evaluate at most 1000 validation examples"):
        make_update(delta, zero, 1, tallies, lab.claims(1), POLICY, lab.identity, rng)
