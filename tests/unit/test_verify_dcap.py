"""Intel's quotes: a genuine one is taken, and everything else is refused for its own reason."""

import builtins
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare.faults import PeerFault
from qflare.messages import Evidence
from qflare.names import Digest
from qflare.verifiers import dcap
from qflare.verifiers.dcap import Collateral
from qflare.verifiers.facts import Facts, Tier
from tests.platforms.dcap import (
    DAY,
    MRENCLAVE,
    MRSIGNER,
    MRTD,
    NOW,
    RTMRS,
    Authority,
    SoftwareDcap,
    td_report,
)

DATA = bytes(range(64))
PLATFORM = SoftwareDcap()
KINDS = pytest.mark.parametrize("kind", ["sgx", "tdx"])


def verify(evidence: Evidence, now: int = NOW, root: Digest = PLATFORM.insecure_root) -> Facts:
    return dcap.verify(evidence, (root,), now)


def bundle(kind: str, **changes: Any) -> Evidence:
    return PLATFORM.evidence(kind, DATA, **changes)


@KINDS
def test_what_a_genuine_quote_says(kind: str) -> None:
    facts = verify(bundle(kind, status="OutOfDate", advisories=("INTEL-SA-00615",), evaluation=18))
    assert facts.report_data == DATA
    assert (facts.tcb_status, facts.advisories) == ("OutOfDate", ("INTEL-SA-00615",))
    assert facts.tcb_evaluation == 18
    assert facts.expires == NOW + 29 * DAY
    assert facts.tier is Tier.SIMULATED  # its root is not Intel's
    assert not facts.debug
    if kind == "sgx":
        assert (facts.measurement.raw, facts.product, facts.svn) == (MRENCLAVE, 7, 3)
        assert facts.signer == Digest(MRSIGNER)
    else:
        names = ("mr_td", "rt_mr0", "rt_mr1", "rt_mr2", "rt_mr3")
        assert facts.registers == tuple(zip(names, (MRTD, *RTMRS), strict=True))
        assert facts.signer is None


def test_every_register_of_a_trust_domain_is_in_its_measurement() -> None:
    other = verify(bundle("tdx", rtmr3=b"\x99" * 48)).measurement
    assert other != verify(bundle("tdx")).measurement


@KINDS
def test_the_first_end_of_any_endorsement_counts(kind: str) -> None:
    for changes, days in (({"ends": NOW + 5 * DAY}, 5), ({"qe_ends": NOW + 4 * DAY}, 4),
                          ({"crl_ends": NOW + 3 * DAY}, 3)):  # fmt: skip
        assert verify(bundle(kind, **changes)).expires == NOW + days * DAY
    short = SoftwareDcap(pck_ends=NOW + 2 * DAY)
    assert verify(short.evidence(kind, DATA), root=short.insecure_root).expires == NOW + 2 * DAY


def _other_root(kind: str) -> Evidence:
    return SoftwareDcap().evidence(kind, DATA)


def _with(kind: str, **changes: Any) -> Evidence:
    found = PLATFORM.collateral(kind)
    return replace(bundle(kind), endorsements=replace(found, **changes).pack())


def _info_of_another(kind: str) -> Evidence:
    other = SoftwareDcap(PLATFORM.root, fmspc=b"\x01" * 6).collateral(kind)
    return _with(kind, tcb_info=other.tcb_info, tcb_signature=other.tcb_signature,
                 tcb_chain=other.tcb_chain)  # fmt: skip


def _body(kind: str, change: Callable[[bytes], bytes]) -> Evidence:
    evidence = bundle(kind)
    return replace(evidence, body=change(evidence.body))


def _flipped(at: int) -> Callable[[bytes], bytes]:
    return lambda body: body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


