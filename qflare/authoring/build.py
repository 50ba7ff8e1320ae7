"""From a Keras model and options to the bytes of a model file that passed its self-test."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from qflare.authoring.convert import convert
from qflare.authoring.flatbuffer import finish
from qflare.authoring.golden import PLACEHOLDER, golden_run, verify
from qflare.authoring.module import TrainableModule, Training
from qflare.authoring.network import Network, Trained
from qflare.authoring.options import BuildOptions
from qflare.authoring.oracle import Oracle
from qflare.authoring.prepare import prepare
from qflare.faults import LocalFault, PeerFault
from qflare.host.model import Manifest, parse_manifest, read_model
from qflare.host.model.manifest import Input, Optimiser, Parameter

CLASSES_MAX: Final = 1024
Report = Callable[[str], None]


def build_model(model: Any, options: BuildOptions, report: Report = lambda _: None) -> bytes:
    """Give a model file made of a Sequential or functional Keras model; the model isn't changed.

    `report` is told what happens. Raises Unsupported for a layer that can't be trained on a
    device, and LocalFault for everything else, the file's own self-test included.
    """
    report("reading the layers")
    network = prepare(
        model,
        task=options.task,
        batch=options.batch,
        batch_norm=options.batch_norm,
        personal=options.personal,
        cache_features=options.cache_features,
    )
    _check_finite(network)
    _check_private(network, options)
    _check_features(network, options)
    manifest = _manifest(network, options)
    training = Training(
        options.task,
        manifest.loss,
        manifest.class_weights,
        manifest.optimiser,
        options.private,
    )
    report("converting")
    tflite = convert(TrainableModule(network, training))
    report("training a golden batch with Keras, in float64")
    trained = (*network.federated, *network.personal)
    initial = [t.variable.numpy() for t in trained]
    golden = golden_run(Oracle(model, network, training), manifest, initial)
    manifest = _parsed(msgspec.structs.replace(manifest, golden=golden.golden))
    data = finish(tflite, manifest.to_bytes(), len(network.federated), len(network.personal))
    report("training it in the interpreter, as a device does")
    verify(read_model(data), golden)
    return data


def _check_finite(network: Network) -> None:
    for trained in (*network.federated, *network.personal):
        if not np.isfinite(trained.variable.numpy()).all():
            raise LocalFault(
                f"the initial weight {trained.name} isn't finite; make the model anew, or load "
                "other weights"
            )


def _check_private(network: Network, options: BuildOptions) -> None:
    if options.private and network.batch_norm in ("average", "local"):
        raise LocalFault(
            "private training clips each example's gradient, and batch normalisation mixes "
            "examples; use --batch-norm frozen, or GroupNormalization or LayerNormalization"
        )


def _check_features(network: Network, options: BuildOptions) -> None:
    if options.cache_features and network.features is None:
        raise LocalFault(
            "there are no features to cache: no tensor has only frozen layers before it; set "
            "trainable=False on the first layers, or leave --cache-features out"
        )


def _manifest(network: Network, options: BuildOptions) -> Manifest:
    """What the file says of itself, but for its golden run."""
    classes = _classes(network, options)
    if options.class_weights and len(options.class_weights) != len(classes):
        raise LocalFault(
            f"{len(options.class_weights)} class weights for {len(classes)} classes: "
            "give one for each"
        )
    momentum = options.momentum if options.optimiser == "momentum" else 0.0
    return _parsed(
        Manifest(
            format="qflare-model/2",
            name=options.name,
            version=options.version,
            task=options.task,
            loss=options.chosen_loss,
            input=_input(network, options),
            output=list(network.output_shape),
            classes=list(classes),
            class_weights=options.class_weights,
            batch=network.batch,
            optimiser=Optimiser(name=options.optimiser, momentum=momentum),
            parameters=_parameters(network.federated),
            personal=_parameters(network.personal),
            frozen=network.frozen,
            noise=network.noise,
            private=options.private,
            features=None if network.features_shape is None else list(network.features_shape),
            batch_norm=network.batch_norm,
            golden=PLACEHOLDER,
            licence=options.licence,
            provenance=options.provenance,
            made_by=options.made_by,
        )
    )


def _parsed(manifest: Manifest) -> Manifest:
    try:
        return parse_manifest(manifest.to_bytes())
    except PeerFault as fault:
        raise LocalFault(fault.detail) from None


def _parameters(trained: Sequence[Trained]) -> tuple[Parameter, ...]:
    return tuple(Parameter(name=t.name, shape=[*map(int, t.variable.shape)]) for t in trained)


def _classes(network: Network, options: BuildOptions) -> tuple[str, ...]:
    if options.task in ("regression", "autoencoder"):
        return ()
    count = math.prod(network.output_shape)
    if count > CLASSES_MAX:
        raise LocalFault(f"{count} classes: a model file has room for {CLASSES_MAX}")
    classes = options.classes or tuple(f"class{i}" for i in range(count))
    if len(classes) != count:
        raise LocalFault(
            f"{len(classes)} classes are named, and the model gives {count} numbers; "
            f"give its last layer {len(classes)} units, or name {count} classes"
        )
    return classes


def _input(network: Network, options: BuildOptions) -> Input:
    """The schema, and what it leaves out."""
    schema, shape = options.input, list(network.input_shape)
    if schema.shape is not None and schema.shape != shape:
        raise LocalFault(
            f"the schema's examples have the shape {schema.shape}, the model takes {shape}; "
            f"start the model with keras.Input({tuple(schema.shape)})"
        )
    width = shape[-1]
    if network.input_dtype == "int32":
        # Numbers of a table have no channels: the last axis is a place in the sequence.
        neutral = all(v in (None, [d] * width) for v, d in ((schema.mean, 0), (schema.scale, 1)))
        if not neutral:
            raise LocalFault("an input of whole numbers has no mean and scale; leave them out")
    channels = schema.channels or [f"c{i}" for i in range(width)]
    units = schema.units or ["1"] * width
    mean, scale = schema.mean or [0.0] * width, schema.scale or [1.0] * width
    lengths = (("channels", channels), ("units", units), ("mean", mean), ("scale", scale))
    for name, values in lengths:
        if len(values) != width:
            raise LocalFault(
                f"the schema's {name} has {len(values)} values; the input's last axis is {width}"
            )
    return Input(
        shape=shape,
        dtype=network.input_dtype,
        rate_hz=schema.rate_hz,
        channels=channels,
        units=units,
        mean=mean,
        scale=scale,
    )
