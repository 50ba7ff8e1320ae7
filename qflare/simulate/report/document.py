"""The report as one JSON object: report.json, and what `--json` prints."""

import json
from dataclasses import asdict
from typing import Any

from qflare.simulate.report.model import Report
from qflare.simulate.report.words import verdict

SCHEMA = 1  # rises when a key changes its meaning or goes away


def to_json(report: Report) -> dict[str, Any]:
    """Plain, sorted values: seconds and fractions to 6 digits after the point, sizes in bytes."""
    sizes = report.sizes
    whole: dict[str, Any] = {
        "schema": SCHEMA,
        "status": report.status,
        "reasons": list(report.reasons),
        "verdict": list(verdict(report)),
        "final_accuracy": report.final_accuracy,
        "reference_accuracy": report.reference_accuracy,
        "task": report.task,
        "final_loss": report.final_loss,
        "reference_loss": report.reference_loss,
        "score": asdict(report.score) if report.score else None,
        "reference_score": asdict(report.reference_score) if report.reference_score else None,
        "reference_s": report.reference_s,
        "accuracy_gap": report.gap,
        "accuracy_gap_error": report.gap_error,
        "test_examples": report.test_examples,
        "evaluated_devices": report.evaluated_devices,
        "rounds": report.rounds,
        "rounds_requested": report.rounds_requested,
        "devices": report.devices,
        "wall_s": report.wall_s,
        "overhead_s_per_round_median": report.overhead_s_per_round_median,
        "update_bytes_median": sizes.wire,
        "update_float32_bytes": sizes.float32,
        "encoded_bytes_median": sizes.encoded,
        "fixed_bytes": sizes.fixed,
        "signature_bytes": sizes.signature,
        "encapsulation_bytes": sizes.encapsulation,
        "header_and_padding_bytes": sizes.padding,
        "float32_to_encoded": _ratio(sizes.float32, sizes.encoded),
        "float32_to_wire": _ratio(sizes.float32, sizes.wire),
        "broker": report.broker,
        "suite": report.suite,
        "codec": report.codec,
        "evidence": report.evidence,
        "evidence_simulated": report.evidence_simulated,
        "refused": report.refused,
        "restarts": list(report.restarts),
        "per_round": [asdict(r) for r in report.per_round],
        "per_stage": [asdict(s) for s in report.per_stage],
        "per_device": [asdict(d) for d in report.per_device],
        "run": report.run,
    }
    plain: dict[str, Any] = json.loads(json.dumps(_rounded(whole), sort_keys=True, default=str))
    return plain


def to_text(report: Report) -> str:
    """`to_json` as text, sorted and indented, with a newline at the end."""
    return json.dumps(to_json(report), sort_keys=True, indent=2, ensure_ascii=False) + "\n"


def _ratio(whole: float | None, part: float | None) -> float | None:
    return whole / part if whole and part else None


def _rounded(value: Any) -> Any:
    match value:
        case float() if value != value or value in (float("inf"), float("-inf")):
            return None
        case float():
            return int(value) if value.is_integer() and abs(value) >= 100 else round(value, 6)
        case dict():
            return {str(key): _rounded(item) for key, item in value.items()}
        case list() | tuple():
            return [_rounded(item) for item in value]
    return value
