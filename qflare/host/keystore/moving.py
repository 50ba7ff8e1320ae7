"""A key from one keeper to another, so that no power cut and no kill loses it.

For a key `owner.seed`, in this order, each step durable before the next:

1. the new file is written as `.owner.seed.fresh`, read back and opened
2. `.owner.seed.former` becomes a second name of the old file
3. the new file takes the old one's name
4. the former is written over and removed

Cut off before 3, the key is as it was; after 3, the next move destroys the former at last.
"""

import os
from pathlib import Path

from qflare.faults import LocalFault
from qflare.host.files import sync_dir, write_atomic
from qflare.host.keystore.form import check_name
from qflare.host.keystore.store import KeyStore, aside, by_turns, destroy, read_private, said_of


def move(store: KeyStore, name: str) -> None:
    """Have the key kept by what keeps new ones; once that was opened, the old copy is destroyed.

    Raises LocalFault, and then the old copy is there, or the new one.
    """
    path = store.directory / check_name(name)
    fresh, former = aside(path, "fresh"), aside(path, "former")
    with by_turns(store.directory):
        finish(store, name)
        _see_that_it_is_one(path)
        secret = store.load(name)
        with said_of(path):
            write_atomic(fresh, store.sealed(name, secret))
            if os.geteuid() == 0:  # whose daemon reads it
                owner = path.stat()
                os.chown(fresh, owner.st_uid, owner.st_gid)
            if store.into.open(name, read_private(fresh)) != secret:
                raise LocalFault("the new file reads back as another one; the old one stays")
        try:
            os.link(path, former)
        except OSError as error:
            raise LocalFault(
                f"{store.directory}: {error.strerror}; keys need a file system with hard links, "
                "such as ext4"
            ) from None
        sync_dir(store.directory)
        fresh.replace(path)
        sync_dir(store.directory)
        destroy(former)


def _see_that_it_is_one(path: Path) -> None:
    """Raise LocalFault where the file has other names: it would be destroyed under these too."""
    if path.is_symlink():
        raise LocalFault(f"{path} only points to a key; name {path.resolve()}")
    if path.exists() and path.stat().st_nlink > 1:
        raise LocalFault(f"{path} has a second name on this disk (a hard link); remove that first")


def finish(store: KeyStore, name: str) -> None:
    """Bring a move to its end that was cut off; raise LocalFault if the new file doesn't open."""
    path = store.directory / name
    fresh, former = aside(path, "fresh"), aside(path, "former")
    for left in (fresh, *store.directory.glob(f".{fresh.name}.*.tmp")):
        destroy(left)  # sealed, and of no use
    if not former.exists():
        return
    if path.exists() and path.samefile(former):
        former.unlink()
        sync_dir(store.directory)
        return
    store.load(name)
    destroy(former)


def unfinished(path: Path) -> bool:
    """Was a move of this key cut off, and is its former copy still there?"""
    former = aside(path, "former")
    return former.exists() and not (path.exists() and path.samefile(former))
