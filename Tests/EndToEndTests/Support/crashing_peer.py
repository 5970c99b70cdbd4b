"""A PSP and a receiver of webhooks that crash who calls them: the process whose number is in the file that is the argument
gets SIGILL on every call to /crash, and on the creation of a payment of 66.60. Prints its port."""

import http.server
import json
import os
import signal
import sys
import time


def crash():
    """The number is written only once the server has started."""
    for _ in range(1000):
        try:
            with open(sys.argv[1]) as file:
                os.kill(int(file.read()), signal.SIGILL)
            return
        except (OSError, ValueError):
            time.sleep(0.01)


class Peer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/crash" or (self.path.endswith("/create") and json.loads(body)["amount"] == 66.6):
            crash()
            self.close_connection = True
            return
        answer = b'{"paymentId":"reference"}'
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Peer)
print(server.server_address[1], flush=True)
server.serve_forever()
