"""The database is where it was asked to be, whatever the folder is called."""

from pathlib import Path

import pytest
from sqlalchemy import text

from coordinator.database.store import connect


@pytest.mark.parametrize("name", ["plain", "a#b", "a?mode=ro", "a%41", "with space é"])
def test_odd_folders_hold_the_database(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    path = folder / "coordinator.db"
    with connect(path).begin() as connection:
        connection.execute(text("CREATE TABLE t (x INTEGER)"))
    assert path.is_file()
    with connect(path, read_only=True).connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM t")).scalar() == 0
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
