"""How well the demo learns when nothing but the learning is there."""
