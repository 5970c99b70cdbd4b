"""What the load tests share: their own PSP, the server as a process, payments at a constant rate, and their progress from
the event stream. Standard library only."""
import asyncio
import calendar
import json
import multiprocessing
import random
import signal
import socket
import subprocess
import time
import urllib.request

# The cents of an amount tell the PSP what to do with the payment.
NORMAL, HANGS_AT_CREATE, HANGS_AT_SETTLE = 0, 1, 2


# ---------------------------------------------------------------- the PSP

class PSP:
    def __init__(self, errors=0, latency=0.005):
        self.hangs = True
        self.errors = errors
        self.latency = latency  # seconds that it takes for what it answers
        self.status = None  # what every call is answered with
        self.calls = 0
        self.hung = 0
        self.references = {}  # by idempotency key
        self.settled = {}  # how often money moved, by reference
        self.settle_keys = set()

    def answer(self, path, key, body):
        """Status and body; None for no response at all."""
        self.calls += 1
        if path == "/control":
            if body:
                change = json.loads(body)
                self.hangs, self.errors = change["hangs"], change["errors"]
                self.status = change.get("status")
            charged_twice = sum(1 for count in self.settled.values() if count > 1)
            return 200, {"calls": self.calls, "hung": self.hung, "settled": len(self.settled),
                         "chargedTwice": charged_twice}
        if self.status:
            return self.status, {}
        if self.errors and random.random() < self.errors:
            return 500, {}
        if path.endswith("/create"):
            kind = round(float(json.loads(body)["amount"]) * 100) % 100
            if kind == HANGS_AT_CREATE and self.hangs:
                return self.hang()
            reference = self.references.get(key)
            if reference is None:
                prefix = "h" if kind == HANGS_AT_SETTLE else "r"
                reference = self.references[key] = f"{prefix}{len(self.references)}"
            return 200, {"paymentId": reference}
        if path.endswith("/settle"):
            reference = path.split("/")[-2]
            if reference[0] == "h" and self.hangs:
                return self.hang()
            if key not in self.settle_keys:
                self.settle_keys.add(key)
                self.settled[reference] = self.settled.get(reference, 0) + 1
            return 200, {}
        if path.endswith("/api/send"):
            return 200, {}
        return 404, {}

    def hang(self):
        self.hung += 1
        return None


class PSPConnection(asyncio.Protocol):
    """The part of HTTP/1.1 that is needed: requests with Content-Length, one after another."""

    def __init__(self, psp, loop):
        self.psp, self.loop, self.buffer = psp, loop, b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.buffer += data
        while True:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            lines = self.buffer[:end].decode("latin-1").split("\r\n")
            length, key = 0, None
            for line in lines[1:]:
                name, _, value = line.partition(":")
                name = name.lower()
                if name == "content-length":
                    length = int(value)
                elif name == "idempotency-key":
                    key = value.strip()
            if len(self.buffer) < end + 4 + length:
                return
            body = self.buffer[end + 4:end + 4 + length]
            self.buffer = self.buffer[end + 4 + length:]
            answer = self.psp.answer(lines[0].split(" ")[1].removeprefix("/psp"), key, body)
            if answer is not None:
                self.loop.call_later(self.psp.latency, self.write, answer)

    def write(self, answer):
        body = json.dumps(answer[1]).encode()
        self.transport.write(
            f"HTTP/1.1 {answer[0]} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body)


def run_psp(listener, psp):
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: PSPConnection(psp, loop), sock=listener)
        await server.serve_forever()

    asyncio.run(main())


