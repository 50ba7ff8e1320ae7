"""What the rooms of QFLARE share: names, messages, cryptography, codecs."""

from typing import Final

__version__: Final = "0.1.0"  # the package's too; importlib.metadata costs a device 2 MB
