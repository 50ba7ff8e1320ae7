"""What a simulation did: figures, a verdict, a page with pictures, a table on the terminal.

`inputs` reads what the processes left behind, `model` computes every figure from it, and the
others only show it: nothing that a person reads is computed twice.
"""
