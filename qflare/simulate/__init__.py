"""`qflare simulate`: the real daemons as processes on one machine, and what they did."""
