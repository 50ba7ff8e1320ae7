"""Trainable models that come with QFLARE, each beside the script that makes it."""
