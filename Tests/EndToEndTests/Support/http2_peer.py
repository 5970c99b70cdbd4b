"""HTTP/2 clients that break the protocol (RFC 9113), don't read, or don't finish, against a server with TLS.

usage: http2_peer.py HOST PORT ROOTS LIMIT

LIMIT: seconds that the server gives heads, bodies and unread responses. Prints what is wrong, one line each, and then the
number of cases. After each case a proper request on a new connection must succeed.
"""

import socket
import ssl
import struct
import sys
import time

import hpack

HOST, PORT, ROOTS, LIMIT = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, PRIORITIZED = 1, 4, 8, 32
NO_ERROR, PROTOCOL, FLOW, CLOSED, SIZE, REFUSED, CANCEL, COMPRESSION, CALM = 0, 1, 3, 5, 6, 7, 8, 9, 11


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def field(name, value):
    """A literal field that is not indexed."""
    def text(data):
        length = len(data)
        if length < 127:
            return bytes([length]) + data
        out, rest = [127], length - 127
        while rest >= 128:
            out.append(rest % 128 + 128)
            rest //= 128
        return bytes(out + [rest]) + data
    return b"\0" + text(name if isinstance(name, bytes) else name.encode()) + text(
        value if isinstance(value, bytes) else value.encode())


def fields(*pairs, method="GET", path="/alive", scheme="https", authority="localhost"):
    pseudo = [(":method", method), (":scheme", scheme), (":authority", authority), (":path", path)]
    return b"".join(field(n, v) for n, v in [p for p in pseudo if p[1] is not None] + list(pairs))


def request(stream, *pairs, flags=END_STREAM | END_HEADERS, **pseudo):
    return frame(HEADERS, flags, stream, fields(*pairs, **pseudo))


JSON = ("content-type", "application/json")
BODY = b'{"amount":1,"currency":"GBP"}'
CREATE = {"method": "POST", "path": "/api/payment/create"}


class Client:
    def __init__(self, settings=b"", preface=PREFACE):
        context = ssl.create_default_context(cafile=ROOTS)
        context.check_hostname = False
        context.set_alpn_protocols(["h2"])
        raw = socket.create_connection((HOST, PORT), timeout=10)
        self.socket = context.wrap_socket(raw, server_hostname=HOST)
        assert self.socket.selected_alpn_protocol() == "h2"
        self.decoder = hpack.Decoder()
        self.buffer = b""
        self.statuses, self.resets, self.bodies, self.ended = {}, {}, {}, set()
        self.gone = self.last = None
        self.is_closed = False
        if preface:
            self.send(preface + frame(SETTINGS, 0, 0, settings))

    def send(self, data):
        try:
            self.socket.sendall(data)
        except (OSError, ssl.SSLError):
            self.is_closed = True

    def read(self, until=lambda c: False, within=5.0):
        """Reads until the condition holds, the connection ends, or time is up."""
        end = time.monotonic() + within
        while not self.is_closed and not until(self):
            left = end - time.monotonic()
            if left <= 0:
                break
            self.socket.settimeout(left)
            try:
                data = self.socket.recv(1 << 16)
            except (TimeoutError, socket.timeout):
                break
            except (OSError, ssl.SSLError):
                data = b""
            if not data:
                self.is_closed = True
            self.buffer += data
            self.parse()
        return self

    def parse(self):
        while len(self.buffer) >= 9:
            length = int.from_bytes(self.buffer[:3], "big")
            if len(self.buffer) < 9 + length:
                return
            kind, flags, stream = self.buffer[3], self.buffer[4], int.from_bytes(self.buffer[5:9], "big")
            payload, self.buffer = self.buffer[9:9 + length], self.buffer[9 + length:]
            if kind == HEADERS:
                status = dict(self.decoder.decode(payload)).get(":status")
                if status and status != "100":
                    self.statuses[stream] = int(status)
            if kind == DATA:
                self.bodies[stream] = self.bodies.get(stream, b"") + payload
            if kind == RST:
                self.resets[stream] = int.from_bytes(payload, "big")
            if kind == GOAWAY:
                self.gone = int.from_bytes(payload[4:8], "big")
                self.last = int.from_bytes(payload[:4], "big")
            if kind in (HEADERS, DATA) and flags & END_STREAM:
                self.ended.add(stream)

    def close(self):
        try:
            self.socket.close()
        except OSError:
            pass


