"""The commands in a process that says whom it turns to."""

WATCHED = """
import signal, socket, sys
from px_seg.commands import main
# Where tests run in the background of a shell, Ctrl-C is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
connect, look_up = socket.socket.connect, socket.getaddrinfo
def connected(self, address):
    if self.family != socket.AF_UNIX and address[0] != "127.0.0.1":
        print("asked the network for", address, flush=True)
    return connect(self, address)
def looked_up(host, *words, **named):
    if host not in ("127.0.0.1", "localhost", None):
        print("asked the network for", host, flush=True)
    return look_up(host, *words, **named)
socket.socket.connect, socket.getaddrinfo = connected, looked_up
main(sys.argv[1:])
"""
