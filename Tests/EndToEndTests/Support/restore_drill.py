#!/usr/bin/env python3
"""The restore drill: payments at a rate, backups all the time, kill -9, the data directory deleted, restored, started.

Prints what was lost and how old it was, and exits with 1 unless all that was lost is younger than the interval and one backup, and
each payment that survived completes with one charge at the PSP, which lives on.

  restore_drill.py --program .build/release/regispay --rate 1000 --seconds 120 --every 30
"""
import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--program", required=True)
parser.add_argument("--rate", type=int, default=1000, help="payments a second")
parser.add_argument("--seconds", type=float, default=120)
parser.add_argument("--every", type=int, default=30, help="seconds between two backups")
parser.add_argument("--connections", type=int, default=64)
options = parser.parse_args()
program = os.path.abspath(options.program)
folder = tempfile.mkdtemp(prefix="restore-drill-")
processes = []


def start(*arguments, ready=False):
    errors = open(f"{folder}/{len(processes)}-{arguments[0]}.err", "w")
    process = subprocess.Popen([program, *arguments], stdout=subprocess.PIPE, stderr=errors, text=True)
    processes.append(process)
    if ready:
        line = process.stdout.readline()
        if "http://" not in line:
            sys.exit(f"no start: {open(errors.name).read()}")
        return process, line.split()[-1]
    return process


def get(url):
    with urllib.request.urlopen(url, timeout=60) as response:
        return json.load(response)


async def payments(url, acknowledged, until):
    """Creates payments at the rate; notes each that was acknowledged, with the time at which it was."""
    host, port = url.removeprefix("http://").split(":")
    body = b'{"amount":1,"currency":"GBP"}'
    request = (f"POST /api/payment/create HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
               f"Content-Length: {len(body)}\r\n\r\n").encode() + body
    begin = time.monotonic()
    number = iter(range(10 ** 9))

    async def client():
        reader, writer = await asyncio.open_connection(host, int(port))
        while True:
            due = begin + next(number) / options.rate
            if due > until:
                break
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
            response = await reader.readexactly(length)
            if b" 200 " not in head.split(b"\r\n")[0]:
                raise RuntimeError(head.decode() + response.decode())
            acknowledged[json.loads(response)["paymentId"]] = time.monotonic()
        writer.close()

    await asyncio.gather(*(client() for _ in range(options.connections)))


def listed(url):
    """All payments of the server, with their states."""
    found, after = {}, ""
    while True:
        page = get(f"{url}/api/v1/payments?limit=200{after}")
        for payment in page["payments"]:
            found[payment["paymentId"]] = payment["status"]
        if not page.get("next"):
            return found, page.get("complete", True)
        after = f"&after={page['next']}"


def main():
    psp, psp_url = start("serve", "--dir", f"{folder}/psp", "--port", "0", "--log-level", "warning", ready=True)
    serve = ["serve", "--dir", f"{folder}/data", "--port", "0", "--log-level", "warning", "--psp-url", psp_url + "/psp",
             "--notifications-url", psp_url + "/notifications"]
    server, url = start(*serve, ready=True)
    backup = start("backup", "--dir", f"{folder}/data", "--to", f"{folder}/backup", "--every", f"{options.every}s")
    acknowledged = {}
    begin = time.monotonic()
    asyncio.run(payments(url, acknowledged, begin + options.seconds))
    for process in (server, backup):
        process.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    server.wait(), backup.wait()
    lines = backup.stdout.read().strip().split("\n")
    shutil.rmtree(f"{folder}/data")
    begun = time.monotonic()
    restored = subprocess.run([program, "restore", "--from", f"{folder}/backup", "--dir", f"{folder}/data"],
                              capture_output=True, text=True)
    if restored.returncode != 0:
        sys.exit(f"not restored: {restored.stderr}")
    server, url = start(*serve, ready=True)
    ready = time.monotonic()
    rate = len(acknowledged) / (killed - begin)
    print(f"{len(acknowledged)} payments acknowledged in {killed - begin:.0f} s, {rate:.0f}/s; {len(lines)} backups; "
          f"restored and started in {ready - begun:.1f} s")
    deadline = time.monotonic() + 300
    while True:
        found, complete = listed(url)
        open_ones = sum(1 for payment in acknowledged if found.get(payment, "Completed") != "Completed")
        if complete and open_ones == 0:
            break
        if time.monotonic() > deadline:
            sys.exit(f"{open_ones} payments that survived do not complete")
        time.sleep(1)
    lost = [time_ for payment, time_ in acknowledged.items() if payment not in found]
    age = max((killed - time_ for time_ in lost), default=0)
    charges = {}
    for charge in get(psp_url + "/psp/api/ledger")["charges"]:
        if charge["status"] == "settled":
            charges[charge["paymentId"]] = charges.get(charge["paymentId"], 0) + 1
    wrong = [payment for payment in acknowledged if payment in found and charges.get(payment) != 1]
    print(f"lost {len(lost)}, the oldest {age:.1f} s before the kill; {len(acknowledged) - len(lost)} survived and completed "
          f"in {time.monotonic() - ready:.0f} s; charged other than once: {len(wrong)}")
    # A backup that was running may not have ended.
    if age > options.every + 30 or wrong:
        sys.exit(1)
    for process in (server, psp):
        process.send_signal(signal.SIGTERM)
        if process.wait(60) != 0:
            sys.exit(f"a server ended with {process.returncode}")


try:
    main()
finally:
    for process in processes:
        if process.poll() is None:
            process.kill()
    shutil.rmtree(folder, ignore_errors=True)
