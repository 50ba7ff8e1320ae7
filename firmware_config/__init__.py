"""Data about boards, brokers and device names, installed with the package; no code is here."""
