"""One non-blocking connection whose reads come with the time the kernel received them, or the time we did."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lab.load import clock

if TYPE_CHECKING:
    from lab.load.exchange import Exchange

_VIEW = memoryview(bytearray(65_536))
"""Every read goes here and is then copied: a `recv` of its own would ask the heap for 64 kB each time, which no hole that
smaller reads leave can hold, and the process would grow with all that ever came."""
_ROOM = (_VIEW,)
_SO_TIMESTAMPING = 37
_SOFTWARE_RECEIVE = 1 << 3 | 1 << 4
"""SOF_TIMESTAMPING_RX_SOFTWARE makes the stamps, SOF_TIMESTAMPING_SOFTWARE reports them (kernel, timestamping.rst)."""
_STAMPS = struct.Struct("qq32x")
_ANCILLARY_BYTES = socket.CMSG_SPACE(_STAMPS.size) if hasattr(socket, "CMSG_SPACE") else 0

_TCP_CLOSE, _TCP_INFO = 7, struct.Struct("=B23xI")
"""State after a reset, and `tcpi_state` and `tcpi_unacked` of `struct tcp_info` (linux/tcp.h)."""

Address = tuple[Any, Any]
"""Address family and socket address, as `resolve` found them."""


def reach(host: str, port: int, *, within_s: float = 3.0) -> Address:
    """The first address of `host` that accepts a connection, else its first: 'localhost' may mean two.

    Raises `OSError` when the name is not known.
    """
    found = [(family, address) for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if len(found) > 1:
        for family, address in found:
            with socket.socket(family, socket.SOCK_STREAM) as trial:
                trial.settimeout(within_s)
                if trial.connect_ex(address) == 0:
                    return family, address
    return found[0]


class Wire:
    """A connection being made, idle or carrying one exchange.

    `stamped` says whether the kernel's receive times are asked for. A TLS record spans packets and is read after
    decryption, so encrypted connections have our own readings, as have systems other than Linux.
    """

    __slots__ = ("_lags", "_receive", "_secure", "_shift_s", "connected", "exchange", "fd", "fresh", "sending", "sock",
                 "stamped", "unstamped", "wants_write")

    def __init__(self, address: Address, *, secure: tuple[ssl.SSLContext, str] | None, shift_s: float,
                 lags: Callable[[float], None]) -> None:
        self._secure, self._shift_s, self._lags = secure, shift_s, lags
        self.exchange: Exchange | None = None
        self.connected, self.fresh, self.sending, self.wants_write, self.unstamped = False, True, b"", True, 0
        self.sock: socket.socket = socket.socket(address[0], socket.SOCK_STREAM)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stamped = secure is None and self._ask_for_stamps()
        self.fd, self._receive = self.sock.fileno(), getattr(self.sock, "recvmsg_into", None)
        code = self.sock.connect_ex(address[1])
        if code not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
            self.sock.close()
            raise OSError(code, os.strerror(code))

    def _ask_for_stamps(self) -> bool:
        if sys.platform != "linux":
            return False
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _SOFTWARE_RECEIVE)
        except OSError:
            return False
        return True

    def proceed(self) -> bool:
        """Go on connecting, now that the socket is ready; True when the connection stands. Raises `OSError`."""
        if self.connected:
            return True
        if not isinstance(self.sock, ssl.SSLSocket):
            code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            try:
                self.sock.getpeername()
            except OSError:  # woken for a connection that had this number before
                self.wants_write = True
                return False
            if self._secure is not None:
                context, host = self._secure
                self.sock = context.wrap_socket(self.sock, server_hostname=host, do_handshake_on_connect=False)
        if isinstance(self.sock, ssl.SSLSocket):
            try:
                self.sock.do_handshake()
            except ssl.SSLWantReadError:
                self.wants_write = False
                return False
            except ssl.SSLWantWriteError:
                self.wants_write = True
                return False
        self.connected, self.wants_write = True, False
        return True

    def send(self, message: bytes = b"") -> bool:
        """Send `message`, or go on with what is left of the last; True when all of it is on its way. Raises `OSError`."""
        left = message or self.sending
        with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            left = left[self.sock.send(left):]
        self.sending, self.wants_write = left, bool(left)
        return not left

    def read(self, woken_s: float) -> tuple[bytes, float]:
        """What is there and when it arrived; nothing at the end. Raises `BlockingIOError` when nothing is there yet.

        How much later than the kernel we were is noted; without its stamp, how much later than the wake-up.
        """
        if not self.stamped or self._receive is None:
            return self._read_unstamped(woken_s)
        count, ancillary, _, _ = self._receive(_ROOM, _ANCILLARY_BYTES)
        now = time.perf_counter()
        data = bytes(_VIEW[:count])
        if ancillary:
            stamp = ancillary[0][2]
            if len(stamp) == 48:
                seconds, nanoseconds = _STAMPS.unpack(stamp)
                at_s = seconds - clock.BASE_S + nanoseconds * 1e-9 + self._shift_s
                self._lags(now - at_s)
                return data, at_s
        if data:
            self.unstamped += 1
            self._lags(now - woken_s)
        return data, now

    def _read_unstamped(self, woken_s: float) -> tuple[bytes, float]:
        try:
            data = bytes(_VIEW[:self.sock.recv_into(_VIEW)])
            while isinstance(self.sock, ssl.SSLSocket) and self.sock.pending():
                data += _VIEW[:self.sock.recv_into(_VIEW)]
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None
        except ssl.SSLEOFError:
            data = b""
        now = time.perf_counter()
        if data:
            self.unstamped += 1
            self._lags(now - woken_s)
        return data, now

    @property
    def unread(self) -> bool:
        """Whether the other side ended this connection before what was sent last came to it.

        It answers that with a reset, or has not acknowledged it; one that has read a request and then ends the connection
        acknowledges both together. False where the system does not tell.
        """
        if sys.platform != "linux":
            return False
        try:
            told = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        except OSError:
            return False
        state, unacknowledged = _TCP_INFO.unpack(told)
        return bool(state == _TCP_CLOSE or unacknowledged or self.sending)

    def close(self) -> None:
        self.sock.close()
