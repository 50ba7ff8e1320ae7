"""Bytes of one update on the wire, for models of three sizes and every codec.

Real encoding, padding, sealing and signing of normally distributed deltas; beside them the plain
float32 delta. `python -m benchmarks.wire [--json FILE]`
"""

import argparse
import json
from pathlib import Path

import numpy as np

from qflare.compression import CODECS
from qflare.compression.encoding import compress_with_feedback
from qflare.crypto.keys import KemPrivateKey, SigningKey
from qflare.crypto.suites import DEFAULT, Aead
from qflare.envelope import seal_update
from qflare.messages import ZERO, EnclaveClaims, UpdatePayload
from qflare.names import DeviceId, FleetId

SIZES = (7_095, 100_000, 1_000_000)
TARGETS = {7_095: 3.0, 100_000: 6.0}  # float32 over the whole sealed update, at least
CODEC_TARGET = 7.0


def main() -> None:
    """Print the table and, with --json, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    key, kem = SigningKey.generate(DEFAULT), KemPrivateKey.generate(DEFAULT)
    claims = EnclaveClaims(
        fleet=FleetId.parse("bench"),
        suite=DEFAULT.name,
        manifest=ZERO,
        round=1,
        opened_at=0,
        epoch=1,
        step=1,
        policy=ZERO,
        cohort=ZERO,
        model=ZERO,
        state=ZERO,
        receipt=ZERO,
        kem_key=kem.public.raw,
        signing_key=key.verify_key.raw,
    )
    device = DeviceId.parse("device")
    rows = []
    print(f"{'parameters':>10}  {'codec':8} {'float32':>10} {'encoded':>9} {'sealed':>9}  ratios")
    for size in SIZES:
        rng = np.random.Generator(np.random.PCG64(1))
        delta = rng.normal(0, 0.01, size).astype(np.float32)
        for name, codec in CODECS.items():
            encoded, _ = compress_with_feedback(
                delta, np.zeros(size, np.float32), codec, rng, 100.0
            )
            payload = UpdatePayload(100, encoded, (10, 6, 8) * 10 + (60_000, 50_000))
            sealed = seal_update(payload, claims, device, ZERO, key, Aead.AES_256_GCM)
            plain = 4 * size
            rows.append(
                {
                    "parameters": size,
                    "codec": name,
                    "float32_bytes": plain,
                    "encoded_bytes": len(encoded),
                    "sealed_bytes": len(sealed),
                    "fixed_bytes": DEFAULT.signature_length + DEFAULT.seal_overhead,
                    "float32_to_encoded": plain / len(encoded),
                    "float32_to_sealed": plain / len(sealed),
                }
            )
            print(
                f"{size:10,}  {name:8} {plain:10,} {len(encoded):9,} {len(sealed):9,}  "
                f"{plain / len(encoded):5.2f} {plain / len(sealed):5.2f}"
            )
    print(f"targets: encoded >= {CODEC_TARGET}; sealed >= 3 (7,095), >= 6 (100,000)")
    if args.json:
        args.json.write_text(json.dumps({"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
