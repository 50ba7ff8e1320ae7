"""Every kind of source as a model's examples: what suits, what is left out, what is new."""

import json
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from edge_runtime.contract import ModelContract
from edge_runtime.sources import check
from edge_runtime.sources import rows as rows_module
from edge_runtime.sources.base import Samples, Source
from edge_runtime.sources.drivers import make_driver
from edge_runtime.sources.opening import open_source
from edge_runtime.sources.schema import Schema, mismatches
from edge_runtime.sources.settings import (
    Channel,
    DataSection,
    FormatSection,
    HoldoutSection,
    LabelSection,
    PluginSection,
    SerialSection,
    TimeSection,
    WindowSection,
)
from qflare.faults import LocalFault
from qflare.host.typed import decode, parse
from tests import models
from tests.source_kit import (
    CLASSES,
    START_US,
    fill_ring,
    motion,
    read_all,
    settle,
    watch_channels,
    zoo_bytes,
    zoo_contract,
)

NONE_HELD = HoldoutSection(0.0)
WATCH = zoo_contract("watch_cnn")
SIX = tuple(f"c{i}" for i in range(6))


def ring_section(tmp: Path, **changes: Any) -> DataSection:
    base = DataSection(
        tmp / "ring",
        "serial",
        50.0,
        watch_channels(),
        format=FormatSection("json"),
        label=LabelSection("field", ("what",)),
        holdout=HoldoutSection(0.3, 10.0),
        serial=SerialSection(port="/dev/null"),
    )
    return replace(base, **changes)


def opened(
    settings: DataSection,
    contract: ModelContract,
    before: Source | None = None,
    key: bytes | None = None,
) -> Source:
    return open_source(settings, contract, settings.path.parent / "scratch", before, key)


