"""Update codecs: a device encodes, the enclave decodes strictly."""

from qflare.compression.codecs import CODECS, Codec, decode, parse_codec
from qflare.compression.encoding import clip, compress_with_feedback, encode
from qflare.compression.padding import bucket, pad, unpad

__all__ = [
    "CODECS",
    "Codec",
    "bucket",
    "clip",
    "compress_with_feedback",
    "decode",
    "encode",
    "pad",
    "parse_codec",
    "unpad",
]
