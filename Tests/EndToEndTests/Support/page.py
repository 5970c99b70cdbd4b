"""Uses RegisPay's pages as a person would, in headless Chromium, and fails when they misbehave.

    python3 page.py --program regispay --directory FOLDER [--axe axe.min.js]

The server is started in the folder, killed and started again. With --axe each page is also checked for accessibility.
"""

import argparse
import ctypes
import http.server
import json
import os
import signal
import subprocess
import threading
import time
import urllib.parse
import urllib.request

from browser import Failure, with_browser

SELECT_ALL = "document.activeElement.select()"
MARKUP = "<img src=x onerror=alert(1)>"
PAGES = ["overview", "payments", "create", "processing", "actions", "log", "webhooks", "simulator", "system"]


class Server:
    def __init__(self, program, directory, *options):
        self.log = directory + ".log"
        self.arguments = [program, "serve", "--dir", directory, "--log-level", "warning", "--breaker-seconds", "1",
                          "--allow-private-webhooks", *options]
        self.start(0)

    def start(self, port):
        def die_with_parent():
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)

        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.arguments + ["--port", str(port)], stdout=subprocess.PIPE, stderr=log,
                                            text=True, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)
        line = self.process.stdout.readline()
        require("http://" in line, f"the server says where it is, not {line!r}")
        self.url = line.split()[-1]

    def kill(self):
        self.process.kill()
        self.process.wait()

    def request(self, method, path, body=None):
        request = urllib.request.Request(self.url + path, method=method, headers={"Content-Type": "application/json"},
                                         data=None if body is None else json.dumps(body).encode())
        with urllib.request.urlopen(request) as response:
            return json.load(response)

    def metrics(self):
        with urllib.request.urlopen(self.url + "/metrics") as response:
            return response.read().decode()


def require(condition, what):
    if not condition:
        raise Failure("not true: " + what)


def text(browser, selector):
    return browser.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")


def status(browser):
    return browser.evaluate("document.querySelector('.page .badge[data-status]')?.dataset.status")


def go(browser, page):
    browser.evaluate(f"location.hash = {json.dumps('#/' + page)}")
    browser.wait(f"page {page} being there",
                 f"location.hash === {json.dumps('#/' + page)} && document.querySelector('.page h1')"
                 " && !document.querySelector('.page .loading')")


def press(browser, *keys):
    for key in keys:
        named = {"Enter": 13, "Tab": 9, "Escape": 27}
        browser.key(key, named.get(key, ord(key.upper()[0])), "\r" if key == "Enter" else None if key in named else key)


def create(browser, amount, ending="Completed", seconds=5):
    """Creates a payment by keyboard alone and follows it to its end. Returns its id."""
    press(browser, "n")
    browser.wait("the form", "document.activeElement.id === 'amount'")
    browser.type(amount)
    press(browser, "Enter")
    browser.wait("the payment's page", "location.hash.startsWith('#/payments/')")
    if ending:
        browser.wait(f"the payment being {ending}", f"document.querySelector('.page .badge[data-status]')?.dataset.status === '{ending}'",
                     seconds)
    return browser.evaluate("location.hash.split('/')[2]")


def confirm(browser):
    browser.wait("the question", "document.querySelector('dialog[open]')")
    browser.click("dialog[open] button[type=submit]")
    browser.wait("the dialog's end", "!document.querySelector('dialog[open]')")


