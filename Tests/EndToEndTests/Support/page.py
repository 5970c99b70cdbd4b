"""Uses RegisPay's page as a person would, in headless Chromium, and fails when the page misbehaves.

    python3 page.py URL [--pictures FOLDER]

Standard library only: Chromium's DevTools protocol is spoken over a pipe, messages end with a zero byte.
"""

import argparse
import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time

LIMIT_SECONDS = 30


class Failure(Exception):
    pass


class Browser:
    """A Chromium process and one page in it."""

    def __init__(self, program, profile):
        commands, self.commands = os.pipe()
        self.responses, answers = os.pipe()

        def place_pipes():
            # Chromium reads commands from descriptor 3 and responds on 4, so the pipes' own descriptors move away first.
            read, write = os.dup(commands), os.dup(answers)
            read, write = os.dup2(read, 30), os.dup2(write, 31)
            os.dup2(read, 3)
            os.dup2(write, 4)

        self.process = subprocess.Popen(
            [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--no-first-run", "--disable-background-networking", "--window-size=1100,800",
             "--user-data-dir=" + profile, "--remote-debugging-pipe", "about:blank"],
            close_fds=False, preexec_fn=place_pipes, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        os.close(commands)
        os.close(answers)
        self.buffer = b""
        self.number = 0
        self.session = None
        self.requests = []
        self.complaints = []

    def close(self):
        self.process.kill()
        self.process.wait()

    def message(self, deadline):
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.responses], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise Failure("the browser did not respond in time")
            data = os.read(self.responses, 1 << 16)
            if not data:
                raise Failure("the browser ended")
            self.buffer += data
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **parameters):
        self.number += 1
        command = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            command["sessionId"] = self.session
        os.write(self.commands, json.dumps(command).encode() + b"\0")
        deadline = time.monotonic() + LIMIT_SECONDS
        while True:
            message = self.message(deadline)
            if message.get("id") == self.number:
                if "error" in message:
                    raise Failure(f"{method}: {message['error']}")
                return message["result"]
            self.note(message)

    def note(self, message):
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.complaints.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")

    def open(self, url):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Network", "Log"]:
            self.call(domain + ".enable")
        self.call("Page.navigate", url=url)

    def evaluate(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in result:
            raise Failure(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait(self, what, expression, seconds=LIMIT_SECONDS):
        deadline = time.monotonic() + seconds
        while True:
            value = self.evaluate(expression)
            if value:
                return value
            if time.monotonic() > deadline:
                text = self.evaluate("document.body.innerText")
                raise Failure(f"{what} did not happen within {seconds} s; the page says:\n{text}")
            time.sleep(0.02)

    def key(self, key, code, text=None):
        for kind in ["keyDown", "keyUp"]:
            parameters = {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code}
            if text and kind == "keyDown":
                parameters["text"] = text
            self.call("Input.dispatchKeyEvent", **parameters)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def picture(self, folder, name, scheme):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        data = self.call("Page.captureScreenshot", format="png")["data"]
        with open(os.path.join(folder, name + ".png"), "wb") as file:
            file.write(base64.b64decode(data))


def require(condition, what):
    if not condition:
        raise Failure(what)


def use(browser, url, pictures):
    browser.open(url)
    browser.wait("the page going live", "document.getElementById('live')?.dataset.state === 'live'")

    unlabelled = browser.evaluate(
        "[...document.querySelectorAll('input, select, button')]"
        ".filter(e => !e.labels?.length && !e.innerText && !e.ariaLabel).length")
    require(unlabelled == 0, "every control has a name")
    require(browser.evaluate("document.documentElement.lang") == "en", "the page declares its language")

    # By keyboard alone: Tab leads to the amount, Enter sends the form.
    browser.key("Tab", 9)
    require(browser.evaluate("document.activeElement.id") == "amount", "Tab leads to the amount first")
    browser.type("-1")
    browser.key("Enter", 13, "\r")
    browser.wait("the refusal", "document.getElementById('amount-error').textContent.includes('postive')")
    require(browser.evaluate("document.getElementById('amount').ariaInvalid") == "true", "the field is marked")

    browser.evaluate("document.getElementById('amount').select()")
    browser.type("<img src=x onerror=alert(1)>")
    browser.key("Enter", 13, "\r")
    browser.wait("the refusal", "document.getElementById('amount-error').textContent.includes('must be a number')")

    browser.evaluate("document.getElementById('amount').select()")
    browser.type("1234567.10")
    browser.key("Tab", 9)
    require(browser.evaluate("document.activeElement.id") == "currency", "Tab leads to the currency next")
    browser.key("Tab", 9)
    require(browser.evaluate("document.activeElement.type") == "submit", "Tab leads to the button last")
    browser.key("Enter", 13, "\r")
    started = time.monotonic()
    browser.wait("the payment's completion",
                 "document.querySelector('#payments tr[data-payment] .state')?.textContent === 'Completed'", 2)
    took = time.monotonic() - started
    require(browser.evaluate("document.querySelectorAll('#payments tr[data-payment]').length") == 1,
            "one payment was made, not one for each refusal")
    amount = browser.evaluate("document.querySelector('#payments .amount').textContent")
    require("1,234,567.10" in amount, f"the amount is shown to the penny, not {amount}")
    identity = browser.evaluate("document.querySelector('#payments tr[data-payment]').dataset.payment")

    browser.evaluate("document.querySelector('#payments button').click()")
    browser.wait("its events", "document.querySelectorAll('#payments li').length === 4")
    types = browser.evaluate("[...document.querySelectorAll('#payments li')].map(e => e.innerText.split(',')[0])")
    require(types == ["PaymentInitiated", "PaymentCreated", "PaymentSettled", "PaymentCompleted"], f"not {types}")

    require(browser.evaluate("document.querySelector('#payments pre').innerText").find('"amount": 1234567.10') > 0,
            "the event's amount is shown as it is on the log")

    # Another client's payment appears without a reload.
    browser.evaluate(
        "fetch('/api/payment/create', {method: 'POST', headers: {'Content-Type': 'application/json'},"
        " body: '{\"amount\": 5, \"currency\": \"USD\"}'}) && 0")
    browser.wait("another client's payment",
                 "document.querySelectorAll('#payments .state[data-state=Completed]').length === 2")

    if pictures:
        browser.picture(pictures, "light", "light")
        browser.picture(pictures, "dark", "dark")
    elsewhere = [request for request in browser.requests if not request.startswith((url, "data:"))]
    require(not elsewhere, f"nothing is loaded from elsewhere, but {elsewhere}")
    # The browser logs a refused form as an error, which is intended here.
    complaints = [text for text in browser.complaints if "400 (Bad Request)" not in text]
    require(not complaints, f"the browser complained: {complaints}")
    print(f"payment {identity} was created on the page and seen completed after {took:.2f} s")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--pictures", help="a folder for screenshots")
    arguments = parser.parse_args()
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not program:
        sys.exit("there is no Chromium here: install it with `apt-get install chromium`")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(program, profile)
        try:
            use(browser, arguments.url, arguments.pictures)
        except Failure as failure:
            sys.exit(f"page: {failure}")
        finally:
            browser.close()


if __name__ == "__main__":
    main()
