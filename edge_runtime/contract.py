"""What a trainable model promises: its manifest, checked against the graph that holds it.

The bytes come from the coordinator; by the time they get here, the owner's manifest has vouched for
their digest. Everything in them is checked all the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from edge_runtime.interpreter import open_interpreter
from edge_runtime.signatures import verify_signatures
from qflare.faults import PeerFault, Reason
from qflare.host.model import Manifest, read_model
from qflare.host.model.manifest import Parameter
from qflare.names import Digest
from qflare.tensors import ModelSpec


@dataclass(frozen=True, slots=True)
class ModelContract:
    """A model that this device can train; made only by `parse_contract`."""

    manifest: Manifest
    digest: Digest  # of the .tflite
    spec: ModelSpec  # the federated parameters
    personal: ModelSpec | None  # those that never leave the device
    initial_personal: bytes = field(repr=False)  # float32 little-endian, flat

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def batch(self) -> int:
        return self.manifest.batch

    @property
    def rows(self) -> int:
        """Rows of the counts that `evaluate` gives: a class each, or one for everything."""
        return self.manifest.rows

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one raw example."""
        return tuple(self.manifest.input.shape)

    @property
    def features_shape(self) -> tuple[int, ...] | None:
        """Of what the frozen part makes of an example, if the model lets that be kept."""
        return tuple(self.manifest.features) if self.manifest.features else None

    @property
    def label_shape(self) -> tuple[int, ...] | None:
        """Of one example's label: () for a class, None if examples have no labels."""
        match self.manifest.task:
            case "classification":
                return ()
            case "autoencoder":
                return None
            case _:
                return tuple(self.manifest.output)

    @property
    def label_dtype(self) -> str:
        return "int32" if self.manifest.task == "classification" else "float32"

    @property
    def personal_size(self) -> int:
        return self.personal.size if self.personal else 0


def parse_contract(tflite: bytes) -> ModelContract:
    """Read the manifest inside a model and check the graph against it.

    PeerFault says what is wrong. LocalFault if this machine has no interpreter.
    """
    model = read_model(tflite)
    manifest = model.manifest
    verify_signatures(manifest, tflite)
    try:
        interpreter = open_interpreter(tflite)
        for name in interpreter.get_signature_list():
            interpreter.get_signature_runner(name)
    except (RuntimeError, ValueError) as error:
        raise PeerFault(Reason.MALFORMED, f"TFLite cannot run the model: {error}"[:600]) from None
    return ModelContract(
        manifest=manifest,
        digest=model.digest,
        spec=_spec(manifest.parameters),
        personal=_spec(manifest.personal) if manifest.personal else None,
        initial_personal=model.personal,
    )


def _spec(parameters: Sequence[Parameter]) -> ModelSpec:
    return ModelSpec(tuple((p.name, tuple(p.shape)) for p in parameters))
