"""The enclave with suite frodo640aes-mldsa44: whole rounds, and nothing of another in them."""

from dataclasses import replace

import pytest

from enclave.state import State
from qflare.crypto.issuing import issue_ca, issue_device
from qflare.crypto.keys import KemPrivateKey, SigningKey
from qflare.crypto.suites import FRODO640AES_MLDSA44 as SUITE
from qflare.crypto.suites import XWING_MLDSA65
from qflare.enclave_wire import Configure, Release
from qflare.envelope import sign
from qflare.messages import COHORT_LISTED_MAX, ZERO, Checkpoint, Evidence, RoundOffer, cohort_digest
from qflare.names import DeviceId, Digest
from tests import enclave_kit
from tests.enclave_kit import FLEET, NOW, Driver, Fleet, after
from tests.oqs_kit import needs_liboqs

pytestmark = needs_liboqs


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    monkeypatch.setattr(enclave_kit, "DEFAULT", SUITE)
    driver = Driver(Fleet())
    driver.ask(driver.fleet.configure())
    return driver


def test_rounds_chain_over_a_restart(driver: Driver) -> None:
    fleet = driver.fleet
    opened, released = driver.run_round(fleet.open_request())
    assert opened.claims.suite == SUITE.name
    assert len(opened.claims.kem_key) == SUITE.kem_public_length
    assert len(opened.claims.signing_key) == SUITE.verify_key_length
    assert driver.receipt(released, opened.claims).admitted == fleet.count
    driver.restart()
    assert driver.ask(Release(1)) == released
    following = fleet.open_request(2, **after(opened, released))
    opened2, released2 = driver.run_round(following)
    assert opened2.claims.kem_key != opened.claims.kem_key
    assert driver.receipt(released2, opened2.claims).admitted == fleet.count


def test_after_the_release_the_key_is_gone_from_the_state(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bytes] = []
    generate = KemPrivateKey.generate

    def watched(suite: object, random: object) -> KemPrivateKey:
        key = generate(suite, random)  # type: ignore[arg-type]
        made.append(key.to_seed())
        return key

    monkeypatch.setattr(KemPrivateKey, "generate", watched)
    driver.run_round(driver.fleet.open_request())
    (seed,) = made
    state = driver.machine._state
    assert isinstance(state, State)
    assert state.opened is None
    assert seed[:64] not in state.to_bytes()  # FrodoKEM's own secrets: s ...
    assert seed[9700:9764] not in state.to_bytes()  # ... and S
    assert seed[-32:] not in state.to_bytes()


def test_a_device_of_another_suite_is_refused(driver: Driver) -> None:
    """Even where the owner named a CA of that suite."""
    fleet = driver.fleet
    ca_key, ca = issue_ca(FLEET, XWING_MLDSA65, NOW, 3650)
    driver.ask(fleet.configure(version=2, device_cas=(fleet.ca, ca)))
    opened = driver.opened(fleet.open_request())
    key = SigningKey.generate(XWING_MLDSA65)
    strange = issue_device(ca_key, ca, fleet.devices[0].name, key.verify_key, NOW, 30)
    update = fleet.admit(0, opened.claims, certificate=Digest.of(strange))
    assert driver.refused(replace(update, certificate=strange)) == "wrong_suite"
    for number in (1, 2):
        driver.ask(fleet.admit(number, opened.claims))
    assert driver.receipt(driver.released(1), opened.claims).admitted == 2


def test_a_policy_of_another_suite_opens_no_round(driver: Driver) -> None:
    fleet = driver.fleet
    bounds = replace(fleet.manifest.bounds, suites=(SUITE.name, XWING_MLDSA65.name))
    driver.ask(fleet.configure(version=2, bounds=bounds))  # an owner who allows both
    other = replace(fleet.policy, suite=XWING_MLDSA65.name)
    assert driver.refused(fleet.open_request(policy=other)) == "wrong_suite"


def test_a_manifest_of_another_suite_is_refused(driver: Driver) -> None:
    fleet = driver.fleet
    assert driver.refused(fleet.configure(version=2, suite=XWING_MLDSA65.name)) == "wrong_suite"
    stranger = Configure(sign(fleet.manifest, SigningKey.generate(XWING_MLDSA65)))
    assert driver.refused(stranger) in ("malformed", "bad_signature", "too_large")


def test_the_largest_offer_fits_its_ceiling(driver: Driver) -> None:
    cohort = tuple(sorted(DeviceId(f"{i:032}") for i in range(COHORT_LISTED_MAX)))
    claims = driver.opened(driver.fleet.open_request()).claims
    offer = RoundOffer(
        fleet=FLEET,
        round=1,
        policy=driver.fleet.policy,
        cohort=cohort,
        claims=replace(claims, cohort=cohort_digest(cohort)),
        evidence=Evidence("sev_snp", bytes(8 * 1024), bytes(24 * 1024)),
        checkpoint=Checkpoint(2**31 - 1, ZERO),
        closes_at=2**40,
    )
    assert RoundOffer.parse(offer.to_bytes()) == offer
