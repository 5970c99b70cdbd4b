import Foundation
import Testing

@Suite("RegisPay, its settings")
struct RegisPayConfigurationTests {
  private struct Printed {
    var exit: ChildEnding
    var lines: [String]
    var errors: String

    func line(_ name: String) -> String? {
      lines.first { $0.hasPrefix("\(name):") || $0.hasPrefix("# \(name):") }?.split(separator: " ").joined(
        separator: " ")
    }
  }

  /// `regispay serve` with some environment variables, until it ends.
  private func serve(_ arguments: [String], _ environment: [String] = [], in folder: String) async throws -> Printed {
    let process = try RegisPayProcess(under: ["env"] + environment, ["serve"] + arguments, folder: folder)
    var lines: [String] = []
    while let line = try await process.nextLine() { lines.append(line) }
    return Printed(exit: try await process.waitForExit(), lines: lines, errors: process.errorText)
  }

  private func write(_ text: String, _ name: String, in folder: String) throws -> String {
    try Data(text.utf8).write(to: URL(fileURLWithPath: folder + "/" + name))
    return folder + "/" + name
  }

  @Test("--print-config shows each setting in force and its source, the most important first")
  func printed() async throws {
    try await withTemporaryFolder { folder in
      let file = try write(
        "port: 1\nhost: 0.0.0.0\nwebhook-timeout: 2\npsp-url: https://psp.example\nallowed-host: [a, b]\ninsecure: true\n",
        "a.yaml",
        in: folder)
      let token = try write("topsecret\n", "token", in: folder)
      let credentials = folder + "/credentials"
      try FileManager.default.createDirectory(atPath: credentials, withIntermediateDirectories: false)
      _ = try write("7", "credentials/regispay.webhook-timeout", in: folder)
      let printed = try await serve(
        ["--print-config", "--port", "4"],
        [
          "REGISPAY_CONFIG=\(file)", "REGISPAY_PORT=3", "REGISPAY_HOST=::1", "REGISPAY_PSP_TOKEN_FILE=\(token)",
          "REGISPAY_INSECURE=false", "CREDENTIALS_DIRECTORY=\(credentials)",
        ], in: folder)
      #expect(printed.exit == .init(code: 0, isSignal: false), "\(printed.errors)")
      #expect(printed.line("port") == "port: 4 # command line")
      #expect(printed.line("host") == "host: \"::1\" # environment variable REGISPAY_HOST")
      #expect(
        printed.line("webhook-timeout") == "webhook-timeout: 7 # credential \(credentials)/regispay.webhook-timeout")
      #expect(printed.line("psp-url") == "psp-url: https://psp.example # \(file) line 4")
      #expect(printed.line("allowed-host") == "allowed-host: [a, b] # \(file) line 5")
      #expect(printed.line("insecure") == "insecure: false # environment variable REGISPAY_INSECURE")
      #expect(
        printed.line("psp-token")
          == "# psp-token: (hidden) # \(token), named by environment variable REGISPAY_PSP_TOKEN_FILE")
      #expect(printed.line("call-timeout") == "call-timeout: 10.0 # default")
      #expect(!printed.lines.joined().contains("topsecret"))
      // What is printed is a file that says the same.
      let again = try write(printed.lines.joined(separator: "\n"), "again.yaml", in: folder)
      let repeated = try await serve(["--print-config", "--config", again], in: folder)
      func settings(_ printed: Printed) -> [String] {
        printed.lines.filter { !$0.hasPrefix("#") }.map { String($0.split(separator: "  # ")[0]) }
      }
      #expect(settings(repeated) == settings(printed))
    }
  }

  @Test("that can't be used end the start with exit code 64: each is named with its source, and nothing is created")
  func refused() async throws {
    try await withTemporaryFolder { folder in
      let file = try write(
        "dir: \(folder)/data\nport: 99999\nprot: 1\nlog-level: loud\nmax-body-bytes: 0\npsp-token: \"top secret\"\n",
        "a.yaml",
        in: folder)
      let refused = try await serve(["--config", file], ["REGISPAY_HOTS=x"], in: folder)
      #expect(refused.exit == .init(code: 64, isSignal: false))
      for line in [
        "Error: environment variable REGISPAY_HOTS: there is no setting REGISPAY_HOTS; did you mean REGISPAY_HOST?",
        "Error: \(file) line 2: The value '99999' is invalid for '--port <port>'",
        "Error: \(file) line 3: there is no setting prot; did you mean port?",
        "Error: \(file) line 4: The value 'loud' is invalid for '--log-level <log-level>'",
        "Error: \(file) line 5: --max-body-bytes must be 1 to 1000000000",
        "Error: \(file) line 6: psp-token can't be used",
      ] {
        #expect(refused.errors.contains(line), "\(line)\n\(refused.errors)")
      }
      #expect(!refused.errors.contains("top secret"))
      #expect(!FileManager.default.fileExists(atPath: folder + "/data"))
      // Each alone can be used.
      let two = try write("max-body-bytes: 4096\n", "b.yaml", in: folder)
      let together = try await serve(["--config", two], ["REGISPAY_MAX_UNFINISHED_BODY_BYTES=2000"], in: folder)
      #expect(together.exit == .init(code: 64, isSignal: false))
      #expect(
        together.errors.hasPrefix(
          "Error: --max-unfinished-body-bytes must be at least --max-body-bytes, which is 4096 (--max-body-bytes: \(two) line 1;"
            + " --max-unfinished-body-bytes: environment variable REGISPAY_MAX_UNFINISHED_BODY_BYTES)\n"),
        "\(together.errors)")
      let ports = try await serve(
        ["--dir", folder + "/data", "--port", "8091", "--metrics-address", "0.0.0.0:8091", "--insecure"], in: folder)
      #expect(ports.exit == .init(code: 64, isSignal: false))
      #expect(
        ports.errors.hasPrefix("Error: --metrics-address must have another port than --port, which is 8091"),
        "\(ports.errors)")
      let help = try await serve(["--help"], ["REGISPAY_HOTS=x"], in: folder)
      #expect(help.exit == .init(code: 0, isSignal: false))
    }
  }

  @Test("in a file are read again at SIGHUP: some take effect, others are named, and a mistake changes nothing")
  func reloaded() async throws {
    try await withTemporaryFolder { folder in
      func settings(_ more: String) throws {
        _ = try write(
          "dir: \(folder)/data\nport: 0\nsegment-bytes: 1048576\nlog-format: text\n" + more, "a.yaml", in: folder)
      }
      try settings("log-level: notice\n")
      let process = try RegisPayProcess(
        under: ["env", "--default-signal=HUP"], ["serve", "--config", folder + "/a.yaml"], folder: folder)
      let line = try #require(try await process.nextLine())
      let server = RunningServer(process: process, url: String(try #require(line.split(separator: " ").last)))
      let named = [("Host", "pay.example")]
      #expect(try await server.get("/alive", headers: named).status == 421)

      try settings("log-level: debug\nallowed-host: pay.example\nrate-limit: 1\nwebhook-timeout: 3\n")
      process.signal(SIGHUP)
      try await eventually("the settings were read", within: .seconds(10)) {
        process.errorText.contains("settings read again changed=\"log-level, allowed-host, rate-limit\"")
      }
      #expect(process.errorText.contains("settings have changed that need a restart names=webhook-timeout"))
      #expect(try await server.get("/alive", headers: named).status == 200)
      let level = try await server.get("/api/v1/logging")
      #expect(String(decoding: level.body, as: UTF8.self).contains("debug"))
      var statuses: Set<Int> = []
      for _ in 0..<6 { statuses.insert(try await server.get("/api/v1/payments").status) }
      #expect(statuses.contains(429))

      try settings("rate-limit: 0\nprot: 1\n")
      process.signal(SIGHUP)
      try await eventually("the mistake is named", within: .seconds(10)) {
        process.errorText.contains("settings not changed reason=\"\(folder)/a.yaml line 6: there is no setting prot")
      }
      #expect(try await server.get("/alive", headers: named).status != 421)

      try settings("log-level: notice\nwebhook-timeout: 3\n")
      process.signal(SIGHUP)
      try await eventually("they are read again", within: .seconds(10)) {
        process.errorText.components(separatedBy: "need a restart names=webhook-timeout").count == 3
      }
      for _ in 0..<6 { #expect(try await server.get("/api/v1/payments").status == 200) }
      #expect(try await server.get("/alive", headers: named).status == 421)
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("switch parts off: what waits goes on when they are on again")
  func switchedOff() async throws {
    try await withTemporaryFolder { folder in
      var server = try await RunningServer.start(
        directory: folder, arguments: ["--no-processing", "--no-web", "--no-webhooks"])
      let id = try await server.createPayment("10.00")
      let hello = try await server.get("/", headers: [("Accept", "text/html")])
      #expect(String(decoding: hello.body, as: UTF8.self) == "Hello from RegisPay!\n")
      #expect(try await server.get("/assets/main.js").status == 404)
      let health = String(decoding: try await server.get("/health").body, as: UTF8.self)
      #expect(health.hasPrefix("Healthy\n"))
      for option in ["--no-processing", "--no-webhooks"] { #expect(health.contains(option)) }
      try await Task.sleep(for: .seconds(1))
      #expect(try await server.status(of: id) == "Initiated")
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
      server = try await RunningServer.start(directory: folder)
      try await server.wait(for: id, status: "Completed", within: .seconds(20))
      #expect(try await server.get("/assets/main.js").status == 200)
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test(
    "without a simulator: none runs beside real services, their tokens are sent, and --no-simulator wants both of them")
  func noSimulator() async throws {
    try await withTemporaryFolder { folder in
      let refused = try await serve(
        ["--dir", folder + "/data", "--no-simulator", "--psp-url", "http://127.0.0.1:9"], in: folder)
      #expect(refused.exit == .init(code: 1, isSignal: false))
      #expect(
        refused.errors.contains("--no-simulator needs --notifications-url, so that no payment goes to a simulator"))
      #expect(!FileManager.default.fileExists(atPath: folder + "/data"))

      let services = try await RecordingService.start(in: folder)
      let server = try await RunningServer.start(
        directory: folder,
        arguments: [
          "--no-simulator", "--psp-url", services.url + "/psp", "--notifications-url", services.url + "/notify",
          "--psp-token", "for-the-psp", "--notifications-token", "for-the-other",
        ])
      let id = try await server.createPayment("10.00")
      try await server.wait(for: id, status: "Completed", within: .seconds(20))
      #expect(
        try services.calls() == [
          "/psp/api/payments/create Bearer for-the-psp", "/psp/api/payments/ref-1/settle Bearer for-the-psp",
          "/notify/api/send Bearer for-the-other",
        ])
      for path in ["/psp/api/ledger", "/psp/api/faults", "/notifications/api/faults"] {
        #expect(try await server.get(path).status == 404)
      }
      for path in ["/toggle-errors", "/psp/api/payments/create", "/notifications/api/send"] {
        #expect(try await server.post(path, "{}").status == 404)
      }
      #expect(!FileManager.default.fileExists(atPath: folder + "/data/simulator"))
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }
}

/// A PSP and a notification service that accept all calls and write down who called.
private struct RecordingService {
  let process: RegisPayProcess
  let url: String
  let record: String

  private static let script = """
    import http.server, sys
    class Handler(http.server.BaseHTTPRequestHandler):
      protocol_version = "HTTP/1.1"
      def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        with open(sys.argv[1], "a") as record:
          record.write(f"{self.path} {self.headers['Authorization']}\\n")
        body = b'{"paymentId": "ref-1"}'
        self.send_response(202)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
      def log_message(self, *arguments):
        pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
    """

  static func start(in folder: String) async throws -> RecordingService {
    let record = folder + "/calls"
    let process = try RegisPayProcess(program: "python3", ["-c", script, record], folder: folder)
    let port = try #require(try await process.nextLine())
    return RecordingService(process: process, url: "http://127.0.0.1:\(port)", record: record)
  }

  func calls() throws -> [String] {
    try String(contentsOfFile: record, encoding: .utf8).split(separator: "\n").map(String.init)
  }
}
