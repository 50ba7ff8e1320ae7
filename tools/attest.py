"""Take evidence from the platform that this runs on, and verify it anywhere, outside any round.

    python tools/attest.py quote tsm --output evidence     (or gramine, nsm, tpm; on the machine)
    python tools/attest.py verify evidence --endorsements collateral.json
    python tools/attest.py collateral evidence --output collateral.json    (Intel; asks a server)

For whoever has TDX, SEV-SNP, SGX, Nitro or a TPM: docs/enclave-hardware.md says what is to be seen.
"""

import argparse
import asyncio
import hashlib
import os
import sys
import time
from pathlib import Path

from coordinator.endorsements import pack
from enclave.evidence.base import EvidenceProvider
from enclave.evidence.gramine import ROOT as GRAMINE
from enclave.evidence.gramine import Gramine
from enclave.evidence.nsm import DEVICE as NSM
from enclave.evidence.nsm import Nsm, by_device
from enclave.evidence.tpm import DEVICE as TPM
from enclave.evidence.tpm import EVENT_LOG, PCRS, Tpm
from enclave.evidence.tsm import ROOT as TSM
from enclave.evidence.tsm import Tsm
from qflare.faults import LocalFault, PeerFault
from qflare.messages import Evidence
from qflare.names import Digest
from qflare.verifiers import dcap, nitro, snp, tpm
from qflare.verifiers.facts import Facts

INTEL = "https://api.trustedservices.intel.com"
DATA = hashlib.sha512(b"qflare/1/attest\0").digest()  # what the evidence is asked to carry


def quote(options: argparse.Namespace) -> None:
    """Ask for evidence and write it."""
    provider = provider_of(options)
    evidence = provider.quote(DATA)
    options.output.write_bytes(evidence.to_bytes())
    print(f"provider     {provider.name}")
    print(f"measurement  {provider.measurement}")
    print(f"evidence     {len(evidence.body)} bytes")
    if provider.name == snp.SEV_SNP:
        print(f"certificate  {certificate_url(evidence.body)}")


def provider_of(options: argparse.Namespace) -> EvidenceProvider:
    """The platform's provider."""
    if options.platform == "tsm":
        return Tsm(options.root or TSM)
    if options.platform == "gramine":
        return Gramine(options.root or GRAMINE)
    device = NSM if options.platform == "nsm" else TPM
    descriptor = os.open(options.root or device, os.O_RDWR | os.O_CLOEXEC)  # closed at our end
    if options.platform == "nsm":
        return Nsm(by_device(descriptor))
    log = Path(EVENT_LOG)
    pcrs = tuple({int(number) for number in options.pcrs.split(",")}) if options.pcrs else PCRS
    if not set(pcrs) <= set(range(24)):
        raise LocalFault("--pcrs: want numbers from 0 to 23")
    return Tpm(descriptor, log.read_bytes() if log.exists() else b"", pcrs)


def certificate_url(report: bytes) -> str:
    """Where AMD gives the chip's certificate for what a report says (KDS interface, version 1)."""
    family, model = report[0x188], report[0x189]
    products = (
        name for name, (of, models) in snp.MODELS.items() if of == family and model in models
    )
    product = (
        next(products, "Milan") if report[0] >= 3 else "Milan"
    )  # 2 doesn't say; others are newer
    names = {1: "blSPL", 2: "teeSPL", 3: "snpSPL", 8: "ucodeSPL", 9: "fmcSPL"}
    parts = snp.PARTS_TURIN if product == "Turin" else snp.PARTS
    levels = "&".join(f"{names[part]}={report[0x180 + at]:02}" for at, part in parts.items())
    chip = report[0x1A0 : 0x1A0 + (8 if product == "Turin" else 64)].hex()
    return f"https://kdsintf.amd.com/vcek/v1/{product}/{chip}?{levels}"


def verify(options: argparse.Namespace) -> None:
    """Verify evidence that `quote` wrote, and print what it says."""
    evidence = Evidence.parse(options.evidence.read_bytes())
    if options.endorsements is not None:
        packed = pack(evidence.provider, options.endorsements.read_bytes())
        evidence = Evidence(evidence.provider, evidence.body, packed)
    roots = tuple(Digest.parse(text) for text in options.insecure_root)
    if evidence.provider == "tpm":
        facts = tpm.verify(evidence)
    else:
        module = {snp.SEV_SNP: snp, "nitro": nitro}.get(evidence.provider, dcap)
        facts = module.verify(evidence, roots, options.at or int(time.time()))
    print("\n".join(f"{name:12} {value}" for name, value in lines(evidence.provider, facts)))
    if facts.report_data != DATA:
        raise LocalFault("it is genuine, and was not asked for by this tool")


def lines(provider: str, facts: Facts) -> list[tuple[str, object]]:
    """What a person looks at."""
    until = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(facts.expires))
    return [
        ("provider", provider),
        ("tier", facts.tier.name.lower()),
        ("measurement", facts.measurement),
        *((name, value.hex()) for name, value in facts.registers),
        ("signer", facts.signer or "-"),
        ("product, svn", f"{facts.product}, {facts.svn}"),
        ("debug", "YES: its host can read its memory" if facts.debug else "no"),
        ("TCB", " ".join((facts.tcb_status, *facts.advisories))),
        ("TCB list", facts.tcb_evaluation or "-"),
        ("until", until if facts.expires else "-"),
    ]


def collateral(options: argparse.Namespace) -> None:
    """Fetch what Intel says of the platform that made a quote."""
    import dcap_qvl

    evidence = Evidence.parse(options.evidence.read_bytes())
    found = asyncio.run(dcap_qvl.get_collateral(options.server, evidence.body))
    options.output.write_text(found.to_json())


def main(arguments: list[str] | None = None) -> int:
    """1 with a line that says why, if it can't be done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("quote", help="take evidence on this machine")
    one.add_argument("platform", choices=("tsm", "gramine", "nsm", "tpm"))
    one.add_argument("--root", type=Path, help="where the platform's files are, if elsewhere")
    one.add_argument("--pcrs", help="a TPM's, with commas between; without it, 0 to 9")
    one.add_argument("--output", type=Path, required=True)
    one.set_defaults(run=quote)
    two = commands.add_parser("verify", help="verify evidence, on any machine")
    two.add_argument("evidence", type=Path)
    two.add_argument("--endorsements", type=Path, help="Intel's collateral or AMD's certificates")
    two.add_argument("--at", type=int, help="Unix seconds; without it, now")
    two.add_argument("--insecure-root", action="append", default=[], help="SHA-256 of a root")
    two.set_defaults(run=verify)
    three = commands.add_parser("collateral", help="fetch what Intel says of a quote's platform")
    three.add_argument("evidence", type=Path)
    three.add_argument("--server", default=INTEL, help=f"a PCCS; without it, {INTEL}")
    three.add_argument("--output", type=Path, required=True)
    three.set_defaults(run=collateral)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (LocalFault, PeerFault, OSError, ValueError) as error:
        print(f"attest: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