failures, cases = [], 0


def check(name, what, condition, client=None):
    if not condition:
        seen = client and dict(statuses=client.statuses, resets=client.resets, gone=client.gone, closed=client.is_closed)
        failures.append(f"{name}: {what}; {seen}")


def healthy(name):
    client = Client()
    client.send(request(1))
    client.read(lambda c: 1 in c.ended, within=10)
    check(name, "a proper request gets 200 afterwards", client.statuses.get(1) == 200, client)
    client.close()


def case(name, data, *, status=None, reset=None, gone=None, any_end=False, within=5.0, settings=b"", preface=PREFACE):
    """Sends data, or several with time between them, and expects one end: a status or a reset of stream 1, or the connection's."""
    global cases
    cases += 1
    client = Client(settings, preface)
    for part in data if isinstance(data, list) else [data]:
        client.send(part)
        if isinstance(data, list):
            client.read(within=0.2)
    client.read(lambda c: c.gone not in (None, NO_ERROR) or 1 in c.resets or 1 in c.ended, within)
    if status is not None:
        check(name, f"status {status}", client.statuses.get(1) == status, client)
    if reset is not None:
        check(name, f"stream 1 is reset with {reset}",
              client.resets.get(1) == reset or client.gone in (reset, PROTOCOL, CLOSED), client)
    if gone is not None:
        client.read(lambda c: c.is_closed, within=3)
        check(name, f"GOAWAY {gone}", client.gone in (gone if isinstance(gone, tuple) else (gone,)), client)
        check(name, "the connection ends", client.is_closed, client)
    if any_end:
        check(name, "an answer of any kind",
              client.gone is not None or client.is_closed or 1 in client.resets or 1 in client.ended, client)
    client.close()
    healthy(name)


def malformed():
    head = END_HEADERS | END_STREAM
    bad = {
        "upper-case name": fields(("X-Upper", "a")), "connection field": fields(("connection", "close")),
        "transfer-encoding": fields(("transfer-encoding", "chunked")), "te": fields(("te", "gzip")),
        "no path": fields(path=None), "empty path": fields(path=""), "no method": fields(method=None),
        "no scheme": fields(scheme=None), "two paths": fields(path="/") + field(":path", "/alive"),
        "pseudo after regular": fields(("a", "b")) + field(":path", "/"), "unknown pseudo": field(":x", "y") + fields(),
        "status in request": field(":status", "200") + fields(), "line break": fields(("a", "b\r\nc: d")),
        "NUL": fields(("a", "b\0c")), "space in name": fields(("a b", "c")), "protocol": fields((":protocol", "websocket")),
        "CONNECT with path": fields(method="CONNECT"), "line break in path": fields(path="/a\r\nb"),
        "name that is not ASCII": fields((b"\xc3\xa9", "c")), "colon in name": fields(("a:b", "c")),
    }
    for name, block in bad.items():
        case(name, frame(HEADERS, head, 1, block), reset=PROTOCOL)
    case("CONNECT", frame(HEADERS, head, 1, field(":method", "CONNECT") + field(":authority", "localhost:1")), status=501)
    case("method that is no token", frame(HEADERS, head, 1, fields(method="GE T")), any_end=True)
    case("odd method", request(1, method="BREW"), any_end=True)
    case("absolute path", request(1, path="https://localhost/alive"), status=400)
    case("relative path", request(1, path="alive"), status=400)
    case("no host", request(1, authority=None), status=400)
    case("host alone", request(1, ("host", "localhost"), authority=None), status=200)
    case("two hosts", request(1, ("host", "localhost"), ("host", "other"), authority=None), status=400)
    case("host unlike authority", request(1, ("host", "other")), status=400)
    case("user in authority", request(1, authority="me@localhost"), status=400)
    case("bytes in a value", request(1, ("a", b"\xff\xfe\x80")), any_end=True)
    case("101 fields", request(1, *[(f"f{i}", "v") for i in range(101)]), status=431)
    case("long path", request(1, path="/" + "x" * 9_000), status=414)
    case("content-length and no body", request(1, JSON, ("content-length", "5"), **CREATE), reset=PROTOCOL)
    body = request(1, JSON, ("content-length", "5"), flags=END_HEADERS, **CREATE)
    case("body longer than announced", body + frame(DATA, END_STREAM, 1, BODY), reset=PROTOCOL)
    case("body shorter than announced", body + frame(DATA, END_STREAM, 1, b"{}"), reset=PROTOCOL)
    for length in ["-1", "x", "", "99999999999999999999"]:
        case(f"content-length {length!r}", request(1, JSON, ("content-length", length), flags=END_HEADERS, **CREATE)
             + frame(DATA, END_STREAM, 1, BODY), any_end=True)
    case("content-length of a GET", request(1, ("content-length", "0")), status=200)
    case("content-length too large", request(1, JSON, ("content-length", "70000"), flags=END_HEADERS, **CREATE), status=413)
    case("body too large", [request(1, JSON, flags=END_HEADERS, **CREATE)] + [
        frame(DATA, 0, 1, b" " * 16_000) for _ in range(5)], status=413)
    case("expectation", request(1, JSON, ("expect", "200-ok"), **CREATE), status=417)
    case("no media type", request(1, **CREATE), any_end=True)
    trailers = request(1, JSON, flags=END_HEADERS, **CREATE) + frame(DATA, 0, 1, BODY)
    case("trailers", trailers + frame(HEADERS, head, 1, field("a", "b")), status=200)
    case("pseudo in trailers", trailers + frame(HEADERS, head, 1, field(":path", "/")), reset=PROTOCOL)
    case("trailers without an end", trailers + frame(HEADERS, END_HEADERS, 1, field("a", "b")), reset=PROTOCOL)
    case("padding", frame(HEADERS, head | PADDED, 1, b"\x05" + fields() + bytes(5)), status=200)
    case("priority in head", frame(HEADERS, head | PRIORITIZED, 1, b"\0\0\0\0\x10" + fields()), status=200)
    case("a stream that depends on itself", frame(HEADERS, head | PRIORITIZED, 1, b"\0\0\0\1\x10" + fields()), any_end=True)


