"""The real Go library, made to believe the stand-in.

Three constants keep the library from talking to anybody else: the root key of the Noise certificates, the address of
the websocket, and the form of media addresses. Two ways to change them, neither of which the program under test sees:

- `patch`: in this process's memory, for tests that use the library in process. The websocket becomes plain
  ws://127.0.0.1:PORT and media plain http (Go reads SSL_CERT_FILE and HTTPS_PROXY at process start only, too late for
  a test). It takes effect at the next connect, whenever the library was imported, so nothing depends on test order.
- `overlay`: a folder for PYTHONPATH with a copy of the library that trusts our root key, for subprocesses. There the
  real names are dialled, through HTTPS_PROXY and TLS (SSL_CERT_FILE), as a user's proxy would be.

Also here: the dictionary of the binary XML, read from the library's own data, so that none of it is copied. Linux only
(ELF, /proc). A new release of the library may move things: the asserts say so.
"""

import contextlib
import ctypes
import functools
import io
import logging
import os
import re
import struct
import sys
import types
from collections.abc import Iterator
from pathlib import Path

_ROOT_KEY = bytes.fromhex("142375574d0a587166aae71ebe516437c4a28b73e3695c6ce1f7f9545da8ee6b")
_SOCKET_URL = b"wss://web.whatsapp.com/ws/chat"
_MEDIA_URL = b"https://%s%s&hash=%s&mms-type=%s&__wa-mms="


def load() -> None:
    """Import the library, if nobody has: without libmagic, its child processes and its log."""
    if "neonize" in sys.modules:
        return
    sys.modules.setdefault("magic", types.ModuleType("magic"))
    shield, popen = logging.NullHandler(), os.popen
    logging.getLogger().addHandler(shield)  # where a handler is, its basicConfig does nothing
    os.popen = lambda *_: io.StringIO()  # type: ignore[assignment] # it asks `uname` whether this is Android, and leaves pipe and child behind
    try:
        __import__("neonize.aioze.client")
    finally:
        os.popen = popen
        logging.getLogger().removeHandler(shield)


@functools.cache
def _file() -> Path:
    load()
    return Path(sys.modules["neonize._binder"].gocode._name)


@functools.cache
def _places() -> dict[bytes, int]:
    """Where the constants are in the file; each stands there once."""
    data = _file().read_bytes()
    for constant in (_ROOT_KEY, _SOCKET_URL, _MEDIA_URL):
        assert data.count(constant) == 1, f"{constant!r} is not where it was: study the new library"
    return {constant: data.index(constant) for constant in (_ROOT_KEY, _SOCKET_URL, _MEDIA_URL)}


def patch(root_key: bytes, port: int) -> None:
    """From now on this process's library dials 127.0.0.1:port and trusts whom `root_key` trusts."""
    _overwrite(_places()[_ROOT_KEY], root_key)
    _overwrite(_places()[_SOCKET_URL], (b"ws://127.0.0.1:%d/" % port).ljust(len(_SOCKET_URL), b"x"))
    _overwrite(_places()[_MEDIA_URL], _MEDIA_URL.replace(b"https", b"http") + b"x")


def _overwrite(offset: int, value: bytes) -> None:
    for start, end, mode, first, path in _mappings():
        if path == str(_file()) and first <= offset < first + end - start:
            address = start + offset - first
            if "w" not in mode:
                page = address & -4096
                protection = 7 if "x" in mode else 3
                assert not ctypes.CDLL(None).mprotect(
                    ctypes.c_void_p(page), ctypes.c_size_t(address + len(value) - page), protection
                )
            ctypes.memmove(address, value, len(value))
            return
    raise LookupError("the library is not in this process's memory")


def _mappings() -> Iterator[tuple[int, int, str, int, str]]:
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6:
            start, _, end = fields[0].partition("-")
            yield int(start, 16), int(end, 16), fields[1], int(fields[2], 16), fields[5]


def overlay(folder: Path, root_key: bytes) -> Path:
    """Make a folder for PYTHONPATH: the installed package, but with a library that trusts `root_key`."""
    offset = _places()[_ROOT_KEY]
    package = folder / "neonize"
    package.mkdir(parents=True)
    for entry in _file().parent.iterdir():
        if entry == _file():
            with (package / entry.name).open("wb") as copy:
                copy.write(entry.read_bytes())
                copy.seek(offset)
                copy.write(root_key)
        elif entry.name != "__pycache__":
            (package / entry.name).symlink_to(entry)
    return folder


@functools.cache
def dictionary() -> tuple[list[str], list[list[str]]]:
    """The words of the binary XML: the single-byte ones, and four tables of double-byte ones."""
    elf = _Elf(_file().read_bytes())
    single = elf.strings(elf.table("xmlstreamstart", "xmlstreamend") - 16, 236)
    double = elf.strings(elf.table("read-self", "active"), 1024)
    return single, [double[i * 256 : i * 256 + 256] for i in range(4)]


class _Elf:
    """Go's string tables: pairs of pointer and length, the pointers written by relocations."""

    _RELATIVE = (8, 1027)  # R_X86_64_RELATIVE, R_AARCH64_RELATIVE

    def __init__(self, data: bytes) -> None:
        self._data = data
        (headers,) = struct.unpack_from("<Q", data, 40)
        size, count, names = struct.unpack_from("<HHH", data, 58)
        # name, type, flags, address, offset, size
        sections = [struct.unpack_from("<IIQQQQ", data, headers + i * size) for i in range(count)]
        where = sections[names][4]
        named = {data[where + s[0] : data.index(b"\0", where + s[0])].decode(): s for s in sections}
        # (address, offset, size) of what is loaded from the file
        self._mapped = [s[3:] for s in sections if s[1] not in (0, 8) and s[3]]
        _, _, _, _, offset, length = named[".rela.dyn"]
        self._pointers = {
            place: target
            for place, kind, target in struct.iter_unpack("<QQq", data[offset : offset + length])
            if kind & 0xFFFFFFFF in self._RELATIVE
        }

    def _offset(self, address: int) -> int:
        for start, offset, size in self._mapped:
            if start <= address < start + size:
                return address - start + offset
        raise LookupError(hex(address))

    def string(self, header: int) -> str:
        (length,) = struct.unpack_from("<Q", self._data, self._offset(header) + 8)
        if not length:
            return ""
        start = self._offset(self._pointers[header])
        return self._data[start : start + length].decode("latin-1")

    def strings(self, header: int, count: int) -> list[str]:
        return [self.string(header + 16 * i) for i in range(count)]

    def table(self, first: str, second: str) -> int:
        """Where the array that begins with these two strings is."""
        addresses = set(self._addresses(first.encode()))
        for header in [header for header, target in self._pointers.items() if target in addresses]:
            with contextlib.suppress(LookupError, struct.error):
                if (self.string(header), self.string(header + 16)) == (first, second):
                    return header
        raise LookupError(f"no table {first}, {second}: study the new library")

    def _addresses(self, text: bytes) -> Iterator[int]:
        """Every place in memory where these bytes stand."""
        for found in re.finditer(re.escape(text), self._data):
            for start, offset, size in self._mapped:
                if offset <= found.start() < offset + size:
                    yield found.start() - offset + start
