"""A convolutional network that tells ten kinds of clothes apart in small grey pictures."""
