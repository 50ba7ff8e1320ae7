"""A 1-D CNN that tells seven shoulder exercises apart from 2.56 s of a smartwatch's motion."""
