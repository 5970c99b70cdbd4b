#!/usr/bin/env python3
"""Payments at a constant rate while a share of them hangs at the PSP, and what that does to the others.

    hanging_load.py --program .build/release/regispay --rate 20 --hang 0.3 --seconds 300
    hanging_load.py --program .build/release/regispay --rate 100 --hang 0.05 --seconds 300 --errors 0.2
    hanging_load.py --program .build/release/regispay --rate 1000 --hang 0.01 --seconds 300 --kill

The PSP and the notification service are a process of this program, written apart from the simulator. It never answers a
hanging payment, half of them at `create` and half at `settle`, at no try, until the load is over: then "the PSP is back".
With --errors it answers 500 to that share of all calls, with --deploy 404 to all of them for so many seconds. With --kill the server is killed (SIGKILL) in the middle of the
load and started again on the same directory.

A payment's time is from when its request should have gone out, whatever went before, to the timestamp of its
PaymentCompleted. Standard library only; ends with 0 if every expectation held.
"""
import argparse
import asyncio
import calendar
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

# The cents of an amount tell the PSP what to do with the payment.
NORMAL, HANGS_AT_CREATE, HANGS_AT_SETTLE = 0, 1, 2
LATENCY = 0.005  # seconds that the PSP takes for what it answers


# ---------------------------------------------------------------- the PSP