@pytest.fixture(params=[True, False], ids=["at once", "row by row"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(rows_module, "SMALL", 0)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("sealed", [False, True])
def test_windows_of_a_ring_are_what_was_collected(tmp_path: Path, sealed: bool) -> None:
    settings = ring_section(tmp_path, holdout=NONE_HELD)
    key = bytes(range(32)) if sealed else None
    one, two = motion(700, 1), motion(300, 2)
    fill_ring(settings, [(START_US, "ABD", one), (START_US + 10**9, "FEL", two)], key)
    source = opened(settings, WATCH, key=key)
    x, y = read_all(source.train(), WATCH)
    starts = [*range(0, 700 - 127, 64)], [*range(0, 300 - 127, 64)]
    says = WATCH.manifest.input
    wanted = np.stack([w[s : s + 128] for w, b in zip((one, two), starts, strict=True) for s in b])
    scaled = (wanted - np.float32(says.mean)) / np.float32(says.scale)
    np.testing.assert_array_equal(x, scaled.astype(np.float32))
    assert y.tolist() == [1] * len(starts[0]) + [2] * len(starts[1])
    assert source.count() == len(y)
    assert source.fresh
    raw = b"".join(path.read_bytes() for path in settings.path.glob("*.seg"))
    assert (one[5:25].tobytes() in raw) == (not sealed)
    if sealed:
        with pytest.raises(LocalFault, match="is encrypted; give the device its storage key"):
            opened(settings, WATCH).train()


def test_new_samples_are_taken_up_and_no_window_changes_sides(tmp_path: Path) -> None:
    settings = ring_section(tmp_path)
    fill_ring(settings, [(START_US, "ABD", motion(6000, 1))])
    first = opened(settings, WATCH)
    sides = [{bytes(x) for x in read_all(part, WATCH)[0]} for part in (first.train(), first.test())]
    assert min(map(len, sides)) > 5
    fill_ring(settings, [(START_US + 10**9, "FEL", motion(6000, 2))])
    assert not first.fresh
    second = opened(settings, WATCH, first)
    grown = [
        {bytes(x) for x in read_all(part, WATCH)[0]} for part in (second.train(), second.test())
    ]
    assert all(new > old for old, new in zip(sides, grown, strict=True))
    assert not grown[0] & grown[1]
    fresh = opened(settings, WATCH)  # the same, when nothing is known beforehand
    assert {bytes(x) for x in read_all(fresh.train(), WATCH)[0]} == grown[0]
    # Whoever reads goes on, though the oldest files made room meanwhile.
    old = second.train()
    for path in settings.path.glob("*.seg"):
        path.unlink()
    read_all(old, WATCH)


def test_windows_that_are_unfit_are_left_out_and_counted(tmp_path: Path) -> None:
    channels = list(watch_channels())
    channels[0] = replace(channels[0], low=-8.0, high=8.0)
    settings = ring_section(tmp_path, holdout=NONE_HELD, channels=tuple(channels))
    good = motion(256, 1)
    bad = {name: motion(256, 1) for name in ("nan", "stuck", "clipped", "drifted")}
    bad["nan"][200, 3] = np.nan
    bad["stuck"][:, 2] = bad["stuck"][0, 2]
    bad["clipped"][::8, 0] = 8.0
    bad["drifted"][:, 4] += 100
    recordings: list[tuple[int, str, Any]] = [(START_US, "ABD", good)]
    for i, values in enumerate(bad.values(), 1):
        recordings.append((START_US + i * 10**8, "ABD", values))
    recordings += [(START_US + 10**9, "", good), (START_US + 2 * 10**9, "juggling", good)]
    fill_ring(settings, recordings)
    source = opened(settings, WATCH)
    report = source.report()
    assert report["left_out"] == {
        "unlabelled": 3,
        "unknown_label": 3,
        "not_finite": 1,
        "stuck": 3,
        "clipped": 3,
        "drifted": 3,
    }
    assert source.count() == 3 + 2
    problems = " ".join(report["problems"])
    assert "juggling; it knows PEN, ABD" in problems
    assert "stuck: a channel doesn't move" in problems
    drifted = next(c for c in report["channels"] if c["name"] == "wy")
    assert drifted["expected_mean"] == pytest.approx(-0.00381)
    names = LabelSection("field", ("what",), names={"juggling": "ROW"})
    assert opened(replace(settings, label=names), WATCH).count() == 5 + 3


def test_lost_samples_end_a_recording_or_a_window(tmp_path: Path) -> None:
    """A gap ends it; a sensor that is slower than it says makes windows too long."""
    settings = ring_section(tmp_path, holdout=NONE_HELD, rate_hz=55.0)
    at_55 = replace(settings, window=WindowSection(max_gap_s=1.0))
    fill_ring(settings, [(START_US, "ABD", motion(400, 1))])
    assert "set data.rate_hz" not in refusal(settings, WATCH)
    assert "gives 55; let the sensor send at that rate" in refusal(at_55, WATCH)
    slow = ring_section(tmp_path / "slow", holdout=NONE_HELD, rate_hz=50.0)
    fill_ring(slow, [])
    from edge_runtime.sources.collecting import head_of
    from edge_runtime.sources.ring import Ring
    from edge_runtime.sources.segment import Rows

    ring, batch = Ring(slow.path, head_of(slow), 2**20), Rows()
    for i, row in enumerate(motion(400, 1).tolist()):
        batch.add(START_US + i * 25_000, "ABD", False, tuple(row))
    ring.append(batch)
    ring.close()
    assert opened(slow, WATCH).report()["left_out"] == {"missing": 5}
    with pytest.raises(LocalFault, match="samples are lost on their way"):
        opened(slow, WATCH).train()


def test_labels_out_of_a_file(tmp_path: Path) -> None:
    label = LabelSection("file", file=tmp_path / "labels.csv", names={"up": "ABD"})
    settings = ring_section(tmp_path, label=label, holdout=NONE_HELD)
    fill_ring(settings, [(START_US, "", motion(3000, 1))])
    with pytest.raises(LocalFault, match=r"labels\.csv: data\.label\.file: No such file"):
        opened(settings, WATCH)
    start = START_US // 10**6
    (tmp_path / "labels.csv").write_text(
        f"start,end,label\n{start},{start + 20},up\n2023-11-14T22:13:50,{start + 40},ROW\nx,y\n"
    )
    source = opened(settings, WATCH)
    _, y = read_all(source.train(), WATCH)
    assert set(y.tolist()) == {1, 6}
    assert source.report()["left_out"]["unlabelled"] > 10
    assert "1 lines say nothing" in " ".join(source.report()["problems"])
    (tmp_path / "labels.csv").write_text(f"{start},{start + 60},PEN\n")
    assert not source.fresh
    again = opened(settings, WATCH, source)
    assert set(read_all(again.train(), WATCH)[1].tolist()) == {0}


def refusal(settings: DataSection, contract: ModelContract) -> str:
    with pytest.raises(LocalFault) as fault:
        opened(settings, contract)
    return str(fault.value)


def test_what_does_not_suit_is_explained(tmp_path: Path) -> None:
    channels = watch_channels()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"rate_hz": 100.0}, "set data.window.keep_every = 2"),
        ({"rate_hz": 0.0}, "set data.rate_hz"),
        ({"channels": channels[1:]}, "wants the channel 'ax' and the source has ay, az"),
        (
            {"channels": (Channel("ax", "m/s2"), *channels[1:])},
            'in g and it comes in m/s2; set factor = 0.1019716213 and unit = "g"',
        ),
        ({"channels": (Channel("ax", "V"), *channels[1:])}, "set factor (and offset), and unit"),
        ({"label": LabelSection()}, "learns classes (PEN, ABD, FEL"),
        ({"label": LabelSection("field", ("a",), numbers=True)}, "data.label.numbers is set"),
    ]
    for changes, says in cases:
        assert says in refusal(ring_section(tmp_path, **changes), WATCH)
    fine = ring_section(tmp_path, rate_hz=100.0, window=WindowSection(keep_every=2))
    assert mismatches(Schema.of(fine), WATCH.manifest, 2) == []
    pictures = zoo_contract("fashion_cnn")
    assert 'pictures have data.kind = "camera"' in refusal(ring_section(tmp_path), pictures)
    numbers = models.contract("regression").manifest
    schema = Schema(SIX, ("1",) * 6, 0.0, "numbers", 3)
    assert (
        "learns 2 number(s) an example and data.label.fields names 3"
        in mismatches(schema, numbers)[0]
    )


