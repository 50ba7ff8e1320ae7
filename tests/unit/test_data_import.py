"""`qflare data import`: what is cut, what is refused and how that is said, and what is left."""

import json
import tomllib
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare import cli
from qflare.faults import LocalFault
from qflare.simulate.importer import windows
from qflare.simulate.importer.plan import Plan
from qflare.simulate.importer.run import Result, run
from qflare.simulate.importer.writing import Moments


def imported(plan: Plan) -> Result:
    return run(plan, lambda *_: None, lambda *_: None)


def table(rows: list[str], header: str = "t,who,what,a,b") -> str:
    return "\n".join([header, *rows]) + "\n"


def recording(
    who: str, what: str, first: int, count: int, began: float = 0.0, rate: float = 10.0
) -> list[str]:
    """Rows whose channel a counts up from `first`, and b down."""
    return [f"{began + i / rate},{who},{what},{first + i},{-(first + i)}" for i in range(count)]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Two devices, two labels, windows of 4 rows; the file is still to be written."""
    return Plan(
        files=(tmp_path / "in.csv",),
        folder=tmp_path / "out",
        device="who",
        label="what",
        time="t",
        window=4,
        step=2,
    )


def write(plan: Plan, text: str | bytes) -> Plan:
    plan.files[0].write_bytes(text.encode() if isinstance(text, str) else text)
    return plan


def firsts(path: Path, part: str) -> list[list[int]]:
    """Channel a of each window of a part."""
    with np.load(path) as file:
        x, y = file[f"x_{part}"], file[f"y_{part}"]
    assert (x.dtype, y.dtype) == (np.float32, np.int32)
    assert len(x) == len(y)
    assert np.array_equal(x[:, :, 0], -x[:, :, 1])
    return [[int(v) for v in window[:, 0]] for window in x]


def test_windows_by_device_and_part(plan: Plan) -> None:
    """Rows of two devices that take turns; the last quarter is the test part."""
    one, two = recording("S 1", "run", 100, 16), recording("b", "sit", 200, 16)
    mixed = [row for pair in zip(one, two, strict=True) for row in pair]
    result = imported(write(plan, table(mixed)))
    assert [(d.device, d.original) for d in result.devices] == [("b", "b"), ("s-1", "S 1")]
    # 12 rows to train on, 4 to test
    wanted = [[first, first + 1, first + 2, first + 3] for first in (100, 102, 104, 106, 108)]
    assert firsts(plan.folder / "s-1.npz", "train") == wanted
    assert firsts(plan.folder / "s-1.npz", "test") == [[112, 113, 114, 115]]
    assert (result.rows, result.train, result.test, result.rate_hz) == (32, 10, 2, 10.0)
    assert result.classes == {"run": 5, "sit": 5}
    with np.load(plan.folder / "b.npz") as file:
        assert set(file["y_train"]) == {1}
    assert sorted(p.name for p in plan.folder.iterdir()) == ["b.npz", "s-1.npz", "schema.toml"]
    assert [p.name for p in plan.folder.parent.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    "breaking",
    [
        recording("a", "run", 0, 6) + recording("a", "run", 6, 6, 0.6 + 1.0),  # a pause
        recording("a", "run", 0, 6) + recording("a", "run", 6, 6, 0.0),  # the time starts again
        recording("a", "run", 0, 6) + recording("a", "run", 6, 6, 0.5),  # the same time twice
        recording("a", "run", 0, 6) + recording("a", "sit", 6, 6, 0.6),  # another label
        [*recording("a", "run", 0, 6), "0.6,a,run,,0", *recording("a", "run", 6, 6, 0.6)],
        [*recording("a", "run", 0, 6), "0.6,a,run,nan,0", *recording("a", "run", 6, 6, 0.6)],
        [*recording("a", "run", 0, 6), "0.6,a,,1,1", *recording("a", "run", 6, 6, 0.6)],
    ],
    ids=["pause", "restart", "still", "label", "empty", "nan", "unlabelled"],
)
def test_no_window_crosses(plan: Plan, breaking: list[str]) -> None:
    also = recording("z", "sit", 50, 40)
    imported(write(replace(plan, test=0.0), table(breaking + also)))
    assert firsts(plan.folder / "a.npz", "train") == [
        [0, 1, 2, 3], [2, 3, 4, 5], [6, 7, 8, 9], [8, 9, 10, 11],
    ]  # fmt: skip


def test_a_lost_row_is_no_gap(plan: Plan) -> None:
    rows = recording("a", "run", 0, 12)
    del rows[5]
    imported(write(replace(plan, test=0.0), table(rows + recording("z", "sit", 0, 12))))
    assert [4, 6, 7, 8] in firsts(plan.folder / "a.npz", "train")
    strict = replace(plan, test=0.0, max_gap=0.15, folder=plan.folder.with_name("strict"))
    imported(strict)
    assert [4, 6, 7, 8] not in firsts(strict.folder / "a.npz", "train")


def test_the_schema_describes_the_training_parts(plan: Plan) -> None:
    rows = recording("a", "run", 0, 40) + recording("b", "sit", 100, 40)
    result = imported(write(replace(plan, units=("g", "rad/s")), table(rows)))
    said = tomllib.loads(result.schema.read_text())
    trained = np.concatenate([np.arange(30), np.arange(100, 130)])
    assert said["classes"] == ["run", "sit"]
    assert said["input"].pop("mean") == pytest.approx([trained.mean(), -trained.mean()], rel=1e-5)
    assert said["input"].pop("scale") == pytest.approx([trained.std()] * 2, rel=1e-5)
    assert said["input"] == {
        "channels": ["a", "b"],
        "units": ["g", "rad/s"],
        "rate_hz": 10.0,
        "shape": [4, 2],
    }


def test_without_label_device_time_and_windows(tmp_path: Path) -> None:
    """Rows as they are, a file a device, no time axis."""
    for name in ("pump 1.csv", "pump 2.csv"):
        (tmp_path / name).write_text("a;b\n" + "".join(f"{i};7\n" for i in range(8)))
    files = (tmp_path / "pump 1.csv", tmp_path / "pump 2.csv")
    result = imported(Plan(files=files, folder=tmp_path / "out", window=1, step=1))
    assert [d.device for d in result.devices] == ["pump-1", "pump-2"]
    with np.load(tmp_path / "out" / "pump-1.npz") as file:
        assert sorted(file) == ["x_test", "x_train"]
        assert np.array_equal(file["x_train"], [[i, 7] for i in range(6)])
    said = tomllib.loads(result.schema.read_text())
    assert said["input"]["shape"] == [2]
    assert said["input"]["scale"][1] == 1.0  # a channel that never changes
    assert "rate_hz" not in said["input"]
    assert "classes" not in said


def test_rows_of_two_files_join_by_time_only(tmp_path: Path, plan: Plan) -> None:
    rows = recording("a", "run", 0, 16)
    second = tmp_path / "second.csv"
    second.write_text(table(rows[5:] + recording("b", "sit", 0, 16)))
    joined = replace(plan, files=(*plan.files, second), test=0.0)
    write(joined, table(rows[:5]))
    imported(joined)
    assert [4, 5, 6, 7] in firsts(plan.folder / "a.npz", "train")
    apart = replace(joined, time=None, channels=("a", "b"), folder=tmp_path / "apart")
    imported(apart)
    assert [4, 5, 6, 7] not in firsts(apart.folder / "a.npz", "train")


def test_dates_and_units_of_time(plan: Plan) -> None:
    dates = [
        f"2026-01-31T12:00:0{i // 10}.{i % 10}00{'Z' if i % 2 else ''},a,{'xy'[i > 19]},{i},{-i}"
        for i in range(40)
    ]
    assert imported(write(plan, table(dates))).rate_hz == 10.0
    ms = [f"{100 * i},a,{'xy'[i > 19]},{i},{-i}" for i in range(40)]
    wrong = imported(write(replace(plan, folder=plan.folder.with_name("o2")), table(ms)))
    assert any("--time-unit ms" in note for note in wrong.notes)
    right = replace(plan, folder=plan.folder.with_name("o3"), time_unit="ms")
    assert imported(right).rate_hz == 10.0


def test_classes_in_an_order_of_ones_own(plan: Plan) -> None:
    rows = recording("a", "10", 0, 16) + recording("b", "9", 0, 16)
    assert list(imported(write(plan, table(rows))).classes) == ["9", "10"]  # as numbers
    chosen = replace(plan, classes=("10", "9", "8"), folder=plan.folder.with_name("own"))
    result = imported(chosen)
    assert list(result.classes) == ["10", "9", "8"]
    assert any("label 8" in note for note in result.notes)
    with pytest.raises(LocalFault, match="label '9' is none of --classes"):
        imported(replace(chosen, classes=("10", "8"), folder=plan.folder.with_name("no")))


def test_the_same_rows_give_the_same_bytes(plan: Plan) -> None:
    rows = recording("a", "run", 0, 16) + recording("b", "sit", 0, 16)
    again = replace(write(plan, table(rows)), folder=plan.folder.with_name("again"))
    for one in (plan, again):
        imported(one)
    for file in plan.folder.iterdir():
        assert file.read_bytes() == (again.folder / file.name).read_bytes()


GOOD = recording("a", "run", 0, 16) + recording("b", "sit", 0, 16)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "first line"),
        ("\n1,2\n", "first line"),
        (table(GOOD, "t,who,x,a,b"), r"no column 'what' \(--label\); there are: t, who, x, a, b"),
        (table(GOOD, "t,who,what,what,b"), "more than one column 'what'"),
        (table(GOOD, "t,who,what,a,a"), "different names"),
        (table([*GOOD, "1,a,run,1"]), "line 34: 4 cells, the first line has 5"),
        (table([*GOOD, "1,a,run,1,x"]), "line 34, column 'b': 'x' is no number"),
        (table([*GOOD, '1,a,run,1,"0,5"']), "a decimal comma"),
        (table([*GOOD, "noon,a,run,1,1"]), "line 34, column 't': 'noon' is no time"),
        (table([*GOOD, "inf,a,run,1,1"]), "line 34, column 't'"),
        (table([*GOOD, "1,a,run,1e39,1"]), "beyond 3.4e38"),
        (table([*GOOD, "1,A,run,1,1"]), "'a' and 'A' would both be called 'a'"),
        (table([*GOOD, "1,???,run,1,1"]), "can't be a name"),
        (table([*GOOD, "1,coordinator,run,1,1"]), "can't be a name"),
        (table([f"1,{'d' * 33},run,1,1"]), "at most 32"),
        (table([f"1,a,{'l' * 201},1,1"]), "more than 200 characters"),
        (table(GOOD).encode() + b"\xff\xfe\n", "line 34: not UTF-8"),
        (table(GOOD) + "x" * (1 << 20) + "xx", "line 34: longer than"),
        (table(GOOD) + '"' + "x" * 200_000, "line 34: field larger"),
        (table(["1,a,run,,1"]), "no rows to import; 1 rows had no value"),
        (table(recording("a", "run", 0, 16)), "always 'run'"),
        (table(recording("a", "run", 0, 3) + recording("a", "sit", 9, 5, 9.0)), "longest has 3"),
        (table([f"1,a,{i},1,1" for i in range(1025)]), "more than 1,024 labels"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_left(
    plan: Plan, text: str | bytes, words: str
) -> None:
    with pytest.raises(LocalFault, match=words):
        imported(write(plan, text))
    assert [p.name for p in plan.folder.parent.iterdir()] == ["in.csv"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"files": ()},
        {"window": 0},
        {"step": 0},
        {"test": 1.0},
        {"test": -0.1},
        {"max_gap": 0.0},
        {"time_unit": "h"},
        {"channels": ("a", "who")},
        {"units": ("g",), "channels": ("a", "b")},
        {"classes": ("a", "a")},
        {"classes": ("a", "b"), "label": None},
        {"delimiter": "||"},
    ],
)
def test_wrong_plans(plan: Plan, wrong: dict[str, object]) -> None:
    with pytest.raises(LocalFault):
        replace(plan, **wrong)  # type: ignore[arg-type]


def test_a_folder_in_use_stays_as_it_is(plan: Plan) -> None:
    write(plan, table(GOOD))
    plan.folder.mkdir()
    mine = plan.folder / "mine"
    mine.write_text("precious")
    with pytest.raises(LocalFault, match="not empty"):
        imported(plan)
    assert mine.read_text() == "precious"
    mine.unlink()
    assert imported(plan).train == 10


def test_a_window_of_too_many_values(plan: Plan) -> None:
    with pytest.raises(LocalFault, match="values a window"):
        imported(
            write(replace(plan, window=2**20, channels=tuple("abcde")), "a,b,c,d,e,who,what,t\n")
        )


def test_the_command(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    write(plan, table([*GOOD, "9,a,,1,1"]))
    arguments = ["data", "import", str(plan.files[0]), "--device=who", "--label=what", "--time=t"]
    arguments += ["--window=4", "--step=2", "-o"]
    assert cli.main([*arguments, str(plan.folder)]) == 0
    said = capsys.readouterr()
    assert "2 devices: 10 windows to train on, 2 to test, each 4 x 2 at 10 Hz" in said.out
    assert "note: 1 rows lack a value or a label" in said.out
    assert f"qflare simulate --model model.tflite --dataset {plan.folder}" in said.out
    assert said.err == ""
    assert cli.main([*arguments, str(plan.folder)]) == 1
    assert "not empty" in capsys.readouterr().err
    assert cli.main([*arguments, str(plan.folder) + "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["train_windows"], found["left_out"]) == (10, 1)
    assert [d["device"] for d in found["devices"]] == ["a", "b"]


@pytest.mark.skipif(find_spec("seglearn") is None, reason="seglearn is not installed")
def test_the_watch_data_comes_back_as_it_went(tmp_path: Path) -> None:
    """Exported and imported again, the windows are the very same as the data set's."""
    from qflare.simulate.data import watch

    watch.write_csv(tmp_path / "watch.csv", tmp_path, 2)
    plan = Plan(
        files=(tmp_path / "watch.csv",),
        folder=tmp_path / "out",
        device="subject",
        label="exercise",
        time="seconds",
        classes=watch.EXERCISES,
    )
    imported(plan)
    for data in watch.prepare(tmp_path, 2, 0):
        with np.load(plan.folder / f"{data.device}.npz") as file:
            for part, wanted in (("train", data.train), ("test", data.test)):
                assert np.array_equal(file[f"x_{part}"], wanted.x)
                assert np.array_equal(file[f"y_{part}"], wanted.y)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.floats(0.5, 9)), max_size=60),
    st.floats(0, 0.99),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_windows_stay_within_one_part_of_one_recording(
    rows: list[tuple[int, int, float]], test: float, window: int, step: int
) -> None:
    piece = np.cumsum([r[0] == 0 for r in rows]).astype(np.int32)
    label = np.array([r[1] for r in rows], np.int32)
    time = np.cumsum([r[2] for r in rows]).astype(np.float64)
    found = windows.recordings(time, piece, label, test, 5.0)
    assert [row for r in found for row in range(r.start, r.stop)] == [*range(len(rows))]
    for r in found:
        assert r.start <= r.cut <= r.stop
        assert len({*piece[r.start : r.stop]}) == len({*label[r.start : r.stop]}) == 1
        assert (np.diff(time[r.start : r.stop]) <= 5.0).all()
        for first, end in ((r.start, r.cut), (r.cut, r.stop)):
            begins = windows.starts(first, end, window, step)
            assert all(first <= at and at + window <= end for at in begins)
            assert len(begins) == max(0, (end - first - window) // step + 1)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(0, 99))
def test_moments_of_pieces_are_those_of_the_whole(sizes: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    pieces = [random.normal(1e3, 3.0, (size, 2)).astype(np.float32) for size in sizes]
    moments = Moments(2)
    for piece in pieces:
        moments.add(piece)
    whole = np.concatenate(pieces).astype(np.float64)
    np.testing.assert_allclose(moments.mean(), whole.mean(axis=0), rtol=1e-5)
    if len(whole) > 1:
        np.testing.assert_allclose(moments.scale(), whole.std(axis=0), rtol=1e-4)
