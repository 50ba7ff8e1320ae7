"""The model file: a .tflite that trains, and says of itself what it is."""

from qflare.host.model.file import ModelFile, read_metadata, read_model
from qflare.host.model.manifest import Manifest, parse_manifest

__all__ = ["Manifest", "ModelFile", "parse_manifest", "read_metadata", "read_model"]