def framing():
    wait = request(1, JSON, flags=END_HEADERS, **CREATE)
    errors = {
        "DATA on stream 0": frame(DATA, 0, 0, b"x"), "HEADERS on stream 0": frame(HEADERS, 5, 0, fields()),
        "even stream": request(2), "DATA on an idle stream": frame(DATA, 0, 5, b"x"),
        "RST_STREAM on an idle stream": frame(RST, 0, 5, bytes(4)), "WINDOW_UPDATE on an idle stream": frame(WINDOW, 0, 5, b"\0\0\0\1"),
        "lower stream": request(5) + request(3), "PUSH_PROMISE": frame(PUSH, END_HEADERS, 1, b"\0\0\0\2" + fields()),
        "CONTINUATION alone": frame(CONTINUATION, END_HEADERS, 1, fields()),
        "frame between HEADERS and CONTINUATION": frame(HEADERS, 1, 1, fields()) + frame(PING, 0, 0, bytes(8)),
        "CONTINUATION of another stream": frame(HEADERS, 1, 1, fields()) + frame(CONTINUATION, 4, 3, b""),
        "PING of 7 bytes": frame(PING, 0, 0, bytes(7)), "PING on a stream": frame(PING, 0, 1, bytes(8)),
        "SETTINGS of 5 bytes": frame(SETTINGS, 0, 0, bytes(5)), "SETTINGS on a stream": frame(SETTINGS, 0, 1, b""),
        "SETTINGS ACK with a payload": frame(SETTINGS, 1, 0, bytes(6)),
        "ENABLE_PUSH 2": frame(SETTINGS, 0, 0, b"\0\2\0\0\0\2"), "window of 2^31": frame(SETTINGS, 0, 0, b"\0\4\x80\0\0\0"),
        "frame size 0": frame(SETTINGS, 0, 0, b"\0\5\0\0\0\0"), "frame size 2^24": frame(SETTINGS, 0, 0, b"\0\5\1\0\0\0"),
        "WINDOW_UPDATE 0": frame(WINDOW, 0, 0, bytes(4)), "WINDOW_UPDATE of 3 bytes": frame(WINDOW, 0, 0, bytes(3)),
        "window too large": frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff"),
        "GOAWAY on a stream": frame(GOAWAY, 0, 1, bytes(8)), "GOAWAY of 4 bytes": frame(GOAWAY, 0, 0, bytes(4)),
        "RST_STREAM of 3 bytes": wait + frame(RST, 0, 1, bytes(3)), "PRIORITY of 4 bytes": frame(PRIORITY, 0, 1, bytes(4)),
        "frame of 2^24 - 1 bytes": b"\xff\xff\xff" + frame(DATA, 0, 1, b"")[3:] + bytes(1_000),
        "padding longer than the frame": wait + frame(DATA, PADDED, 1, b"\x09abc"),
        "HEADERS padding longer than the frame": frame(HEADERS, 5 | PADDED, 1, b"\xff" + fields()),
        "field index 0": frame(HEADERS, 5, 1, b"\x80"), "field index 200": frame(HEADERS, 5, 1, b"\xff\x49"),
        "endless integer": frame(HEADERS, 5, 1, b"\xff" * 40), "string beyond the block": frame(HEADERS, 5, 1, b"\0\x7f\xff\xffabc"),
        "table size of 2^30": frame(HEADERS, 5, 1, b"\x3f\xe1\xff\xff\xff\x03" + fields()),
        "bad Huffman code": frame(HEADERS, 5, 1, b"\0\x84\xff\xff\xff\xff\x01a"), "empty name": frame(HEADERS, 5, 1, b"\0\0\1a" + fields()),
        "truncated field": frame(HEADERS, 5, 1, b"\0"),
        "fields of 200 KB": frame(HEADERS, 1, 1, fields()) + b"".join(
            frame(CONTINUATION, 0, 1, field("a", "b" * 16_000)) for _ in range(13)),
        "fields that unpack to 4 MB": frame(HEADERS, 5, 1, b"\x40\x01a\x7f\x81\x1e" + b"b" * 4_000 + b"\xbe" * 1_000 + fields()),
        "HTTP/1.1 after the preface": b"GET / HTTP/1.1\r\n\r\n",
    }
    for name, data in errors.items():
        case(name, data, gone=(PROTOCOL, FLOW, CLOSED, SIZE, COMPRESSION, CALM, 2))
    for name, preface in [("HTTP/1.1", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), ("wrong preface", PREFACE[:-6] + b"\n" * 6), ("zeros", bytes(100))]:
        case(f"{name} instead of the preface", b"", any_end=True, preface=preface)
    for name, data in {
        "unknown frame": frame(0xFF, 0xFF, 1, b"x" * 100), "ALTSVC": frame(0xA, 0, 0, b"\0\1ab"), "ORIGIN": frame(0xC, 0, 0, b"\0\1a"),
        "ALTSVC cut": frame(0xA, 0, 0, b"\xff"), "ORIGIN cut": frame(0xC, 0, 0, b"\xff\xff"),
        "PRIORITY_UPDATE": frame(0x10, 0, 0, b"\0\0\0\1u=1"),
        "unknown setting": frame(SETTINGS, 0, 0, b"\xff\xff\0\0\0\1"), "GOAWAY": frame(GOAWAY, 0, 0, bytes(8)),
        "PRIORITY of a stream": frame(PRIORITY, 0, 7, b"\0\0\0\3\1"), "no push, small tables": frame(SETTINGS, 0, 0, b"\0\2\0\0\0\0\0\1\0\0\0\0"),
    }.items():
        case(f"{name}, then a request", data + request(1), any_end=True)
    case("HEADERS after the end", request(1) + request(1), any_end=True)
    case("DATA after the end", request(1) + frame(DATA, 0, 1, b"x"), any_end=True)
    case("CONTINUATION", frame(HEADERS, 1, 1, fields()[:9]) + frame(CONTINUATION, 4, 1, fields()[9:]), status=200)
    case("a byte a time", b"", any_end=False)
    slow = Client(preface=None)
    for byte in PREFACE + frame(SETTINGS) + request(1, ("a", "b")):
        slow.send(bytes([byte]))
    slow.read(lambda c: 1 in c.ended)
    check("a byte a time", "status 200", slow.statuses.get(1) == 200, slow)
    slow.close()


