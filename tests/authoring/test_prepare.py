"""What `prepare` makes of a Keras model: which weights train where, and what it refuses."""

from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="TensorFlow isn't installed; run make test-authoring")

import keras  # noqa: E402
from keras import layers as k  # noqa: E402

from qflare.authoring.network import Step  # noqa: E402
from qflare.faults import LocalFault  # noqa: E402
from tests.authoring.agreement import agree, ready, small  # noqa: E402

INFER = Step(training=False, mask=None, noise=None)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    keras.utils.set_random_seed(3)


def names(trained: Any) -> list[str]:
    return [t.name for t in trained]


def normalised(**options: Any) -> Any:
    return small(k.Dense(5, name="a"), k.BatchNormalization(name="bn", **options), k.Dense(3))


# --- names, order, initial values ---------------------------------------------------------------


def test_weights_come_in_the_order_of_keras_with_the_values_of_the_model() -> None:
    inner = keras.Sequential([keras.Input((4, 5)), k.LSTM(3, name="lstm")], name="inner")
    x = keras.Input((4, 3))
    y = inner(k.BatchNormalization(name="bn")(k.Dense(5, name="d")(x)))
    model = keras.Model(x, k.Dense(2, name="head")(y))
    for v in model.weights:
        v.assign(np.random.default_rng(1).random(v.shape))
    network = ready(model)
    assert names(network.federated) == [
        "d/kernel",
        "d/bias",
        "bn/gamma",
        "bn/beta",
        "bn/moving_mean",
        "bn/moving_variance",
        "lstm/kernel",
        "lstm/recurrent_kernel",
        "lstm/bias",
        "head/kernel",
        "head/bias",
    ]
    for trained, v in zip(network.federated, model.weights, strict=True):
        np.testing.assert_array_equal(trained.variable.numpy(), v.numpy())


def test_weights_of_one_name_are_told_apart() -> None:
    inner = keras.Sequential([keras.Input((6,)), k.Dense(6, name="same")], name="inner")
    model = small(inner, k.Dense(6, name="same"), k.Dense(2))
    found = names(ready(model).federated)
    assert len(set(found)) == len(found) == 6
    attention = k.MultiHeadAttention(2, 3, name="look")
    x = keras.Input((4, 3))
    found = names(ready(keras.Model(x, k.Flatten()(attention(x, x)))).federated)
    assert found[:3] == ["look/query/kernel", "look/query/bias", "look/key/kernel"]


def test_a_nested_model_may_be_called_in_any_way() -> None:
    inner = keras.Sequential([keras.Input((6,)), k.Dense(6, name="d")], name="inner")
    x = keras.Input((6,))
    for y in (inner(x), inner([x]), inner(inputs=x), inner(x, training=False)):
        assert names(ready(keras.Model(x, y)).federated) == ["d/kernel", "d/bias"]


def test_the_given_model_stays_as_it_is() -> None:
    model = normalised()
    model.compile("adam", "mse")
    before = [v.numpy() for v in model.weights]
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    network = ready(model)
    network.federated[0].variable.assign(tf.zeros((6, 5)))
    for v, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(v.numpy(), value)
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes


# --- batch normalisation ------------------------------------------------------------------------


def test_average_shares_the_moving_statistics() -> None:
    network = ready(normalised())
    assert [t.name for t in network.federated if t.statistic] == [
        "bn/moving_mean",
        "bn/moving_variance",
    ]
    assert network.batch_norm == "average"
    assert network.personal == ()


def test_local_keeps_all_of_it() -> None:
    network = agree(normalised(), batch_norm="local")
    assert names(network.personal) == [
        "bn/gamma",
        "bn/beta",
        "bn/moving_mean",
        "bn/moving_variance",
    ]
    assert network.batch_norm == "local"


