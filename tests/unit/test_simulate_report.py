"""The report of a simulation: figures, verdict, page and pictures."""

import io
import json
import math
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare.simulate.report.document import to_json, to_text
from qflare.simulate.report.figures import build, covered
from qflare.simulate.report.files import write
from qflare.simulate.report.html import render
from qflare.simulate.report.model import Report
from qflare.simulate.report.terminal import plain_text, show
from qflare.simulate.report.words import duration, size, verdict

SUITE = "xwing-mldsa65"


def sample(devices: int = 20, rounds: int = 20, seed: int = 7) -> dict[str, Any]:
    """What the processes of a run could have left behind: keys export, reference, run."""
    draw = random.Random(seed)
    names = [f"subject-{i // 2 + 1:02d}-{'lr'[i % 2]}" for i in range(devices)]
    skill = {name: draw.uniform(-0.09, 0.07) for name in names}
    tests = {name: draw.randint(35, 52) for name in names}
    clock = 1_790_000_000.0
    records: list[dict[str, Any]] = []
    plain: list[float] = []
    for step in range(1, rounds + 1):
        level = 0.915 - 0.62 * math.exp(-step / 4.2)
        plain.append(level + draw.uniform(-0.008, 0.012))
        began = clock + 0.18
        telemetry = {}
        for place, name in enumerate(names):
            start = began + 0.05 * (place % 8) + draw.uniform(0, 0.03)
            train = draw.uniform(1.5, 2.3)
            right = min(1.0, max(0.0, level + skill[name] * (1 - step / 60)))
            telemetry[name] = {
                "examples": tests[name],
                "correct": round(right * tests[name]),
                "loss_sum": tests[name] * (-math.log(level) * 1.9 + 0.1),
                "stages": {
                    "appraise": draw.uniform(0.002, 0.006),
                    "fetch": draw.uniform(0.004, 0.03),
                    "train": train,
                    "compress": draw.uniform(0.0012, 0.003),
                    "seal": draw.uniform(0.0015, 0.004),
                    "transfer": draw.uniform(0.03, 0.2),
                    "evaluate": draw.uniform(0.008, 0.02),
                },
                "counters": {
                    "train_began_ms": int(start * 1000),
                    "train_ended_ms": int((start + train) * 1000),
                    "update_bytes": 8340,
                    "encoded_bytes": draw.randint(3480, 3620),
                    "float32_bytes": 28380,
                    "examples": 3 * tests[name],
                    "steps": 50,
                    "rss_kb": draw.randint(61_000, 66_000),
                },
            }
        ended = clock + draw.uniform(2.95, 3.2)
        records.append(
            {
                "number": step,
                "step": step,
                "status": "released",
                "opening_at": clock,
                "offered_at": clock + 0.05,
                "closed_at": ended - 0.2,
                "released_at": ended - 0.05,
                "published_at": ended,
                "invited": devices,
                "accepted": devices,
                "admitted": devices,
                "refused": {"replay": 1} if step == 9 else {},
                "update_bytes": [draw.choice((8276, 8340)) for _ in names],
                "open_s": draw.uniform(0.002, 0.004),
                "admit_s": draw.uniform(0.03, 0.05),
                "release_s": draw.uniform(0.003, 0.006),
                "model": f"{draw.getrandbits(256):064x}",
                "receipt": f"{draw.getrandbits(256):064x}",
                "telemetry": telemetry,
            }
        )
        clock = ended + 0.02
    return {
        "export": {
            "run": {
                "suite": SUITE,
                "codec": "block-q4",
                "evidence": "insecure_simulated",
                "evidence_tier": "simulated",
                "broker": "mosquitto 2.0.11",
            },
            "rounds": records,
        },
        "reference": {
            "accuracy_by_round": plain,
            "loss_by_round": [-math.log(value) * 1.9 + 0.08 for value in plain],
            "final_accuracy": plain[-1] if plain else None,
            "seconds": 21.4,
        },
        "run": {
            "devices": devices,
            "rounds": rounds,
            "cohort": devices,
            "seed": 1,
            "dataset": "watch",
            "model": "watch_cnn (7,095 parameters)",
            "wall_s": 71.3,
            "started_at": 1_790_000_000.0,
            "broker": "mosquitto 2.0.11",
            "versions": {"qflare": "0.1.0", "python": "3.11.2", "numpy": "2.4.6"},
            "machine": "2 × Intel Xeon, 8 GB, Debian 12",
            "restarts": [["broker", 1_790_000_020.0]],
            "command": "qflare simulate --devices 20 --rounds 20 --seed 1",
        },
    }


