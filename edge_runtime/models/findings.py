"""What can be said against a model file without running it. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from edge_runtime.models import facts
from edge_runtime.models.graph import Graph, Tensor
from edge_runtime.models.operators import FLEX, LITERT_2_3, TFLITE_RUNTIME_2_14
from edge_runtime.models.text import tensor
from edge_runtime.signatures import wanted_signatures
from qflare.faults import PeerFault
from qflare.host.model import Manifest
from qflare.host.model.file import MANIFEST_ENTRY, TFLITE_CEILING, read_model

Severity = Literal["error", "warning", "note"]
_UNUSED_SHARE: Final = 0.1
_REBUILD: Final = "build it again: qflare model build"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a model file that its author should know."""

    severity: Severity
    code: str
    what: str
    why: str
    todo: str


def static_findings(graph: Graph, view: memoryview, manifest: Manifest | str) -> list[Finding]:
    """All findings, in the order in which they matter."""
    found = [*_size(graph), *_manifest(graph, view, manifest)]
    if isinstance(manifest, Manifest):
        found += _signatures(graph, manifest)
        found += _names(manifest)
    found += _scalars(graph)
    found += _operators(graph)
    found += _variables(graph, isinstance(manifest, Manifest))
    found += _waste(graph)
    return found


def _size(graph: Graph) -> Iterator[Finding]:
    if graph.size > TFLITE_CEILING:
        yield Finding(
            "error",
            "too-large",
            f"the file has {graph.size:,} bytes, at most {TFLITE_CEILING:,} are taken",
            "coordinators and devices refuse it before they look into it",
            "quantise or shrink the frozen part, or train a smaller model",
        )


def _manifest(graph: Graph, view: memoryview, manifest: Manifest | str) -> Iterator[Finding]:
    if MANIFEST_ENTRY not in graph.metadata:
        yield Finding(
            "error",
            "no-manifest",
            "the file doesn't say what it trains: it wasn't made for QFLARE",
            "a device can't know its parameters, inputs and losses",
            "make the model from Keras: qflare model build",
        )
    elif isinstance(manifest, str):
        yield Finding(
            "error",
            "bad-manifest",
            f"the manifest is {manifest}",
            "devices refuse the model",
            _REBUILD,
        )
    elif graph.size <= TFLITE_CEILING:
        try:
            read_model(bytes(view))
        except PeerFault as fault:
            yield Finding(
                "error",
                "no-weights",
                f"initial weights: {fault.detail}",
                "the first round starts from them",
                _REBUILD,
            )


def _signatures(graph: Graph, manifest: Manifest) -> Iterator[Finding]:
    offered = {signature.key: signature for signature in graph.signatures}
    for name, wanted in wanted_signatures(manifest).items():
        if name not in offered:
            yield Finding(
                "error",
                "signature-missing",
                f"there is no signature {name!r}",
                "devices call it in every round",
                _REBUILD,
            )
            continue
        for side, found, want in (
            ("input", offered[name].inputs, wanted.inputs),
            ("output", offered[name].outputs, wanted.outputs),
        ):
            for key in {**want, **found}:
                difference = _difference(found.get(key), want.get(key))
                if difference:
                    yield Finding(
                        "error",
                        f"signature-{side}",
                        f"{side} {key!r} of {name!r} {difference}",
                        "it isn't what the manifest promises, so devices refuse the model",
                        _REBUILD,
                    )


def _difference(found: Tensor | None, want: tuple[tuple[int, ...], str] | None) -> str | None:
    if found is None and want is not None:
        return f"is missing, want {tensor(want[1], want[0])}"
    if want is None:
        return "isn't wanted"
    if found is not None and (found.shape, found.dtype) != want:
        return f"is {tensor(found.dtype, found.shape)}, want {tensor(want[1], want[0])}"
    return None


def _scalars(graph: Graph) -> Iterator[Finding]:
    scalars = [
        f"{name!r} of {signature.key!r}"
        for signature in graph.signatures
        for name, given in signature.inputs.items()
        if not given.shape
    ]
    if scalars:
        yield Finding(
            "error",
            "scalar-input",
            f"inputs without any dimension: {_some(scalars)}",
            "LiteRT on 64-bit ARM crashes when it is given a scalar, though not on x86",
            "give the input the shape (1,) in the TensorFlow function",
        )


def _operators(graph: Graph) -> Iterator[Finding]:
    uses = facts.operators(graph)
    flex = [use.code.name for use in uses if use.code.custom and use.code.name.startswith(FLEX)]
    custom = [use.code.name for use in uses if use.code.custom and use.code.name not in flex]
    if flex:
        yield Finding(
            "error",
            "flex-operator",
            f"operators of full TensorFlow: {_some(flex)}",
            "no interpreter for devices has them",
            "replace the layers that need them; convert with TFLITE_BUILTINS alone to see which",
        )
    if custom:
        yield Finding(
            "error",
            "custom-operator",
            f"operators that aren't TFLite's: {_some(custom)}",
            "devices have no kernels for them",
            "replace the layers that need them, and convert without allow_custom_ops",
        )
    newest = facts.missing_kernels(graph, LITERT_2_3)
    newer = [use for use in facts.missing_kernels(graph, TFLITE_RUNTIME_2_14) if use not in newest]
    if newest:
        yield Finding(
            "error",
            "unknown-operator",
            f"newer than ai-edge-litert 2.3.0 has: {_versions(newest)}",
            "no interpreter that QFLARE was tried with can run them",
            "convert with an older TensorFlow: qflare[authoring] installs one that fits",
        )
    if newer:
        yield Finding(
            "warning",
            "newer-operator",
            f"newer than tflite-runtime 2.14.0 has: {_versions(newer)}",
            "devices with the extra edge-tflite-runtime can't run the model; others can",
            "use the extra edge on every device, or change the layers that need them",
        )


def _versions(uses: tuple[facts.Use, ...] | list[facts.Use]) -> str:
    return _some([f"{use.code.name} {use.code.version}" for use in uses])


def _some(names: list[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _variables(graph: Graph, ours: bool) -> Iterator[Finding]:
    variables = facts.variables(graph)
    lost = [v.name or "(no name)" for v in variables if v.initial is None]
    if lost:
        yield Finding(
            "warning" if ours else "error",
            "uninitialised",
            f"variables without an initial value: {_some(lost)}",
            "until they are set they hold whatever was in memory, and results depend on that",
            "attach each tf.Variable itself to the module that is converted",
        )
    if not variables and not ours:
        yield Finding(
            "note",
            "no-variables",
            "the graph has no variables",
            "it can infer, but nothing in it can learn on a device",
            "make a model that learns from the Keras model: qflare model build",
        )


def _names(manifest: Manifest) -> Iterator[Finding]:
    odd = [p.name for p in (*manifest.parameters, *manifest.personal) if "/" not in p.name]
    if odd:
        yield Finding(
            "note",
            "name-form",
            f"parameters that aren't called layer/weight: {_some(odd)}",
            "reports and `qflare model diff` go by these names",
            "name the layers of the Keras model",
        )


def _waste(graph: Graph) -> Iterator[Finding]:
    unused = facts.sizes(graph).unused
    if unused > _UNUSED_SHARE * graph.size:
        yield Finding(
            "note",
            "unused-bytes",
            f"{unused:,} of {graph.size:,} bytes are in buffers that nothing refers to",
            "every device downloads them",
            _REBUILD,
        )