def table(path: Path, rows: int, kind: int, bad: bool = False) -> None:
    lines = ["seconds,exercise,ax,ay,az,wx,wy,wz,note"]
    for i, row in enumerate(motion(rows, kind).tolist()):
        values = ",".join(f"{v:.6g}" for v in row)
        lines.append(f"{1.7e9 + 1000 * kind + i / 50:.2f},{CLASSES[kind]},{values},x")
    if bad:
        lines[100] = "1,2,3"
        lines[150] = lines[150].replace(",x", ',"x', 1)
        lines[180] = lines[180].replace(CLASSES[kind], f"{CLASSES[kind]},oops", 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def csv_section(folder: Path) -> DataSection:
    return DataSection(
        folder,
        "csv",
        50.0,
        watch_channels(),
        time=TimeSection("seconds"),
        label=LabelSection("field", ("exercise",)),
        holdout=NONE_HELD,
    )


def test_tables_are_read_once_and_new_ones_taken_up(tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    table(folder / "a.csv", 1000, 0)
    table(folder / "deep/b.csv", 1000, 1, bad=True)
    (folder / "c.csv").write_text("nothing,of,use\n1,2,3\n")
    settle(folder)
    settings = csv_section(folder)
    first = opened(settings, WATCH)
    x, y = read_all(first.train(), WATCH)
    says = WATCH.manifest.input
    np.testing.assert_allclose(x[0], (motion(128, 0) - says.mean) / says.scale, atol=1e-4)
    assert y.tolist().count(0) == 14
    files = {file["name"]: file for file in first.report()["files"]}
    assert files["a.csv"] == {"name": "a.csv", "rows": 1000, "bad_rows": 0}
    assert files["deep/b.csv"]["bad_rows"] == 3
    assert "line 101: it has 3 fields, 9 are wanted" in files["deep/b.csv"]["first_bad"]
    assert "has no column 'ax'; there are nothing, of, use" in files["c.csv"]["fault"]
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "scratch/tables").iterdir()}
    assert len(made) == 4
    # One that is still being written isn't taken up; then it is, and others aren't read anew.
    table(folder / "d.csv", 500, 2)
    assert first.fresh
    settle(folder)
    assert not first.fresh
    (folder / "a.csv").unlink()
    second = opened(settings, WATCH, first)
    assert set(read_all(second.train(), WATCH)[1].tolist()) == {1, 2}
    now = {path: path.stat().st_mtime_ns for path in (tmp_path / "scratch/tables").iterdir()}
    assert len(set(now.items()) & set(made.items())) == 2  # b's; a's are gone
    assert len(now) == 4


