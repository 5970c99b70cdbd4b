"""A broker that sends what no broker sends. Each connection gets the next case; after the last one, they begin again. With the name of
a case of ALONE as its argument, each connection gets that one.

Prints its port, and then a line with the case's name when a connection begins: "begin NAME", and "end NAME" when it ends.
"""

import socket
import struct
import sys
import threading
import time

END = b"\xce"


def frame(kind, channel, payload):
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + END


def method(channel, class_id, method_id, arguments=b""):
    return frame(1, channel, struct.pack(">HH", class_id, method_id) + arguments)


def short(text):
    return bytes([len(text)]) + text


def long(data):
    return struct.pack(">I", len(data)) + data


def start(properties=b"", mechanisms=b"PLAIN AMQPLAIN"):
    return method(0, 10, 10, b"\x00\x09" + long(properties) + long(mechanisms) + long(b"en_US"))


def nested(depth, kind):
    """A table whose only value is a table or an array, and so on."""
    value = b""
    for level in range(depth):
        if kind == "table":
            value = b"\x00F" + long(value)
        else:
            value = b"A" + long(value)
    return value if kind == "table" else b"\x00" + value


TUNE = method(0, 10, 30, struct.pack(">HIH", 2047, 131072, 60))
OPEN_OK = method(0, 10, 41, b"\x00")
CHANNEL_OK = method(1, 20, 11, long(b""))
CONFIRM_OK = method(1, 85, 11)
DECLARE_CHANNEL_OK = method(2, 20, 11, long(b""))
DECLARE_OK = method(2, 40, 11)
BIND_OK = method(2, 40, 31)


