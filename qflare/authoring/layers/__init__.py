"""What each Keras layer does, in operators that train on a device."""