def test_frozen_trains_scale_and_shift_alone() -> None:
    model = normalised()
    model.layers[1].moving_mean.assign(np.linspace(-1, 1, 5))
    network = ready(model, batch_norm="frozen")
    assert names(network.federated)[2:4] == ["bn/gamma", "bn/beta"]
    assert network.frozen == 10
    assert network.batch_norm == "frozen"
    x = np.random.default_rng(2).random((4, 6), np.float32)
    training = network.forward(tf.constant(x), Step(training=True, mask=None, noise=None))
    np.testing.assert_allclose(training[0], model(x, training=False), rtol=1e-5, atol=1e-6)
    assert training[1] == []


def test_a_model_without_batch_normalisation_says_so() -> None:
    assert ready(small(k.Dense(3))).batch_norm == "none"


def test_a_frozen_batch_normalisation_stays_in_inference() -> None:
    model = normalised()
    model.layers[1].trainable = False
    network = agree(model)
    assert network.batch_norm == "frozen"
    assert network.frozen == 20


def test_padding_has_no_part_in_the_statistics() -> None:
    network = ready(normalised())
    x = np.random.default_rng(3).random((4, 6), np.float32)
    mask = tf.constant([1.0, 1.0, 1.0, 0.0])
    found = []
    for last in (0.0, 1e6):
        x[3] = last
        out, statistics = network.forward(
            tf.constant(x), Step(training=True, mask=mask, noise=None)
        )
        found.append([out[:3].numpy(), *(value.numpy() for _, value in statistics)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_batch_of_padding_moves_no_statistic() -> None:
    network = ready(normalised())
    step = Step(training=True, mask=tf.zeros(4), noise=None)
    _, statistics = network.forward(tf.ones((4, 6)), step)
    for trained, value in statistics:
        np.testing.assert_array_equal(value, trained.variable)


def test_a_variance_below_zero_makes_no_nan() -> None:
    """Noise that hides an update may bend it so."""
    network = ready(normalised())
    by_name = {t.name: t.variable for t in network.federated}
    by_name["bn/moving_variance"].assign(-np.ones(5))
    assert np.isfinite(network.forward(tf.ones((4, 6)), INFER)[0]).all()


# --- personal and frozen parts ------------------------------------------------------------------


def test_personal_layers_by_name_by_prefix_and_by_mark() -> None:
    marked = k.Dense(4, name="marked")
    marked.personal = True
    inner = keras.Sequential([keras.Input((4,)), k.Dense(4, name="deep")], name="inner")
    model = small(
        k.Dense(4, name="a"), marked, k.Dense(4, name="personal_b"), inner, k.Dense(2, name="c")
    )
    network = ready(model, personal=("inner",))
    assert [n for n in names(network.personal) if n.endswith("kernel")] == [
        "marked/kernel",
        "personal_b/kernel",
        "deep/kernel",
    ]
    assert names(network.federated) == ["a/kernel", "a/bias", "c/kernel", "c/bias"]


def test_personal_layers_learn_too() -> None:
    model = small(k.Dense(4, activation="tanh", name="a"), k.Dense(3, name="head"))
    network = agree(model, personal=("head",))
    assert names(network.personal) == ["head/kernel", "head/bias"]


@pytest.mark.parametrize(
    ("personal", "says"),
    [
        (("b",), "no layer is called 'b'; layers with weights: a"),
        (("a",), "every weight is personal"),
        (("soft",), "soft \\(ReLU\\) has nothing to train"),
    ],
)
def test_personal_names_that_are_wrong(personal: tuple[str, ...], says: str) -> None:
    with pytest.raises(LocalFault, match=says):
        ready(small(k.Dense(3, name="a"), k.ReLU(name="soft")), personal=personal)


def test_a_model_that_has_nothing_to_train_is_refused() -> None:
    model = small(k.Dense(3))
    model.trainable = False
    with pytest.raises(LocalFault, match="no weight of the model trains; set trainable=True"):
        ready(model)


def backbone(*, dropout: float = 0.0) -> Any:
    """A frozen model of the kinds of layers that a pretrained one has."""
    x = keras.Input((9, 9, 2))
    y = k.Normalization(mean=[0.1, 0.2], variance=[1.0, 4.0])(k.Rescaling(0.5)(x))
    y = k.Conv2D(4, 3, padding="same", use_bias=False)(y)
    y = k.ReLU(max_value=6)(k.BatchNormalization()(y))
    y = k.MaxPooling2D(3, strides=2, padding="same")(y)
    z = k.DepthwiseConv2D(3, padding="same", activation="relu6")(y)
    z = k.SeparableConv2D(4, 3, padding="same", activation="swish")(z)
    z = k.Dropout(dropout)(z)
    y = k.AveragePooling2D(2, strides=1)(k.Add()([y, z]))
    y = k.Concatenate()([k.MaxPooling2D(1, strides=2)(y), k.AveragePooling2D(2)(y)])
    model = keras.Model(x, y, name="backbone")
    for i, v in enumerate(model.weights):
        v.assign(np.random.default_rng(i).random(v.shape) - 0.4 * ("variance" not in v.name))
    model.trainable = False
    return model


def test_a_frozen_prefix_becomes_features() -> None:
    model = small(backbone(), k.GlobalAveragePooling2D(), k.Dense(3, name="head"), shape=(9, 9, 2))
    network = agree(model, cache_features=True)
    assert network.features_shape == (8,)
    assert network.frozen == sum(v.numpy().size for v in model.layers[0].weights)
    assert names(network.federated) == ["head/kernel", "head/bias"]


def test_a_frozen_prefix_without_a_cache_learns_the_same() -> None:
    model = small(backbone(), k.Flatten(), k.Dense(3), shape=(9, 9, 2))
    network = agree(model, learning_rate=0.001)
    assert network.features is None
    assert network.features_shape is None


def test_frozen_convolutions_of_sequences() -> None:
    front = small(
        k.Conv1D(4, 3, padding="causal", dilation_rate=2, activation="relu"),
        k.DepthwiseConv1D(3, strides=2, padding="same"),
        k.MaxPooling1D(3, strides=1),
        k.SeparableConv1D(4, 2, strides=2),
        shape=(12, 2),
    )
    front.trainable = False
    network = agree(small(front, k.Flatten(), k.Dense(3), shape=(12, 2)), cache_features=True)
    assert network.features_shape is not None


def test_dropout_ends_the_frozen_prefix() -> None:
    model = small(backbone(dropout=0.3), k.Flatten(), k.Dense(3), shape=(9, 9, 2))
    network = ready(model, cache_features=True)
    assert network.features_shape == (5, 5, 4)  # of the pooling, that the sum takes as well
    assert network.noise == 100


def test_a_frozen_layer_after_a_trained_one_passes_gradients_on() -> None:
    fixed = k.Conv1D(3, 2, activation="relu")
    fixed.trainable = False
    network = agree(small(k.Dense(3, name="a"), fixed, k.Flatten(), k.Dense(2), shape=(5, 3)))
    assert names(network.federated)[:2] == ["a/kernel", "a/bias"]
    assert network.frozen == 21


def test_there_are_no_features_where_a_trained_branch_goes_round() -> None:
    x = keras.Input((4,))
    fixed = k.Dense(4)
    fixed.trainable = False
    model = keras.Model(x, k.Dense(2)(k.Concatenate()([fixed(x), k.Dense(4)(x)])))
    assert ready(model, cache_features=True).features is None


# --- the last activation ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "task"),
    [
        ([k.Dense(3, activation="softmax")], "classification"),
        ([k.Dense(3), k.Softmax()], "classification"),
        ([k.Dense(3), k.Activation("softmax")], "classification"),
        ([k.Dense(3)], "classification"),
        ([k.Reshape((6, 1)), k.Conv1D(3, 6, activation="softmax"), k.Flatten()], "classification"),
        ([k.Dense(3, activation="sigmoid")], "multilabel"),
        ([k.Dense(3), k.Activation("sigmoid")], "multilabel"),
        ([k.Dense(1, activation="sigmoid")], "multilabel"),
    ],
)
def test_the_output_is_the_logits(last: list[Any], task: str) -> None:
    model = small(*[type(layer).from_config(layer.get_config()) for layer in last])
    x = np.random.default_rng(4).random((4, 6), np.float32)
    logits = ready(model, task).forward(tf.constant(x), INFER)[0]
    finish = tf.nn.softmax if task == "classification" else tf.sigmoid
    has_own = any(
        "softmax" in str(layer.get_config())
        or "sigmoid" in str(layer.get_config())
        or isinstance(layer, k.Softmax)
        for layer in last
    )
    expected = model(x) if has_own else finish(model(x))
    np.testing.assert_allclose(finish(logits), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("last", "task", "says"),
    [
        (k.Dense(1, activation="sigmoid"), "classification", "2 units .* or --task multilabel"),
        (k.Dense(3, activation="sigmoid"), "classification", "with softmax, or --task multilabel"),
        (k.Dense(3, activation="relu"), "classification", "end with Dense"),
        (k.ReLU(), "classification", "end with Dense"),
        (k.Dense(1), "classification", "one number for each of 2 or more"),
        (k.Reshape((3, 2)), "classification", "one number for each of 2 or more"),
        (k.Dense(3, activation="softmax"), "multilabel", "use sigmoid, or --task classification"),
        (k.Dense(5), "autoencoder", "an autoencoder gives its input's shape"),
    ],
)
def test_ends_that_fit_no_task(last: Any, task: str, says: str) -> None:
    with pytest.raises(LocalFault, match=says):
        ready(small(k.Dense(6, name="first"), last), task)


def test_a_regression_keeps_its_last_activation() -> None:
    out = ready(small(k.Dense(3, activation="sigmoid"))).forward(tf.ones((4, 6)), INFER)[0]
    assert 0 < float(tf.reduce_min(out)) < float(tf.reduce_max(out)) < 1


# --- inputs and noise ---------------------------------------------------------------------------


def test_whole_numbers_are_asked_for_where_an_embedding_takes_them() -> None:
    assert ready(small(k.Embedding(5, 2), k.Flatten(), k.Dense(2))).input_dtype == "int32"
    image = keras.Sequential([keras.Input((6,), dtype="uint8"), k.Rescaling(0.1), k.Dense(2)])
    assert ready(image).input_dtype == "float32"


def test_each_random_layer_has_numbers_of_its_own() -> None:
    network = ready(small(k.Dropout(0.5), k.Dropout(0.5), k.Dense(1)))
    assert network.noise == 12
    noise = np.full((4, 12), 0.9, np.float32)
    x, step = tf.ones((4, 6)), Step(training=True, mask=None, noise=tf.constant(noise))
    all_kept = network.forward(x, step)[0]
    noise[:, 6:] = 0.0  # the second drops everything
    step = Step(training=True, mask=None, noise=tf.constant(noise))
    assert not np.any(network.forward(x, step)[0])
    assert np.any(all_kept)


def test_dropout_keeps_an_element_whose_number_is_the_rate() -> None:
    network = ready(small(k.Dropout(0.25), k.Dense(6, kernel_initializer="identity")))
    rate = np.float32(0.25)
    row = [
        rate,
        np.nextafter(rate, np.float32(0)),
        np.nextafter(rate, np.float32(1)),
        0,
        1 - 2**-24,
        0.5,
    ]
    noise = tf.constant([row] * 4, tf.float32)
    out, _ = network.forward(tf.ones((4, 6)), Step(training=True, mask=None, noise=noise))
    np.testing.assert_allclose(out[0], [4 / 3, 0, 4 / 3, 0, 4 / 3, 4 / 3], rtol=1e-6)


def test_one_example_may_be_passed_alone() -> None:
    """As the gradient of a single example wants it."""
    network = ready(
        keras.Sequential(
            [keras.Input((6, 2)), k.Conv1D(3, 2), k.GRU(3), k.Dropout(0.5), k.Dense(2)]
        )
    )
    x = np.random.default_rng(5).random((4, 6, 2), np.float32)
    r = np.random.default_rng(6).random((4, network.noise), np.float32)

    def run(rows: slice) -> Any:
        step = Step(training=True, mask=None, noise=tf.constant(r[rows]))
        return network.forward(tf.constant(x[rows]), step)[0]

    np.testing.assert_allclose(run(slice(1, 2)), run(slice(0, 4))[1:2], rtol=1e-5)