def forms(browser):
    """Refusals stand at their fields, a payment completes without a reload, and its digits are right."""
    browser.evaluate("window.notReloaded = true")
    press(browser, "n")
    browser.wait("the form", "document.activeElement.id === 'amount'")
    browser.type("-1")
    press(browser, "Enter")
    browser.wait("the refusal", "document.getElementById('amount-error').textContent.includes('postive')")
    require(browser.evaluate("document.getElementById('amount').ariaInvalid") == "true", "the field is marked")
    browser.evaluate(SELECT_ALL)
    browser.type(MARKUP)
    press(browser, "Enter")
    browser.wait("the refusal", "document.getElementById('amount-error').textContent.includes('must be a number')")
    browser.evaluate(SELECT_ALL)
    browser.type("1234567.10")
    press(browser, "Tab")
    require(browser.evaluate("document.activeElement.id") == "currency", "Tab leads to the currency next")
    press(browser, "Tab")
    require(browser.evaluate("document.activeElement.type") == "submit", "Tab leads to the button then")
    started = time.monotonic()
    press(browser, "Enter")
    browser.wait("the payment's completion", "document.querySelector('.page .badge[data-status]')?.dataset.status === 'Completed'", 3)
    took = time.monotonic() - started
    require("1,234,567.10" in text(browser, ".headline"), f"the amount is shown to the penny, not {text(browser, '.headline')}")
    payment = browser.evaluate("location.hash.split('/')[2]")
    browser.wait("its events", "document.querySelectorAll('.timeline > li').length === 4")
    steps = browser.evaluate("[...document.querySelectorAll('.timeline b')].map((element) => element.innerText)")
    require(steps == ["Initiated", "Created at the PSP", "Settled", "Completed"], f"the timeline is told in order, not {steps}")
    browser.click(".timeline details summary")
    browser.wait("the event's JSON", "document.querySelector('.timeline pre').innerText.includes('\"amount\": 1234567.10')")
    browser.wait("the trace", "document.querySelectorAll('.waterfall li').length >= 7")
    print(f"a payment was created by keyboard and seen completed after {took:.2f} s")
    return payment


def finding(browser, payment):
    """The search is a key away, filters stand in the address and can be removed, and the order can be changed."""
    press(browser, "/")
    browser.type(payment[:18])
    press(browser, "Enter")
    browser.wait("one payment being found", f"document.querySelectorAll('tr[data-payment]').length === 1"
                 f" && document.querySelector('tr[data-payment]').dataset.payment === '{payment}'")
    require(browser.evaluate("location.hash.includes('search=')"), "the search stands in the address")
    browser.click(".chip button")
    browser.wait("the list without a filter", "!document.querySelector('.chip') && document.querySelectorAll('tr[data-payment]').length > 0")
    go(browser, "payments?status=Declined")
    browser.wait("nothing being found", "document.querySelector('.nothing')")
    go(browser, "payments")
    browser.click("th.money button")
    browser.wait("the order by amount", "document.querySelector('th[aria-sort=descending].money')")


def outage(browser, server):
    """The PSP fails: the breaker opens, payments wait, and they complete when it works again."""
    go(browser, "simulator")
    browser.click("[data-focus='psp-preset-down']")
    browser.wait("the faults", "document.querySelector('.page .badge[data-tone=wait]')")
    payments = [create(browser, str(amount), ending=None) for amount in range(11, 18)]
    go(browser, "processing")
    browser.wait("the breaker being open", "[...document.querySelectorAll('.page .badge')].some((badge) => badge.innerText.includes('Breaker'"
                 ") && !badge.innerText.includes('closed'))", 20)
    go(browser, "overview")
    browser.wait("the breaker on the overview", "document.querySelector('.attention')?.innerText.includes('Circuit breaker')", 20)
    go(browser, "payments/" + payments[-1])
    require(status(browser) == "Initiated", f"the payment waits and is not {status(browser)}")
    go(browser, "simulator")
    browser.click("[data-focus='psp-preset-well']")
    browser.wait("the faults' end", "document.querySelector('.page .panel .badge').dataset.tone === 'good'")
    go(browser, "payments/" + payments[-1])
    browser.wait("the payment's completion", "document.querySelector('.page .badge[data-status]').dataset.status === 'Completed'", 30)
    for payment in payments:
        deadline = time.monotonic() + 30
        while server.request("GET", "/api/v1/payments/" + payment)["status"] != "Completed":
            require(time.monotonic() < deadline, "each payment that waited completes")
            time.sleep(0.1)