def floods():
    """Each ends the connection, with ENHANCE_YOUR_CALM if the client still reads."""
    pair = lambda stream: request(stream, JSON, flags=END_HEADERS, **CREATE) + frame(RST, 0, stream, b"\0\0\0\x08")
    kinds = {
        "PING": lambda i: frame(PING, 0, 0, bytes(8)), "SETTINGS": lambda i: frame(SETTINGS),
        "WINDOW_UPDATE": lambda i: frame(WINDOW, 0, 0, b"\0\0\0\1"), "PRIORITY": lambda i: frame(PRIORITY, 0, 2 * i + 1, b"\0\0\0\0\1"),
        "unknown frames": lambda i: frame(0x42), "rapid reset": lambda i: pair(2 * i + 1), "ALTSVC": lambda i: frame(0xA, 0, 0, b"\0\1ab"),
        "GOAWAY": lambda i: frame(GOAWAY, 0, 0, bytes(8)), "PING answers": lambda i: frame(PING, 1, 0, bytes(8)),
        "empty DATA": lambda i: (request(1, JSON, flags=END_HEADERS, **CREATE) if i == 0 else b"") + frame(DATA, 0, 1, b""),
        "empty CONTINUATION": lambda i: frame(HEADERS, 1, 1, fields()) if i == 0 else frame(CONTINUATION, 0, 1, b""),
        "DATA of a byte": lambda i: (request(1, JSON, flags=END_HEADERS, **CREATE) if i == 0 else b"") + frame(DATA, 0, 1, b" "),
        "refused requests": lambda i: request(2 * i + 1, ("connection", "x")),
    }
    global cases
    for name, make in kinds.items():
        for reads in (True, False):
            cases += 1
            client = Client()
            begin = time.monotonic()
            for block in range(60):
                client.send(b"".join(make(i) for i in range(block * 500, block * 500 + 500)))
                if client.is_closed:
                    break
                if reads:
                    client.read(within=0.001)
            client.read(lambda c: c.is_closed or c.gone is not None or 1 in c.ended, within=5)
            check(f"flood of {name}", "ends", client.is_closed or client.gone is not None or 1 in client.ended, client)
            check(f"flood of {name}", "within 20 s", time.monotonic() - begin < 20, client)
            client.close()
            healthy(f"flood of {name}")


