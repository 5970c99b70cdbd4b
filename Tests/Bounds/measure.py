#!/usr/bin/env python3
"""How long `GET /alive` takes beside 16 of the dearest requests of each route.

Makes a store with many payments (once; it is kept and used again), starts a server on it, and then, for one kind of request
after another, sends 16 of them at once, again and again, while another process asks for /alive every 2 ms on a connection of
its own. Prints a line for each kind: /alive's p50, p99 and maximum, how many of the dear requests were answered, with which
status, and how long the slowest took. Times are in milliseconds, percentiles are exact.

    Tests/Bounds/measure.py --programs .build/release --dir /tmp/bounds --payments 1250000

With --limit it ends with 1 when a p99 is over that many milliseconds.
"""

import argparse
import collections
import http.client
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid

STATUSES = ["Initiated", "Created", "Settled", "Completed", "Declined", "Cancelling", "Cancelled", "Refunding", "Refunded",
            "Failed"]


# MARK: - The store

class Filler:
    """Writes events with `logstore append`, a thousand in one append."""

    def __init__(self, logstore, directory):
        self.count = 0
        self.process = subprocess.Popen(
            [logstore, "append", "--dir", directory, "--batch", "1000", "--segment-size", "32MiB"],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, bufsize=1 << 20)

    def add(self, stream, kind, payload):
        self.count += 1
        self.process.stdin.write(f"{stream}\t{kind}\t{payload}\n".encode())

    def close(self):
        self.process.stdin.close()
        if self.process.wait() != 0:
            sys.exit("logstore append failed")


