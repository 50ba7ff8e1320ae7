"""Board profiles for `qflare model bench`, one TOML file a board."""