class Terminal(io.StringIO):
    """What a person reads, and reports itself as a terminal."""

    def isatty(self) -> bool:
        return True


def made(**changes: Any) -> Report:
    """The report of the sample run, with parts of its input replaced."""
    return build(**{**sample(), **changes})


def test_the_asked_keys_stand_at_the_top() -> None:
    figures = to_json(made())
    for key in [
        "final_accuracy",
        "reference_accuracy",
        "rounds",
        "devices",
        "wall_s",
        "overhead_s_per_round_median",
        "update_bytes_median",
        "update_float32_bytes",
        "broker",
        "suite",
        "evidence",
        "encoded_bytes_median",
    ]:
        assert figures[key] is not None, key
    assert figures["status"] == "ok"
    assert figures["update_float32_bytes"] == 28380
    assert figures["fixed_bytes"] == 3309 + 1137
    assert json.loads(to_text(made())) == figures


def test_accuracy_is_pooled_over_examples() -> None:
    inputs = sample(devices=2, rounds=1)
    (record,) = inputs["export"]["rounds"]
    first, second = record["telemetry"].values()
    first |= {"examples": 10, "correct": 10}
    second |= {"examples": 90, "correct": 45}
    report = build(**inputs)
    assert report.final_accuracy == 0.55
    assert {d.accuracy for d in report.per_device} == {1.0, 0.5}


@pytest.mark.parametrize(
    ("intervals", "training"),
    [
        ([(1, 3), (2, 4)], 3),  # overlapping
        ([(1, 2), (5, 7)], 3),  # apart
        ([(1, 9), (2, 3)], 8),  # one inside the other
        ([(-5, 2), (8, 30)], 4),  # beyond the round on both sides
        ([(20, 30)], 0),  # in another round
    ],
)
def test_overhead_is_wall_without_the_union_of_training(
    intervals: list[tuple[int, int]], training: float
) -> None:
    telemetry = {
        f"device-{i}": {
            "counters": {"train_began_ms": 1000 * (100 + a), "train_ended_ms": 1000 * (100 + b)}
        }
        for i, (a, b) in enumerate(intervals)
    }
    record = {"number": 1, "step": 1, "status": "released", "opening_at": 100, "published_at": 110}
    report = build({"rounds": [{**record, "telemetry": telemetry}]}, None, {"rounds": 1})
    assert report.per_round[0].training_s == training
    assert report.per_round[0].overhead_s == 10 - training


def test_without_word_of_training_there_is_no_overhead_figure() -> None:
    record = {"number": 1, "step": 1, "status": "released", "opening_at": 100, "published_at": 110}
    report = build({"rounds": [record]}, None, {"rounds": 1})
    assert report.per_round[0].wall_s == 10
    assert report.per_round[0].overhead_s is None
    assert report.overhead_s_per_round_median is None


@given(
    st.lists(st.tuples(st.integers(-20, 60), st.integers(-20, 60)), max_size=8),
    st.integers(0, 20),
    st.integers(20, 40),
)
def test_covered_counts_every_second_once(
    intervals: list[tuple[int, int]], start: int, end: int
) -> None:
    seconds = {s for a, b in intervals for s in range(max(a, start), min(b, end))}
    assert covered(intervals, start, end) == len(seconds)


@pytest.mark.parametrize(
    "export", [None, {}, {"rounds": []}, {"rounds": [{"status": "abandoned"}]}]
)
def test_a_run_without_a_released_round_has_failed(
    export: dict[str, Any] | None, tmp_path: Path
) -> None:
    report = build(export, None, {"rounds": 20, "devices": 20})
    assert all(path.stat().st_size for path in write(report, tmp_path))
    assert report.status == "failed"
    assert "no round was released" in report.reasons
    assert verdict(report)[0].startswith("FAILED")
    assert "FAILED" in plain_text(report)
    page = render(report)
    assert ">Failed:<" in page
    assert "completed" not in page
    assert to_json(report)["rounds"] == 0


def test_a_run_that_stopped_early_has_failed() -> None:
    inputs = sample(rounds=5)
    inputs["run"]["rounds"] = 6
    assert build(**inputs).reasons == ("only 5 of 6 rounds were released",)


