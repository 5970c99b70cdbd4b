#!/usr/bin/env python3
"""What telemetry costs: processor time and memory of the server for each payment, in paired runs.

One after the other, in turn, a server is started in a fresh folder, gets payments at a constant rate from `regispay load`, and
its processor time (user and system, of all threads) is divided by the payments that completed:

    off    no collector, nobody asks for metrics
    on     spans and log lines to a collector, and /metrics asked for every 5 seconds
    hang   the same, and the collector accepts connections and never answers

Prints each run, and the medians beside those of `off`. The collector is another process, whose time doesn't count. With a rate that
the machine can't reach, all processors are busy until the last payment completes, and payments a second are its highest load.

    Tests/Bounds/telemetry.py --program .build/release/regispay --rate 1000 --seconds 40 --rounds 4
"""

import argparse
import ctypes
import http.server
import multiprocessing
import os
import re
import signal
import socket
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request

TICKS = os.sysconf("SC_CLK_TCK")


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Collector(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *arguments):
        pass


def collect(ready, hangs):
    die_with_parent()
    if hangs:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        ready.put(listener.getsockname()[1])
        connections = []
        while True:
            connections.append(listener.accept())
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    ready.put(server.server_address[1])
    server.serve_forever()


def processor_seconds(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def anonymous_bytes(pid):
    with open(f"/proc/{pid}/status") as file:
        return int(re.search(r"RssAnon:\s+(\d+)", file.read()).group(1)) * 1024


def run(kind, arguments):
    """Returns milliseconds of processor time for a payment, the most memory in MiB, payments a second, and load's report."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    collector = None
    if kind != "off":
        ready = multiprocessing.Queue()
        collector = multiprocessing.Process(target=collect, args=(ready, kind == "hang"), daemon=True)
        collector.start()
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{ready.get()}"
        environment["OTEL_EXPORTER_OTLP_COMPRESSION"] = "gzip"
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "wb") as nowhere:
        server = subprocess.Popen(
            [arguments.program, "serve", "--dir", folder + "/data", "--port", "0", *arguments.server.split()],
            stdout=subprocess.PIPE, stderr=nowhere, text=True, env=environment, preexec_fn=die_with_parent)
        url = server.stdout.readline().split()[-1]
        stopped = threading.Event()
        most = 0

        def watch():
            nonlocal most
            beat = 0
            while not stopped.wait(1):
                beat += 1
                most = max(most, anonymous_bytes(server.pid))
                if kind != "off" and beat % 5 == 0:
                    urllib.request.urlopen(url + "/metrics").read()

        watcher = threading.Thread(target=watch)
        watcher.start()
        load = [arguments.program, "load", "--url", url]
        subprocess.run([*load, "--rate", "200", "--seconds", "5"], capture_output=True, check=True)
        before, began = processor_seconds(server.pid), time.monotonic()
        report = subprocess.run([*load, "--rate", str(arguments.rate), "--seconds", str(arguments.seconds)],
                                capture_output=True, text=True)
        used, took = processor_seconds(server.pid) - before, time.monotonic() - began
        stopped.set()
        watcher.join()
        server.send_signal(signal.SIGTERM)
        server.wait()
    if collector:
        collector.kill()
    completed = arguments.rate * arguments.seconds
    return used / completed * 1_000, most / 2**20, completed / took, report


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--kinds", default="off,on,hang")
    parser.add_argument("--server", default="", help="further options of the server")
    arguments = parser.parse_args()
    kinds = arguments.kinds.split(",")
    results = {kind: [] for kind in kinds}
    for number in range(arguments.rounds):
        for kind in kinds if number % 2 == 0 else reversed(kinds):
            cost, memory, speed, report = run(kind, arguments)
            results[kind].append((cost, memory, speed))
            last = (report.stdout.strip().splitlines() or ["?"])[-1]
            print(f"{kind:5} {cost:.4f} ms a payment, {memory:.1f} MiB, {speed:.0f} payments/s, exit {report.returncode}: {last}", flush=True)
    base = results.get("off")
    for kind in kinds:
        cost = statistics.median(result[0] for result in results[kind])
        memory = statistics.median(result[1] for result in results[kind])
        text = f"{kind:5} median {cost:.4f} ms a payment, {memory:.1f} MiB"
        if base and kind != "off":
            ratios = [mine[0] / other[0] for mine, other in zip(results[kind], base)]
            text += f"; beside off {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
            text += f", {memory - statistics.median(result[1] for result in base):+.1f} MiB"
            speeds = [mine[2] / other[2] for mine, other in zip(results[kind], base)]
            text += f"; payments/s {statistics.median(speeds):.3f} ({min(speeds):.3f} to {max(speeds):.3f})"
        print(text)


if __name__ == "__main__":
    main()
