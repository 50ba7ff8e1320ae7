"""The page: one file, nothing loaded from anywhere, every value escaped.

Device names, reasons and versions come from outside; whatever goes into the page goes through
`escape` at the place where its markup is written.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from qflare.simulate.report import charts
from qflare.simulate.report.model import Report, RoundFigures
from qflare.simulate.report.words import (
    NONE,
    duration,
    figure,
    percent,
    plural,
    ratio,
    reasons,
    size,
    verdict,
)

_SHOWN_DEVICES = 200  # a longer table helps nobody; report.json has them all


def render(report: Report) -> str:
    """The report as one HTML document."""
    here = files("qflare.simulate.report")
    page = Template(here.joinpath("page.html").read_text(encoding="utf-8"))
    sentences = verdict(report)
    return page.substitute(
        title=escape(sentences[0]),
        css=here.joinpath("page.css").read_text(encoding="utf-8"),
        started=escape(_started(report)),
        headline=_headline(report),
        badges=_badges(report),
        verdict=_verdict(report, sentences),
        cards="".join(_card(*card) for card in _cards(report)),
        pictures=_pictures(report),
        rounds=_rounds(report),
        devices=_devices(report),
        stages=_stages(report),
        command=_command(report),
        facts=_facts(report),
    )


def _started(report: Report) -> str:
    at = report.run.get("started_at")
    if isinstance(at, bool) or not isinstance(at, int | float) or not 0 < at < 2**33:
        return "time unknown"
    return datetime.fromtimestamp(at, UTC).strftime("%-d %B %Y, %H:%M UTC")


def _headline(report: Report) -> str:
    if not report.ok:
        return f'<span class="bad">Failed:</span> {escape("; ".join(report.reasons))}'
    reached = (
        f"{percent(report.final_accuracy)} accuracy"
        if report.counted
        else f"A mean loss of {figure(report.final_loss)}"
    )
    return f"{reached} after {plural(report.rounds, 'round')} on {plural(report.devices, 'device')}"


def _badges(report: Report) -> str:
    items = [("ok", "completed")] if report.ok else [("failed", "failed")]
    items += [("", word) for word in (report.suite, report.codec, report.broker) if word]
    return "".join(f'<li class="{kind}">{escape(word)}</li>' for kind, word in items)


def _verdict(report: Report, sentences: Sequence[str]) -> str:
    plain = [s for s in sentences if not (report.evidence_simulated and s == sentences[-1])]
    markup = f"<p>{escape(' '.join(plain))}</p>"
    if report.evidence_simulated:
        markup += f'<p class="warn" role="note">{escape(sentences[-1])}</p>'
    return markup


def _cards(report: Report) -> Iterable[tuple[str, str, str]]:
    sizes = report.sizes
    yield from _quality(report)
    yield "Update on the wire", size(sizes.wire), f"float32: {size(sizes.float32)}"
    yield (
        "Codec output",
        size(sizes.encoded),
        f"{ratio(sizes.float32, sizes.encoded)} smaller; fixed cost {size(sizes.fixed)}",
    )
    yield (
        "Overhead per round",
        duration(report.overhead_s_per_round_median),
        "median, beside training",
    )
    yield (
        "Whole run",
        duration(report.wall_s),
        f"{plural(report.rounds, 'round')}, {plural(report.devices, 'device')}",
    )


def _quality(report: Report) -> Iterable[tuple[str, str, str]]:
    gap = report.gap
    of = f"of {report.evaluated_devices} devices"
    if not report.counted:
        yield "Test loss", figure(report.final_loss), of
        if report.score:
            plain = report.reference_score
            yield (
                "Anomalies, AUC",
                percent(report.score.auc, 2),
                f"plain float: {percent(plain.auc if plain else None, 2)}",
            )
        else:
            yield "Plain float", figure(report.reference_loss), "its test loss"
        return
    yield "Test accuracy", percent(report.final_accuracy), of
    yield (
        "Against plain float",
        NONE if gap is None else f"{100 * gap:+.1f}".replace("-", "−"),
        f"percentage points{_chance(report)}; it reached {percent(report.reference_accuracy)}",
    )


def _chance(report: Report) -> str:
    error = report.gap_error
    return "" if error is None else f", ± {200 * error:.1f} by chance"


def _card(name: str, value: str, note: str) -> str:
    return (
        f'<div class="card"><dt>{escape(name)}</dt><dd class="value">{escape(value)}</dd>'
        f'<dd class="note">{escape(note)}</dd></div>'
    )


def _pictures(report: Report) -> str:
    if not report.released:
        return ""
    counted = report.counted
    left = [
        *([_figure("Accuracy", "Pooled over all devices; the nearer the lines, the less is lost.",
                   charts.accuracy(report))] if counted else []),
        _figure("Loss", "Mean loss of a test example, of the same models.", charts.loss(report)),
        _figure("Size of one update", "Orange is the fixed cost; it stays the same however large "
                "the model is.", charts.update_size(report)),
        _figure("Bytes by round", "All updates of a round. Grey is what plain float32 would take.",
                charts.round_bytes(report)),
    ]  # fmt: skip
    right = [
        *([_figure("Accuracy by device", "The final model on each device's own test part. The "
                   "line is the pooled figure.", charts.devices(report))] if counted else []),
        _figure("Time by round", "Only the orange part is QFLARE's own.",
                charts.round_time(report)),
        _figure("Time by stage", "Dot: median; bar: 10th to 90th percentile. Blue is one device in "
                "one round, orange is the enclave for the whole cohort.", charts.stages(report)),
    ]  # fmt: skip
    return (
        '<h2>Pictures</h2><div class="charts">'
        f'<div class="column">{"".join(left)}</div><div class="column">{"".join(right)}</div></div>'
    )


def _figure(title: str, caption: str, drawing: str) -> str:
    return (
        f"<figure><figcaption><h3>{escape(title)}</h3><p>{escape(caption)}</p></figcaption>"
        f"{drawing}</figure>"
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], text_columns: set[int]) -> str:
    """A table; cells are plain text and are escaped here."""
    side = [' class="text"' if i in text_columns else "" for i in range(len(heads))]
    head = "".join(f"<th{side[i]}>{escape(name)}</th>" for i, name in enumerate(heads))
    body = "".join(
        "<tr>" + "".join(f"<td{side[i]}>{escape(c)}</td>" for i, c in enumerate(row)) + "</tr>\n"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _rounds(report: Report) -> str:
    judged = ("Accuracy", "Plain float", "Loss") if report.counted else ("Loss", "Plain float")
    heads = ("Round", *judged, "Received", "Counted", "Bytes", "Wall", "Overhead", "Model",
             "Refused")  # fmt: skip
    rows = (_round(r, report.counted) for r in report.per_round)
    return _table(heads, rows, {len(heads) - 2, len(heads) - 1})


def _round(r: RoundFigures, counted: bool) -> tuple[str, ...]:
    plain = percent(r.reference_accuracy) if counted else figure(r.reference_loss)
    judged = (percent(r.accuracy), plain, figure(r.loss)) if counted else (figure(r.loss), plain)
    return (
        f"{r.number}",
        *judged,
        f"{r.received} of {r.invited}",
        f"{r.admitted}",
        size(r.update_bytes),
        duration(r.wall_s),
        duration(r.overhead_s),
        r.model[:12] if r.status == "released" else r.status,
        reasons(r.refused),
    )


def _devices(report: Report) -> str:
    judged = "Accuracy" if report.counted else "Loss"
    heads = ("Device", judged, "Test examples", "Training examples", "Rounds trained",
             "Training a round", "Update", "Memory of its process")  # fmt: skip
    rows = (
        (
            d.name,
            percent(d.accuracy) if report.counted else figure(d.loss),
            f"{d.test_examples}",
            f"{d.train_examples}",
            f"{d.rounds}",
            duration(d.train_s_median),
            size(d.update_bytes_median),
            NONE if d.rss_mb is None else f"{d.rss_mb:.0f} MiB",
        )
        for d in report.per_device[:_SHOWN_DEVICES]
    )
    more = len(report.per_device) - _SHOWN_DEVICES
    note = f"<p>… and {plural(more, 'device')} more, in report.json.</p>" if more > 0 else ""
    return _table(heads, rows, {0}) + note


def _stages(report: Report) -> str:
    heads = ("Stage", "Where", "Times", "10th percentile", "Median", "90th percentile", "Total")
    rows = (
        (
            charts.STAGE_LABELS.get(s.name, s.name),
            "each device" if s.where == "device" else "enclave, whole cohort",
            f"{s.samples:,}",
            duration(s.low_s),
            duration(s.median_s),
            duration(s.high_s),
            duration(s.total_s),
        )
        for s in report.per_stage
    )
    return _table(heads, rows, {0, 1})


def _command(report: Report) -> str:
    command = report.run.get("command")
    if not isinstance(command, str) or not command:
        return ""
    return f"<p>To repeat it:</p><pre><code>{escape(command)}</code></pre>"


def _facts(report: Report) -> str:
    run = report.run
    facts: list[tuple[str, Any]] = [
        ("Data set", run.get("dataset")),
        ("Model", run.get("model")),
        ("Cohort", run.get("cohort")),
        ("Seed", run.get("seed")),
        ("Suite", report.suite),
        ("Codec", report.codec),
        ("Policy", run.get("policy")),
        ("Broker", report.broker),
        ("Evidence", f"{report.evidence} {'(simulated)' * report.evidence_simulated}".strip()),
        ("Evidence note", run.get("evidence_note")),
        ("Restarts", ", ".join(report.restarts) or "none"),
        ("Refused updates", reasons(report.refused) or "none"),
        ("Reference run", duration(report.reference_s)),
        ("Machine", run.get("machine")),
        ("Versions", run.get("versions")),
    ]
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(_plain(value))}</td></tr>\n"
        for name, value in facts
        if value not in (None, "", {}, [])
    )
    return f'<table class="facts"><tbody>{rows}</tbody></table>'


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in sorted(value.items()))
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