def refund(browser):
    payment = create(browser, "80.00")
    browser.click("[data-focus='action-refund']")
    browser.wait("the question", "document.activeElement.name === 'amount'")
    browser.type("30.5")
    press(browser, "Enter")
    browser.wait("the refund", "document.querySelector('.page .rows .badge[data-status=Refunded]')", 10)
    require("£30.50" in text(browser, ".rows"), f"the refund's amount is shown, not {text(browser, '.rows')}")
    browser.click(".timeline li:nth-child(3) .timeline-head a")
    browser.wait("the payment as it was", "document.querySelector('.past') && document.querySelector('.page .badge[data-status]')?.dataset.status === 'Settled'")
    require(not browser.evaluate("!!document.querySelector('[data-focus^=action-]')"), "the past can't be changed")
    browser.click(".past a")
    browser.wait("the present", "!document.querySelector('.past') && document.querySelector('[data-focus^=action-]')")
    return payment


def parked(browser, server):
    """Payments that failed for one reason are released together."""
    server.request("PUT", "/notifications/api/faults", {"failBefore": 1, "failStatuses": [400]})
    for amount in ["41", "42", "43"]:
        create(browser, amount, ending="Failed", seconds=20)
    server.request("PUT", "/notifications/api/faults", {})
    go(browser, "processing")
    browser.wait("the reason", "document.querySelector('[data-focus^=release-]')?.innerText.includes('3')", 10)
    browser.click("[data-focus^=release-]")
    confirm(browser)
    browser.wait("nothing being parked", "document.body.innerText.includes('Nothing is parked')", 20)
    deadline = time.monotonic() + 20
    while server.request("GET", "/api/v1/payments?status=Failed")["payments"]:
        require(time.monotonic() < deadline, "no payment stays parked")
        time.sleep(0.1)


def all_matching(browser, server):
    """All payments that match a filter are refunded, more than a page has, with their number to confirm."""
    for number in range(60):
        server.request("POST", "/api/v1/payments", {"amount": 71.25, "currency": "EUR"})
    deadline = time.monotonic() + 30
    while server.request("GET", "/api/v1/payments/count?amount=71.25&status=Completed")["count"] < 60:
        require(time.monotonic() < deadline, "the payments complete")
        time.sleep(0.1)
    # An amount in the search is a filter.
    browser.click("input[type=search]")
    browser.evaluate("document.activeElement.select()")
    browser.type("71.25")
    press(browser, "Enter")
    browser.wait("the filter", "document.querySelector('.chip')?.innerText.includes('71.25')")
    browser.wait("the page", "document.querySelectorAll('.payment-rows tbody tr').length === 50", 10)
    browser.click("[data-focus=select-all]")
    browser.click("[data-focus=select-matching]")
    browser.click("[data-focus=all-refund]")
    browser.wait("the number", "document.querySelector('dialog')?.innerText.includes('60 payments')")
    confirm(browser)
    browser.wait("the batch's end", "document.querySelector('[data-batch=done]')?.innerText.includes('60 of 60')", 20)
    require(server.request("GET", "/api/v1/payments/count?amount=71.25&refunded=all")["count"] <= 60, "no other payment is refunded")
    deadline = time.monotonic() + 20
    while server.request("GET", "/api/v1/payments/count?amount=71.25&refunded=all")["count"] < 60:
        require(time.monotonic() < deadline, "all are refunded")
        time.sleep(0.1)


def settings(browser):
    """Themes, languages, and times; and a phone's width without scrolling to the side."""
    def colour():
        return browser.evaluate("getComputedStyle(document.body).backgroundColor")

    def choose(number, value):
        browser.evaluate(f"(() => {{ const select = document.querySelectorAll('.settings select')[{number}]; select.value = '{value}';"
                         " select.dispatchEvent(new Event('change')); })()")
        browser.wait("the page again", "document.querySelector('.page h1') && !document.querySelector('.page .loading')")

    browser.scheme("light")
    go(browser, "payments")
    light = colour()
    choose(0, "dark")
    require(colour() != light, "the theme changes colours")
    choose(0, "light")
    require(colour() == light, "and back")
    choose(1, "utc")
    browser.wait("times in UTC", "document.querySelector('time')?.innerText.endsWith('UTC')")
    choose(1, "local")
    choose(2, "de")
    browser.wait("the German page", "document.documentElement.lang === 'de' && document.body.innerText.includes('Zahlungen')")
    require("€" not in text(browser, "h1"), "a heading is a heading")
    for width in [390, 1440]:
        browser.size(width, 844)
        for page in PAGES:
            go(browser, page)
            wide = browser.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            require(wide <= 0, f"page {page} fits into {width} pixels in German, and is not {wide} wider")
    choose(2, "en")
    menu(browser)


