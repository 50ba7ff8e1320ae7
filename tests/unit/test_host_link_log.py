"""What a log hears of a link: bounded however it flaps, and in the end it is true."""

import math

from hypothesis import given
from hypothesis import strategies as st

from qflare.host.link_log import AT_ONCE, EVERY_S, Line, LinkLines
from qflare.host.link_types import Connected, Disconnected, Trouble

UP = Connected("5", 1000, "mqtt://b")
DAY = 86_400.0


def down(trouble: Trouble = Trouble.NAME) -> Disconnected:
    return Disconnected("why", trouble is Trouble.REFUSED, 1.26, trouble)


def test_an_outage_is_told_at_its_ends_and_when_something_changes() -> None:
    lines = LinkLines()
    first = lines.connected(UP)
    assert first == Line("info", "connected", {"protocol": "5", "broker": "mqtt://b"})
    said = [lines.disconnected(down(Trouble.LOST), 0.0)]
    said += [lines.disconnected(down(), float(i)) for i in range(1, 16)]
    told = [line.fields["attempt"] for line in said if line]
    assert told == [1, 2, 4, 8, 16]
    assert said[0] == Line(
        "warning",
        "disconnected",
        {"reason": "why", "trouble": "lost", "retry_in_s": 1.3, "attempt": 1},
    )
    new = lines.disconnected(down(Trouble.REFUSED), 20.0)
    assert new is not None
    assert (new.level, new.fields["attempt"]) == ("error", 17)
    end = lines.connected(UP)
    assert end is not None
    assert end.fields["attempts"] == 17


def test_a_day_without_a_network_is_a_score_of_lines() -> None:
    lines = LinkLines()
    assert lines.connected(UP)
    times = [15.0 * i for i in range(int(DAY / 15))]  # 15 s is the mean of waits up to 30 s
    said = [line for at in times if (line := lines.disconnected(down(), at))]
    assert len(said) == 1 + math.floor(math.log2(len(times)))


def test_a_day_of_flapping_tells_some_outages_whole_and_counts_the_others() -> None:
    lines = LinkLines()
    assert lines.connected(UP)
    said: list[Line] = []
    for at in range(0, int(DAY), 20):
        said += filter(None, [lines.disconnected(down(), float(at)), lines.connected(UP)])
    told = [line.event for line in said]
    assert told == ["disconnected", "connected"] * (len(told) // 2)
    assert AT_ONCE < len(told) / 2 <= AT_ONCE + DAY / EVERY_S
    untold = sum(int(line.fields.get("untold_outages", 0)) for line in said)
    assert untold + len(told) / 2 > DAY / 20 - EVERY_S / 20


STEPS = st.lists(
    st.tuples(
        st.floats(-5.0, 400.0),  # a clock may even go back
        st.sampled_from([None, *Trouble]),
    ),
    max_size=300,
)


@given(STEPS)
def test_lines_are_few_and_the_last_one_comes_true(
    steps: list[tuple[float, Trouble | None]],
) -> None:
    lines, now, elapsed, outages, attempts = LinkLines(), 0.0, 0.0, 0, 0
    said: list[Line] = []
    up = True
    said += filter(None, [lines.connected(UP)])
    for waited, trouble in steps:
        now += waited
        elapsed += max(0.0, waited)
        if trouble is None:
            said += filter(None, [lines.connected(UP)]) if not up else ()
            up = True
        else:
            line = lines.disconnected(down(trouble), now)
            outages += up
            attempts += 1
            said += filter(None, [line])
            up = False
    told = sum(line.fields.get("attempt") == 1 or line.event == "connected" for line in said)
    assert told <= 2 * (AT_ONCE + elapsed / EVERY_S) + 2
    assert len(said) <= 2 + (AT_ONCE + elapsed / EVERY_S) * (
        2 + math.log2(max(2, attempts)) + len(Trouble)
    )
    for _ in range(200):  # and then it stays away, or stays up
        now += 30.0
        if not up:
            said += filter(None, [lines.disconnected(down(), now)])
    assert (said[-1].event == "connected") is up
