"""A PSP and a receiver of webhooks that crash the process that calls them: the owner of the other end of the connection gets
SIGILL on every call to /crash, and on the creation of a payment of 66.60. Prints its port."""

import glob
import http.server
import json
import os
import signal


def owners(inode):
    """All processes that have this socket open."""
    for link in glob.glob("/proc/[0-9]*/fd/*"):
        try:
            if os.readlink(link) == f"socket:[{inode}]":
                yield int(link.split("/")[2])
        except OSError:
            pass  # The process has closed it meanwhile.


def is_caller(process):
    """False for the child that writes a crashed process's backtrace and inherits its sockets: the process waits for it."""
    try:
        with open(f"/proc/{process}/comm") as name:
            return name.read().strip() != "swift-backtrace"
    except OSError:
        return False


def caller(client_port, server_port):
    """The process that has the connection between these ports on 127.0.0.1; None if it has ended."""
    ends = f":{client_port:04X}", f":{server_port:04X}"
    with open("/proc/net/tcp") as table:
        for line in table:
            fields = line.split()
            if fields[1].endswith(ends[0]) and fields[2].endswith(ends[1]) and fields[9] != "0":
                return next((process for process in owners(fields[9]) if is_caller(process)), None)
    return None


# A second signal would interrupt the handler of the first one.
crashed = set()


class Peer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/crash" or (self.path.endswith("/create") and json.loads(body)["amount"] == 66.6):
            # Only the process that made this call: one that was started since is not concerned.
            process = caller(self.client_address[1], self.server.server_address[1])
            if process is not None and process not in crashed:
                crashed.add(process)
                os.kill(process, signal.SIGILL)
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
