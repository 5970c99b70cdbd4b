#!/usr/bin/env python3
"""Restarts a server again and again under load, with a listening socket that outlives each process, and counts what
clients notice of it: refused connections, requests without a response, other responses than 200.

    handover.py --program .build/release/regispay --dir FOLDER --restarts 10

The socket is handed over as systemd does (LISTEN_FDS). Half of the clients keep their connections open, and make a new one when
the server has closed it after a response; the others make a new one for each request. Each payment has an idempotency key of its own and is sent once. Exits with 1 if
a client noticed something, or a payment is missing.
"""

import argparse
import ctypes
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid


def before_exec(listener):
    # A script that is killed takes its server with it: PR_SET_PDEATHSIG.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    os.dup2(listener, 3)


class Server:
    def __init__(self, options, listener):
        self.process = subprocess.Popen(
            ["sh", "-c", 'LISTEN_PID=$$ exec "$0" "$@"', options.program, "serve", "--dir", options.dir + "/data",
             "--segment-bytes", "1048576", "--log-level", "warning"],
            env=os.environ | {"LISTEN_FDS": "1"}, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: before_exec(listener),
            pass_fds=[3])

    def ready(self):
        line = self.process.stdout.readline()
        assert "ready" in line, line
        return line.split()[-1]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.process.returncode


class Client(threading.Thread):
    def __init__(self, port, done, pause, keeps):
        super().__init__(daemon=True)
        self.port, self.done, self.pause, self.keeps = port, done, pause, keeps
        self.ids, self.troubles, self.slowest = [], [], 0

    def run(self):
        connection = None
        while not self.done.is_set():
            begin = time.monotonic()
            try:
                # As clients do before they use a kept connection: the server may have closed it since.
                if connection is not None and select.select([connection.sock], [], [], 0)[0]:
                    connection.close()
                    connection = None
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
                    connection.connect()
                connection.request("POST", "/api/payment/create", '{"amount":1.00,"currency":"GBP"}',
                                   {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())})
                response = connection.getresponse()
                body = response.read()
                if response.status != 200:
                    raise ValueError(f"{response.status} {body[:200]}")
                self.ids.append(json.loads(body)["paymentId"])
                if response.getheader("Connection") == "close" or not self.keeps:
                    connection.close()
                    connection = None
            except Exception as trouble:
                self.troubles.append(repr(trouble))
                connection = None
            self.slowest = max(self.slowest, time.monotonic() - begin)
            time.sleep(self.pause)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", required=True)
    parser.add_argument("--dir", required=True)
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rate", type=float, default=100, help="requests a second of all clients together, at most")
    options = parser.parse_args()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(4096)
    port = listener.getsockname()[1]
    server = Server(options, listener.fileno())
    assert server.ready() == f"http://127.0.0.1:{port}"
    done = threading.Event()
    clients = [Client(port, done, options.clients / options.rate, number % 2 == 0)
               for number in range(options.clients)]
    for client in clients:
        client.start()
    for _ in range(options.restarts):
        time.sleep(0.7)
        server.stop()
        server = Server(options, listener.fileno())
        server.ready()
    time.sleep(0.7)
    done.set()
    for client in clients:
        client.join()
    ids = [name for client in clients for name in client.ids]
    troubles = [trouble for client in clients for trouble in client.troubles]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    missing = 0
    for name in ids:
        connection.request("GET", "/api/v1/payments/" + name)
        response = connection.getresponse()
        response.read()
        missing += response.status != 200
    server.stop()
    print(f"{options.restarts} restarts, {len(ids)} payments, {len(troubles)} troubles, {missing} missing, slowest "
          f"{max(client.slowest for client in clients):.2f} s")
    for trouble in troubles[:10]:
        print(trouble)
    sys.exit(1 if troubles or missing or not ids else 0)


main()
