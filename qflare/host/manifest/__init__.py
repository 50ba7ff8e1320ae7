"""`qflare manifest`: what a fleet owner does with the owner manifest."""