class PSP:
    def __init__(self, errors):
        self.hangs = True
        self.errors = errors
        self.status = None  # what every call is answered with
        self.calls = 0
        self.hung = 0
        self.references = {}  # by idempotency key
        self.settled = {}  # how often money moved, by reference
        self.settle_keys = set()

    def answer(self, path, key, body):
        """Status and body; None for no answer at all."""
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
    """HTTP/1.1 as far as it is needed: requests with Content-Length, one after another."""

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
                self.loop.call_later(LATENCY, self.write, answer)

    def write(self, answer):
        body = json.dumps(answer[1]).encode()
        self.transport.write(
            f"HTTP/1.1 {answer[0]} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body)


def run_psp(listener, errors):
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def main():
        loop = asyncio.get_running_loop()
        psp = PSP(errors)
        server = await loop.create_server(lambda: PSPConnection(psp, loop), sock=listener)
        await server.serve_forever()

    asyncio.run(main())


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
        """Resident memory in MiB; None while it is not running."""
        try:
            with open(f"/proc/{self.process.pid}/status") as status:
                for line in status:
                    if line.startswith("VmRSS:"):
                        return int(line.split()[1]) / 1024
        except OSError:
            pass
        return None

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
    """What is known of each payment that is not over, and the times of those that are."""

    def __init__(self):
        self.asked = {}  # id: when its request should have gone out
        self.open = {}  # id: [kind, when it was initiated]
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
                    # Its answer is still on its way here, or was lost when the server was killed.
                    self.finished_early[id] = (payment, end)
                else:
                    self.times[payment[0]].append(end - began)
        elif kind == "PaymentDelayed":
            self.delays += 1
        elif kind in ("PaymentFailed", "PaymentDeclined", "PaymentOutcomeUnknown", "PaymentCancelled"):
            self.ends[kind] = self.ends.get(kind, 0) + 1

    def accepted(self, id, began):
        self.created += 1
        early = self.finished_early.pop(id, None)
        if early:
            self.times[early[0][0]].append(early[1] - began)
        else:
            self.asked[id] = began

    def close(self):
        """Of those whose answer was never seen the time is from their first event."""
        for payment, end in self.finished_early.values():
            self.times[payment[0]].append(end - payment[1])
        self.finished_early = {}

    def seconds(self, text):
        """Of a timestamp such as 2026-11-28T00:00:00.123456Z, since 1970."""
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
                        last = int(line[4:])
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


class Watch:
    """What the server says and how large it is, every few seconds."""

    def __init__(self):
        self.memory = []  # (second, MiB)
        self.most = {}
        self.reasons = set()
        self.breakers = set()
        self.is_loading = True

    async def run(self, server, stop, interval):
        begin = time.time()
        while not stop.is_set():
            size = server.memory()
            if size:
                self.memory.append((time.time() - begin, size))
            try:
                state = await asyncio.to_thread(server.get, "/api/v1/consumers")
            except OSError:
                state = {"consumers": []}
            for consumer in state["consumers"]:
                for name in ("callsUnderWay", "slowCalls", "unfinished", "waiting", "delayed", "lag"):
                    self.most[name] = max(self.most.get(name, 0), consumer.get(name, 0))
                self.reasons.update(reason["reason"] for reason in consumer.get("reasons", []))
                if self.is_loading and consumer["breaker"]["state"] != "closed":
                    self.breakers.add(f"{consumer['breaker']['of']}: {consumer['breaker'].get('reason', '?')}")
            try:
                await asyncio.wait_for(stop.wait(), interval)
            except asyncio.TimeoutError:
                pass

    def around(self, share, end):
        """Mean memory around that share of the load's time."""
        sizes = [size for second, size in self.memory if abs(second - share * end) <= max(end * 0.1, 2)]
        return sum(sizes) / len(sizes) if sizes else 0


def unblock_signals():
    """What starts this program may have blocked some, and its processes would inherit that."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())


def percentile(sorted_values, share):
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * share))] if sorted_values else 0


def post(port, body):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/control", data=json.dumps(body).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


async def run(options, server, psp_port, seed):
    payments, watch, stop = Payments(), Watch(), asyncio.Event()
    follower = asyncio.create_task(follow(server, payments, stop))
    watcher = asyncio.create_task(watch.run(server, stop, max(0.5, options.seconds / 60)))

    async def kill():
        await asyncio.sleep(options.seconds / 2)
        server.kill()
        await asyncio.to_thread(server.start)

    async def deploy():
        await asyncio.sleep(options.seconds / 4)
        await asyncio.to_thread(post, psp_port, {"hangs": True, "errors": options.errors, "status": 404})
        await asyncio.sleep(options.deploy)
        await asyncio.to_thread(post, psp_port, {"hangs": True, "errors": options.errors})

    begin = time.time()
    deploying = asyncio.create_task(deploy()) if options.deploy else None
    killer = asyncio.create_task(kill()) if options.kill else None
    await load(options, server, payments, seed)
    for task in (killer, deploying):
        if task:
            await task
    load_seconds = time.time() - begin
    # At once: with none but hanging calls left, the breaker would be right to open.
    watch.is_loading = False
    hanging = sum(1 for payment in payments.open.values() if payment[0] != NORMAL)
    memory = [watch.around(share, load_seconds) for share in (0.1, 0.5, 1)]
    await asyncio.to_thread(post, psp_port, {"hangs": False, "errors": 0})
    back = time.time()
    half = None
    while payments.open and time.time() - back < options.wait:
        await asyncio.sleep(0.1)
        if half is None and len(payments.open) <= hanging / 2:
            half = time.time() - back
    finished = time.time() - back
    stop.set()
    follower.cancel()
    await watcher
    payments.close()
    psp = await asyncio.to_thread(post, psp_port, {"hangs": False, "errors": 0})
    return report(options, payments, watch, psp, memory, hanging, half, finished)


def report(options, payments, watch, psp, memory, hanging, half, finished):
    others = sorted(payments.times[NORMAL])
    p50, p99, most = percentile(others, 0.5), percentile(others, 0.99), others[-1] if others else 0
    hung = sorted(payments.times[HANGS_AT_CREATE] + payments.times[HANGS_AT_SETTLE])
    print(f"accepted {payments.created}, not answered with 200: {payments.refused}; "
          f"completed {len(others)} others and {len(hung)} hanging ones")
    print(f"others, request to completed: p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms, max {most * 1000:.0f} ms")
    print(f"hanging at the end of the load: {hanging}; once the PSP was back half of them completed within "
          f"{half if half is not None else -1:.1f} s, all within {finished:.1f} s; PaymentDelayed events: {payments.delays}")
    print("memory at the start, in the middle, at the end of the load: " + ", ".join(f"{m:.0f} MiB" for m in memory))
    print(f"the most that /api/v1/consumers told of one consumer: {watch.most}")
    print(f"reasons: {sorted(watch.reasons)}")
    print(f"breakers seen open: {sorted(watch.breakers)}")
    print(f"the PSP: {psp}; other ends: {payments.ends}")
    expectations = [
        ("the others' p99 is under the limit", p99 < options.limit),
        ("every payment completed", not payments.open and not payments.ends),
        ("each was charged once", psp["chargedTwice"] == 0 and psp["settled"] == len(others) + len(hung)),
        ("most requests were accepted", payments.created > options.rate * options.seconds * (0.7 if options.kill else 0.95)),
        ("memory is flat", memory[2] <= max(memory[0], memory[1]) * 1.25 + 24),
    ]
    if options.deploy:
        expectations.append(("the breaker tells of the 404", any("404" in breaker for breaker in watch.breakers)))
    elif not options.kill:
        expectations.append(("no breaker opened", not watch.breakers))
    if options.hang:
        expectations.append(("the hanging ones are seen, with the reason",
                             watch.most.get("delayed", 0) + watch.most.get("waiting", 0) > 0
                             and any("no answer" in reason for reason in watch.reasons)))
    for what, held in expectations:
        print(f"{'ok' if held else 'NOT SO'}: {what}")
    return all(held for _, held in expectations)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, help="regispay")
    parser.add_argument("--rate", type=float, required=True, help="payments a second")
    parser.add_argument("--hang", type=float, required=True, help="the share of payments that hangs")
    parser.add_argument("--errors", type=float, default=0, help="the share of calls that are answered 500")
    parser.add_argument("--deploy", type=float, default=0, help="for so many seconds every call is answered 404")
    parser.add_argument("--kill", action="store_true", help="kill the server in the middle and start it again")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--call-timeout", type=float, default=10)
    parser.add_argument("--retry-delay-limit", type=float, default=60)
    parser.add_argument("--wait", type=float, default=240, help="seconds for the hanging ones, once the PSP is back")
    parser.add_argument("--limit", type=float, default=1, help="seconds that the others' p99 has to be under")
    parser.add_argument("--argument", action="append", default=[], help="a further argument of regispay serve")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    unblock_signals()
    print(f"{options.rate:g} payments/s, {options.hang:.0%} hang, {options.errors:.0%} of calls fail, "
          f"{options.seconds:g} s{', killed in the middle' if options.kill else ''}; seed {seed}", flush=True)
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    psp_port = listener.getsockname()[1]
    psp = multiprocessing.get_context("fork").Process(target=run_psp, args=(listener, options.errors), daemon=True)
    psp.start()
    listener.close()
    with tempfile.TemporaryDirectory(prefix="regispay-hanging-") as folder:
        server = Server(options, folder, psp_port)
        try:
            held = asyncio.run(run(options, server, psp_port, seed))
        finally:
            server.stop()
            psp.kill()
        if not held:
            print("standard error of the server, its end:")
            print(open(folder + "/stderr.txt", errors="replace").read()[-4000:])
    print("PASSED" if held else "FAILED")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
