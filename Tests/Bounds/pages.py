#!/usr/bin/env python3
"""How fast the operator's pages are over many payments, and what they cost the server.

    Tests/Bounds/pages.py --program .build/release/regispay --logstore .build/release/logstore --payments 1000000 --rate 3000

1. A log of that many payments is made with `logstore append`, in a folder that --directory keeps for the next run; the server makes its
   list from it.
2. In Chromium each page is opened by its address, and the time is taken until it shows its data and nothing loads any more; then each
   filter of the list, from the change of the address to the rows. The median of --repeats is printed.
3. While payments go through at --rate, the frames that the overview and the list draw are counted, and the longest pause between two.
4. In turn, at a rate of --cost-rate, the server's processor time for each payment is taken without a page, with one page's requests, and
   with fifty pages'; these requests are sent by a Python process, whose time does not count. Medians and ratios are printed.
"""

import argparse
import http.client
import json
import multiprocessing
import os
import random
import signal
import statistics
import subprocess
import sys
import time
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "EndToEndTests", "Support"))

from browser import with_browser  # noqa: E402
from telemetry import die_with_parent, processor_seconds  # noqa: E402

PAGES = ["overview", "payments", "processing", "actions", "log", "webhooks", "simulator", "system", "create"]
READY = "document.querySelector('main h1') && !document.querySelector('main .loading') && document.readyState === 'complete'"
FILTERS = ["status=Completed", "status=Failed", "currency=EUR", "refunded=all", "search=0", "amount=10.00", "sort=-amount", "sort=updated",
           "status=Completed&currency=USD", "createdFrom=2026-01-01T00:00:00Z&status=Completed", "step=notify", "status=Failed&step=notify&reason=the%20notification%20service%20refused%20with%20401"]


