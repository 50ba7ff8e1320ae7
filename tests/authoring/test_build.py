"""A built model learns as Keras does: optimisers, losses, masks, class weights, FedProx."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="TensorFlow isn't installed; run make test-authoring")

import keras  # noqa: E402
from keras import layers  # noqa: E402

from qflare.authoring import losses  # noqa: E402
from qflare.authoring.build import build_model  # noqa: E402
from qflare.authoring.convert import convert  # noqa: E402
from qflare.authoring.options import BuildOptions, InputSchema  # noqa: E402
from qflare.authoring.unsupported import Unsupported  # noqa: E402
from qflare.faults import LocalFault  # noqa: E402
from qflare.host.model import read_model  # noqa: E402
from tests.authoring import kit  # noqa: E402

STEPS = 50
OPTIMISERS: dict[str, tuple[float, Callable[[float], Any]]] = {
    "sgd": (0.1, lambda lr: keras.optimizers.SGD(lr)),
    "momentum": (0.03, lambda lr: keras.optimizers.SGD(lr, momentum=0.9)),
    "adam": (0.003, lambda lr: keras.optimizers.Adam(lr)),
}


def agree(make: Callable[[], Any], mu: float = 0.0, **options: Any) -> None:
    """Fifty steps on the device and by Keras: the same losses, and the same weights."""
    file = kit.built(make, **options)
    device = kit.Device(file)
    lr, optimiser = OPTIMISERS[file.manifest.optimiser.name]
    steps = [kit.batches(file, 5)[i % 5] for i in range(STEPS)]
    found = [device.train(lr, mu, **batch) for batch in steps]
    wanted, weights = kit.keras_training(make(), file, steps, optimiser(lr), mu)
    assert np.ptp(found) > 1e-3, "nothing was learned"
    kit.assert_close(found, wanted)
    kit.assert_close(device.weights(), weights)


@pytest.mark.parametrize("mu", [0.0, 0.3])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_optimisers_with_and_without_fedprox(optimiser: str, mu: float) -> None:
    agree(kit.mlp, mu, task="classification", optimiser=optimiser)


def test_class_weights() -> None:
    agree(kit.mlp, task="classification", class_weights=(0.5, 2.0, 1.0))


def linear() -> Any:
    return kit.mlp(None, 2)


def as_input() -> Any:
    return kit.mlp(None, 6)


def labels() -> Any:
    return kit.mlp("sigmoid", 4)


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
@pytest.mark.parametrize(("make", "task"), [(linear, "regression"), (as_input, "autoencoder")])
def test_losses_of_numbers(make: Any, task: str, loss: str) -> None:
    agree(make, task=task, loss=loss, optimiser="sgd")


def test_multilabel() -> None:
    agree(labels, task="multilabel")


def test_a_table_of_whole_numbers() -> None:
    agree(kit.embedding, task="multilabel")


def test_an_output_with_more_axes() -> None:
    def make() -> Any:
        return keras.Sequential(
            [keras.Input((4, 3)), layers.Conv1D(2, 2, kernel_initializer=kit._glorot(3))]
        )

    agree(make, task="regression")


def test_padding_is_no_example() -> None:
    device = kit.Device(kit.built(kit.cnn, task="classification"))
    start, batch = device.weights(), kit.batches(device.file, 3)[2]
    seen = []
    for filler in (0.0, 7.0):
        padded = {**batch, "x": np.where(batch["m"][:, None, None, None] > 0, batch["x"], filler)}
        device.load(start)
        losses_found = [device.train(0.05, **{**padded, "x": padded["x"].astype(np.float32)})]
        seen.append((losses_found, device.weights()))
    assert seen[0][0] == seen[1][0]
    kit.assert_close(seen[0][1], seen[1][1], 1e-6)


def test_weights_come_back_and_reset_forgets_the_momentum() -> None:
    device = kit.Device(kit.built(kit.mlp, task="classification"))
    start = device.weights()
    flat = np.concatenate([w.ravel() for w in start]).astype("<f4").tobytes()
    assert flat == device.file.weights
    steps = kit.batches(device.file, 4)
    first = [device.train(0.05, **batch) for batch in steps]
    moved = device.weights()
    device.call["set_weights"](**dict(zip(device.keys, start, strict=True)))
    kept = [device.train(0.05, **batch) for batch in steps]
    assert first[1:] != kept[1:], "the velocity should have carried on"
    device.load(start)
    assert [device.train(0.05, **batch) for batch in steps] == first
    for a, b in zip(device.weights(), moved, strict=True):
        np.testing.assert_array_equal(a, b)
    device.load(moved)
    for a, b in zip(device.weights(), moved, strict=True):
        np.testing.assert_array_equal(a, b)


def test_fedprox_pulls_to_the_weights_that_were_last_set_and_not_the_personal_ones() -> None:
    device = kit.Device(kit.built(kit.mlp, task="classification", optimiser="sgd",
                                  personal=("head",)))  # fmt: skip
    start = [w + 0.5 for w in device.weights()]
    nothing = {**kit.batches(device.file, 1)[0], "m": np.zeros(kit.BATCH, np.float32)}
    device.load(start)
    device.train(0.1, 1.0, **nothing)
    kit.assert_close(device.weights(), start, 1e-7)  # at the anchor, nothing pulls
    device.train(0.1, 0.0, **kit.batches(device.file, 1)[0])
    moved = device.weights()
    device.train(0.1, 2.0, **nothing)
    shared = len(device.file.manifest.parameters)
    wanted = [m - 0.2 * (m - s) for m, s in zip(moved, start, strict=True)]
    kit.assert_close(device.weights()[:shared], wanted[:shared], 1e-6)
    kit.assert_close(device.weights()[shared:], moved[shared:], 1e-7)


def test_evaluate_counts_class_by_class() -> None:
    device = kit.Device(kit.built(kit.mlp, task="classification"))
    batch = kit.batches(device.file, 3)[2]
    output = device.call["infer"](x=batch["x"])["output"]
    np.testing.assert_allclose(output.sum(axis=1), 1.0, atol=1e-5)
    found = device.call["evaluate"](**batch)
    counted = batch["m"] > 0
    labels_seen = batch["y"][counted]
    right = output[counted].argmax(axis=1) == labels_seen
    for row in range(3):
        assert found["examples"][row] == (labels_seen == row).sum()
        assert found["correct"][row] == right[labels_seen == row].sum()
    each = -np.log(output[counted, labels_seen])
    np.testing.assert_allclose(found["loss_sum"], [each.sum()], rtol=1e-5)


def test_evaluate_of_a_multilabel_model_wants_every_label_right() -> None:
    device = kit.Device(kit.built(labels, task="multilabel"))
    batch = kit.batches(device.file, 3)[2]
    output = device.call["infer"](x=batch["x"])["output"]
    batch["y"] = (output > 0.5).astype(np.float32)
    batch["y"][0, 1] = 1 - batch["y"][0, 1]
    found = device.call["evaluate"](**batch)
    assert found["examples"] == [batch["m"].sum()]
    assert found["correct"] == [batch["m"].sum() - 1]


def test_dropout_keeps_by_the_given_numbers() -> None:
    device = kit.Device(kit.built(kit.dropout_mlp, task="classification"))
    start, batch = device.weights(), kit.batches(device.file, 1)[0]
    assert batch["r"].shape == (kit.BATCH, 16)
    same = [device.train(0.0, **batch) for _ in range(2)]
    other = device.train(0.0, **{**batch, "r": batch["r"][::-1].copy()})
    assert same[0] == same[1] != other
    device.load(start)
    dropped = device.train(0.0, **{**batch, "r": np.zeros_like(batch["r"])})
    # Everything dropped: what is left are biases, which are zero: chance.
    assert dropped == pytest.approx(np.log(3), abs=1e-6)


def test_cached_features_give_what_the_whole_model_gives() -> None:
    file = kit.built(kit.frozen_prefix, task="classification", cache_features=True)
    assert file.manifest.features == [9]
    assert file.manifest.frozen == 6 * 9 + 9
    device, batch = kit.Device(file), kit.batches(file, 1)[0]
    features = device.call["features"](x=batch["x"])["f"]
    model = kit.frozen_prefix()
    np.testing.assert_allclose(features, model.layers[0](batch["x"]), atol=1e-5)
    np.testing.assert_allclose(
        device.call["infer"](x=batch["x"])["output"], model(batch["x"]), atol=1e-5
    )
    assert np.isfinite(device.train(0.1, **{**batch, "x": features}))


@pytest.mark.parametrize("batch_norm", ["average", "local", "frozen"])
def test_batch_normalisation_is_shared_kept_or_frozen(batch_norm: str) -> None:
    manifest = kit.built(kit.normalised, task="classification", batch_norm=batch_norm).manifest
    shared = {p.name.rpartition("/")[2] for p in manifest.parameters if "norm" in p.name}
    kept = {p.name.rpartition("/")[2] for p in manifest.personal}
    everything = {"gamma", "beta", "moving_mean", "moving_variance"}
    assert (shared, kept) == {
        "average": (everything, set()),
        "local": (set(), everything),
        "frozen": ({"gamma", "beta"}, set()),
    }[batch_norm]
    assert manifest.batch_norm == batch_norm


def test_an_unrolled_recurrent_network_stays_small() -> None:
    def make() -> Any:
        return keras.Sequential([keras.Input((32, 6)), layers.GRU(24), layers.Dense(7)])

    file = kit.built(make, task="classification")
    assert len(file.tflite) <= 1.3 * 4 * file.manifest.size + 150_000


def test_a_large_model_is_little_more_than_its_weights() -> None:
    def make() -> Any:
        return keras.Sequential(
            [keras.Input((64,)), layers.Dense(400, activation="relu"), layers.Dense(64)]
        )

    file = kit.built(make, task="autoencoder", optimiser="adam")
    assert len(file.tflite) <= 1.1 * 4 * file.manifest.size + 20_000


@pytest.mark.parametrize("private", [False, True])
def test_a_file_stores_no_zeros_that_training_starts_from(private: bool) -> None:
    def make() -> Any:
        return keras.Sequential([keras.Input((100,)), layers.Dense(200), layers.Dense(3)])

    file = kit.built(make, task="classification", private=private)
    assert len(file.tflite) <= 4 * file.manifest.size + 20_000


def test_the_given_model_is_left_as_it_was() -> None:
    model = kit.mlp()
    before = model.get_weights()
    build_model(model, BuildOptions(task="classification", batch=4))
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert keras.config.floatx() == "float32"


def test_a_file_that_trains_otherwise_than_keras_is_never_given(monkeypatch: Any) -> None:
    right = losses.CrossEntropy.slopes
    monkeypatch.setattr(losses.CrossEntropy, "slopes", lambda *a: 1.01 * right(*a))
    with pytest.raises(LocalFault, match="isn't the one that was given: the loss of step"):
        build_model(kit.mlp(), BuildOptions(task="classification"))


def test_a_wrong_initial_value_is_noticed(monkeypatch: Any) -> None:
    from qflare.authoring import build

    def swapped(data: bytes) -> Any:
        file = read_model(data)
        tflite = data.replace(file.weights[:16], file.weights[16:32])
        return type(file)(file.manifest, tflite, file.weights, file.personal)

    monkeypatch.setattr(build, "read_model", swapped)
    with pytest.raises(LocalFault, match="the initial value of body/kernel"):
        build_model(kit.mlp(), BuildOptions(task="classification"))


@pytest.mark.parametrize(
    ("make", "options", "says"),
    [
        (kit.mlp, {"classes": ("a", "b")}, "2 classes are named, and the model gives 3 numbers"),
        (kit.mlp, {"class_weights": (1.0, 2.0)}, "2 class weights for 3 classes"),
        (kit.mlp, {"input": InputSchema(shape=[7])}, r"keras.Input\(\(7,\)\)"),
        (kit.mlp, {"input": InputSchema(units=["g"])}, "units has 1 values"),
        (kit.mlp, {"cache_features": True}, "trainable=False"),
        (kit.mlp, {"name": "Not a name!"}, "name"),
        (kit.normalised, {"private": True}, "--batch-norm frozen"),
        (kit.normalised, {"private": True, "batch_norm": "local"}, "--batch-norm frozen"),
        (kit.embedding, {"task": "multilabel", "input": InputSchema(mean=[1.0] * 5)}, "no mean"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_way_out(make: Any, options: Any, says: str) -> None:
    with pytest.raises(LocalFault, match=says):
        build_model(make(), BuildOptions(**{"task": "classification", **options}))


def test_initial_weights_that_are_no_numbers_are_refused() -> None:
    model = kit.mlp()
    model.layers[0].kernel.assign(np.full((6, 10), np.nan))
    with pytest.raises(LocalFault, match=r"body/kernel isn.t finite"):
        build_model(model, BuildOptions(task="classification"))


def block(name: str) -> Any:
    given = keras.Input((6,))
    x = layers.Dense(4, activation="relu", name="dense")(given)
    x = layers.Dropout(0.3, name="drop")(x)
    return keras.Model(given, layers.Dense(6, name="out")(x), name=name)


def twins() -> Any:
    """Two nested models whose layers have the same names, one of them called twice."""
    a, b, given = block("a"), block("b"), keras.Input((6,))
    return keras.Model(given, a(b(layers.Add()([a(given), given]))))


def wrapped() -> Any:
    inner = layers.LSTM(3, return_sequences=True)
    return keras.Sequential(
        [
            keras.Input((5, 2)),
            layers.Bidirectional(inner),
            layers.SpatialDropout1D(0.2),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )


def attentive() -> Any:
    given = keras.Input((4, 6))
    seen = layers.MultiHeadAttention(2, 3, dropout=0.2)(given, given)
    return keras.Model(given, layers.Flatten()(layers.LayerNormalization()(seen + given)))


@pytest.mark.parametrize("make", [twins, wrapped, attentive])
@pytest.mark.parametrize("private", [False, True])
def test_nested_and_wrapped_layers_pass_the_self_test(make: Any, private: bool) -> None:
    options = BuildOptions(task="regression", batch=4, private=private)
    manifest = read_model(build_model(make(), options)).manifest
    names = [p.name for p in manifest.parameters]
    assert len(set(names)) == len(names) >= 6
    assert manifest.noise > 0


def test_an_operator_without_a_builtin_kernel_is_named() -> None:
    class Odd(tf.Module):
        def signatures(self) -> Any:
            @tf.function(input_signature=[tf.TensorSpec((2, 2), tf.float32, name="x")])
            def invert(x: Any) -> Any:
                with tf.name_scope("strange_layer"):
                    return {"y": tf.linalg.inv(x)}

            return {"invert": invert.get_concrete_function()}

    with pytest.raises(Unsupported, match=r"MatrixInverse.*strange_layer.*docs/models.md"):
        convert(Odd())