def ledger(browser, server):
    """The simulated PSP's ledger is compared with the payments: what it did behind the server's back is marked, and nothing else."""
    def compare():
        browser.click("[data-focus='ledger-all']")
        browser.wait("the comparison", "document.querySelector('.whole-row').innerText.includes('compared')")
        return text(browser, ".whole-row")

    go(browser, "simulator")
    found = compare()
    require("No difference" in found, f"a ledger that agrees is said to, and not: {found}")
    charge = next(charge for charge in server.request("GET", "/psp/api/ledger")["charges"]
                  if charge["status"] == "settled" and charge["refunded"] == 0)
    server.request("POST", f"/psp/api/payments/{charge['reference']}/refunds", {"amount": 1, "currency": charge["currency"]})
    stranger = server.request("POST", "/psp/api/payments/create", {"amount": 1, "currency": "GBP"})
    # Another page in between: what stands there is of the new comparison.
    go(browser, "log")
    go(browser, "simulator")
    found = compare()
    require(charge["paymentId"] in found and "refunded 1" in found, f"a refund at the PSP alone is marked: {found}")
    require("a charge without a payment" in found and found.count("Different") == 2, f"and so is a charge of its own {stranger}: {found}")


def menu(browser):
    """On a phone the navigation opens over the page and closes again, in each of the ways that people try."""
    def is_open():
        return browser.evaluate("getComputedStyle(document.querySelector('nav')).display !== 'none'")

    browser.size(390, 844)
    go(browser, "system")
    require(not is_open(), "the navigation is not in the way at first")
    for what, close in [("Escape", lambda: press(browser, "Escape")), ("a click beside it", lambda: browser.click(".backdrop")),
                        ("its button", lambda: browser.click(".menu")), ("a link", lambda: browser.click("nav a[href='#/log']"))]:
        browser.click(".menu")
        require(is_open(), "the button opens the navigation")
        close()
        browser.wait(f"the navigation closed by {what}", "getComputedStyle(document.querySelector('nav')).display === 'none'"
                     " && document.querySelector('.menu').getAttribute('aria-expanded') === 'false'")
        at = browser.evaluate("location.hash")
        require(at == ("#/log" if what == "a link" else "#/system"), f"{what} closes the navigation and leads nowhere else, and not to {at}")
    browser.size(1440, 844)


def accessible(browser, axe, address, theme):
    """No violation that axe-core finds."""
    browser.scheme(theme)
    browser.evaluate(axe + ";0")
    found = browser.evaluate("axe.run(document, { resultTypes: ['violations'] }).then((result) => result.violations.map((violation) =>"
                             " violation.id + ': ' + violation.nodes.slice(0, 3).map((node) => node.html.slice(0, 160) + ' ' + node.failureSummary).join(' | ')))",
                             awaits=True)
    require(not found, f"page {address} ({theme}) is without violation, and has:\n" + "\n".join(found))


def restart(browser, server):
    """The server dies under the page: it says so, comes back by itself, and shows nothing old as live."""
    go(browser, "overview")
    port = int(server.url.rsplit(":", 1)[1])
    server.kill()
    browser.wait("the page saying so", "!document.querySelector('.banner').hidden && document.body.dataset.stale === 'true'"
                 " && document.getElementById('live').dataset.state === 'lost'", 15)
    server.start(port)
    browser.wait("the page being live again", "document.getElementById('live').dataset.state === 'live' && document.querySelector('.banner').hidden"
                 " && document.body.dataset.stale === 'false'", 30)
    require(browser.evaluate("window.notReloaded === true"), "nothing of this needed a reload")


