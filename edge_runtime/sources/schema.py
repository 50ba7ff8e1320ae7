"""Does what a source gives suit what a model wants? If not, why, and what to do about it. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from edge_runtime.sources.record import channel_of, label_numbers, stored_names
from edge_runtime.sources.settings import DataSection
from qflare.host.model import Manifest

RATE_TOLERANCE: Final = 0.02  # a crystal and a timer round differently
# From one unit to another, a factor: what people most often have to convert.
_FACTORS: Final = {
    ("mg", "g"): 0.001,
    ("m/s2", "g"): 1 / 9.80665,
    ("m/s^2", "g"): 1 / 9.80665,
    ("g", "m/s2"): 9.80665,
    ("g", "m/s^2"): 9.80665,
    ("deg/s", "rad/s"): 0.017453292519943295,
    ("mV", "V"): 0.001,
    ("mA", "A"): 0.001,
    ("hPa", "Pa"): 100.0,
    ("kPa", "Pa"): 1000.0,
    ("%", "1"): 0.01,
}


@dataclass(frozen=True, slots=True)
class Schema:
    """What the rows of a source are."""

    names: tuple[str, ...]
    units: tuple[str, ...]
    rate_hz: float  # 0 if samples have no rate
    labels: str  # "none", "class" or "numbers"
    label_width: int = 0

    @classmethod
    def of(cls, settings: DataSection, names: tuple[str, ...] = ()) -> "Schema":
        """Of a configuration; `names` are the columns of a file where it names no channels."""
        numbers = label_numbers(settings)
        label = settings.label
        channels = tuple(n for n in stored_names(settings) if n not in numbers) or names
        kind = "none" if label.origin == "none" else "numbers" if label.numbers else "class"
        width = len(numbers) or max(len(label.fields), 1)
        return cls(
            channels,
            tuple(channel_of(settings, name).unit for name in channels),
            settings.rate_hz,
            kind,
            width if kind == "numbers" else 0,
        )


def mismatches(schema: Schema, manifest: Manifest, keep_every: int = 1) -> list[str]:
    """Everything that doesn't suit, each in a sentence with a remedy; empty if all does."""
    return [*_input(schema, manifest, keep_every), *_labels(schema, manifest)]


def _input(schema: Schema, manifest: Manifest, keep_every: int) -> Iterator[str]:
    wants = manifest.input
    if wants.dtype != "float32":
        yield (
            f"{manifest.name} takes whole numbers ({wants.dtype}) and samples of sensors are "
            'fractions; use data.kind = "npz" for it'
        )
    if len(wants.shape) > 2:
        yield (
            f"{manifest.name} takes examples of shape {wants.shape}, and rows of samples make "
            '[rows, channels] or [channels]; pictures have data.kind = "camera"'
        )
        return
    for name in [n for n in wants.channels if n not in schema.names]:
        there = ", ".join(schema.names[:12]) or "none"
        yield (
            f"{manifest.name} wants the channel {name!r} and the source has {there}; name it so in "
            "[[data.channels]], with `field` saying what it is called at its origin"
        )
    units = dict(zip(schema.names, schema.units, strict=True))
    for name, unit in zip(wants.channels, wants.units, strict=True):
        if name in units and units[name] != unit:
            factor = _FACTORS.get((units[name], unit))
            how = f"factor = {factor:.10g} and " if factor else "factor (and offset), and "
            yield (
                f"{manifest.name} wants {name} in {unit} and it comes in {units[name]}; set "
                f'{how}unit = "{unit}" in its [[data.channels]]'
            )
    yield from _rate(schema, manifest, keep_every)


def _rate(schema: Schema, manifest: Manifest, keep_every: int) -> Iterator[str]:
    wanted = manifest.input.rate_hz
    if wanted is None:
        return
    if not schema.rate_hz:
        yield (
            f"{manifest.name} wants {wanted:g} samples a second and the source doesn't say how "
            "many it gives; set data.rate_hz"
        )
        return
    given = schema.rate_hz / keep_every
    if abs(given - wanted) <= RATE_TOLERANCE * wanted:
        return
    every = round(schema.rate_hz / wanted)
    if every > 1 and abs(schema.rate_hz / every - wanted) <= RATE_TOLERANCE * wanted:
        remedy = f"set data.window.keep_every = {every}"
    else:
        remedy = "let the sensor send at that rate, or a whole multiple of it"
    yield (
        f"{manifest.name} wants {wanted:g} samples a second and the source gives "
        f"{given:g}; {remedy}"
    )


def _labels(schema: Schema, manifest: Manifest) -> Iterator[str]:
    match manifest.task:
        case "autoencoder":
            return
        case "classification":
            if schema.labels == "none":
                yield (
                    f"{manifest.name} learns classes ({', '.join(manifest.classes[:8])}) and the "
                    'source has no labels; set data.label.origin to "field", "file" or "folder"'
                )
            elif schema.labels == "numbers":
                yield f"{manifest.name} learns classes and data.label.numbers is set; unset it"
        case task:
            wanted = 1
            for size in manifest.output:
                wanted *= size
            if schema.labels != "numbers":
                yield (
                    f"{manifest.name} is a {task} and learns {wanted} number(s) an example; set "
                    "data.label.numbers = true, and data.label.fields"
                )
            elif schema.label_width != wanted:
                yield (
                    f"{manifest.name} learns {wanted} number(s) an example and data.label.fields "
                    f"names {schema.label_width}; name as many, in the order of its outputs"
                )
