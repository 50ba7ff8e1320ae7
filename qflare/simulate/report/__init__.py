"""What a simulation did: figures, a verdict, a page with pictures, a table on the terminal.

`inputs` reads what the processes left behind, `figures` computes from it what `model` holds, and
the others only show it: nothing that a person reads is computed twice.
"""
