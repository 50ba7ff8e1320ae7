"""From what the processes left behind to the figures of a report; pure.

The overhead of a round is its wall time (from its opening to the published model) without the
time in which at least one device was training. A round in which no device said when it trained
has no overhead figure, rather than a flattering or a frightening one.
"""

from collections.abc import Iterable
from statistics import median

from qflare.crypto.suites import parse_suite
from qflare.faults import PeerFault
from qflare.simulate.report.inputs import (
    DeviceRecord,
    Json,
    ReferenceRecord,
    RoundRecord,
    ScoreRecord,
    count,
    number,
    sequence,
    table,
    text,
)
from qflare.simulate.report.model import (
    UNCOUNTED_TASKS,
    DeviceFigures,
    Report,
    RoundFigures,
    Sizes,
    StageFigures,
)

DEVICE_STAGES = ("appraise", "fetch", "train", "compress", "seal", "transfer", "evaluate")
ENCLAVE_STAGES = ("open", "admit", "release")


def build(export: Json | None, reference: Json | None, run: Json) -> Report:
    """Compute the report of a run.

    `export` is what `qflare-coordinator export` printed (None if it couldn't), `reference` the
    plain float run (None if there was none), `run` what the simulation itself knows.
    """
    export = export or {}
    info = table(export, "run")
    plain = ReferenceRecord.read(reference)
    records = [RoundRecord.read(r) for r in sequence(export, "rounds") if isinstance(r, dict)]
    records.sort(key=lambda r: r.number)
    released = [r for r in records if r.released]
    task = text(run, "task")
    counted = task not in UNCOUNTED_TASKS
    rounds = tuple(_round(r, plain, counted) for r in records)
    last = released[-1] if released else None
    final = pooled_accuracy(last.devices) if last and counted else None
    evaluated = sum(d.examples > 0 for d in last.devices) if last else 0
    requested = count(run, "rounds")
    suite = text(info, "suite") or text(run, "suite")
    evidence = text(info, "evidence") or text(run, "evidence")
    tier = str(info.get("evidence_tier", "")).lower()
    reasons = _reasons(run, len(released), requested, evaluated)
    overheads = [r.overhead_s for r in rounds if r.overhead_s is not None]
    refused: dict[str, int] = {}
    for record in records:
        for reason, n in record.refused.items():
            refused[reason] = refused.get(reason, 0) + n
    return Report(
        status="failed" if reasons else "ok",
        reasons=reasons,
        task=task,
        final_accuracy=final,
        reference_accuracy=plain.final_accuracy if counted else None,
        final_loss=pooled_loss(last.devices) if last else None,
        reference_loss=plain.final_loss,
        score=ScoreRecord.read(run),
        reference_score=plain.score,
        reference_s=plain.seconds,
        evaluated_devices=evaluated,
        rounds=len(released),
        rounds_requested=requested,
        devices=count(run, "devices") or max((r.invited for r in records), default=0),
        wall_s=number(run, "wall_s"),
        overhead_s_per_round_median=median(overheads) if overheads else None,
        sizes=_sizes(records, suite),
        broker=text(run, "broker") or text(info, "broker"),
        suite=suite,
        codec=text(info, "codec") or text(run, "codec"),
        evidence=evidence,
        evidence_simulated=evidence.startswith("insecure_") or tier in ("simulated", "0"),
        refused=dict(sorted(refused.items())),
        restarts=tuple(_restarts(run)),
        run=dict(run),
        per_round=rounds,
        per_stage=tuple(_stages(records)),
        per_device=tuple(_devices(records, last, counted)),
    )


def pooled_accuracy(devices: Iterable[DeviceRecord]) -> float | None:
    """Correct answers over examples, all devices together; None without examples."""
    devices = list(devices)
    examples = sum(d.examples for d in devices)
    return sum(d.correct for d in devices) / examples if examples else None


def pooled_loss(devices: Iterable[DeviceRecord]) -> float | None:
    """Mean loss of an example, over the devices that reported a finite one."""
    parts = [(d.loss_sum, d.examples) for d in devices if d.loss_sum is not None and d.examples]
    return sum(loss for loss, _ in parts) / sum(n for _, n in parts) if parts else None


def covered(intervals: Iterable[tuple[float, float]], start: float, end: float) -> float:
    """Length of the union of `intervals`, clipped to start…end; same unit as given."""
    total, reached = 0.0, start
    for began, ended in sorted(intervals):
        began, ended = max(began, reached), min(ended, end)
        if ended > began:
            total += ended - began
            reached = ended
    return total


