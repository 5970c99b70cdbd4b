#!/usr/bin/env python3
"""Integration events under load, with a RabbitMQ of its own (Debian's rabbitmq-server) that is killed, blocked, emptied and away.

    Tests/Bounds/broker.py --programs .build/release --dir /tmp/broker everything --payments 20000
    Tests/Bounds/broker.py --programs .build/release --dir /tmp/broker away --rate 300 --seconds 600
    Tests/Bounds/broker.py --programs .build/release --dir /tmp/broker cost --rate 300 --seconds 60 --rounds 3

everything: two clients of different projects (pika and py-amqp) receive each event of a load, while the broker is killed with kill -9 and
    started again, restarted by its operator, and blocked by a memory alarm; then one client's queue is purged, and what was purged is
    published again. Ends with 1 if an event is missing, one of a payment comes before an earlier one, or a message is not as MassTransit writes it.
away: the broker is killed under a constant load and comes back after that time. Prints the payments' times, the server's memory,
    and how long the server needed to publish what had waited, while the load went on.
cost: `bench payments --broker`.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import venv

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from telemetry import die_with_parent, processor_seconds  # noqa: E402

SUPPORT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "EndToEndTests", "Support")
ALL = "Regis.Pay.Domain.IntegrationEvents:IntegrationEventBase"
RABBIT = "/usr/lib/rabbitmq/bin/"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Broker:
    def __init__(self, directory):
        self.port, epmd, distribution = free_port(), free_port(), free_port()
        os.makedirs(directory, exist_ok=True)
        for name, text in [("plugins", "[]."), ("rabbitmq.conf", "heartbeat = 10\n")]:
            with open(f"{directory}/{name}", "w") as file:
                file.write(text)
        self.environment = dict(
            os.environ, HOME=directory, RABBITMQ_NODENAME=f"regispay{self.port}@localhost", RABBITMQ_MNESIA_BASE=directory + "/mnesia",
            RABBITMQ_LOG_BASE=directory + "/log", RABBITMQ_NODE_PORT=str(self.port), RABBITMQ_NODE_IP_ADDRESS="127.0.0.1",
            RABBITMQ_DIST_PORT=str(distribution), RABBITMQ_CONF_ENV_FILE="/dev/null", RABBITMQ_ENABLED_PLUGINS_FILE=directory + "/plugins",
            RABBITMQ_CONFIG_FILE=directory + "/rabbitmq", RABBITMQ_PID_FILE=directory + "/pid", ERL_EPMD_PORT=str(epmd),
            ERL_EPMD_ADDRESS="127.0.0.1")
        # The broker would start one that outlives it.
        self.names = subprocess.Popen(["epmd", "-address", "127.0.0.1", "-port", str(epmd)], preexec_fn=die_with_parent)
        self.process = None
        self.url = f"amqp://guest@127.0.0.1:{self.port}"

    def start(self):
        def begin():
            os.setpgrp()
            die_with_parent()

        self.process = subprocess.Popen([RABBIT + "rabbitmq-server"], env=self.environment, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, preexec_fn=begin)
        end = time.monotonic() + 120
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if time.monotonic() > end:
                sys.exit("the broker has not started")
            time.sleep(0.2)

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def control(self, *arguments):
        return subprocess.run([RABBIT + "rabbitmqctl", "--quiet", *arguments], env=self.environment, check=True, text=True,
                              stdout=subprocess.PIPE).stdout

    def close(self):
        self.kill()
        self.names.kill()


class Server:
    def __init__(self, programs, directory, *arguments):
        self.program = programs + "/regispay"
        self.log = open(directory + "/server.txt", "a")
        self.process = subprocess.Popen(
            [self.program, "serve", "--dir", directory + "/data", "--port", "0", "--log-level", "warning", *arguments],
            stdout=subprocess.PIPE, stderr=self.log, text=True, preexec_fn=die_with_parent)
        self.url = self.process.stdout.readline().split()[-1].rstrip("/")

    def request(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read())

    def broker(self):
        return next(c for c in self.request("/api/v1/consumers")["consumers"] if c["name"] == "broker")

    def load(self, rate, seconds):
        return subprocess.Popen(
            [self.program, "load", "--url", self.url, "--rate", str(rate), "--seconds", str(seconds), "--wait", "300"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=die_with_parent)

    def anonymous_mebibytes(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1_024

    def wait_until_published(self):
        while self.broker()["lag"] > 0:
            time.sleep(0.2)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait()


class Receiver:
    """What a client has received, in its order."""

    def __init__(self, python, script, *arguments):
        self.messages, self.bad, self.is_ready = [], [], threading.Event()
        self.process = subprocess.Popen([python, "-B", os.path.join(SUPPORT, script), *arguments], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            words = line.split()
            if words == ["ready"]:
                self.is_ready.set()
            elif line.startswith("{"):
                message = json.loads(line)
                self.messages.append((message["id"], message["message"]["aggregateId"]))
            elif len(words) == 5 and words[0] not in ("bad", "difference", "violation"):
                self.messages.append((words[0], words[2]))
            elif words[0] != "difference":
                # What MassTransit reads and would have written otherwise is listed in docs/INTEGRATION.md.
                self.bad.append(line)

    def stop(self):
        self.process.kill()
        self.process.wait()

    def ids(self):
        return {message for message, _ in list(self.messages)}

    def out_of_order(self, places, parts):
        """The payments of which an event came for the first time after a later one; each part, which ends at such a number of messages,
        by itself: what was purged comes after what was not."""
        bad, begin = set(), 0
        for end in parts + [len(self.messages)]:
            seen, last = set(), {}
            for message, stream in self.messages[begin:end]:
                if message not in seen:
                    seen.add(message)
                    if places[message] < last.get(stream, -1):
                        bad.add(stream)
                    last[stream] = places[message]
            begin = end
        return bad


def ids_on_log(programs, directory):
    """Of each event of a payment its offset."""
    offsets = {}
    dump = subprocess.Popen([programs + "/logstore", "dump", "--format", "json", "--dir", directory + "/data/payments"],
                            stdout=subprocess.PIPE, text=True)
    for line in dump.stdout:
        event = json.loads(line)
        if event.get("stream", "").startswith("pay:"):
            offsets[event["id"]] = event["offset"]
    assert dump.wait() == 0
    return offsets


def environment(directory):
    """A Python environment with both clients."""
    if not os.path.exists(directory + "/python/bin/python3"):
        venv.create(directory + "/python", with_pip=True)
        subprocess.run([directory + "/python/bin/pip", "-q", "install", "pika", "amqp"], check=True)
    return directory + "/python/bin/python3"


def everything(options, broker, directory):
    python = environment(options.dir)
    clients = {"pika": ("receive_integration_events.py", str(broker.port), "pika", ALL),
               "py-amqp": ("masstransit_consumer.py", str(broker.port), "regis-pay")}
    broker.start()
    receivers = {name: Receiver(python, *arguments) for name, arguments in clients.items()}
    for receiver in receivers.values():
        receiver.is_ready.wait(60)
    server = Server(options.programs, directory, "--broker", broker.url)
    seconds = -(-options.payments // options.rate)
    load = server.load(options.rate, seconds)
    began = time.monotonic()

    def until(part):
        time.sleep(max(0, began + part * seconds - time.monotonic()))

    def say(text):
        print(f"{time.monotonic() - began:6.1f} s  {text}; broker {server.broker()['broker']['state']}, lag {server.broker()['lag']}, "
              + ", ".join(f"{name} has {len(r.messages)} messages" for name, r in receivers.items()), flush=True)

    for part in (0.15, 0.3):
        until(part)
        broker.kill()
        time.sleep(3)
        say("killed")
        broker.start()
    until(0.5)
    broker.control("stop_app")
    time.sleep(3)
    say("stopped by its operator")
    broker.control("start_app")
    until(0.65)
    broker.control("set_vm_memory_high_watermark", "0.00001")
    time.sleep(0.1 * seconds)
    say("blocked")
    broker.control("set_vm_memory_high_watermark", "0.6")
    until(0.85)
    # A client is away, its queue fills, and an operator empties it.
    receivers["pika"].stop()
    time.sleep(0.1 * seconds)
    broker.control("purge_queue", "pika")
    say("one queue purged")
    kept = receivers["pika"].messages
    receivers["pika"] = Receiver(python, *clients["pika"])
    receivers["pika"].messages = kept
    report = load.communicate()[0]
    print(report)
    server.wait_until_published()
    say("all published")
    wanted = ids_on_log(options.programs, directory)
    time.sleep(5)
    parts = {name: [len(receiver.messages)] for name, receiver in receivers.items()}
    received = receivers["pika"].ids()
    missing = [offset for message, offset in wanted.items() if message not in received]
    print(f"pika misses {len(missing)} events before the replay from the first of them")
    server.request("/api/v1/broker/replay", {"from": min(missing)})
    server.wait_until_published()
    end = time.monotonic() + 120
    while time.monotonic() < end and any(receiver.ids() != wanted.keys() for receiver in receivers.values()):
        time.sleep(1)
    say("published again")
    is_good = load.returncode == 0
    print(f"{len(wanted)} events")
    for name, receiver in receivers.items():
        missing, out_of_order = len(wanted.keys() - receiver.ids()), len(receiver.out_of_order(wanted, parts[name]))
        print(f"{name}: {len(receiver.messages)} messages, {missing} missing, {out_of_order} payments out of order, {len(receiver.bad)} wrong")
        for line in receiver.bad[:5]:
            print("  " + line.rstrip())
        is_good = is_good and missing == 0 and out_of_order == 0 and not receiver.bad
    is_good = server.stop() == 0 and is_good
    return is_good


def start_with_queue(options, broker):
    """Starts the broker with a bound queue and no consumer: one that reads is not what is measured."""
    broker.start()
    receiver = Receiver(environment(options.dir), "receive_integration_events.py", str(broker.port), "pika", ALL)
    receiver.is_ready.wait(60)
    receiver.stop()


def away(options, broker, directory):
    start_with_queue(options, broker)
    server = Server(options.programs, directory, "--broker", broker.url)
    before = server.load(options.rate, options.before)
    print("with the broker:\n" + before.communicate()[0], flush=True)
    server.wait_until_published()
    broker.kill()
    load = server.load(options.rate, options.seconds + 120)
    began = time.monotonic()
    while time.monotonic() - began < options.seconds:
        print(f"{time.monotonic() - began:6.0f} s  anonymous memory {server.anonymous_mebibytes():5.1f} MiB, lag {server.broker()['lag']}", flush=True)
        time.sleep(min(60, max(0, began + options.seconds - time.monotonic())))
    lag = server.broker()["lag"]
    broker.start()
    while server.broker()["broker"]["state"] != "publishing":
        time.sleep(0.02)
    back, processor = time.monotonic(), processor_seconds(server.process.pid)
    # The load goes on: at each moment some events of the last second are on their way.
    while (left := server.broker()["lag"]) > options.rate * 4:
        print(f"  {time.monotonic() - back:5.1f} s after the connection: lag {left}", flush=True)
        time.sleep(2)
    took = time.monotonic() - back
    print(f"caught up with {lag} events in {took:.1f} s, {lag / took:.0f}/s, while {options.rate} payments/s went on; "
          f"{processor_seconds(server.process.pid) - processor:.1f} s of the server's processor time; "
          f"anonymous memory {server.anonymous_mebibytes():.1f} MiB")
    print("without the broker, and while it caught up:\n" + load.communicate()[0])
    server.wait_until_published()
    return load.returncode == 0 and server.stop() == 0 and took <= 60


def cost(options, broker, directory):
    start_with_queue(options, broker)
    # Its queue needs no more than a few messages.
    broker.control("set_policy", "short", "^pika$", '{"max-length": 1000}', "--apply-to", "queues")
    command = [options.programs + "/bench", "payments", "--dir", directory + "/bench", "--seconds", str(options.seconds), "--broker", broker.url]
    return subprocess.run(command + ["--rate", str(options.rate)] * options.rounds).returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", required=True, help="the folder of the built programs")
    parser.add_argument("--dir", required=True, help="a folder for the stores and the broker")
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("everything")
    part.set_defaults(run=everything)
    part.add_argument("--payments", type=int, default=20_000)
    part.add_argument("--rate", type=int, default=200)
    part = parts.add_parser("away")
    part.set_defaults(run=away)
    part.add_argument("--rate", type=int, default=300)
    part.add_argument("--seconds", type=int, default=600)
    part.add_argument("--before", type=int, default=60, help="seconds of load with the broker, to compare with")
    part = parts.add_parser("cost")
    part.set_defaults(run=cost)
    part.add_argument("--rate", type=int, default=300)
    part.add_argument("--seconds", type=int, default=60)
    part.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    directory = f"{options.dir}/{options.run.__name__}-{int(time.time())}"
    os.makedirs(directory)
    broker = Broker(directory + "/broker")
    try:
        is_good = options.run(options, broker, directory)
    finally:
        broker.close()
    sys.exit(0 if is_good else 1)


main()
