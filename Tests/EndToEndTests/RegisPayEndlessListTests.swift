import Foundation
import Testing

/// Commands that read a list page by page from a server, or from something else under its address.
@Suite("regispay parked and unknown, on a list without an end")
struct RegisPayEndlessListTests {
  /// Responds with a page of no payment that is followed by the next one in a circle of so many pages, after the first so many.
  private static let peer = """
    import http.server, json, sys, urllib.parse
    before, circle = int(sys.argv[1]), int(sys.argv[2])
    class Peer(http.server.BaseHTTPRequestHandler):
      protocol_version = "HTTP/1.1"
      def do_GET(self):
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        page = int(query.get("after", ["0"])[0]) + 1
        if page >= before + circle: page = before
        body = json.dumps({"payments": [], "complete": True, "next": str(page)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
      def log_message(self, *words): pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Peer)
    print(server.server_port, flush=True)
    server.serve_forever()
    """

  @Test(
    "the command ends with exit code 1 and says that the list does not end",
    arguments: [(1, 1), (0, 1), (1, 2), (5, 1), (7, 3), (100, 40)])
  func endless(before: Int, circle: Int) async throws {
    try await withTemporaryFolder { folder in
      let peer = try RegisPayProcess(
        program: "python3", ["-c", Self.peer, String(before), String(circle)], folder: folder)
      let port = try #require(try await peer.nextLine(), "\(peer.errorText)")
      for command in [["parked", "list"], ["unknown", "list"], ["parked", "release", "--all"]] {
        let process = try RegisPayProcess(command + ["--url", "http://127.0.0.1:\(port)"], folder: folder)
        #expect(try await process.waitForExit() == .init(code: 1, isSignal: false), "\(process.errorText)")
        #expect(process.errorText.contains("the list does not end"), "\(process.errorText)")
        #expect(process.errorText.split(separator: "\n").count == 1)
      }
      peer.signal(SIGKILL)
      _ = try await peer.waitForExit()
    }
  }
}
