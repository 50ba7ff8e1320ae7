"""ClientApp: local epochs of the model file's own training step, by LiteRT. Nothing else is done.

It needs what a device needs at least, numpy and ai_edge_litert, and measures the processor time of
the training steps themselves.
"""

import time

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """A round: node configuration `model`, `data` (x and y), `batch`, `epochs`, `number`."""
    node, rate = context.node_config, context.run_config["rate"]
    samples = np.load(str(node["data"]))
    x, y = samples["x"], samples["y"]
    runner = Interpreter(str(node["model"]), num_threads=1).get_signature_runner
    names = list(message.content["arrays"])
    runner("set_weights")(**{n: message.content["arrays"][n].numpy() for n in names})
    runner("reset")()
    began = time.process_time()
    steps = epochs(runner("train"), x, y, int(node["batch"]), int(node["epochs"]), float(rate))
    cpu = time.process_time() - began
    trained = runner("get_weights")()
    metrics = {"num-examples": len(x), "cpu": cpu, "steps": steps, "number": int(node["number"])}
    content = {
        "arrays": ArrayRecord({n: Array(trained[n]) for n in names}),
        "metrics": MetricRecord(metrics),
    }
    return Message(content=RecordDict(content), reply_to=message)


def epochs(step, x, y, batch, count, rate):  # type: ignore[no-untyped-def]
    """Every example once an epoch, in an order drawn anew; the number of steps."""
    draw, steps = np.random.default_rng(), 0
    xs, ys = np.zeros((batch, *x.shape[1:]), x.dtype), np.zeros((batch, *y.shape[1:]), np.int32)
    mask, lr, mu = np.zeros(batch, np.float32), np.float32([rate]), np.zeros(1, np.float32)
    for _ in range(count):
        order = draw.permutation(len(x))
        for start in range(0, len(x), batch):
            rows = order[start : start + batch]
            xs[:], ys[:], mask[:] = 0, 0, 0
            xs[: len(rows)], ys[: len(rows)], mask[: len(rows)] = x[rows], y[rows], 1
            step(x=xs, y=ys, m=mask, lr=lr, mu=mu)
            steps += 1
    return steps
