"""Platforms made of software: evidence in the real formats, under root keys of their own."""