def manage_keys(browser):
    """A key is made, shown once, and revoked; its name stays text."""
    go(browser, "system")
    browser.wait("the keys", "document.querySelectorAll('[data-part=keys] tbody tr').length === 4", 10)
    browser.click("[data-focus=add-key]")
    browser.wait("the question", "document.activeElement.name === 'name'")
    browser.type(MARKUP)
    press(browser, "Enter")
    browser.wait("the key", "document.querySelector('dialog code')?.innerText.startsWith('rp_')")
    confirm(browser)
    browser.wait("its row", f"document.querySelector('[data-part=keys] tbody tr')?.innerText.includes({json.dumps(MARKUP)})")
    require("rp_" not in text(browser, "main"), "a key is shown once")
    require(browser.evaluate("document.querySelectorAll('main img').length") == 0, "a key's name stays text")
    browser.click("[data-part=keys] tbody tr [data-focus^=revoke-]")
    confirm(browser)
    browser.wait("it being revoked", "document.querySelector('[data-part=keys] tbody tr')?.innerText.includes('Revoked')")


def signing_in(browser, program, directory):
    """A server with keys asks for one, keeps it in the tab, and offers what the key allows. A key that is revoked ends it."""
    data = os.path.join(directory, "keyed")
    server = Server(program, data)

    def key(name, *scopes):
        arguments = [program, "keys", "create", "--dir", data, "--name", name]
        for scope in scopes:
            arguments += ["--scope", scope]
        output = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
        return next(word for word in output.split() if word.startswith("rp_"))

    def sign_in(text):
        browser.wait("the question for a key", "document.querySelector('.sign-in input')")
        browser.evaluate("document.querySelector('.sign-in input').focus()")
        browser.type(text)
        press(browser, "Enter")

    try:
        reader, cashier, boss = key("reader", "read"), key("cashier", "read", "write"), key("boss", "read", "write", "operate")
        writer = key("writer", "write")
        browser.open(server.url + "/#/payments")
        browser.wait("the question for a key", "document.querySelector('.sign-in')")
        require(browser.evaluate("document.querySelector('.search').offsetParent === null"), "without a key there is nothing to search")
        sign_in("rp_000000000000_wrong")
        browser.wait("the refusal", "document.querySelector('.sign-in [role=alert]')")
        sign_in(reader)
        browser.wait("the page going live", "document.getElementById('live')?.dataset.state === 'live'")
        require(not browser.evaluate("!!document.querySelector('nav a[href=\\'#/create\\'], nav a[href=\\'#/webhooks\\']')"), "a reading key is offered nothing else")
        require(browser.evaluate("!!document.querySelector('nav a[href=\\'#/payments\\']')"), "a reading key may read")
        require(browser.evaluate("localStorage.length === 0 && sessionStorage.length === 1"), "the key stays in the tab")
        press(browser, "n")
        require(browser.evaluate("location.hash === '#/payments'"), "nor by a key of the keyboard")
        browser.evaluate("location.hash = '#/create'")
        browser.wait("the reason", "document.querySelector('main').innerText.includes('does not allow')")
        browser.click(".settings button")
        sign_in(writer)
        browser.evaluate("location.hash = '#/overview'")
        browser.wait("what a key that may not read may do", "location.hash === '#/create' && document.querySelector('#amount')")
        time.sleep(2)
        require(browser.evaluate("document.querySelector('.banner').hidden && document.getElementById('live').dataset.state === 'unread'"),
                "a key that may not read is not told that the server is away")
        browser.evaluate("location.hash = '#/log'")
        browser.wait("the refusal", "document.querySelector('main').innerText.includes('does not allow')")
        browser.click(".settings button")
        sign_in(cashier)
        browser.wait("the page going live", "document.getElementById('live')?.dataset.state === 'live'")
        go(browser, "payments")
        payment = create(browser, "12.00")
        browser.click("[data-focus='action-refund']")
        confirm(browser)
        browser.wait("who did it", "document.querySelector('.timeline')?.innerText.includes('by cashier')", 10)
        go(browser, "actions")
        browser.wait("the refund among the actions", "document.querySelector('.table')?.innerText.includes('cashier')")
        browser.click(".settings button")
        sign_in(boss)
        browser.wait("the page going live", "document.getElementById('live')?.dataset.state === 'live'")
        manage_keys(browser)
        browser.click(".settings button")
        sign_in(cashier)
        browser.wait("the page going live", "document.getElementById('live')?.dataset.state === 'live'")
        # On a phone, with the menu over the page.
        browser.size(390, 844)
        browser.click(".menu")
        number = cashier.split("_")[1]
        subprocess.run([program, "keys", "revoke", "--dir", data, number], check=True, capture_output=True)
        browser.wait("the question for a key again", "document.querySelector('.sign-in')", 15)
        require(payment[:8] not in text(browser, "main"), "nothing is shown without a key")
        require(browser.evaluate("document.querySelector('.content').inert === false"
                                 " && getComputedStyle(document.querySelector('nav')).display === 'none'"), "the question can be answered")
    finally:
        server.kill()


