"""A receiver of webhooks that verifies each message by the standardwebhooks package from PyPI with the
secret from a file. Prints its port, and then a line for each message: "verified ID TYPE STATUS", or
"refused ID REASON", which gets a 401."""

import http.server
import json
import sys

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

secret_file = sys.argv[1]


def say(*words):
    # In one write: several threads print.
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        with open(secret_file) as file:
            secret = file.read().strip()
        try:
            message = Webhook(secret).verify(body, headers)
            data = message["data"]
            say("verified", headers["webhook-id"], message["type"], data.get("status", "-"))
            # The amount keeps its digits and is not converted to binary floating point.
            assert "paymentId" not in data or b'"amount":12.34,' in body, body
            self.send_response(204)
        except WebhookVerificationError as error:
            say("refused", headers.get("webhook-id"), error)
            self.send_response(401)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_address[1], flush=True)
server.serve_forever()
