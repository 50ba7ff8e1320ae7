"""What can go wrong between a laptop and a board, each with what to do next."""

from enum import StrEnum
from typing import Final

from qflare.faults import LocalFault


class Code(StrEnum):
    """For scripts; the text is for people."""

    NO_PORT = "no_port"
    SEVERAL_PORTS = "several_ports"
    NO_PERMISSION = "no_permission"
    NO_SERIAL_PORT = "no_serial_port"
    PORT_BUSY = "port_busy"
    PORT_GONE = "port_gone"
    NO_ANSWER = "no_answer"
    MAYBE_DONE = "maybe_done"
    GARBAGE = "garbage"
    SPEED = "speed"
    ECHO = "echo"
    NO_PROVISIOND = "no_provisiond"
    NOT_INSTALLED = "not_installed"
    LOGIN = "login"
    ALREADY = "already_provisioned"
    LINK_LOST = "link_lost"
    VERSION = "version"
    WRONG_BITS = "wrong_bits"
    WRONG_BOARD = "wrong_board"
    WRONG_WORDS = "wrong_words"
    NO_TICKET = "no_ticket"
    BAD_TICKET = "bad_ticket"
    USED_TICKET = "used_ticket"
    EXPIRED_TICKET = "expired_ticket"
    CLOCK = "clock"
    LAPTOP_CLOCK = "laptop_clock"
    NETWORK = "network"
    SETTINGS = "settings"
    STORAGE = "storage"
    REFUSED = "refused"
    DEVICE = "device"


_TEXT: Final = {
    Code.NO_PORT: "no serial adapter is plugged in; plug in the USB cable (`dmesg | tail` should "
    "name a new ttyUSB or ttyACM), or name the port: --port /dev/ttyUSB0",
    Code.SEVERAL_PORTS: "several serial ports: {detail}; say which one: --port",
    Code.NO_PERMISSION: "{detail}: no right to open it; run `sudo usermod -aG {group} $USER`, then "
    "log out and in again",
    Code.NO_SERIAL_PORT: "{detail} is no serial port; name the adapter's: --port /dev/ttyUSB0",
    Code.PORT_BUSY: "{detail}: another program has it open; close the other terminal program (on "
    "some systems ModemManager: `sudo systemctl stop ModemManager`)",
    Code.PORT_GONE: "{detail}: the port isn't there; plug the adapter in, then run the same "
    "command again: it goes on where it was",
    Code.NO_ANSWER: "not one byte came over {detail}; check that the board has power, that TX goes "
    "to RX and RX to TX, that GND is joined, and that the adapter is one for 3.3 V",
    Code.MAYBE_DONE: "not one byte comes over {detail} had its ticket when this was interrupted, "
    "and enrols by itself: it is done if the operator's list has it (qflare enrol list, and here "
    "qflare provision report --enrolled); if not, check power and cable and run this again",
    Code.GARBAGE: "only garbage comes over {detail}, at every speed tried; check that GND is "
    "joined and the wires are short, or name the speed of the board's console: --baud",
    Code.SPEED: "{detail}; name another speed: --baud 115200",
    Code.ECHO: "what is sent over {detail} comes straight back; TX and RX of the adapter are "
    "joined with each other: wire them to the board",
    Code.NO_PROVISIOND: "something speaks on {detail}, but neither qflare-provisiond nor a login "
    "prompt; wait until the board has booted, or start qflare-provisiond on it",
    Code.NOT_INSTALLED: "QFLARE isn't installed on this board; use an image that has it, or "
    "prepare the card: qflare provision image",
    Code.LOGIN: "the board's login refused {detail}; name another user: --user, and its password "
    "when asked or in --password-file",
    Code.ALREADY: "{detail}; leave it as it is, or start over on the board itself with "
    "`sudo qflare-provisiond --again`",
    Code.LINK_LOST: "the board fell silent; check cable and power, then run the same command "
    "again: it goes on where it was",
    Code.VERSION: "{detail}; update the older one of the two",
    Code.WRONG_BITS: "this board runs a 32-bit system ({detail}), for which the interpreter has "
    "no wheel; write the 64-bit image of its operating system to the card",
    Code.WRONG_BOARD: "wrong board: {detail}; nothing was changed: connect the right one, or take "
    "a ticket made for this one",
    Code.WRONG_WORDS: "the words differ: somebody may sit in the line, or this is another board; "
    "nothing was sent: use another cable, straight to the board",
    Code.NO_TICKET: "no fresh ticket in {detail}; ask the operator: qflare token new",
    Code.BAD_TICKET: "{detail}: not a ticket that can be used; ask the operator for a fresh one",
    Code.USED_TICKET: "the ticket is used: {detail}; run this again with a fresh one",
    Code.EXPIRED_TICKET: "{detail}; take a fresh ticket, or set the clock if it is wrong",
    Code.LAPTOP_CLOCK: "this laptop's clock is wrong: {detail}; set it (sudo timedatectl set-ntp "
    "true), then run this again",
    Code.CLOCK: "the board's clock can't be set: {detail}; run qflare-provisiond as root",
    Code.NETWORK: "the board didn't take the network settings: {detail}; correct them and run "
    "this again",
    Code.SETTINGS: "the settings weren't taken: {detail}; correct the file of --settings",
    Code.STORAGE: "the board can't keep what it is given: {detail}; check that its card is "
    "writable and not full",
    Code.REFUSED: "the coordinator refused this device: {detail}; talk to the operator",
    Code.DEVICE: "the board failed: {detail}; look at its journal (journalctl -u "
    "qflare-provisiond), then run this again",
}


class Problem(LocalFault):
    """One of them, as a fault with its code."""

    def __init__(self, code: Code, detail: str = "", group: str = "dialout") -> None:
        super().__init__(_TEXT[code].format(detail=detail, group=group))
        self.code = code
        self.detail = detail