def patience():
    """What is not completed or not read ends after its limit, and holds up nobody."""
    global cases
    waits = {
        "no preface": (b"", None), "half a preface": (PREFACE[:9], None), "half a frame": (PREFACE + b"\0\0\x08\6", None),
        "head without its end": (PREFACE + frame(SETTINGS) + frame(HEADERS, 1, 1, fields()), None),
        "a body that does not come": (PREFACE + frame(SETTINGS) + request(1, JSON, flags=END_HEADERS, **CREATE), 408),
        "half a body": (PREFACE + frame(SETTINGS) + request(1, JSON, flags=END_HEADERS, **CREATE) + frame(DATA, 0, 1, b"{"), 408),
    }
    clients = {}
    for name, (data, _) in waits.items():
        clients[name] = Client(preface=None)
        clients[name].send(data)
    # 100 streams of an answer that is never let through.
    window = b"\0\4" + bytes(4)
    unread = Client(settings=window)
    unread.send(b"".join(request(stream, path="/openapi.json") for stream in range(1, 200, 2)))
    unread.read(lambda c: len(c.statuses) == 100, within=LIMIT)
    check("closed windows", "heads of all come", len(unread.statuses) == 100, unread)
    for name, (_, status) in waits.items():
        cases += 1
        client = clients[name]
        client.read(lambda c: c.is_closed or 1 in c.ended, within=LIMIT + 8)
        check(name, f"ends with {status}", client.is_closed if status is None else client.statuses.get(1) == status, client)
        client.close()
    cases += 1
    unread.read(lambda c: len(c.resets) >= 100, within=LIMIT + 8)
    check("closed windows", "each is given up", all(unread.resets.get(s) in (CANCEL, REFUSED) for s in range(1, 200, 2)), unread)
    unread.close()
    healthy("patience")


