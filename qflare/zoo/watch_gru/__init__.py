"""A recurrent network that tells seven shoulder exercises apart from 2.56 s of motion."""