def test_channels_default_to_the_models_and_folders_are_labels(tmp_path: Path) -> None:
    contract = models.contract("private")
    for name in ("class0", "class2", "else"):
        (tmp_path / "rows" / name).mkdir(parents=True)
        lines = [",".join(SIX)] + [
            ",".join(str((i * j) % 7 / 3) for j in range(1, 7)) for i in range(40)
        ]
        (tmp_path / "rows" / name / "1.csv").write_text("\n".join(lines))
    settle(tmp_path / "rows")
    settings = DataSection(
        tmp_path / "rows", "csv", label=LabelSection("folder"), holdout=HoldoutSection(0.3, 1, 2)
    )
    source = opened(settings, contract)
    y = [read_all(part, contract)[1].tolist() for part in (source.train(), source.test())]
    assert len(y[0]) + len(y[1]) == 80
    assert min(map(len, y)) > 5
    assert set(y[0]) == set(y[1]) == {0, 2}
    assert source.report()["left_out"] == {"unknown_label": 40}


@pytest.mark.parametrize("name", ["regression", "multilabel", "autoencoder"])
def test_labels_that_are_numbers(tmp_path: Path, name: str) -> None:
    contract = models.contract(name)
    width = {"regression": 2, "multilabel": 3, "autoencoder": 0}[name]
    labels = tuple(f"y{i}" for i in range(width))
    lines = [",".join((*SIX, *labels))]
    lines += [",".join(["0.5"] * 5 + [str(i)] + [str(i % 2)] * width) for i in range(8)]
    if width:
        lines.append(",".join(["0.5"] * 6 + [""] * width))
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/a.csv").write_text("\n".join(lines))
    settle(tmp_path / "rows")
    label = LabelSection("field", labels, numbers=True) if width else LabelSection()
    settings = DataSection(tmp_path / "rows", "csv", label=label, holdout=NONE_HELD)
    source = opened(settings, contract)
    x, y = read_all(source.train(), contract)
    assert x[:, 5].tolist() == [(i - 0.5) / 2 for i in range(8)]
    if width:
        assert y.tolist() == [[i % 2] * width for i in range(8)]
        assert source.report()["left_out"] == {"unlabelled": 1}


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "tables"
    folder.mkdir()
    values = motion(600, 3)
    columns = {name.name: values[:, i] for i, name in enumerate(watch_channels())}
    time = pa.array((START_US + np.arange(600) * 20_000).astype("datetime64[us]"))
    pq.write_table(
        pa.table({"seconds": time, "exercise": ["IR"] * 600, **columns}), folder / "a.parquet"
    )
    (folder / "b.parquet").write_bytes(b"PAR1 and then garbage PAR1")
    settle(folder)
    settings = replace(csv_section(folder), kind="parquet")
    source = opened(settings, WATCH)
    x, y = read_all(source.train(), WATCH)
    says = WATCH.manifest.input
    scaled = (values[:128] - np.float32(says.mean)) / np.float32(says.scale)
    np.testing.assert_array_equal(x[0], scaled.astype(np.float32))
    assert set(y.tolist()) == {3}
    assert "is no Parquet file" in " ".join(source.report()["problems"])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    table_free = replace(settings, path=tmp_path / "others")
    table_free.path.mkdir()
    (table_free.path / "a.parquet").write_bytes((folder / "a.parquet").read_bytes())
    settle(table_free.path)
    with pytest.raises(LocalFault, match=r"pip install 'qflare\[parquet\]'"):
        open_source(table_free, WATCH, tmp_path / "scratch2").train()