def start_psp(psp):
    """Runs it in its own process; returns the process and its port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    port = listener.getsockname()[1]
    process = multiprocessing.get_context("fork").Process(target=run_psp, args=(listener, psp), daemon=True)
    process.start()
    listener.close()
    return process, port


# ---------------------------------------------------------------- the server

class Server:
    def __init__(self, options, folder, psp_port):
        self.options, self.folder, self.psp_port = options, folder, psp_port
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.errors = open(folder + "/stderr.txt", "wb")
        self.start()

    def start(self):
        psp = f"http://127.0.0.1:{self.psp_port}"
        self.process = subprocess.Popen(
            [self.options.program, "serve", "--dir", self.folder + "/data", "--port", str(self.port),
             "--psp-url", psp + "/psp", "--notifications-url", psp, "--log-level", "error",
             "--call-timeout", str(self.options.call_timeout),
             "--retry-delay-limit", str(self.options.retry_delay_limit)] + self.options.argument,
            stdout=subprocess.PIPE, stderr=self.errors)
        line = self.process.stdout.readline()
        if b"http://" not in line:
            raise SystemExit(f"the server did not start: {open(self.folder + '/stderr.txt').read()}")

    def memory(self):
        """MiB of private memory (RssAnon) and of all resident memory (VmRSS), which includes mapped pages of the log that
        the kernel may drop; None while the server is not running."""
        sizes = {}
        try:
            with open(f"/proc/{self.process.pid}/status") as status:
                for line in status:
                    name, _, rest = line.partition(":")
                    if name in ("RssAnon", "VmRSS"):
                        sizes[name] = int(rest.split()[0]) / 1024
        except OSError:
            return None
        return (sizes["RssAnon"], sizes["VmRSS"]) if len(sizes) == 2 else None

    def print_errors(self):
        self.errors.flush()
        print("standard error of the server, its end:")
        print(open(self.folder + "/stderr.txt", errors="replace").read()[-4000:])

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return json.load(answer)


# ---------------------------------------------------------------- the load

class Client(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self):
        self.buffer, self.answer, self.transport = b"", None, None

    def connection_made(self, transport):
        self.transport = transport

    def connection_lost(self, error):
        self.transport = None
        if self.answer and not self.answer.done():
            self.answer.set_exception(ConnectionError("closed"))

    def data_received(self, data):
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15:].split(b"\r\n")[0])
        if len(self.buffer) < end + 4 + length:
            return
        status, body = int(head.split(b" ")[1]), self.buffer[end + 4:end + 4 + length]
        self.buffer = self.buffer[end + 4 + length:]
        if self.answer and not self.answer.done():
            self.answer.set_result((status, body))

    def post(self, loop, path, body):
        self.answer = loop.create_future()
        self.transport.write(
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return self.answer


class Payments:
    """The state of each unfinished payment, and the times of the finished ones."""

    def __init__(self):
        self.asked = {}  # id: when its request should have gone out
        self.open = {}  # id: [kind, when it was initiated]
        # (when its request was due, seconds from then to its completion)
        self.times = {NORMAL: [], HANGS_AT_CREATE: [], HANGS_AT_SETTLE: []}
        self.finished_early = {}  # id: completed before the answer to its request was seen
        self.delays = 0
        self.ends = {}  # other ends, by type of event
        self.created = self.refused = 0
        self.minutes = {}

    def event(self, event):
        id = event["stream"].removeprefix("pay:")
        kind = event["type"]
        if kind == "PaymentInitiated":
            cents = round(float(event["data"]["amount"]) * 100) % 100
            self.open[id] = [cents, self.seconds(event["timestamp"])]
        elif kind == "PaymentCompleted":
            payment = self.open.pop(id, None)
            if payment:
                end = self.seconds(event["timestamp"])
                began = self.asked.pop(id, None)
                if began is None:
                    # The response has not arrived yet, or was lost when the server was killed.
                    self.finished_early[id] = (payment, end)
                else:
                    self.times[payment[0]].append((began, end - began))
        elif kind == "PaymentDelayed":
            self.delays += 1
        elif kind in ("PaymentFailed", "PaymentDeclined", "PaymentOutcomeUnknown", "PaymentCancelled"):
            self.ends[kind] = self.ends.get(kind, 0) + 1

    def accepted(self, id, began):
        self.created += 1
        early = self.finished_early.pop(id, None)
        if early:
            self.times[early[0][0]].append((began, early[1] - began))
        else:
            self.asked[id] = began

    def close(self):
        """For payments without a response the time begins at their first event."""
        for payment, end in self.finished_early.values():
            self.times[payment[0]].append((payment[1], end - payment[1]))
        self.finished_early = {}

    def seconds(self, text):
        """Seconds of a timestamp such as 2026-11-28T00:00:00.123456Z, since 1970."""
        minute = self.minutes.get(text[:16])
        if minute is None:
            parsed = time.strptime(text[:16], "%Y-%m-%dT%H:%M")
            minute = self.minutes[text[:16]] = calendar.timegm(parsed)
        return minute + float(text[17:].rstrip("Z"))


async def follow(server, payments, stop):
    """Reads the event stream, from one server process to the next."""
    last = None
    while not stop.is_set():
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 20)
            resume = f"Last-Event-ID: {last}\r\n" if last is not None else ""
            query = "" if last is not None else "?from=0"
            writer.write(f"GET /api/v1/events{query} HTTP/1.1\r\nHost: 127.0.0.1\r\n{resume}\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
            rest = b""
            while size := int(await reader.readline() or b"0", 16):
                # A chunk may end in the middle of a line.
                lines = (rest + (await reader.readexactly(size + 2))[:-2]).split(b"\n")
                rest = lines.pop()
                for line in lines:
                    if line.startswith(b"id: "):
                        last = line[4:].decode()
                    elif line.startswith(b"data: "):
                        payments.event(json.loads(line[6:]))
        except (OSError, asyncio.IncompleteReadError):
            pass
        await asyncio.sleep(0.05)


async def load(options, server, payments, seed):
    loop = asyncio.get_running_loop()
    chance = random.Random(seed)
    idle, tasks = [], set()

    async def one(due, kind):
        body = json.dumps({"amount": round(chance.randrange(1, 1000) + kind / 100, 2), "currency": "GBP"}).encode()
        client = None
        try:
            while idle and client is None:
                client = idle.pop()
                if client.transport is None:
                    client = None
            if client is None:
                _, client = await loop.create_connection(Client, "127.0.0.1", server.port)
            status, answer = await asyncio.wait_for(client.post(loop, "/api/payment/create", body), 30)
            if status == 200:
                payments.accepted(json.loads(answer)["paymentId"], due)
            else:
                payments.refused += 1
            idle.append(client)
        except (OSError, asyncio.TimeoutError):
            payments.refused += 1

    wall, begin = time.time(), loop.time()
    count = int(options.rate * options.seconds)
    for number in range(count):
        at = begin + number / options.rate
        wait = at - loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
        kind = NORMAL
        if chance.random() < options.hang:
            kind = chance.choice((HANGS_AT_CREATE, HANGS_AT_SETTLE))
        task = asyncio.create_task(one(wall + (at - begin), kind))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)


def unblock_signals():
    """The program that starts this one may have blocked signals, and child processes would inherit that."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())


def percentile(sorted_values, share):
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * share))] if sorted_values else 0


def control(port, body):
    """Sets the PSP's behaviour from now on; returns what it has done so far."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/control", data=json.dumps(body).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def report(expectations):
    """Prints which claims hold; returns whether all do."""
    for what, held in expectations:
        print(f"{'ok' if held else 'NOT SO'}: {what}")
    return all(held for _, held in expectations)