def test_a_failure_named_by_the_run_fails_it() -> None:
    inputs = sample(rounds=5)
    inputs["run"]["failure"] = "the broker didn't start"
    assert build(**inputs).reasons == ("the broker didn't start",)


@pytest.mark.parametrize("junk", [None, 3, "x", [], {}, float("nan"), True, [None, "x", {"a": 1}]])
def test_senseless_input_never_breaks_the_report(junk: Any) -> None:
    keys = ["number", "step", "opening_at", "published_at", "refused", "update_bytes"]
    keys += ["telemetry", "open_s", "model"]
    record = dict.fromkeys(keys, junk) | {"status": "released"}
    device = dict.fromkeys(("examples", "correct", "loss_sum", "stages", "counters"), junk)
    rounds = [record, {**record, "telemetry": {"a": device, "b": junk}}, junk]
    report = build({"rounds": rounds, "run": junk}, None, {"rounds": 1, "restarts": junk})
    # Three of three right is no junk, but a good report.
    assert json.loads(to_text(report))["status"] == ("ok" if junk == 3 else "failed")
    render(report)
    plain_text(report)


def test_the_verdict_is_plain_about_evidence_and_reference() -> None:
    said = " ".join(verdict(made()))
    assert "SIMULATED (insecure_simulated): nothing here proves" in said
    assert "1 restart on the way (broker)" in said
    assert "1 update refused (1 × replay)" in said
    assert "no reference run" in " ".join(verdict(made(reference=None)))