REFUSED: list[tuple[str, Callable[[str], Evidence], str]] = [
    ("another root", _other_root, "is not Intel's"),
    ("chain under another root",
     lambda kind: replace(_other_root(kind), endorsements=bundle(kind).endorsements),
     "ends in another root"),
    ("debug", lambda kind: bundle(
        kind, attributes=b"\x07" if kind == "sgx" else bytes.fromhex("0100001000000000")),
     "Debug mode"),
    ("revoked TCB", lambda kind: bundle(kind, status="Revoked"), "Revoked"),
    ("revoked PCK", lambda kind: bundle(kind, revoked=(PLATFORM.pck,)), "certificate chain"),
    ("revoked CA", lambda kind: bundle(kind, revoked=(PLATFORM.platform_ca,)), "certificate chain"),
    ("TCB below every level", lambda kind: bundle(kind, least_svn=6), "No matching TCB level"),
    ("TCB info expired", lambda kind: bundle(kind, ends=NOW - 1), "TCBInfo expired"),
    ("TCB info of the future", lambda kind: bundle(kind, issued=NOW + 1), "in the future"),
    ("QE identity expired", lambda kind: bundle(kind, qe_ends=NOW - 1), "QE Identity expired"),
    ("revocation lists expired", lambda kind: bundle(kind, crl_ends=NOW - 1), "CrlExpired"),
    ("another quoting enclave", lambda kind: bundle(kind, qe_signer=b"\x01" * 32), "QE MRSIGNER"),
    ("revoked quoting enclave", lambda kind: bundle(kind, qe_status="Revoked"), "Revoked"),
    ("another platform's TCB info", _info_of_another, "Fmspc mismatch"),
    ("TCB info's signature", lambda kind: _with(kind, tcb_signature=bytes(64)), "tcb_info"),
    ("QE identity's signature", lambda kind: _with(kind, qe_signature=bytes(64)), "qe_identity"),
    ("TCB info changed",
     lambda kind: _with(
         kind, tcb_info=PLATFORM.collateral(kind).tcb_info.replace('svn":5', 'svn":4')),
     "tcb_info"),
    ("TCB info by a chip's key", lambda kind: _with(kind, tcb_chain=(PLATFORM.pck.der,)), "verif"),
    ("no TCB chain", lambda kind: _with(kind, tcb_chain=()), "certificate chain"),
    ("no revocation list", lambda kind: _with(kind, pck_crl=b""), "CRL"),
    ("another authority's list",
     lambda kind: _with(kind, pck_crl=SoftwareDcap(PLATFORM.root).platform_ca.crl()), "verif"),
    ("no endorsements", lambda kind: replace(bundle(kind), endorsements=b""), "add the platform's"),
    ("report data", lambda kind: _body(kind, _flipped(400)), "signature"),
    ("something behind", lambda kind: _body(kind, lambda body: body + b"\0"), "after the quote"),
    ("cut off", lambda kind: _body(kind, lambda body: body[:-1]), "truncated"),
    ("a quote of the other kind",
     lambda kind: replace(bundle(kind), provider="tdx" if kind == "sgx" else "sgx"),
     "isn't"),
]  # fmt: skip


@KINDS
@pytest.mark.parametrize(("make", "why"), [row[1:] for row in REFUSED], ids=[r[0] for r in REFUSED])
def test_refused(kind: str, make: Callable[[str], Evidence], why: str) -> None:
    assert verify(bundle(kind))
    with pytest.raises(PeerFault, match=why):
        verify(make(kind))


@KINDS
def test_revocations_of_others_change_nothing(kind: str) -> None:
    """So that the revoked ones above are refused for being on the list."""
    another = Authority("Software PCK", PLATFORM.platform_ca)
    ca = Authority("Software PCK Platform CA", PLATFORM.root)
    assert verify(bundle(kind, revoked=(another, ca)))


def test_trust_domains_that_others_may_move_or_serve() -> None:
    for attributes, why in (
        ("0000003000000000", "migration"),
        ("0000000000000000", "SEPT_VE_DISABLE"),
        ("0200001000000000", "profiling|Reserved|debug"),
    ):
        with pytest.raises(PeerFault, match=why):
            verify(bundle("tdx", attributes=bytes.fromhex(attributes)))
    with pytest.raises(PeerFault, match="service TD"):
        verify(bundle("tdx", service_td=b"\x01" * 48))
    assert len(td_report(bytes(8), RTMRS, DATA)) == 584


def test_a_root_of_software_counts_only_where_the_owner_allows_it() -> None:
    with pytest.raises(PeerFault, match="not Intel's"):
        dcap.verify(bundle("tdx"), (), NOW)
    with pytest.raises(PeerFault, match="not Intel's"):
        verify(bundle("tdx"), root=dcap.INTEL_ROOT)


def test_a_root_of_the_same_name_is_not_the_root() -> None:
    impostor = SoftwareDcap(Authority("Software SGX Root CA"))
    found = replace(impostor.collateral("tdx"), root=PLATFORM.root.der)
    quote = impostor.quote("tdx", DATA, chain_root=PLATFORM.root)
    with pytest.raises(PeerFault, match="verif"):
        verify(Evidence("tdx", quote, found.pack()))


