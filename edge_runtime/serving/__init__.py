"""The active model, at the service of the applications on the device.

`export` makes the file that they may run by themselves, `server` answers them on a Unix socket in
a process of its own, and `client` asks it.
"""
