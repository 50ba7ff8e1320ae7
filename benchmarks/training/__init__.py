"""Training on the device beside TensorFlow, PyTorch and numpy: `python -m benchmarks.training`."""
