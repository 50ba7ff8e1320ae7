"""Gates: whether this is a good moment to train.

`keeper.GateKeeper` is what a daemon uses: `look(told)` reads the sensors and says whether training
may start or go on, why not, and what has changed. `judging.judge` is the rule behind it, without
any I/O.
"""