def payment_id(number):
    # Of version 7, as the server makes them: the first digits are the time, so all begin with 01.
    random.seed(number)
    return str(uuid.UUID(int=(0x0198_0000_0000 + number // 16) << 80 | 7 << 76 | random.getrandbits(12) << 64 | 2 << 62
                         | random.getrandbits(62)))


def fill_payments(logstore, directory, count):
    """The oldest fiftieth failed, in a currency that is not seen later; of the rest a tenth was declined."""
    filler = Filler(logstore, directory)
    old = count // 50
    for first in range(0, count, 1000):
        numbers = range(first, min(first + 1000, count))
        ids = [payment_id(number) for number in numbers]
        # As in a server's log: the events of one payment lie apart, with others between.
        for number, payment in zip(numbers, ids):
            currency = "USD" if number < old else ("GBP", "EUR")[number // 7 % 2]
            amount = f"{1 + number % 1000}.{number % 90 + 10}"
            filler.add(f"pay:{payment}", "PaymentInitiated",
                       f'{{"paymentId":"{payment}","amount":{amount},"currency":"{currency}"}}')
        for number, payment in zip(numbers, ids):
            if number < old:
                filler.add(f"pay:{payment}", "PaymentFailed", '{"step":"create","reason":"no answer that can be read"}')
            elif number % 10 == 0:
                filler.add(f"pay:{payment}", "PaymentDeclined", '{"step":"create","reason":"insufficient funds"}')
            else:
                filler.add(f"pay:{payment}", "PaymentCreated", f'{{"paymentReference":"psp-{payment}"}}')
        for step in ("PaymentSettled", "PaymentCompleted"):
            for number, payment in zip(numbers, ids):
                if number >= old and number % 10 != 0:
                    filler.add(f"pay:{payment}", step, "{}")
    # One that was put off again and again.
    long = payment_id(count)
    filler.add(f"pay:{long}", "PaymentInitiated", f'{{"paymentId":"{long}","amount":1.00,"currency":"GBP"}}')
    for attempt in range(1, 20_001):
        filler.add(f"pay:{long}", "PaymentDelayed",
                   f'{{"step":"create","until":{attempt},"attempts":{attempt},"ownFailures":0,"reason":"try later"}}')
    filler.add(f"pay:{long}", "PaymentFailed", '{"step":"create","reason":"given up"}')
    # Somebody else's, as large as an event may be.
    for _ in range(4):
        filler.add("big", "Big", '["' + "x" * (8 << 20) + '"' + ",1" * (7 << 19) + "]")
    filler.close()
    return filler.count - 4


def fill_charges(logstore, directory, count):
    filler = Filler(logstore, directory)
    for first in range(0, count, 1000):
        references = [str(uuid.uuid4()) for _ in range(first, min(first + 1000, count))]
        for reference in references:
            filler.add(f"charge:{reference}", "ChargeCreated",
                       f'{{"reference":"{reference}","idempotencyKey":null,"paymentId":null,"amount":1.00,"currency":"GBP",'
                       '"status":"created","refunded":0.00,"refunds":0}')
        for reference in references:
            filler.add(f"charge:{reference}", "ChargeSettled", "{}")
    filler.close()


def fill(options):
    done = f"{options.dir}/filled"
    if os.path.exists(done):
        options.big = int(open(done).read())
        return
    os.makedirs(options.dir, exist_ok=True)
    big = fill_payments(f"{options.programs}/logstore", f"{options.dir}/payments", options.payments)
    fill_charges(f"{options.programs}/logstore", f"{options.dir}/simulator", options.payments // 4)
    with open(done, "w") as file:
        file.write(str(big))
    options.big = big


# MARK: - The server

class Server:
    def __init__(self, options):
        self.process = subprocess.Popen(
            [f"{options.programs}/regispay", "serve", "--dir", options.dir, "--port", "0", "--log-level", "error"],
            stdout=subprocess.PIPE, text=True, preexec_fn=lambda: os.nice(options.nice) and None)
        line = self.process.stdout.readline()
        if "http://" not in line:
            sys.exit("the server did not start")
        self.port = int(line.rsplit(":", 1)[1])

    def get(self, path, method="GET", body=None, headers={}):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, data

    def wait_until_whole(self):
        """Until the list holds every payment and the consumers have seen every event."""
        import json
        while True:
            status = json.loads(self.get("/api/v1/consumers")[1])
            # The cursors stand still in front of nothing only: what is behind is looked at, once.
            if status["paymentList"]["complete"] and status["consumers"] and all(
                    consumer["lag"] == 0 for consumer in status["consumers"]):
                return
            time.sleep(1)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


# MARK: - Load

def load(port, case, count, seconds, begun, results):
    """`count` connections that each send the request again and again; in a process of its own."""
    end = time.monotonic() + seconds
    tally, slowest, lock = collections.Counter(), [0.0], threading.Lock()

    def work():
        connection = None
        while time.monotonic() < end:
            method, path, body, headers = case()
            start = time.monotonic()
            try:
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                if answer.getheader("Content-Type", "").startswith("text/event-stream"):
                    # Kept to the end: the server notices with its next heartbeats that a stream's client is gone.
                    connection.sock.settimeout(max(0.1, end - time.monotonic()))
                    try:
                        while time.monotonic() < end and answer.read1(1 << 20):
                            pass
                    except TimeoutError:
                        return
                    finally:
                        connection.close()
                        connection = None
                else:
                    while answer.read(1 << 20):
                        pass
            except (OSError, http.client.HTTPException) as error:
                with lock:
                    tally[type(error).__name__] += 1
                connection = None
                continue
            with lock:
                tally[answer.status] += 1
                slowest[0] = max(slowest[0], time.monotonic() - start)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    begun.set()
    for thread in threads:
        thread.join(max(0.0, end + 5 - time.monotonic()))
    results.put((dict(tally), slowest[0]))


def probe(port, seconds, results, niceness):
    """Asks for /alive every 2 ms and notes how long each takes."""
    try:
        os.nice(niceness)
    except PermissionError:
        pass
    request = b"GET /alive HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    times, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.monotonic()
        connection.sendall(request)
        answer = b""
        while not answer.endswith(b"Healthy"):
            part = connection.recv(4096)
            if not part:
                sys.exit("the server closed the connection")
            answer += part
        taken = time.monotonic() - start
        times.append(taken * 1000)
        time.sleep(max(0.0, 0.002 - taken))
    results.put(times)


def percentile(times, percent):
    return sorted(times)[min(len(times) - 1, int(len(times) * percent / 100))]


def measure(port, name, case, options):
    begun, loads, probes = multiprocessing.Event(), multiprocessing.Queue(), multiprocessing.Queue()
    loader = None
    if case:
        loader = multiprocessing.Process(
            target=load, args=(port, case, options.requests, options.seconds + 1, begun, loads))
        loader.start()
        begun.wait()
        time.sleep(0.5)
    prober = multiprocessing.Process(target=probe, args=(port, options.seconds, probes, options.nice))
    prober.start()
    times = probes.get()
    prober.join()
    tally, slowest = loads.get() if case else ({}, 0)
    if loader:
        loader.join(10)
        if loader.is_alive():
            loader.kill()
    answers = ", ".join(f"{status} × {count}" for status, count in sorted(tally.items(), key=str))
    p99 = percentile(times, 99)
    print(f"| {name} | {percentile(times, 50):.2f} | {p99:.2f} | {max(times):.1f} | {len(times)} | {answers or 'none ended'} |"
          f" {slowest * 1000:.0f} |", flush=True)
    return p99


# MARK: - Requests

def cases(options):
    def get(path, **headers):
        return lambda: ("GET", path, None, headers)

    def post(path, body, method="POST"):
        return lambda: (method, path, body, {"Content-Type": "application/json"})

    long = payment_id(options.payments)
    some = payment_id(options.payments // 2)
    keys = "{" + ",".join(f'"k{n}":0' for n in range(6_000)) + "}"
    nested = '{"amount":' + "[" * 31 + ",".join(["1"] * 30_000) + "]" * 31 + "}"
    limit = 63 << 10

    def random_payment():
        return ("GET", f"/api/v1/payments/{payment_id(int.from_bytes(os.urandom(4)) % options.payments)}", None, {})

    def key():
        return ("POST", f"/api/v1/payments/{some}/refunds", '{"amount":0.01}',
                {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())})

    all = {
        "nothing": None,
        "`events?from=0&type=nothing`": get("/api/v1/events?from=0&type=PaymentRefundFailed"),
        "`events?from=0`": get("/api/v1/events?from=0"),
        "`events`, 16 MiB each": get(f"/api/v1/events?from={options.big}"),
        "`payments?limit=200`": get("/api/v1/payments?limit=200"),
    }
    for sort in ("created", "-created", "updated", "-updated", "amount", "-amount"):
        for query in ("currency=GBP", "currency=USD", "status=Failed", "status=Declined", "status=Completed&currency=USD",
                      "status=Declined&currency=USD", "search=01", "search=psp-01&status=Failed", "search=0198",
                      "search=0198&status=Failed&currency=GBP", "search=zzz"):
            all[f"`payments?{query}&sort={sort}`"] = get(f"/api/v1/payments?{query}&sort={sort}&limit=200")
    all |= {
        "`payments?status=Cancelled&after=…`": get("/api/v1/payments?status=Cancelled&after=updated_0_0"),
        "`payments/{id}`": random_payment,
        "`payments/{id}` of 20,002 events": get(f"/api/v1/payments/{long}"),
        "`payments/{id}/events` of 20,002 events": get(f"/api/v1/payments/{long}/events"),
        "`POST payments/{id}/cancel` of 20,002 events": post(f"/api/v1/payments/{long}/cancel", ""),
        "`POST payments/{id}/refunds` with new keys": key,
        "`POST payments`, 6,000 members": post("/api/v1/payments", keys),
        "`POST payments`, 60 KiB nested": post("/api/v1/payments", nested[:limit]),
        "`consumers`": get("/api/v1/consumers"),
        "`/psp/api/ledger`": get("/psp/api/ledger"),
        "`PUT /psp/api/faults`, 60 KiB": post("/psp/api/faults", keys, "PUT"),
        "`POST /psp/api/payments/create`, 60 KiB": post("/psp/api/payments/create", keys),
        "`webhooks`": get("/api/v1/webhooks"),
        "`POST webhooks`, 60 KiB": post("/api/v1/webhooks", keys),
        "`/health`": get("/health"),
        "`/metrics`": get("/metrics"),
        "`/openapi.json`": get("/openapi.json"),
        "`/`": get("/", Accept="text/html"),
        "`/assets/main.js`": get("/assets/main.js"),
    }
    return {name: case for name, case in all.items() if any(word in name for word in options.only)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", required=True, help="the folder with regispay and logstore")
    parser.add_argument("--dir", required=True, help="the data directory; it is filled if it is not, and kept")
    parser.add_argument("--payments", type=int, default=1_250_000)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5, help="for each kind of request")
    parser.add_argument("--only", action="append", help="only requests whose name has this in it; may be repeated")
    parser.add_argument("--limit", type=float, help="milliseconds that a p99 may have")
    parser.add_argument("--nice", type=int, default=0, help="of server and probe, on a machine that does other things too")
    options = parser.parse_args()
    options.only = options.only or [""]
    begin = time.monotonic()
    fill(options)
    filled = time.monotonic()
    server = Server(options)
    try:
        server.wait_until_whole()
        status, page = server.get("/api/v1/payments?limit=1")
        import json
        options.end = json.loads(page)["logEnd"]
        print(f"{options.payments} payments, {options.end} events; filled in {filled - begin:.0f} s, read in "
              f"{time.monotonic() - filled:.0f} s; {os.cpu_count()} processors\n\n"
              "| 16 at once | p50 | p99 | max | asked | answers | slowest |\n|---|---|---|---|---|---|---|", flush=True)
        over = [name for name, case in cases(options).items()
                if measure(server.port, name, case, options) > (options.limit or float("inf"))]
    finally:
        server.stop()
    if over:
        sys.exit(f"over {options.limit} ms: " + ", ".join(over))


if __name__ == "__main__":
    # Each case is a closure, which only a fork can take along.
    multiprocessing.set_start_method("fork")
    main()