class Peer:
    def __init__(self, connection):
        self.connection = connection
        self.buffer = b""
        connection.settimeout(20)

    def send(self, data):
        self.connection.sendall(data)

    def read(self, count):
        while len(self.buffer) < count:
            data = self.connection.recv(65536)
            if not data:
                raise ConnectionError("closed")
            self.buffer += data
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def read_frame(self):
        kind, channel, size = struct.unpack(">BHI", self.read(7))
        payload = self.read(size + 1)[:-1]
        return kind, channel, payload

    def header(self):
        assert self.read(8) == b"AMQP\x00\x00\x09\x01"

    def login(self):
        self.header()
        self.send(start())
        self.read_frame()
        self.send(TUNE)
        self.read_frame()
        self.read_frame()
        self.send(OPEN_OK)
        self.read_frame()
        self.send(CHANNEL_OK)
        self.read_frame()
        self.send(CONFIRM_OK)

    def serve_until_publish(self):
        """Agrees to every declaration; returns the number of published messages that have arrived: 1."""
        self.login()
        while True:
            kind, channel, payload = self.read_frame()
            if kind != 1:
                continue
            ids = struct.unpack(">HH", payload[:4])
            if ids == (20, 10):
                self.send(DECLARE_CHANNEL_OK)
            elif ids == (40, 10):
                self.send(DECLARE_OK)
            elif ids == (40, 30):
                self.send(BIND_OK)
            elif ids == (60, 40):
                self.header_frame = self.read_frame()
                self.body_frame = self.read_frame()
                return 1

    def drain(self, seconds=1.0):
        end = time.monotonic() + seconds
        self.connection.settimeout(0.2)
        while time.monotonic() < end:
            try:
                if not self.connection.recv(65536):
                    return
            except TimeoutError:
                pass

    def flood(self, data, seconds=6.0):
        """Sends the same bytes again and again."""
        end = time.monotonic() + seconds
        many = data * max(1, 262144 // len(data))
        sent = 0
        while time.monotonic() < end:
            self.connection.sendall(many)
            sent += len(many)


def early(data):
    def case(peer):
        peer.header()
        peer.send(data)
        peer.drain()

    return case


def after_login(data):
    def case(peer):
        peer.login()
        peer.send(data)
        peer.drain()

    return case


def after_publish(data):
    def case(peer):
        peer.serve_until_publish()
        peer.send(data)
        peer.drain()

    return case


def flooding(data, begin):
    def case(peer):
        getattr(peer, begin)()
        peer.flood(data)

    return case


def tuned(channels, size, heartbeat):
    def case(peer):
        peer.header()
        peer.send(start())
        peer.read_frame()
        peer.send(method(0, 10, 30, struct.pack(">HIH", channels, size, heartbeat)))
        peer.drain()

    return case


def many_channels(peer):
    peer.serve_until_publish()
    for channel in range(65536):
        peer.send(frame(77, channel, b"x" * 100))
    peer.drain()


def returned(peer, body_size, chunks, ident=None):
    peer.serve_until_publish()
    peer.send(method(1, 60, 50, struct.pack(">H", 312) + short(b"NO_ROUTE\x1b[31m\r\nforged") + short(b"x") + short(b"")))
    properties = struct.pack(">H", 0x0080) + short(ident or b"\xff" * 255)
    peer.send(frame(2, 1, struct.pack(">HHQ", 60, 0, body_size) + properties))
    for chunk in chunks:
        peer.send(frame(3, 1, chunk))
    peer.send(method(1, 60, 80, struct.pack(">QB", 1, 0)))
    peer.drain()


def silent(peer):
    peer.header()
    peer.drain(8)


def unread(peer):
    peer.login()
    peer.connection.settimeout(None)
    time.sleep(3)


ACK = lambda tag, multiple: method(1, 60, 80, struct.pack(">QB", tag, multiple))
NACK = lambda tag, multiple: method(1, 60, 120, struct.pack(">QB", tag, multiple))
CLOSE = lambda channel, text: method(channel, 20 if channel else 10, 40 if channel else 50,
                                     struct.pack(">H", 541) + short(text) + b"\x00\x00\x00\x00")

CASES = {
    "nothing": silent,
    "text": early(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "other version": early(b"AMQP\x00\x01\x00\x00"),
    "start of another version": early(method(0, 10, 10, b"\x01\x00" + long(b"") + long(b"PLAIN") + long(b"en_US"))),
    "half a frame": early(start()[:20]),
    "no end": early(start()[:-1] + b"\x00"),
    "length 2^31": early(struct.pack(">BHI", 1, 0, 0x7FFFFFFF)),
    "length 2^32-1": early(struct.pack(">BHI", 1, 0, 0xFFFFFFFF)),
    "length over the limit": early(struct.pack(">BHI", 1, 0, 70000) + b"x" * 70000),
    "empty method": early(frame(1, 0, b"")),
    "short method": early(frame(1, 0, b"\x00\x0a\x00")),
    "unknown method": early(method(0, 999, 999)),
    "no mechanism": early(start(mechanisms=b"")),
    "other mechanism": early(start(mechanisms=b" EXTERNAL ")),
    "table longer than the frame": early(method(0, 10, 10, b"\x00\x09" + struct.pack(">I", 0xFFFFFFF0))),
    "key longer than the table": early(start(b"\xff")),
    "string longer than the table": early(start(b"\x01aS" + struct.pack(">I", 0xFFFFFFFF))),
    "unknown field": early(start(b"\x01a?")),
    "nested tables": early(start(nested(10_800, "table"))),
    "nested arrays": early(start(nested(13_000, "array"))),
    "many fields": early(start(b"\x00V" * 32_000)),
    "tune to nothing": tuned(0, 0, 0),
    "tune to a byte": tuned(1, 1, 1),
    "tune to 2^32-1": tuned(65535, 0xFFFFFFFF, 65535),
    "close at log-in": lambda peer: (peer.header(), peer.send(start()), peer.read_frame(), peer.send(CLOSE(0, b"NO\r\nWAY\x1b[2J")), peer.drain()),
    "empty header": after_login(frame(2, 1, b"")),
    "header without return": after_login(frame(2, 1, struct.pack(">HHQH", 60, 0, 10, 0))),
    "header of another class": after_login(frame(2, 1, struct.pack(">HHQH", 85, 0, 10, 0))),
    "body without return": after_login(frame(3, 1, b"abc")),
    "method on channel 9": after_login(ACK(1, 0).replace(b"\x01\x00\x01", b"\x01\x00\x09", 1)),
    "heartbeats on channel 9": after_login(frame(8, 9, b"x" * 4000) * 100),
    "confirm of nothing": after_login(ACK(1, 0)),
    "confirm of 0": after_publish(ACK(0, 1)),
    "confirm of 2^64-1": after_publish(ACK(0xFFFFFFFFFFFFFFFF, 1)),
    "refusal of 2^64-1": after_publish(NACK(0xFFFFFFFFFFFFFFFF, 1)),
    "refusals": after_publish(NACK(1, 0) * 1000),
    "return without content": after_publish(method(1, 60, 50, struct.pack(">H", 312) + short(b"") + short(b"") + short(b"")) + ACK(1, 0)),
    "return of 2^63 bytes": lambda peer: returned(peer, 1 << 63, [b"x" * 1000] * 100),
    "return with too much": lambda peer: returned(peer, 10, [b"x" * 1000]),
    "return without a body": lambda peer: returned(peer, 0, []),
    "return with empty bodies": lambda peer: returned(peer, 10, [b""] * 1000),
    "return of an unknown id": lambda peer: returned(peer, 3, [b"abc"], b"nobody"),
    "blocked with control characters": after_publish(method(0, 10, 60, short(b"\x00\x1b]0;x\x07\xff" * 20))),
    "blocked and unblocked": after_publish((method(0, 10, 60, short(b"low")) + method(0, 10, 61)) * 2000),
    "channel closed": after_publish(CLOSE(1, b"\xff" * 255)),
    "connection closed": after_publish(CLOSE(0, b"bye")),
    "frame over the limit": after_publish(struct.pack(">BHI", 1, 1, 20000) + b"x" * 20001),
    "unread": unread,
    "skipped frames on many channels": many_channels,
    "flood of skipped frames": flooding(frame(77, 1, b"x" * 16000), "serve_until_publish"),
    "flood of skipped frames before the log-in": flooding(frame(77, 0, b"x" * 60000), "header"),
    "flood of heartbeats": flooding(frame(8, 0, b""), "serve_until_publish"),
    "flood of confirms": flooding(ACK(1, 0), "serve_until_publish"),
    "flood of blocks": flooding(method(0, 10, 60, short(b"low on memory")), "serve_until_publish"),
    "flood of declarations": flooding(DECLARE_OK, "login"),
}


def stalled(peer):
    """Confirms the first message again and again, and no other one."""
    peer.serve_until_publish()
    peer.connection.settimeout(0.5)
    for _ in range(80):
        peer.send(ACK(1, 0) + ACK(1, 1) + NACK(1, 0) + frame(8, 0, b""))
        try:
            peer.connection.recv(65536)
        except TimeoutError:
            pass


def deliveries(peer):
    """Delivers messages without regard to how many were asked for."""
    peer.login()
    consumer = None
    while consumer is None:
        kind, channel, payload = peer.read_frame()
        if kind != 1:
            continue
        ids = struct.unpack(">HH", payload[:4])
        if ids == (20, 10):
            peer.send(method(channel, 20, 11, long(b"")))
        elif ids == (50, 10):
            peer.send(method(channel, 50, 11, short(b"q") + struct.pack(">II", 1, 0)))
        elif ids == (60, 10):
            peer.send(method(channel, 60, 11))
        elif ids == (60, 20):
            rest = payload[6:]
            rest = rest[1 + rest[0]:]
            consumer = rest[1:1 + rest[0]]
    body = b'{"message":{"aggregateId":"pay:01a22f5b-7f45-76e1-bf0a-9a87ffe2ef7c"}}'
    for tag in range(1, 200_000):
        peer.send(method(3, 60, 60, short(consumer) + struct.pack(">QB", tag, 0) + short(b"") + short(b""))
                  + frame(2, 3, struct.pack(">HHQH", 60, 0, len(body), 0)) + frame(3, 3, body))


def echo(peer):
    """Refuses the log-in with what it was sent."""
    peer.header()
    peer.send(start())
    answer = peer.read_frame()[2]
    place = answer.rindex(b"PLAIN") + len(b"PLAIN")
    size = struct.unpack(">I", answer[place:place + 4])[0]
    text = b"PLAIN " + answer[place + 4:place + 4 + size].strip(b"\x00").replace(b"\x00", b":")
    peer.send(method(0, 10, 50, struct.pack(">H", 403) + short(text[:255]) + b"\x00\x00\x00\x00"))
    peer.drain()


ALONE = {"stalled": stalled, "deliveries": deliveries, "echo": echo}


def run(connection, name, case):
    print("begin", name, flush=True)
    try:
        case(Peer(connection))
    except (OSError, ConnectionError, AssertionError, struct.error):
        pass
    finally:
        connection.close()
        print("end", name, flush=True)


if __name__ == "__main__":
    cases = {sys.argv[1]: ALONE[sys.argv[1]]} if len(sys.argv) > 1 else CASES
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], len(cases), flush=True)
    while True:
        for name, case in cases.items():
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            run(connection, name, case)
        print("round", flush=True)
