"""Make the zoo's model files from their Keras models.

    python -m qflare.zoo.make [--check] [NAME…]

The bytes don't depend on the machine or the day: a second run gives the same. Needs the `authoring`
extra; who uses a model needs none of this, only its file.
"""

import argparse
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

from qflare import zoo
from qflare.faults import LocalFault

FOLDER = Path(__file__).parent


def build(name: str) -> bytes:
    """The model file called `name`, of <name>/model.py, build.toml and schema.toml."""
    import keras

    from qflare.authoring.build import build_model
    from qflare.authoring.options import BuildOptions, read_schema
    from qflare.authoring.quiet import quiet

    folder = FOLDER / name
    asked: dict[str, Any] = tomllib.loads((folder / "build.toml").read_text(encoding="utf-8"))
    schema, classes = read_schema(folder / "schema.toml")
    options = BuildOptions(
        name=name,
        input=schema,
        classes=classes,
        made_by=f"python -m qflare.zoo.make {name}",
        **asked,
    )
    with quiet():
        keras.utils.clear_session()  # so that layers are called alike, whatever was built before
        model = import_module(f"qflare.zoo.{name}.model").make_model()
        return build_model(model, options)


def main(argv: list[str] | None = None) -> int:
    """Return the number of models that differ."""
    parser = argparse.ArgumentParser(prog="python -m qflare.zoo.make", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="models (default: all)")
    parser.add_argument("--check", action="store_true", help="write nothing; compare")
    arguments = parser.parse_args(argv)
    different = 0
    for name in arguments.names or zoo.MODELS:
        if name not in zoo.MODELS:
            parser.error(f"no model is called {name!r}; choose from: {', '.join(zoo.MODELS)}")
        path = FOLDER / name / f"{name}.tflite"
        try:
            made = build(name)
        except LocalFault as fault:
            print(f"{name}: {fault}", file=sys.stderr)
            return 1
        same = path.is_file() and path.read_bytes() == made
        if not arguments.check:
            path.write_bytes(made)
        different += arguments.check and not same
        state = "as it was" if same else "DIFFERS" if arguments.check else "written"
        print(f"{name}: {len(made):,} bytes, {state}", flush=True)
    return different


if __name__ == "__main__":
    sys.exit(main())
