"""Update codecs: a device encodes, the enclave decodes strictly.

Here is what takes no arrays; `codecs` decodes and `encoding` encodes, and both import numpy, which
a device's daemon does without.
"""

from qflare.compression.padding import bucket, pad, unpad
from qflare.compression.table import CODECS, Codec, parse_codec

__all__ = ["CODECS", "Codec", "bucket", "pad", "parse_codec", "unpad"]
