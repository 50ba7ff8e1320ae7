"""`qflare model`: look at a model file, judge it, time it, compare two."""
