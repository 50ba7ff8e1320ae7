"""Where evidence comes from: one file per kind of platform, behind the interface in base.py."""
