"""Whether evidence is genuine, one file per format; what it has to say is for appraisal.py."""
