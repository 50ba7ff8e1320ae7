"""Laws of editing the firmware's files: once is twice, and nothing of the owner's is touched."""

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from qflare.faults import LocalFault
from qflare.host.boards import cmdline_txt, config_txt

WANTED = ("enable_uart=1", "dtoverlay=disable-bt", "gpu_mem=16")
LINES = st.sampled_from(
    [
        *("[all]", "[pi4]", "[pi5]", "[none]", "[gpio4=1]", "[EDID=VSC-TD2220]", "[pi4"),
        *("enable_uart=1", "enable_uart=0", "dtoverlay=disable-bt", "dtoverlay=vc4-kms-v3d"),
        *("# enable_uart=1", "#dtoverlay=disable-bt", "", "  gpu_mem=16", "dtparam=audio=on"),
        *("include extra.txt", "\udce9t\udce9", "a=b=c", "=", "[]"),
    ]
)
NEWLINE = st.sampled_from(["\n", "\r\n"])


@st.composite
def configs(draw: st.DrawFn) -> str:
    newline = draw(NEWLINE)
    text = newline.join(draw(st.lists(LINES, max_size=12)))
    return text + draw(st.sampled_from(["", newline]))


def foreign(text: str) -> list[str]:
    """The lines outside our block."""
    kept, inside = [], False
    for line in text.split("\n"):
        if line.strip() == config_txt.BEGIN:
            inside = True
        elif line.strip() == config_txt.END:
            inside = False
        elif not inside:
            kept.append(line.rstrip("\r"))
    return kept


@settings(deadline=None)
@given(configs(), st.lists(st.sampled_from(WANTED), unique=True))
def test_config_twice_is_once_and_all_is_in_force(text: str, wanted: list[str]) -> None:
    once = config_txt.edit(text, wanted, {"pi4"})
    assert config_txt.edit(once, wanted, {"pi4"}) == once
    assert config_txt.missing(once, wanted, {"pi4"}) == []
    assert once.startswith(text)
    without = config_txt.edit(once, [], {"pi4"})
    assert without.rstrip("\r\n") == text.rstrip("\r\n")
    if not config_txt.missing(text, wanted, {"pi4"}):
        assert once == text
    if "\r\n" in text:
        assert "\n" not in once.replace("\r\n", "")


@settings(deadline=None)
@given(configs(), configs(), st.lists(st.sampled_from(WANTED), unique=True))
def test_what_is_written_behind_the_block_keeps_its_sections(
    before: str, after: str, wanted: list[str]
) -> None:
    text = config_txt.edit(before, wanted, {"pi4"}) + after
    again = config_txt.edit(text, wanted, {"pi4"})
    assert config_txt.edit(again, wanted, {"pi4"}) == again
    assert config_txt.missing(again, wanted, {"pi4"}) == []
    # Every setting of the owner's is there once, in its order, and applies as before.
    ours = {*wanted}

    def settings(of: str) -> list[config_txt.Line]:
        return [line for line in config_txt.read(of, {"pi4"}) if line.text not in ours]

    assert settings(again) == settings(text)


@settings(deadline=None)
@given(st.text(max_size=200) | st.text("\r\n[al]=", max_size=20))
@example("\r")
def test_any_config_is_edited_or_refused(text: str) -> None:
    assume(config_txt.BEGIN not in text and config_txt.END not in text)
    once = config_txt.edit(text, WANTED, {"pi4"})
    assert config_txt.edit(once, WANTED, {"pi4"}) == once
    marked = f"{text}\n{config_txt.END}\n"
    with pytest.raises(LocalFault, match="don't pair"):
        config_txt.edit(marked, WANTED, {"pi4"})


WORDS = st.sampled_from(
    [
        *("console=serial0,115200", "console=tty1", "root=PARTUUID=1-02", "rootwait", "quiet"),
        *("cgroup_disable=memory", "cgroup_enable=memory", 'x="a b"', 'y"="', "a.b=c"),
    ]
)
REMOVE = ("console=serial0,*", "cgroup_disable=memory")


@settings(deadline=None)
@given(st.lists(WORDS, min_size=1), st.sampled_from(["", "\n", "\r\n"]), st.booleans())
def test_the_command_line_stays_one_line(line: list[str], ending: str, first: bool) -> None:
    text = " ".join(line) + ending
    put = {"first" if first else "last": ("cgroup_enable=memory",)}
    once = cmdline_txt.edit(text, remove=REMOVE, **put)
    assert cmdline_txt.edit(once, remove=REMOVE, **put) == once
    assert once.endswith(ending)
    assert len(once.split("\n")) <= 2
    assert once.strip() == once[: len(once) - len(ending)]
    found = cmdline_txt.words(once)
    assert "cgroup_enable=memory" in found
    assert not {"console=serial0,115200", "cgroup_disable=memory"} & set(found)
    kept = [w for w in line if not w.startswith(("console=serial0", "cgroup"))]
    assert [w for w in found if not w.startswith("cgroup")] == kept


@settings(deadline=None)
@given(st.text(max_size=80))
def test_any_command_line_is_edited_or_refused(text: str) -> None:
    try:
        once = cmdline_txt.edit(text, ("a=1",), ("b*",), ("c=2",))
    except LocalFault:
        return
    assert cmdline_txt.edit(once, ("a=1",), ("b*",), ("c=2",)) == once
    assert once.count("\n") == text.count("\n")
