"""`qflare model check`: every finding about a model file, read and tried."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from edge_runtime.models import text
from edge_runtime.models.child import Limits, Outcome, run_child
from edge_runtime.models.findings import Finding, static_findings
from edge_runtime.models.graph import read_graph
from edge_runtime.models.inspection import read_manifest
from edge_runtime.models.source import REMEDY
from qflare.faults import PeerFault
from qflare.host.boards import Board, estimated
from qflare.host.model import Manifest

# What the trials of `edge_runtime.models.trials` find: severity, why it matters, what to do.
CODES: Final[dict[str, tuple[Any, str, str]]] = {
    "refused": (
        "error",
        "the interpreter refuses what every device has to do",
        "build the model again: qflare model build; if that fails too, report it",
    ),
    "crash": (
        "error",
        "the daemon on a device would die in the same way, in every round",
        "don't publish the model; report the file and the step",
    ),
    "too-slow": (
        "error",
        "something in it may never end, or the model is too large for this machine",
        "raise --seconds, or make the model smaller",
    ),
    "too-much-memory": (
        "error",
        "devices have less memory than that",
        "make the batch or the model smaller, or raise --memory",
    ),
    "golden": (
        "error",
        "this interpreter computes something else than Keras did when the model was built",
        "try the other of the extras edge and edge-tflite-runtime; build the model again",
    ),
    "round-trip": (
        "error",
        "devices would train and send other weights than they have",
        "build the model again: qflare model build",
    ),
    "not-trained": (
        "error",
        "devices would send updates that change nothing",
        "look for a frozen or disconnected layer in the Keras model",
    ),
    "not-learning": (
        "error",
        "it will not learn in a fleet either",
        "look at the loss and the last activation of the Keras model",
    ),
    "reset": (
        "error",
        "a round would depend on the rounds before it, and couldn't be repeated",
        "build the model again: qflare model build",
    ),
    "evaluate": (
        "error",
        "the fleet's accuracy and loss would be wrong",
        "build the model again: qflare model build",
    ),
    "padding": (
        "error",
        "the last batch of an epoch is padded, and what it is padded with would be learned",
        "look for a layer that mixes the examples of a batch",
    ),
    "inference": (
        "error",
        "whoever uses the model would get values that mean nothing",
        "look at the last layer of the Keras model",
    ),
    "repeat": (
        "error",
        "a run couldn't be repeated, and a test by the owner proves nothing",
        "look for randomness in the graph: only dropout by the input `r` is repeatable",
    ),
    "divergence": (
        "warning",
        "a device can't tell that its training went wrong, and would send the result",
        "use a loss without an upper bound, and check learning rates in qflare simulate",
    ),
    "unfed": (
        "note",
        "it isn't known whether it would run",
        "nothing, unless you want to train it: then qflare model build",
    ),
    "not-finite": (
        "note",
        "zeros are a likely input, of a silent sensor for one",
        "look for a division by, or a logarithm of, the input",
    ),
}
_SAID: Final = {
    "golden": "the self-test",
    "round-trip": "weights in and out",
    "learning": "the loss falls",
    "evaluate": "counts and losses",
    "padding": "masked examples don't count",
    "repeat": "same seed, same bits",
    "divergence": "an absurd learning rate is noticed",
}
_SEVERITIES: Final = ("error", "warning", "note")


def check(path: Path, view: memoryview, limits: Limits, *, run: bool = True) -> dict[str, Any]:
    """All findings as plain values. LocalFault if no interpreter is installed."""
    outcome: Outcome | None = None
    try:
        graph = read_graph(view)
    except PeerFault as fault:
        findings = [
            Finding(
                "error",
                "not-tflite",
                fault.detail,
                "no device can read the file",
                REMEDY,
            )
        ]
    else:
        manifest = read_manifest(graph, view)
        findings = static_findings(graph, view, manifest)
        if run:
            outcome = run_child(_job(manifest, findings), path, {}, limits)
            findings += _tried(outcome, findings)
    findings.sort(key=lambda finding: _SEVERITIES.index(finding.severity))
    return {
        "file": str(path),
        "bytes": len(view),
        "ok": all(finding.severity != "error" for finding in findings),
        "findings": [asdict(finding) for finding in findings],
        "trials": _trials(outcome),
    }


def _job(manifest: Manifest | str, findings: list[Finding]) -> str:
    """Train it, if it keeps what training rests on; else only see whether it runs."""
    broken = any(finding.severity == "error" for finding in findings)
    return "check" if isinstance(manifest, Manifest) and not broken else "try"


def _trials(outcome: Outcome | None) -> dict[str, dict[str, Any]]:
    return {} if outcome is None else outcome.results


def _tried(outcome: Outcome, before: list[Finding]) -> list[Finding]:
    found = []
    for step, result in outcome.results.items():
        if "trouble" in result:
            found.append(_finding(result["trouble"], f"{step}: {result['what']}"))
    if outcome.fault and outcome.code:
        found.append(_finding(outcome.code, f"{outcome.step}: {outcome.fault}"))
    if any(f.severity == "error" for f in before):
        # What was read explains why it doesn't run; saying so twice would hide it.
        known = {"flex-operator", "custom-operator", "unknown-operator"}
        if known & {f.code for f in before}:
            found = [f for f in found if f.code != "refused"]
    peak = outcome.results.get("memory", {}).get("peak_bytes")
    if peak:
        found += _memory(peak, tuple(board for board, _ in estimated()))
    return found


def _finding(code: str, what: str) -> Finding:
    severity, why, todo = CODES[code]
    return Finding(severity, code, what, why, todo)


def _memory(peak: int, boards: tuple[Board, ...]) -> list[Finding]:
    small = [board.title for board in boards if peak > board.memory_for_training]
    if not small:
        return []
    return [
        Finding(
            "warning",
            "board-memory",
            f"trying it took {text.size(peak)}, more than can be given on: {', '.join(small)}",
            "the daemon would be ended for want of memory, in the middle of a round",
            "make the batch or the model smaller, or use other boards",
        )
    ]


def describe(report: dict[str, Any]) -> list[str]:
    """The report as lines for people."""
    lines = [f"{report['file']}  ({report['bytes']:,} bytes)"]
    for finding in report["findings"]:
        lines += ["", *text.words(f"{finding['severity']} {finding['code']}", 0)]
        lines += text.words(finding["what"], 2)
        lines += text.words(f"why: {finding['why']}", 2, 5)
        lines += text.words(f"do:  {finding['todo']}", 2, 5)
    passed = [
        _SAID.get(step, step)
        for step, result in report["trials"].items()
        if "trouble" not in result and step not in ("open", "memory")
    ]
    if passed:
        lines += ["", *text.words(f"tried and fine: {', '.join(passed)}", 0, 2)]
    learning = report["trials"].get("learning", {})
    if "first" in learning:
        lines += text.words(
            f"the golden batch's loss falls from {learning['first']:.4g} to {learning['last']:.4g}",
            0,
        )
    counts = {s: sum(f["severity"] == s for f in report["findings"]) for s in _SEVERITIES}
    said = ", ".join(f"{n} {s}{'s' * (n != 1)}" for s, n in counts.items() if n)
    return [*lines, "", said or "no findings"]