def round_times(record: RoundRecord) -> tuple[float | None, float | None, float | None]:
    """Wall, training and overhead seconds of a round; None for what can't be known."""
    start, end = record.opening_at, record.published_at
    if start is None or end is None or end < start:
        return None, None, None
    intervals = [d.training for d in record.devices if d.training is not None]
    if not intervals:
        return end - start, None, None
    training = covered(intervals, start, end)
    return end - start, training, end - start - training


def percentile(values: list[float], fraction: float) -> float:
    """The nearest-rank percentile of a non-empty list."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def _round(record: RoundRecord, plain: ReferenceRecord, counted: bool) -> RoundFigures:
    wall, training, overhead = round_times(record)
    sizes = record.update_bytes or _counter(record.devices, "update_bytes")
    at = record.step - 1 if record.released else -1
    return RoundFigures(
        number=record.number,
        step=record.step,
        status=record.status,
        accuracy=pooled_accuracy(record.devices) if record.released and counted else None,
        loss=pooled_loss(record.devices) if record.released else None,
        reference_accuracy=_at(plain.accuracy_by_round, at),
        reference_loss=_at(plain.loss_by_round, at),
        invited=record.invited,
        received=record.accepted,
        admitted=record.admitted,
        refused=dict(record.refused),
        update_bytes=int(sum(sizes)),
        encoded_bytes=int(sum(_counter(record.devices, "encoded_bytes"))),
        float32_bytes=int(sum(_counter(record.devices, "float32_bytes"))),
        wall_s=wall,
        training_s=training,
        overhead_s=overhead,
        model=record.model,
    )


def _at(series: tuple[float, ...], index: int) -> float | None:
    return series[index] if 0 <= index < len(series) else None


def _counter(devices: Iterable[DeviceRecord], name: str) -> list[float]:
    return [d.counters[name] for d in devices if d.counters.get(name, 0) > 0]


def _sizes(records: list[RoundRecord], suite: str) -> Sizes:
    devices = [d for r in records for d in r.devices]
    wire: list[float] = [float(size) for r in records for size in r.update_bytes]
    wire = wire or _counter(devices, "update_bytes")
    encoded = _counter(devices, "encoded_bytes")
    float32 = _counter(devices, "float32_bytes")
    try:
        known = parse_suite(suite)
        signature, encapsulation = known.signature_length, known.seal_overhead
    except PeerFault:
        signature = encapsulation = 0
    return Sizes(
        float32=median(float32) if float32 else None,
        encoded=median(encoded) if encoded else None,
        wire=median(wire) if wire else None,
        signature=signature,
        encapsulation=encapsulation,
    )


def _stages(records: list[RoundRecord]) -> Iterable[StageFigures]:
    devices = [d for r in records for d in r.devices]
    for name in DEVICE_STAGES:
        yield from _stage(name, "device", [d.stages[name] for d in devices if name in d.stages])
    for name in ENCLAVE_STAGES:
        yield from _stage(name, "enclave", [r.enclave[name] for r in records if name in r.enclave])


def _stage(name: str, where: str, values: list[float]) -> Iterable[StageFigures]:
    if values:
        low, high = percentile(values, 0.1), percentile(values, 0.9)
        yield StageFigures(name, where, len(values), sum(values), low, median(values), high)


def _devices(
    records: list[RoundRecord], last: RoundRecord | None, counted: bool
) -> Iterable[DeviceFigures]:
    history: dict[str, list[DeviceRecord]] = {}
    for record in records:
        for device in record.devices:
            history.setdefault(device.device, []).append(device)
    final = {d.device: d for d in last.devices} if last else {}
    for name, entries in sorted(history.items()):
        now = final.get(name)
        train = [d.stages["train"] for d in entries if "train" in d.stages]
        sizes = _counter(entries, "update_bytes")
        rss = _counter(entries, "rss_kb")
        yield DeviceFigures(
            name=name,
            accuracy=pooled_accuracy([now]) if now and counted else None,
            loss=pooled_loss([now]) if now else None,
            test_examples=now.examples if now else 0,
            train_examples=int(max(_counter(entries, "examples"), default=0)),
            rounds=len(train),
            train_s_median=median(train) if train else None,
            update_bytes_median=median(sizes) if sizes else None,
            rss_mb=max(rss) / 1024 if rss else None,
        )


def _reasons(run: Json, released: int, requested: int, evaluated: int) -> tuple[str, ...]:
    reasons = [text(run, "failure")] if text(run, "failure") else []
    if released == 0:
        reasons.append("no round was released")
    elif released < requested:
        reasons.append(f"only {released} of {requested} rounds were released")
    if released and not evaluated:
        reasons.append("no device reported how good the final model is")
    return tuple(reasons)


def _restarts(run: Json) -> Iterable[str]:
    for entry in sequence(run, "restarts"):
        name = entry[0] if isinstance(entry, list | tuple) and entry else entry
        yield str(name)[:64]
