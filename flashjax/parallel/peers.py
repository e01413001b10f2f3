"""Nobody waits for a process that is gone: every process of a job hears of the end of each other.

A star of connections around process 0, on which a process says with what code it ends, and else
nothing. Of one that is killed its kernel closes the connection; a host that is lost no longer
answers the kernels of the others. So this depends on no step, no file system and no busy
interpreter. A process that hangs is alive: a watch tells (parallel/watch.py).
"""

import logging
import secrets
import selectors
import socket
import threading
import time

import numpy as np
from jax.experimental import multihost_utils

from flashjax.parallel import signals

GONE = -1  # instead of the code of a process that did not live to say one
LOST_SECONDS = 30  # without an answer of a kernel: its host is lost
CONNECT_SECONDS = 30
HEARD_SECONDS = 1.0  # for the others to hear it before the one in the middle ends

log = logging.getLogger(__name__)


class Peers:
    """The connections of one process, by the number of the process at the other end."""

    def __init__(self, process: int, links: dict[int, socket.socket]) -> None:
        self._process = process
        self._links = links
        self._ended: set[int] = set()
        self._lock = threading.Lock()

    def say(self, code: int) -> None:
        """Tells all others that this process ends with `code`."""
        self._send(self._process, code)
        if self._process == 0 and code:
            time.sleep(HEARD_SECONDS)

    def listen(self) -> None:
        """Hears of all ends, for ever; one that leaves its work undone ends this process, too."""
        unread = dict.fromkeys(self._links, b"")
        with selectors.DefaultSelector() as ready:
            for number, link in self._links.items():
                ready.register(link, selectors.EVENT_READ, number)
            while ready.get_map():
                for key, _ in ready.select():
                    number, more = key.data, _received(self._links[key.data])
                    *lines, unread[number] = (unread[number] + more).split(b"\n")
                    for line in lines:
                        self._heard(*map(int, line.split()))
                    if not more:
                        ready.unregister(key.fileobj)
                        self._heard(number, GONE)

    def _heard(self, number: int, code: int) -> None:
        if number in self._ended:
            return
        self._ended.add(number)
        if self._process == 0:
            self._send(number, code)
        if code == GONE:
            who = f"process {number} is gone: it was killed, or its host is lost"
            signals.end(f"{who}; {signals.saved()}; {signals.AGAIN}")
        elif code:
            signals.end(f"process {number} has ended with code {code}", code)

    def _send(self, number: int, code: int) -> None:
        with self._lock:
            for link in self._links.values():
                try:
                    link.sendall(f"{number} {code}\n".encode())
                except OSError:
                    continue  # gone itself: whoever listens hears of that


def watch(host: str, process: int, processes: int) -> Peers:
    """Connects this process with the others through process 0 on `host`; all call it together."""
    families = {found[0] for found in socket.getaddrinfo(host, None)} if host else set()
    only_ipv6 = families == {socket.AF_INET6}
    family = socket.AF_INET6 if only_ipv6 else socket.AF_INET
    with socket.create_server(("", 0), family=family) as server:
        hello = np.array([server.getsockname()[1], secrets.randbelow(2**31)], np.int32)
        port, secret = map(int, multihost_utils.broadcast_one_to_all(hello))
        if process == 0:
            links = _accept(server, secret, processes - 1)
        else:
            link = socket.create_connection((host, port), timeout=CONNECT_SECONDS)
            link.sendall(f"{process} {secret}\n".encode())
            links = {0: link}
    for link in links.values():
        _keep_alive(link)
    peers = Peers(process, links)
    threading.Thread(target=peers.listen, daemon=True).start()
    return peers


def _accept(server: socket.socket, secret: int, number: int) -> dict[int, socket.socket]:
    """The connections of `number` processes that know the secret."""
    links: dict[int, socket.socket] = {}
    server.settimeout(CONNECT_SECONDS)
    while len(links) < number:
        link, _ = server.accept()
        link.settimeout(CONNECT_SECONDS)
        words = link.makefile("r").readline(64).split()
        if len(words) == 2 and words[1] == str(secret):
            links[int(words[0])] = link
        else:
            link.close()  # nobody of ours
    return links


def _received(link: socket.socket) -> bytes:
    """What has come; nothing at the end of a connection, whatever ended it."""
    try:
        return link.recv(4096)
    except OSError:
        return b""


def _keep_alive(link: socket.socket) -> None:
    link.settimeout(None)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", LOST_SECONDS // 3),
        ("TCP_KEEPINTVL", LOST_SECONDS // 6),
        ("TCP_KEEPCNT", 4),
        ("TCP_USER_TIMEOUT", 1000 * LOST_SECONDS),
    ):
        if hasattr(socket, option):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
