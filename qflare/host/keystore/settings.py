"""`[keys]`: where private keys are kept, and how to reach what keeps them."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta

from qflare.faults import LocalFault
from qflare.host.config import ConfigFault, Part, Settings
from qflare.host.keystore.asking import asker, credential
from qflare.host.keystore.form import Kind
from qflare.host.keystore.passphrase import UnderPassphrase
from qflare.host.keystore.pcrs import PCRS
from qflare.host.keystore.store import AsIs, KeyStore, Sealer, is_plain

_TPM_FOLDER: Final = Path("/etc/qflare")


class TpmSection(Settings):
    """The TPM, and who approves states of this machine. PCR 7 is the policy of secure boot."""

    device: str = "/dev/tpmrm0"
    pcrs: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=PCRS - 1)], ...], Meta(min_length=1, max_length=PCRS)
    ] = (7,)
    approver: Path = _TPM_FOLDER / "approver.pem"  # public
    approvals: Path = _TPM_FOLDER / "approvals.json"


class HsmSection(Settings):
    """The token: its library, its label, and the label of our key on it."""

    module: Path
    token: str
    pin_file: Path | None = None  # without it, the PIN is asked for
    key: Annotated[str, Meta(min_length=1, max_length=32)] = "qflare"


class KeysSection(Settings):
    """`store` is where keys are moved to; once it is named, a plain key is refused."""

    store: Literal["file", "tpm", "hsm"]
    passphrase_file: Path | None = None  # without it, the passphrase is asked for
    tpm: TpmSection = TpmSection()
    hsm: HsmSection | None = None

    def __post_init__(self) -> None:
        if self.store == "hsm" and self.hsm is None:
            raise ValueError('store = "hsm" wants [keys.hsm] with module and token')


class KeysFile(Part):
    """The part of a configuration file that the commands read."""

    keys: KeysSection | None = None


Asking = Callable[[], bytes]


def sealers(
    section: KeysSection | None, passphrase: Asking | None = None, pin: Asking | None = None
) -> Callable[[Kind], Sealer]:
    """What seals and opens, by kind; it raises ConfigFault for a kind that isn't set up."""
    hsm = section.hsm if section else None
    tpm = section.tpm if section else TpmSection()
    ask = passphrase or asker(
        "passphrase of the keys", section.passphrase_file if section else None
    )
    ask_pin = pin or asker("PIN of the token", hsm.pin_file if hsm else None)

    def sealer(kind: Kind) -> Sealer:
        match kind:
            case Kind.PLAIN:
                return AsIs()
            case Kind.FILE:
                return UnderPassphrase(ask)
            case Kind.TPM:
                from qflare.host.keystore.tpm import InTpm

                return InTpm(tpm.device, tpm.pcrs, tpm.approver, tpm.approvals)
            case Kind.HSM:
                from qflare.host.keystore.hsm import InToken

                if hsm is None:
                    raise ConfigFault("a key in a token wants [keys.hsm] with module and token")
                return InToken(hsm.module, hsm.token, hsm.key, ask_pin)

    return sealer


def load_seed(
    path: Path, section: KeysSection | None, opened_by: Callable[[Kind], Sealer]
) -> bytes:
    """The seed in a key's file, whatever keeps it; raise LocalFault.

    A relative path among systemd's credentials is meant to be there; systemd has opened that
    already. Otherwise a section's `store` has to be what keeps it: a key that was left plain is not
    taken for one that is sealed.
    """
    found = credential(path)
    if found == path and section is not None and is_plain(path):
        raise LocalFault(
            f"{path} is a plain seed, and keys.store is {section.store!r}; run: "
            f"qflare keys move {path} --to {section.store}"
        )
    return KeyStore(found.parent, opened_by, AsIs()).load(found.name)