def most_streams():
    """A hundred requests at once are served. One more breaks the protocol, which may end the connection."""
    global cases
    cases += 1
    client = Client()
    client.read(within=0.2)
    client.send(frame(SETTINGS, 1))
    client.send(b"".join(request(stream, JSON, flags=END_HEADERS, **CREATE) for stream in range(1, 203, 2)))
    client.send(b"".join(frame(DATA, END_STREAM, stream, BODY) for stream in range(1, 201, 2)))
    client.read(lambda c: len(c.ended) >= 100, within=15)
    served = [s for s in range(1, 201, 2) if client.statuses.get(s) == 200]
    check("101 streams", "100 are served", len(served) == 100 or client.gone not in (None, NO_ERROR), client)
    check("101 streams", "the last is refused", 201 not in client.statuses, client)
    client.close()
    healthy("101 streams")


def unread():
    """A client that opens its windows and reads nothing loses its connections, and others get their event streams."""
    global cases
    cases += 1
    wide = b"\0\4\x7f\xff\xff\xff"
    clients = []
    for number in range(12):
        client = Client(settings=wide)
        client.send(frame(WINDOW, 0, 0, b"\x7f\x00\x00\x00"))
        client.send(b"".join(request(stream, path="/openapi.json" if number else "/api/v1/events?from=0") for stream in range(1, 129, 2)))
        clients.append(client)
    end = time.monotonic() + LIMIT + 10
    state = {}
    while time.monotonic() < end:
        time.sleep(0.5)
        probe = Client()
        probe.send(request(1, path="/metrics"))
        probe.read(lambda c: 1 in c.ended, within=10)
        lines = [line.split() for line in probe.bodies.get(1, b"").decode(errors="replace").splitlines() if not line.startswith("#")]
        state = {line[0]: float(line[1]) for line in lines if len(line) == 2}
        probe.close()
        if state.get("regispay_http_unread_bytes") == 0 and state.get("regispay_http2_streams", 99) <= 65:
            break
    check("unread", f"all that is unread is given up: {state.get('regispay_http_unread_bytes')}", state.get("regispay_http_unread_bytes") == 0)
    check("unread", f"streams end: {state.get('regispay_http2_streams')}", state.get("regispay_http2_streams", 99) <= 65)
    for client in clients:
        client.close()
    healthy("unread")


def not_processed():
    """Of a client that floods, the server does not say that its requests were not processed: it may have created payments."""
    global cases
    cases += 1
    client = Client()
    client.send(b"".join(request(stream, JSON, flags=END_HEADERS, **CREATE) + frame(DATA, END_STREAM, stream, BODY) for stream in range(1, 11, 2))
                + frame(PING, 0, 0, bytes(8)) * 1_500)
    client.read(lambda c: c.gone is not None or c.is_closed)
    check("flood behind requests", f"last stream {client.last}", client.gone == CALM and client.last is not None and client.last >= 9, client)
    client.close()
    healthy("flood behind requests")


def given_up():
    """Event streams that are given up leave their places to others: a client may have 64."""
    global cases
    cases += 1
    client = Client()
    for turn in range(10):
        mine = range(1 + turn * 80, 81 + turn * 80, 2)
        client.send(b"".join(request(stream, path="/api/v1/events") for stream in mine))
        client.read(lambda c: all(s in c.statuses for s in mine))
        check("streams given up", f"turn {turn} gets 200", all(client.statuses.get(s) == 200 for s in mine), client)
        client.send(b"".join(frame(RST, 0, stream, b"\0\0\0\x08") for stream in mine))
        time.sleep(0.2)
    client.send(request(1001, path="/api/v1/events") + frame(GOAWAY, 0, 0, bytes(8)))
    client.read(lambda c: 1001 in c.bodies)
    check("streams given up", "a stream goes on after GOAWAY", client.statuses.get(1001) == 200 and not client.is_closed, client)
    client.close()
    healthy("streams given up")


for part in [malformed, framing, most_streams, given_up, not_processed, unread, floods, patience]:
    if len(sys.argv) < 6 or sys.argv[5] == part.__name__:
        part()
for failure in failures:
    print(failure)
print(f"{cases} cases")
sys.exit(1 if failures else 0)
