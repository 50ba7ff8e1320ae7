"""The part of QFLARE that touches the operating system."""