class Server:
    def __init__(self, program, directory):
        self.process = subprocess.Popen([program, "serve", "--dir", directory, "--port", "0", "--log-level", "error"],
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, preexec_fn=die_with_parent)
        self.url = self.process.stdout.readline().split()[-1]
        self.port = int(self.url.rsplit(":", 1)[1])
        self.program = program

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())

    def load(self, rate, seconds):
        return subprocess.Popen([self.program, "load", "--url", self.url, "--rate", str(rate), "--seconds", str(seconds)],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=die_with_parent)

    def settle(self):
        """Waits until nothing is left to do."""
        while True:
            state = self.get("/api/v1/consumers")
            if state["paymentList"]["complete"] and state["paymentList"]["lag"] == 0 and all(c["lag"] == 0 for c in state["consumers"]):
                return
            time.sleep(0.5)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def make_log(logstore, directory, count):
    """Writes the log of that many payments with `logstore append`, as if a server had processed them."""
    os.makedirs(directory, mode=0o700)
    writer = subprocess.Popen([logstore, "append", "--dir", directory + "/payments", "--batch", "4000"], stdin=subprocess.PIPE,
                              stdout=subprocess.DEVNULL, preexec_fn=die_with_parent)
    began = time.monotonic()
    draw = random.Random(1)
    milliseconds = int(time.time() * 1_000)
    with writer.stdin as pipe:
        for first in range(0, count, 1_000):
            lines = []
            for number in range(first, min(first + 1_000, count)):
                random_bits = draw.getrandbits(62)
                payment = str(uuid.UUID(int=((milliseconds + number // 8) << 80) | (7 << 76) | (number % 4096) << 64 | (2 << 62) | random_bits))
                amount = "10.00" if number % 50 == 0 else f"{draw.randrange(1, 100_000) / 100:.2f}"
                currency = ("GBP", "EUR", "USD")[number % 3]
                stream = f"pay:{payment}\t"
                lines.append(f'{stream}PaymentInitiated\t{{"paymentId":"{payment}","amount":{amount},"currency":"{currency}"}}\n')
                kind = number % 100
                if kind == 0:
                    lines.append(f'{stream}PaymentDeclined\t{{"step":"create","reason":"the PSP declined"}}\n')
                    continue
                lines.append(f'{stream}PaymentCreated\t{{"paymentReference":"{uuid.UUID(int=draw.getrandbits(128))}"}}\n')
                lines.append(f"{stream}PaymentSettled\t{{}}\n")
                if kind == 1:
                    lines.append(f'{stream}PaymentFailed\t{{"step":"notify","reason":"the notification service refused with {400 + number // 100 % 5}","mayHaveHappened":false}}\n')
                else:
                    lines.append(f"{stream}PaymentCompleted\t{{}}\n")
            pipe.write("".join(lines).encode())
    if writer.wait() != 0:
        sys.exit("logstore append refused a line")
    print(f"a log of {count} payments in {time.monotonic() - began:.0f} s", flush=True)


def seconds_until(browser, address, condition):
    """From the change of the address in the page to the condition, by the browser's clock."""
    return browser.evaluate(f"""(async () => {{
        const began = performance.now();
        location.hash = {json.dumps(address)};
        await new Promise((resolve) => setTimeout(resolve, 0));
        for (;;) {{
            if (location.hash === {json.dumps(address)} && ({condition})) return performance.now() - began;
            if (performance.now() - began > 20_000) return -1;
            await new Promise((resolve) => setTimeout(resolve, 4));
        }}
    }})()""", awaits=True)


def open_pages(browser, server, repeats):
    print("\nmilliseconds until a page shows its data: from its address, and from another page")
    payment = server.get("/api/v1/payments?limit=1")["payments"][0]["paymentId"]
    for page in PAGES + ["payments/" + payment]:
        cold, warm = [], []
        for _ in range(repeats):
            browser.call("Page.navigate", url="about:blank")
            began = time.monotonic()
            browser.call("Page.navigate", url=f"{server.url}/#/{page}")
            browser.wait("the page", READY)
            cold.append((time.monotonic() - began) * 1_000)
            other = "#/create" if page != "create" else "#/system"
            seconds_until(browser, other, READY)
            warm.append(seconds_until(browser, "#/" + page, READY))
        print(f"  {page[:20]:20} {statistics.median(cold):7.0f} {statistics.median(warm):7.0f}", flush=True)
    print("\nmilliseconds for a filter of the list")
    for query in FILTERS:
        times = []
        for _ in range(repeats):
            seconds_until(browser, "#/payments", READY)
            times.append(seconds_until(browser, "#/payments?" + query, READY))
        print(f"  {query:55} {statistics.median(times):7.0f}", flush=True)


def frames(browser, server, rate):
    print(f"\nframes a second and the longest pause, while {rate} payments a second are asked for")
    for page in ["overview", "payments"]:
        load = server.load(rate, 16)
        time.sleep(4)
        browser.call("Page.navigate", url=f"{server.url}/#/{page}")
        browser.wait("the page", READY)
        count, longest = browser.evaluate("""new Promise((resolve) => {
            const began = performance.now();
            let [count, last, longest] = [0, began, 0];
            const step = (now) => {
                count += 1;
                longest = Math.max(longest, now - last);
                last = now;
                if (now - began < 8_000) requestAnimationFrame(step); else resolve([count / ((now - began) / 1_000), longest]);
            };
            requestAnimationFrame(step);
        })""", awaits=True)
        rates = server.get("/api/v1/activity")["tick"]
        print(f"  {page:10} {count:5.1f} a second, {longest:5.0f} ms; {rates['acceptedPerSecond']:.0f} accepted a second", flush=True)
        load.wait()
        server.settle()


def follow(port, count):
    """What pages ask for while they show the overview: the stream, and the points each ten seconds."""
    die_with_parent()
    streams = []
    for _ in range(count):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/api/v1/activity/stream")
        response = connection.getresponse()
        if response.status != 200:
            # A page asks each two seconds then.
            connection.close()
            continue
        streams.append(response)
    asking = http.client.HTTPConnection("127.0.0.1", port)
    began = time.monotonic()
    asked = 0
    while True:
        for response in streams:
            response.fp.raw._sock.setblocking(False)
            try:
                while response.fp.raw._sock.recv(65_536):
                    pass
            except BlockingIOError:
                pass
        while asked < (time.monotonic() - began) * count / 10:
            asking.request("GET", "/api/v1/activity")
            asking.getresponse().read()
            asked += 1
        time.sleep(0.05)


def cost(server, rate, rounds, seconds=20):
    print(f"\nmilliseconds of the server's processor time for a payment, at {rate} a second")
    results = {0: [], 1: [], 50: []}
    for number in range(rounds):
        for pages in list(results) if number % 2 == 0 else reversed(results):
            follower = None
            if pages:
                follower = multiprocessing.Process(target=follow, args=(server.port, pages), daemon=True)
                follower.start()
                time.sleep(2)
            before, end = processor_seconds(server.process.pid), server.get("/api/v1/payments/count")["count"]
            server.load(rate, seconds).wait()
            server.settle()
            used = processor_seconds(server.process.pid) - before
            made = server.get("/api/v1/payments/count")["count"] - end
            results[pages].append(used / made * 1_000)
            print(f"  {pages:2} pages: {results[pages][-1]:.4f}", flush=True)
            if follower:
                follower.kill()
                follower.join()
    for pages in [1, 50]:
        ratios = [mine / base for mine, base in zip(results[pages], results[0])]
        print(f"  {pages:2} pages beside none: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--logstore", required=True)
    parser.add_argument("--directory", default="page-bounds")
    parser.add_argument("--payments", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=3_000)
    parser.add_argument("--cost-rate", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if not os.path.exists(arguments.directory):
        make_log(arguments.logstore, arguments.directory, arguments.payments)
    began = time.monotonic()
    server = Server(arguments.program, arguments.directory)
    try:
        server.settle()
        print(f"the server is up to date after {time.monotonic() - began:.0f} s", flush=True)

        def act(browser):
            browser.open(server.url + "/")
            browser.size(1440, 900)
            browser.wait("the page", READY)
            open_pages(browser, server, arguments.repeats)
            frames(browser, server, arguments.rate)

        with_browser(act)
        cost(server, arguments.cost_rate, arguments.rounds)
    finally:
        server.stop()


if __name__ == "__main__":
    main()