def test_a_folder_of_archives(tmp_path: Path) -> None:
    contract, folder = models.contract("private"), tmp_path / "npz"
    folder.mkdir()
    random = np.random.Generator(np.random.PCG64(1))
    x = random.standard_normal((300, 6)).astype(np.float32)
    x[7, 2] = np.inf
    y = (np.arange(300) % 3).astype(np.int32)
    y[11] = 5
    np.savez(folder / "a.npz", x=x, y=y)
    np.savez(folder / "b.npz", x=x.astype(np.float64), y=y)
    np.savez(folder / "c.npz", x_train=x[:5], y_train=y[:5], x_test=x[20:30], y_test=y[20:30])
    (folder / "d.npz").write_bytes(b"PK garbage")
    settle(folder)
    settings = DataSection(folder, "npz-folder", holdout=HoldoutSection(0.2))
    source = opened(settings, contract)
    train, test = (read_all(part, contract) for part in (source.train(), source.test()))
    assert len(train[0]) + len(test[0]) == 298 + 15
    assert 40 < len(test[0]) - 10 < 80
    assert np.isfinite(train[0]).all()
    scaled = {
        bytes((row - np.float32(0.5)) / np.float32(2)): label
        for row, label in zip(x, y, strict=True)
    }
    for row, label in zip(*train, strict=True):
        assert scaled[bytes(row)] == label
    report = source.report()
    assert report["left_out"] == {"not_finite": 1, "unknown_label": 1}
    problems = " ".join(report["problems"])
    assert "b.npz: x is float64[300, 6], private wants float32" in problems
    assert "d.npz: no data file" in problems
    np.savez(folder / "e.npz", x=x[:4], y=y[:4])
    settle(folder)
    assert not source.fresh
    again = opened(settings, contract)
    assert again.count() + len(again.test()) == 298 + 15 + 4
    assert {bytes(row) for row in train[0]} <= {
        bytes(r) for r in read_all(again.train(), contract)[0]
    }


