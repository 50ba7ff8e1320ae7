"""Bytes and time of a device's appraisal of a whole bundle: `python -m benchmarks.appraisal`.

The bundle is a signed round offer with everything in it: claims, evidence, and endorsements as long
as the real ones (Intel's: sixteen levels of the TCB and seventy revoked keys; AMD's: RSA keys of
4,096 bits). It comes from a platform of software in the real formats, so only its root differs. The
device parses the offer, verifies the coordinator's signature (ML-DSA-65), and appraises; beside it
dcap-qvl alone on the same quote and collateral.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qflare.appraisal import appraise
from qflare.crypto.keys import KemPrivateKey, SigningKey
from qflare.crypto.suites import DEFAULT
from qflare.envelope import open_signed, sign
from qflare.messages import ZERO, Checkpoint, EnclaveClaims, Evidence, RoundOffer
from qflare.names import Digest, FleetId
from qflare.owners import open_manifest
from qflare.policy import (
    AppraisalPolicy,
    Genesis,
    OwnerManifest,
    PolicyBounds,
    ReferenceValue,
    RoundPolicy,
)
from qflare.schedule import Schedule
from qflare.verifiers import dcap, snp
from tests.platforms.dcap import NOW, SoftwareDcap
from tests.platforms.snp import SoftwareSnp

KINDS = ("tdx", "sgx", "sev_snp")
TARGET_MS, TARGET_BYTES = 10.0, 20 * 1024
FLEET = FleetId.parse("bench")
POLICY = RoundPolicy(DEFAULT.name, "q8", 2, 100, 4.0, 100, 60, Schedule(20, 1, 0.1, 0.1, 0.9, 1.0))


class Bundle:
    """A fleet whose enclave runs on one platform of software."""

    def __init__(self, kind: str) -> None:
        self.owner, self.coordinator = SigningKey.generate(DEFAULT), SigningKey.generate(DEFAULT)
        claims = EnclaveClaims(
            fleet=FLEET, suite=DEFAULT.name, manifest=ZERO, round=1, opened_at=NOW, epoch=1,
            step=1, policy=POLICY.digest, cohort=ZERO, model=ZERO, state=ZERO, receipt=ZERO,
            kem_key=KemPrivateKey.generate(DEFAULT).public.raw,
            signing_key=SigningKey.generate(DEFAULT).verify_key.raw,
        )  # fmt: skip
        self.evidence, root = _evidence(kind, claims.report_data)
        verify = snp.verify if kind == "sev_snp" else dcap.verify
        facts = verify(self.evidence, (root,), NOW)
        self.manifest = sign(_manifest(self, kind, facts.measurement, root), self.owner)
        offer = RoundOffer(
            FLEET, 1, POLICY, (), claims, self.evidence, Checkpoint(0, Digest.of(b"")), NOW + 60
        )
        self.offer = sign(offer, self.coordinator)
        self.root = root

    def appraise(self, manifest: OwnerManifest) -> None:
        """What a device does with an offer before it trains."""
        offer = open_signed(RoundOffer, self.offer, self.coordinator.verify_key)
        appraise(offer.evidence, offer.claims, manifest, NOW)


def _evidence(kind: str, report_data: bytes) -> tuple[Evidence, Digest]:
    if kind == "sev_snp":
        amd = SoftwareSnp("Genoa", bits=4096)
        return amd.evidence(report_data, version=5), amd.insecure_root
    intel = SoftwareDcap()
    return intel.evidence(kind, report_data, older=15, others=70), intel.insecure_root


def _manifest(bundle: Bundle, kind: str, measurement: Digest, root: Digest) -> OwnerManifest:
    return OwnerManifest(
        fleet=FLEET, version=1, issued=0, expires=2**40, suite=DEFAULT.name,
        coordinator_key=bundle.coordinator.verify_key.raw, device_cas=(b"",), revoked=(),
        genesis=Genesis(ZERO, ZERO, (("w", (7_095,)),), 1),
        bounds=PolicyBounds((DEFAULT.name,), ("q8",), 2, 8.0, 1000),
        reference_values=(ReferenceValue(kind, measurement),),
        appraisal=AppraisalPolicy(0, ("UpToDate", "Committed"), insecure_roots=(root,)),
        allow_insecure=True,
    )  # fmt: skip


def _times(work: Callable[[], object], repeats: int) -> dict[str, float]:
    work()
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        taken.append((time.perf_counter() - begin) * 1000)
    taken.sort()
    return {
        "median_ms": round(statistics.median(taken), 3),
        "p95_ms": round(taken[int(0.95 * repeats)], 3),
    }


def _bare(bundle: Bundle) -> Callable[[], object] | None:
    """dcap-qvl alone, with everything parsed for it before."""
    if bundle.evidence.provider == "sev_snp":
        return None
    import dcap_qvl

    found = dcap.Collateral.unpack(bundle.evidence.endorsements)
    collateral, quote = dcap._their_form(dcap_qvl, found), bundle.evidence.body

    def verify() -> object:
        verifier = dcap_qvl.QuoteVerifier(found.root)
        policy = dcap_qvl.QuotePolicy.claims_only(NOW)
        return verifier.verify_with_policy(quote, collateral, NOW, policy)

    return verify


def measure(kind: str, repeats: int) -> dict[str, Any]:
    """One kind of evidence: sizes, a first appraisal with its imports, and then many."""
    warnings.filterwarnings("ignore", ".*serial number.*")
    bundle = Bundle(kind)
    manifest, _ = open_manifest(bundle.manifest, bundle.owner.verify_key, FLEET)
    appraisal = _times(lambda: bundle.appraise(manifest), repeats)
    bare = _bare(bundle)
    result: dict[str, Any] = {
        "kind": kind,
        "offer_bytes": len(bundle.offer),
        "evidence_bytes": len(bundle.evidence.body),
        "endorsement_bytes": len(bundle.evidence.endorsements),
        "appraisal": appraisal,
    }
    result["manifest_verification"] = _times(
        lambda: open_manifest(bundle.manifest, bundle.owner.verify_key, FLEET), repeats
    )
    if bare is not None:
        result["dcap_qvl_alone"] = _times(bare, repeats)
    result["first_import_ms"] = _first_import(kind)
    return result


def _first_import(kind: str) -> float:
    """Milliseconds that a fresh process takes to load this kind's verifier, beside appraisal."""
    module = "qflare.verifiers.snp" if kind == "sev_snp" else "qflare.verifiers.dcap, dcap_qvl"
    code = (
        "import qflare.appraisal, time; t = time.perf_counter()\n"
        f"import {module}\nprint((time.perf_counter() - t) * 1000)"
    )
    times = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(5)
    ]
    return round(statistics.median(times), 1)


def main() -> int:
    """Print a line for each kind; with --json write it all. 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = [measure(kind, args.repeats) for kind in KINDS]
    missed = 0
    for row in rows:
        ok = row["appraisal"]["median_ms"] <= TARGET_MS and row["offer_bytes"] <= TARGET_BYTES
        missed += not ok
        alone = row.get("dcap_qvl_alone", {}).get("median_ms", "-")
        print(
            f"{row['kind']:8} offer {row['offer_bytes']:6} B  "
            f"appraisal {row['appraisal']['median_ms']:6} ms (p95 {row['appraisal']['p95_ms']}), "
            f"dcap-qvl alone {alone} ms, first import {row['first_import_ms']} ms"
            f"{'' if ok else '  MISSED'}"
        )
    result = {
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load_1min": os.getloadavg()[0],
        },
        "targets": {"appraisal_ms": TARGET_MS, "offer_bytes": TARGET_BYTES},
        "results": rows,
    }
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