class HostilePSP(http.server.BaseHTTPRequestHandler):
    """Accepts everything, under a reference that is markup."""

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.dumps({"paymentId": PAYLOADS[self.server.made % len(PAYLOADS)]}).encode()
        if self.path.endswith("/create"):
            self.server.made += 1
        self.send_response(202)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def markup(browser, program, directory):
    """Text from outside stays text on every page: references of a PSP, a webhook's description and address, searches, addresses of pages."""
    psp = http.server.ThreadingHTTPServer(("127.0.0.1", 0), HostilePSP)
    psp.made = 0
    threading.Thread(target=psp.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{psp.server_address[1]}"
    server = Server(program, os.path.join(directory, "hostile"), "--psp-url", url, "--notifications-url", url)
    try:
        browser.open(server.url + "/")
        browser.wait("the page going live", "document.getElementById('live')?.dataset.state === 'live'")
        browser.evaluate("window.ran = []; window.alert = (text) => window.ran.push(text)")
        made = [server.request("POST", "/api/v1/payments", {"amount": 5 + number, "currency": "GBP"})["paymentId"] for number in range(len(PAYLOADS))]
        for payment in made:
            deadline = time.monotonic() + 20
            while server.request("GET", "/api/v1/payments/" + payment)["paymentReference"] is None:
                require(time.monotonic() < deadline, "the PSP's reference is taken")
                time.sleep(0.05)
        for number, payload in enumerate(PAYLOADS):
            server.request("POST", "/api/v1/webhooks", {"url": f"https://receiver.invalid/{number}?{urllib.parse.quote(payload)}", "description": payload})
        endpoint = server.request("GET", "/api/v1/webhooks")["webhooks"][0]["id"]
        browser.evaluate("localStorage.setItem('regispay-columns', 'id,amount,status,note,reference,refunded,created,updated')")
        pages = [page for page in PAGES if page != "simulator"] + ["payments/" + payment for payment in made] + ["webhooks?id=" + endpoint]
        for page in pages:
            go(browser, page)
            browser.evaluate("document.querySelectorAll('details').forEach((element) => { element.open = true; })")
            time.sleep(0.1)
        server.request("POST", f"/api/v1/webhooks/{endpoint}/replay", {"from": 0})
        go(browser, "webhooks?id=" + endpoint)
        browser.wait("a delivery", "document.querySelector('[data-focus^=delivery-]')", 20)
        browser.click("[data-focus^=delivery-]")
        browser.wait("its request", "document.querySelector('dialog[open] pre')?.innerText.includes('webhook-id')")
        press(browser, "Escape")
        go(browser, "log?stream=pay:" + made[0])
        browser.evaluate("document.querySelector('.events details').open = true")
        browser.click("[data-focus^=bytes-]")
        browser.wait("its bytes", "document.querySelectorAll('.events details[open] pre').length === 2")
        require("7b 22" in text(browser, ".events details[open] div pre"), "the bytes begin with {\"")
        go(browser, "payments")
        shown = text(browser, "main")
        for payload in PAYLOADS:
            require(" ".join(payload.split()) in " ".join(shown.split()), f"{payload} is shown as it is")
        for payload in PAYLOADS:
            quoted = urllib.parse.quote(payload, safe="")
            for address in ["#/payments?search=" + quoted, "#/payments?status=" + quoted,
                            *[f"#/payments?{name}={quoted}" for name in ["amount", "createdFrom", "createdBefore", "step", "reason"]],
                            "#/payments/" + quoted, "#/" + quoted, "#/log?from=" + quoted, "#/log?stream=" + quoted,
                            "#/webhooks?id=" + quoted]:
                browser.evaluate(f"location.hash = {json.dumps(address)}")
                time.sleep(0.15)
                require(browser.evaluate("document.querySelector('main h1') !== null"), f"{address} has a page")
        require(browser.evaluate("window.ran.length") == 0, "nothing that came from outside ran")
        require(browser.evaluate("document.querySelectorAll('main img, main script, main iframe').length") == 0, "no text became an element")
        violations = [text for text in browser.complaints if "Content Security Policy" in text or "Trusted" in text]
        require(not violations, f"nothing violates the policy for content, but: {violations}")
        reported = "regispay_page_policy_violations_total"
        require(f"\n{reported} 0\n" in server.metrics(), "the browser has reported no violation")
        # So that one would have been seen.
        browser.evaluate("document.head.append(Object.assign(document.createElement('style'), { textContent: 'main { color: red }' }))")
        deadline = time.monotonic() + 20
        while f"\n{reported} 1\n" not in server.metrics():
            require(time.monotonic() < deadline, "a violation is reported and counted")
            time.sleep(0.05)
    finally:
        server.kill()
        psp.shutdown()


PAYLOADS = [MARKUP, "<script>alert(1)</script>", "\"><svg/onload=alert(1)>", "javascript:alert(1)", "'-alert(1)-'", "{{alert(1)}}${alert(1)}",
            "</pre><iframe srcdoc='<script>parent.alert(1)</script>'>"]


def use(browser, server, axe):
    browser.open(server.url + "/")
    browser.size(1440, 900)
    browser.wait("the page going live", "document.getElementById('live')?.dataset.state === 'live'")
    require(browser.evaluate("document.documentElement.lang") == "en", "the page declares its language")
    payment = forms(browser)
    finding(browser, payment)
    outage(browser, server)
    refunded = refund(browser)
    parked(browser, server)
    all_matching(browser, server)
    server.request("POST", "/api/v1/webhooks", {"url": "https://receiver.invalid/hook", "description": MARKUP})
    go(browser, "webhooks")
    browser.wait("the endpoint", "document.querySelector('.table a')")
    browser.click(".table a")
    browser.wait("its description", f"document.body.innerText.includes({json.dumps(MARKUP)})")
    press(browser, "?")
    browser.wait("the list of keys", "document.querySelector('dialog[open] kbd')")
    press(browser, "Escape")
    browser.wait("its end", "!document.querySelector('dialog')")
    for page in PAGES + ["payments/" + refunded, "payments?status=Declined"]:
        go(browser, page)
        unlabelled = browser.evaluate("[...document.querySelectorAll('input, select, button')].filter((element) =>"
                                      " !element.labels?.length && !element.textContent.trim() && !element.ariaLabel).length")
        require(unlabelled == 0, f"every control of page {page} has a name")
        if axe:
            for theme in ["light", "dark"]:
                accessible(browser, axe, page, theme)
    settings(browser)
    ledger(browser, server)
    restart(browser, server)

    elsewhere = [request for request in browser.requests if not request.startswith((server.url, "data:"))]
    require(not elsewhere, f"nothing is loaded from elsewhere, but {elsewhere}")
    # The browser logs a refused form and a server that is away as errors, which is intended here.
    complaints = [text for text in browser.complaints
                  if "400 (Bad Request)" not in text and "ERR_CONNECTION" not in text and "ERR_INCOMPLETE" not in text and "ERR_EMPTY" not in text]
    require(not complaints, f"the browser complains of nothing, but: {complaints}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--directory", required=True)
    parser.add_argument("--axe", help="the script of axe-core")
    arguments = parser.parse_args()
    axe = None
    if arguments.axe:
        with open(arguments.axe, encoding="utf-8") as file:
            axe = file.read()
    os.makedirs(arguments.directory, exist_ok=True)
    server = Server(arguments.program, os.path.join(arguments.directory, "data"))
    try:
        with_browser(lambda browser: use(browser, server, axe))
    finally:
        server.kill()
    with_browser(lambda browser: signing_in(browser, arguments.program, arguments.directory))
    with_browser(lambda browser: markup(browser, arguments.program, arguments.directory))


if __name__ == "__main__":
    main()
