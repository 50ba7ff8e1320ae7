"""Bringing a device to life: the technician's laptop, the device's end, and what they say.

The laptop runs `qflare provision` (`technician.py` and what it imports), the device
`qflare-provisiond` (`daemon.py`). Between them a serial line: `frames` carries bytes through noise,
`link` makes messages of them that arrive once and in order, `secrecy` hides them from whoever
listens on the wires, `dialogue` says what they mean. Those four are pure.
"""