@pytest.mark.parametrize(
    ("reference", "examples", "words", "keeps_up"),
    [
        (0.85, 40_000, "within the 2 points", True),
        (0.91, 40_000, "within the 2 points", True),
        (0.93, 40_000, "MORE than the 2 points", False),
        (0.91, 700, "one run can't tell whether that is within the 2 points", None),
        (0.93, 700, "chance alone makes up to 3.0 points", None),
        (0.99, 700, "MORE than the 2 points", False),
    ],
)
def test_the_verdict_says_no_more_than_so_many_examples_show(
    reference: float, examples: int, words: str, keeps_up: bool | None
) -> None:
    """Two points are what sealing may cost; two standard errors are what a run can't see."""
    inputs = sample(devices=1, rounds=1)
    inputs["export"]["rounds"][0]["telemetry"]["subject-01-l"] |= {
        "examples": examples,
        "correct": examples * 9 // 10,
    }
    inputs["reference"] = {"final_accuracy": reference}
    report = build(**inputs)
    assert report.keeps_up is keeps_up
    assert words in " ".join(verdict(report))
    p, n = 0.9, examples
    assert report.gap_error == pytest.approx(
        math.sqrt(p * (1 - p) / n + reference * (1 - reference) / n)
    )


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_a_narrow_terminal_leaves_columns_out_and_cuts_none(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """The most telling ones stay; all of them are in the report's files."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    report = made()
    show(report, out)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()
    assert "…" not in out.getvalue()
    assert lines[0].split()[:2] == ["round", "accuracy"]
    assert ("overhead" in lines[0]) is (width == 200)  # a note of this run needs the room
    assert all(len(line) <= width for line in lines)
    numbered = [line.split() for line in lines[1:] if line[:5].strip().isdigit()]
    assert [int(words[0]) for words in numbered] == [r.number for r in report.per_round]
    assert [words[1] for words in numbered] == [f"{100 * r.accuracy:.1f}" for r in report.per_round]


def test_a_figure_from_a_part_of_the_fleet_says_so() -> None:
    inputs = sample(devices=4, rounds=2)
    inputs["export"]["rounds"][-1]["telemetry"].popitem()
    assert "Only 3 of 4 devices tested it." in verdict(build(**inputs))


class Page(HTMLParser):
    """Collects what a browser would load, run or show."""

    VOID = frozenset({"meta", "link", "br", "img", "hr", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            self.links += [value or ""] if name in ("href", "src", "xlink:href") else []
            self.ids += [value or ""] if name == "id" else []
            self.handlers += [name] if name.startswith("on") else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(markup: str) -> Page:
    page = Page()
    page.feed(markup)
    page.close()
    assert not page.open, "every element is closed"
    return page


def test_the_page_is_whole_and_loads_nothing() -> None:
    markup = render(made())
    page = parsed(markup)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "image"}
    assert all(link.startswith("#") for link in page.links)
    assert "http:" not in markup
    assert "https:" not in markup
    assert "@import" not in markup
    assert len(page.ids) == len(set(page.ids))
    assert len(markup) < 1_000_000
    assert markup.count("<svg") == 7


def test_the_page_is_the_same_every_time() -> None:
    assert render(made()) == render(made())


def test_hostile_names_are_only_text() -> None:
    hostile = '<script>alert(1)</script>"><b onload=x>$title &amp; $x^2$\x1b[2J'
    inputs = sample(devices=3, rounds=2)
    for record in inputs["export"]["rounds"]:
        record["telemetry"][hostile[:64]] = next(iter(record["telemetry"].values()))
        record["refused"] = {hostile: 2}
        record["model"] = hostile
    inputs["run"] |= {"broker": hostile, "command": hostile, "restarts": [[hostile, 1.0]]}
    inputs["run"]["versions"] = {hostile: hostile}
    report = build(**inputs)
    page = parsed(render(report))
    assert "script" not in page.tags
    assert not page.handlers
    assert "\x1b" not in plain_text(report)


def test_many_devices_still_make_a_small_page() -> None:
    markup = render(build(**sample(devices=300, rounds=2)))
    parsed(markup)
    assert len(markup) < 1_000_000


def test_the_written_report(tmp_path: Path) -> None:
    report = made()
    figures, page, overview = write(report, tmp_path / "new")
    assert json.loads(figures.read_text()) == to_json(report)
    assert page.read_text().startswith("<!doctype html>")
    assert overview.read_bytes()[:4] == b"\x89PNG"


def test_the_table_has_a_line_a_round() -> None:
    out = io.StringIO()
    show(made(), out)
    lines = out.getvalue().splitlines()
    assert lines[0].split()[:2] == ["round", "accuracy"]
    assert len(lines) == 1 + 20 + 1 + len(verdict(made()))
    assert "refused: 1 × replay" in lines[9]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.00032, "320 µs"), (0.0021, "2.1 ms"), (0.122, "122 ms"), (1.912, "1.91 s"), (71.3, "71 s"),
     (758.2, "12 min 38 s"), (0.9999, "1.00 s"), (None, "–")],
)  # fmt: skip
def test_durations_as_people_read_them(seconds: float | None, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("length", "shown"), [(0, "0 B"), (999, "999 B"), (8340, "8.3 kB"), (999_960, "1.0 MB")]
)
def test_sizes_as_people_read_them(length: float, shown: str) -> None:
    assert size(length) == shown


def uncounted() -> dict[str, Any]:
    """What a run of an autoencoder leaves: nothing is right, and there is a score."""
    left = sample(rounds=3)
    for record in left["export"]["rounds"]:
        for entry in record["telemetry"].values():
            entry["correct"] = 0
    left["run"] |= {"task": "autoencoder", "score": {"auc": 0.9987, "recall": 0.981}}
    left["reference"] |= {
        "accuracy_by_round": None,
        "final_accuracy": None,
        "loss_by_round": [0.9, 0.5, 0.4],
        "score": {"auc": 0.9991, "recall": 0.99},
    }
    return left


def test_a_task_without_accuracy_shows_its_loss_and_its_score(tmp_path: Path) -> None:
    report = build(**uncounted())
    assert report.ok
    assert report.final_accuracy is None
    assert all(r.accuracy is None and r.loss for r in report.per_round)
    figures = to_json(report)
    assert figures["final_loss"] == pytest.approx(report.per_round[-1].loss, abs=1e-6)
    assert (figures["reference_loss"], figures["score"]["auc"]) == (0.4, 0.9987)
    said = plain_text(report)
    assert said.split()[:3] == ["round", "loss", "plain"]
    assert "gives 0.400." in said
    assert "99.9 % of pairs" in said
    assert "finds 98.1 % of the anomalies" in said
    assert "accuracy" not in said
    page = render(report)
    assert "A mean loss of" in page
    assert "Anomalies, AUC" in page
    assert "Accuracy by device" not in page
    for path in write(report, tmp_path):
        assert path.stat().st_size > 0


def test_a_regression_has_no_score() -> None:
    left = uncounted()
    left["run"] |= {"task": "regression", "score": None}
    left["reference"]["score"] = None
    report = build(**left)
    assert "pairs" not in plain_text(report)
    assert "Plain float" in render(report)
