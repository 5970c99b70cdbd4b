"""A receiver of webhooks that is overloaded: it responds with 503 (or another status) and Retry-After until a file exists, and with 204
from then on. Prints its port, and then a line for each message: STATUS ID."""

import http.server
import os
import sys

open_file, retry_after = sys.argv[1:3]
refusal = int(sys.argv[3]) if len(sys.argv) > 3 else 503


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        status = 204 if os.path.exists(open_file) else refusal
        # In one write: several threads print.
        sys.stdout.write(f"{status} {self.headers['webhook-id']}\n")
        sys.stdout.flush()
        self.send_response(status)
        if status == refusal:
            self.send_header("retry-after", retry_after)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_address[1], flush=True)
server.serve_forever()
