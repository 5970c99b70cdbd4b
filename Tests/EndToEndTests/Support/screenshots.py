#!/usr/bin/env python3
"""Pictures of every page of RegisPay, in both themes and two widths.

    screenshots.py --program regispay FOLDER [PAGE ...]

The server runs in a temporary folder and gets payments in several states first.
"""

import argparse
import json
import os
import tempfile
import time

from browser import with_browser
from page import Server, require

WIDTHS = [(1440, 900), (390, 844)]


def wait(what, condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        require(time.monotonic() < deadline, what)
        time.sleep(0.1)


def prepare(server):
    """Payments in every state that a person has to do with, and webhooks."""
    def count(query):
        return len(server.request("GET", "/api/v1/payments?limit=200&" + query)["payments"])

    def create(number, currency):
        return server.request("POST", "/api/v1/payments", {"amount": number, "currency": currency})["paymentId"]

    made = [create(19.9 + number * 7, ["GBP", "EUR", "USD"][number % 3]) for number in range(40)]
    wait("payments complete", lambda: count("status=Completed") == 40)
    server.request("POST", f"/api/v1/payments/{made[3]}/refunds", {"amount": 5})
    server.request("POST", f"/api/v1/payments/{made[5]}/refunds", {})
    server.request("PUT", "/psp/api/faults", {"decline": 1})
    create(4000, "GBP")
    wait("one is declined", lambda: count("status=Declined") == 1)
    server.request("DELETE", "/psp/api/faults")
    server.request("PUT", "/notifications/api/faults", {"failBefore": 1, "failStatuses": [400]})
    for number in range(3):
        create(61 + number, "EUR")
    wait("three are parked", lambda: count("status=Failed") == 3)
    server.request("DELETE", "/notifications/api/faults")
    server.request("POST", "/api/v1/webhooks", {"url": "https://receiver.invalid/payments", "description": "The shop's orders"})
    server.request("PUT", "/psp/api/faults", {"failBefore": 1, "failStatuses": [503]})
    for number in range(8):
        create(250 + number, "USD")
    time.sleep(3)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("folder")
    parser.add_argument("pages", nargs="*")
    arguments = parser.parse_args()
    os.makedirs(arguments.folder, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        server = Server(arguments.program, os.path.join(directory, "data"))
        try:
            prepare(server)
            with_browser(lambda browser: take(browser, server, arguments))
        finally:
            server.kill()


def take(browser, server, arguments):
    def first(query):
        return server.request("GET", "/api/v1/payments?limit=1&" + query)["payments"][0]["paymentId"]

    endpoint = server.request("GET", "/api/v1/webhooks")["webhooks"][0]["id"]
    pages = {name: name for name in ["overview", "payments", "create", "processing", "actions", "log", "webhooks", "simulator", "system"]}
    pages |= {
        "payment": "payments/" + first("status=Completed"), "payment-refunded": "payments/" + first("refunded=part"),
        "payment-parked": "payments/" + first("status=Failed"), "payment-waiting": "payments/" + first("status=Initiated"),
        "payments-filtered": "payments?status=Completed&currency=EUR&sort=-amount", "payments-none": "payments?search=nothing-has-this",
        "webhook": "webhooks?id=" + endpoint, "missing": "nowhere",
    }
    browser.open(server.url + "/")
    browser.wait("the page going live", "document.getElementById('live')?.dataset.state === 'live'")
    for width, height in WIDTHS:
        browser.size(width, height)
        for theme in ["light", "dark"]:
            browser.scheme(theme)
            for name, address in pages.items():
                if arguments.pages and name not in arguments.pages:
                    continue
                browser.evaluate(f"location.hash = {json.dumps('#/' + address)}")
                time.sleep(0.3)
                browser.wait(f"{name} being there", "document.querySelector('main h1') && !document.querySelector('.loading')")
                time.sleep(0.3)
                browser.picture(os.path.join(arguments.folder, f"{name}-{theme}-{width}.png"))
    for text in browser.complaints:
        print("the browser complained:", text)


if __name__ == "__main__":
    main()
