"""What it costs an application to ask the model, and the device to answer."""
