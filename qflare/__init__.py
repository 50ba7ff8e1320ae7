"""What the rooms of QFLARE share: names, messages, cryptography, codecs."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("qflare")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+source"