def picture(path: Path, shade: int, size: tuple[int, int] = (40, 60)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.Generator(np.random.PCG64(shade))
    array = np.clip(random.normal(shade, 20, (*size, 3)), 0, 255).astype(np.uint8)
    Image.fromarray(array).save(path)


def test_pictures(tmp_path: Path) -> None:
    contract, folder = zoo_contract("fashion_cnn"), tmp_path / "pictures"
    for i in range(12):
        picture(folder / "coat" / f"{i:02}.png", 60 + i)
        picture(folder / "bag" / f"{i:02}.jpg", 160 + i)
    picture(folder / "elephant" / "1.png", 100)
    (folder / "coat/98.jpg").write_bytes(b"\xff\xd8\xff garbage")
    (folder / "coat/99.png").write_bytes((folder / "coat/11.png").read_bytes())
    Image.new("L", (30, 30), 0).save(folder / "bag/98.png")
    Image.new("L", (30, 30), 0).save(folder / "bag/99.gif")
    settings = DataSection(folder, "camera", holdout=HoldoutSection(0.3))
    settle(folder)
    assert "set data.label.origin" in refusal(settings, contract)
    settings = replace(settings, label=LabelSection("folder"))
    source = opened(settings, contract)
    train, test = (read_all(part, contract) for part in (source.train(), source.test()))
    assert len(train[1]) + len(test[1]) == 24
    assert min(len(train[1]), len(test[1])) > 1
    says = contract.manifest.input
    for x, y in zip(*train, strict=True):
        shade = float(x.mean()) * says.scale[0] + says.mean[0]
        assert (abs(shade - 65 / 255) < 0.04) == (y == contract.manifest.classes.index("coat"))
    report = source.report()
    assert report["left_out"] == {"unknown_label": 1, "stuck": 1, "unreadable": 1, "clipped": 1}
    assert "elephant" in " ".join(report["problems"])
    picture(folder / "coat" / "20.png", 75)
    settle(folder)
    assert not source.fresh
    assert opened(settings, contract).count() + len(opened(settings, contract).test()) == 25


def test_pictures_with_labels_beside_them(tmp_path: Path) -> None:
    contract, folder = zoo_contract("fashion_cnn"), tmp_path / "pictures"
    for i, word in enumerate(["coat\n", "tasche", "", None]):
        picture(folder / f"{i}.png", 60 + 40 * i)
        if word is not None:
            (folder / f"{i}.txt").write_text(word)
    settle(folder)
    label = LabelSection("file", file=folder, names={"tasche": "bag"})
    settings = DataSection(folder, "camera", label=label, holdout=NONE_HELD)
    source = opened(settings, contract)
    classes = contract.manifest.classes
    assert [classes[i] for i in read_all(source.train(), contract)[1]] == ["coat", "bag"]
    assert source.report()["left_out"] == {"unlabelled": 2}


class _Supply:
    """What a package would bring along."""

    def __init__(self, x: Any) -> None:
        self.x = x

    def train(self) -> Samples:
        return Samples(self.x, np.zeros(len(self.x), np.int32))

    test = train


def test_a_plug_in_supplies_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_runtime.sources import plugin, supplied

    contract = models.contract("private")
    settings = DataSection(
        tmp_path, "plugin", plugin=PluginSection("mine", "examples", {"size": 4})
    )
    assert "'mine' is not installed; install its package" in refusal(settings, contract)
    made: list[dict[str, Any]] = []

    def make(options: dict[str, Any], contract: ModelContract) -> _Supply:
        made.append(options)
        if options["size"] < 0:
            raise KeyError("no such size")
        return _Supply(np.full((options["size"], 6), np.nan if options["size"] == 1 else 1, "f4"))

    monkeypatch.setattr(supplied, "load_plugin", lambda name: make)
    source = opened(settings, contract)
    assert made == [{"size": 4}]
    assert read_all(source.train(), contract)[0].shape == (4, 6)
    assert not source.fresh
    bad = replace(settings, plugin=PluginSection("mine", "examples", {"size": -1}))
    assert "mine: KeyError" in refusal(bad, contract)
    nan = replace(settings, plugin=PluginSection("mine", "examples", {"size": 1}))
    with pytest.raises(LocalFault, match="values that are not finite"):
        read_all(opened(nan, contract).train(), contract)
    assert plugin.GROUP == "qflare.sources"


def test_a_first_try_that_is_all_held_out_says_so(tmp_path: Path) -> None:
    settings = ring_section(tmp_path, holdout=HoldoutSection(0.999, 604_800.0))
    fill_ring(settings, [(START_US, "ABD", motion(500, 1))])
    source = opened(settings, WATCH)
    assert len(source.test()) == 6
    with pytest.raises(LocalFault, match="all 6 are held out"):
        source.train()


def test_a_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    assert "start qflare-collect" in refusal(ring_section(tmp_path), WATCH)
    assert "create it, or correct data.path" in refusal(csv_section(tmp_path / "no"), WATCH)
    (tmp_path / "empty").mkdir()
    with pytest.raises(LocalFault, match="no example to train on; there are too few samples yet"):
        opened(csv_section(tmp_path / "empty"), WATCH).train()


def test_a_report_for_the_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ring_section(tmp_path, holdout=NONE_HELD)
    (tmp_path / "watch.tflite").write_bytes(zoo_bytes("watch_cnn"))
    found = check.report(settings, tmp_path / "watch.tflite")
    assert not found["ok"]
    assert "start qflare-collect" in found["problems"][0]
    fill_ring(settings, [(START_US, "ABD", motion(3000, 1))])
    found = check.report(settings, tmp_path / "watch.tflite")
    assert json.loads(json.dumps(found))["examples"] == {"train": 45, "test": 0}
    assert found["rows"] == 3000
    with pytest.raises(LocalFault, match=r"none\.tflite: No such file"):
        check.report(settings, tmp_path / "none.tflite")
    x, y = motion(1280, 1).reshape(10, 128, 6), np.zeros(10, np.int32)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    found = check.report(DataSection(tmp_path / "data.npz"), tmp_path / "watch.tflite")
    assert (found["model"], found["ok"]) == ("watch_cnn", True)  # whatever the kind
    assert check.main(["--config", str(tmp_path / "no.toml"), "--model", "x"]) == 78
    assert "no such file" in capsys.readouterr().err


def test_the_section_of_the_guide_is_right(tmp_path: Path) -> None:
    guide = Path(__file__).parents[2] / "docs" / "integrator.md"
    section = guide.read_text().split("## Data sources")[1]
    block = section.split("<!-- parsed by a test -->\n```toml\n")[1].split("```")[0]
    settings = parse(DataSection, tomllib.loads(block)["data"])
    assert make_driver(settings)
    # This is how the daemon hands it to the training process.
    handed = msgspec.json.encode(settings, enc_hook=str)
    assert decode(DataSection, handed) == settings
