"""A peer whose responses are not HTTP, or are odd HTTP: the PSP under /psp, the notification service
under /notifications, a receiver of webhooks under /hook/CASE. The first call for a case gets such a response, every
later one a good one. With arguments, a certificate and its key, it speaks TLS.

Prints its port and the number of cases, then nothing. A payment's amount selects the case and the step:
amount in minor units = 1001 + 3 * case + (0 create, 1 settle, 2 notify)."""

import json
import re
import socket
import ssl
import sys
import threading
import time

OK = b"HTTP/1.1 200 OK\r\n"


def status(text):
    return b"HTTP/1.1 " + text + b"\r\nContent-Length: 0\r\n\r\n"


# A name and what is sent: bytes, and numbers of seconds to wait. None resets the connection. The
# connection is closed then; "stay" keeps it open for the next call.
CASES = [
    *[(f"status {code}", [status(code.encode() + b" X"), "stay"]) for code in [
        "000", "001", "007", "042", "099", "100", "101", "102", "103", "199", "299", "600", "700", "999", "1000", "2000",
        "9999", "20", "2", "", "-1", "+200", "2e2", "0x1", "abc"]],
    ("007 and close", [status(b"007 X")]),
    ("no reason", [OK.replace(b" OK", b"") + b"Content-Length: 5\r\n\r\nhello"]),
    ("HTTP/0.9", [b"hello\n"]),
    ("HTTP/1.9", [OK.replace(b"1.1", b"1.9") + b"Content-Length: 0\r\n\r\n"]),
    ("HTTP/2.0", [OK.replace(b"1.1", b"2.0") + b"\r\n"]),
    ("HTTP/65536.1", [OK.replace(b"1.1", b"65536.1") + b"\r\n"]),
    ("HTTP/2 frames", [b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80\0\x04\0\x01\0\0\0\x05\0\xff\xff\xff", "stay"]),
    ("TLS", [b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(range(256)), "stay"]),
    ("SSH", [b"SSH-2.0-OpenSSH_9.2\r\n", "stay"]),
    ("many fields", [OK, b"A: b\r\n" * 100_000, b"\r\n"]),
    ("a long field", [OK, b"A: " + b"b" * 5_000_000, b"\r\n\r\n"]),
    ("a long reason", [b"HTTP/1.1 200 " + b"b" * 5_000_000 + b"\r\n\r\n"]),
    ("a bare CR", [b"HTTP/1.1 200 OK\rContent-Length: 0\r\r", "stay"]),
    ("bare LFs", [b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", "stay"]),
    ("a bare CR in a value", [OK + b"A: b\rc\r\nContent-Length: 0\r\n\r\n", "stay"]),
    ("NUL", [OK + b"A: \0\r\nContent-Length: 0\r\n\r\n", "stay"]),
    ("no UTF-8", [OK + b"A: \xff\xfe\r\n\xff: b\r\nContent-Length: 0\r\n\r\n", "stay"]),
    ("folded", [OK + b"A: b\r\n c\r\n\td\r\nContent-Length: 0\r\n\r\n", "stay"]),
    ("no name", [OK + b": b\r\n\r\n", "stay"]),
    ("a space before the colon", [OK + b"Content-Length : 3\r\n\r\nabc", "stay"]),
    ("1xx without end", [b"HTTP/1.1 102 P\r\n\r\n" * 200_000, "stay"]),
    ("slow 1xx", [b"HTTP/1.1 100 C\r\n\r\n", 0.2, b"HTTP/1.1 103 E\r\nLink: x\r\n\r\n", 0.2, "stay"]),
    ("1xx with a body", [b"HTTP/1.1 102 P\r\nContent-Length: 5\r\n\r\nhello", "stay"]),
    ("an upgrade", [b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x05hello", "stay"]),
    ("half a chunk", [OK + b"Transfer-Encoding: chunked\r\n\r\nffff\r\nabc", "stay"]),
    ("half a chunk and close", [OK + b"Transfer-Encoding: chunked\r\n\r\nffff\r\nabc"]),
    ("no chunk size", [OK + b"Transfer-Encoding: chunked\r\n\r\n\r\n\r\n", "stay"]),
    ("a huge chunk", [OK + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", "stay"]),
    ("a chunk of 2^64", [OK + b"Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n", "stay"]),
    ("chunk extensions", [OK + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"a" * 1_000_000 + b"\r\na\r\n0\r\n\r\n"]),
    ("many trailers", [OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 100_000 + b"\r\n"]),
    ("chunked and a length", [OK + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", "stay"]),
    ("gzip", [OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", "stay"]),
    ("chunked twice", [OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", "stay"]),
    ("two lengths", [OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", "stay"]),
    ("a negative length", [OK + b"Content-Length: -1\r\n\r\n", "stay"]),
    ("a huge length", [OK + b"Content-Length: 9223372036854775807\r\n\r\nabc", "stay"]),
    ("a length of 2^64", [OK + b"Content-Length: 18446744073709551616\r\n\r\n", "stay"]),
    ("a body without end", [OK + b"\r\n", b"x" * 10_000_000]),
    ("garbage behind", [OK + b"Content-Length: 2\r\n\r\n{}garbage\r\n\r\n", "stay"]),
    ("two answers", [(OK + b"Content-Length: 2\r\n\r\n{}") * 2, "stay"]),
    ("half of an answer behind", [OK + b"Content-Length: 2\r\n\r\n{}HTTP/1.1 500 X\r\nContent-", "stay"]),
    ("204 with a body", [b"HTTP/1.1 204 N\r\nContent-Length: 5\r\n\r\nhello", "stay"]),
    ("304 with a body", [b"HTTP/1.1 304 N\r\nContent-Length: 5\r\n\r\nhello", "stay"]),
    ("one byte at a time", [piece for byte in OK + b"Content-Length: 0" for piece in (bytes([byte]), 0.001)] + ["stay"]),
    ("reset", [None]),
    ("closed at once", []),
    ("silence", ["stay"]),
    ("500", [status(b"500 X"), "stay"]),
]

calls = {}
lock = threading.Lock()


def case(path, body):
    """The case and the step of a call, and the content of a good response to it."""
    hook = re.fullmatch(r"/hook/(\d+)", path)
    if hook:
        return int(hook[1]), "hook", b""
    if path.endswith("/create"):
        step, amount = 0, round(json.loads(body)["amount"] * 100)
    elif path.endswith("/settle"):
        step, amount = 1, int(path.split("/")[-2].split("-")[1])
    else:
        step, amount = 2, round(json.loads(json.loads(body)["jsonPayload"])["amount"] * 100)
    index, own = divmod(amount - 1001, 3)
    return (index if own == step else None), f"{step} of {amount}", json.dumps({"paymentId": f"ref-{amount}"}).encode()


def serve(connection):
    stream = connection.makefile("rb")
    while line := stream.readline():
        path = line.split()[1].decode()
        length = 0
        while (field := stream.readline()) not in (b"\r\n", b""):
            name, _, value = field.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        index, call, good = case(path, stream.read(length))
        with lock:
            count = calls[call, index] = calls.get((call, index), 0) + 1
        if index is None or count > 1:
            connection.sendall(OK + b"Content-Length: %d\r\n\r\n" % len(good) + good)
            continue
        for piece in CASES[index][1]:
            if piece is None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            elif piece == "stay":
                break
            elif isinstance(piece, float):
                time.sleep(piece)
            else:
                connection.sendall(piece)
        else:
            return


def begin(connection):
    try:
        with context.wrap_socket(connection, server_side=True) if context else connection as connection:
            serve(connection)
    except OSError:
        # The client has abandoned the call, as it should.
        pass


context = None
if len(sys.argv) > 2:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1], sys.argv[2])
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", 0))
listener.listen(512)
print(listener.getsockname()[1], len(CASES), flush=True)
while True:
    threading.Thread(target=begin, args=(listener.accept()[0],), daemon=True).start()