def test_without_the_library_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "dcap_qvl":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(PeerFault, match="pip install dcap-qvl"):
        verify(bundle("tdx"))


def _flips(data: bytes, step: int) -> list[bytes]:
    """Each byte once, one bit of it or all, so that every bit has its turn."""
    masks = (1, 2, 4, 8, 16, 32, 64, 128, 255)
    return [
        data[:at] + bytes([data[at] ^ masks[at // step % 9]]) + data[at + 1 :]
        for at in range(0, len(data), step)
    ]


def taken(evidence: Evidence, parts: dict[str, list[bytes]]) -> list[Evidence]:
    found = []
    for part, changed in parts.items():
        for value in changed:
            with_it = replace(evidence, **{part: value})  # type: ignore[arg-type]
            try:
                verify(with_it)
            except PeerFault:
                continue
            found.append(with_it)
    return found


@KINDS
def test_no_byte_of_a_bundle_can_be_changed(kind: str) -> None:
    """A third of the quote's bytes, and all of its endorsements', inflated and not."""
    evidence, plain = bundle(kind), PLATFORM.collateral(kind).to_bytes()
    assert not taken(evidence, {"body": _flips(evidence.body, 3)})
    assert not taken(evidence, {"endorsements": [zlib.compress(p) for p in _flips(plain, 2)]})
    same = taken(evidence, {"endorsements": _flips(evidence.endorsements, 1)})
    # Deflate spells some texts in more ways than one; the text itself is what is verified.
    assert all(zlib.decompress(one.endorsements) == zlib.decompress(evidence.endorsements)
               for one in same)  # fmt: skip


@pytest.mark.slow
@KINDS
def test_no_bit_of_a_bundle_can_be_changed(kind: str) -> None:
    evidence, plain = bundle(kind), PLATFORM.collateral(kind).to_bytes()
    for bit in range(8):
        for part, data in (("body", evidence.body), ("endorsements", plain)):
            changed = [data[:n] + bytes([data[n] ^ 1 << bit]) + data[n + 1 :]
                       for n in range(len(data))]  # fmt: skip
            if part == "endorsements":
                changed = [zlib.compress(one, 1) for one in changed]
            assert not taken(evidence, {part: changed})


@given(st.binary(max_size=2000), st.binary(max_size=2000), st.sampled_from(["sgx", "tdx"]))
def test_garbage_gives_a_fault_and_nothing_else(body: bytes, rest: bytes, kind: str) -> None:
    for one in (Evidence(kind, body, rest), Evidence(kind, body, bundle_of[kind].endorsements),
                Evidence(kind, bundle_of[kind].body, rest)):  # fmt: skip
        with pytest.raises(PeerFault):
            verify(one)


bundle_of = {kind: PLATFORM.evidence(kind, DATA) for kind in ("sgx", "tdx")}


@given(st.data())
def test_broken_bundles_give_a_fault_and_nothing_else(data: st.DataObject) -> None:
    """Pieces of the real thing: cut, doubled, and with garbage between."""
    kind = data.draw(st.sampled_from(["sgx", "tdx"]))
    found = Collateral.unpack(bundle_of[kind].endorsements)
    name = data.draw(st.sampled_from(list(vars(found))))
    old = getattr(found, name)
    piece = old if isinstance(old, bytes | str) else old[0]
    at, to = sorted(data.draw(st.integers(0, len(piece))) for _ in range(2))
    filling = data.draw(st.binary(max_size=20))
    new = (piece[:at] + filling.decode("latin-1") + piece[to:] if isinstance(piece, str)
           else piece[:at] + filling + piece[to:])  # fmt: skip
    if new == piece:
        return
    changed = replace(found, **{name: new if isinstance(old, bytes | str) else (new,)})
    with pytest.raises(PeerFault):
        verify(replace(bundle_of[kind], endorsements=changed.pack()))


def test_endorsements_are_inflated_up_to_a_limit() -> None:
    bomb = zlib.compress(bytes(50 * 2**20), 9)
    with pytest.raises(PeerFault, match="too large"):
        Collateral.unpack(bomb)
    whole = PLATFORM.collateral("tdx").pack()
    for bad in (whole + b"x", whole[:-1], b"x"):
        with pytest.raises(PeerFault):
            Collateral.unpack(bad)
    assert Collateral.unpack(whole).pack() == whole
