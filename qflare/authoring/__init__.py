"""Turn a Keras model into a .tflite that trains; needs TensorFlow, which no device has."""
