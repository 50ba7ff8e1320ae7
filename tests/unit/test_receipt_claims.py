"""A receipt speaks of the round that claims opened, or names what it says otherwise."""

from dataclasses import replace

import pytest

from qflare.messages import ZERO, RoundReceipt
from qflare.names import Digest, FleetId
from tests.vectors.make_protocol import claims

CLAIMS = claims()
RECEIPT = RoundReceipt(
    fleet=CLAIMS.fleet,
    manifest=CLAIMS.manifest,
    round=CLAIMS.round,
    epoch=CLAIMS.epoch,
    step=CLAIMS.step,
    claims=CLAIMS.digest,
    policy=CLAIMS.policy,
    previous_receipt=CLAIMS.receipt,
    previous_model=CLAIMS.model,
    model=ZERO,
    state=ZERO,
    admitted=3,
    refused=(),
    total_weight=30,
    updates=ZERO,
    seed=ZERO,
    tallies=(0, 0, 0, 0, 0),
)
OTHER = Digest.of(b"another")


def test_a_receipt_of_the_round_agrees() -> None:
    assert RECEIPT.disagreement(CLAIMS) == ""


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("fleet", FleetId.parse("another"), "fleet"),
        ("manifest", OTHER, "manifest"),
        ("round", 8, "round"),
        ("epoch", 10, "epoch"),
        ("step", 5, "step"),
        ("claims", OTHER, "claims"),
        ("policy", OTHER, "policy"),
        ("previous_receipt", OTHER, "predecessor"),
        ("previous_model", OTHER, "model to start from"),
    ],
)
def test_every_other_word_is_named(field: str, value: object, named: str) -> None:
    assert replace(RECEIPT, **{field: value}).disagreement(CLAIMS) == named  # type: ignore[arg-type]
