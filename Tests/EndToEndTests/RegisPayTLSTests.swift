import Foundation
import Testing

/// The clients are curl, openssl and Python's `ssl`.
@Suite("RegisPay's own TLS")
struct RegisPayTLSTests {
  private struct Ran {
    var code: Int32
    var output: String
    var errors: String
  }

  @discardableResult private func run(_ folder: String, _ arguments: [String]) async throws -> Ran {
    let process = try RegisPayProcess(program: arguments[0], Array(arguments.dropFirst()), folder: folder)
    var lines: [String] = []
    while let line = try await process.nextLine() { lines.append(line) }
    let exit = try await process.waitForExit(within: .seconds(60))
    return Ran(code: exit.code, output: lines.joined(separator: "\n"), errors: process.errorText)
  }

  private func curl(_ folder: String, root: String, _ arguments: String...) async throws -> Ran {
    try await run(
      folder,
      ["curl", "-sS", "--max-time", "20", "--cacert", "\(folder)/\(root).crt", "-w", "\\n%{http_code}\\n"] + arguments)
  }

  /// Makes `server.crt` and `server.key` what these files hold, each as a whole.
  private func use(_ certificate: String, key: String, in folder: String) throws {
    for (from, to) in [("\(certificate).crt", "server.crt"), ("\(key).key", "server.key")] {
      try Data(contentsOf: URL(fileURLWithPath: "\(folder)/\(from)"))
        .write(to: URL(fileURLWithPath: "\(folder)/\(to)"), options: .atomic)
    }
  }

  private func start(_ folder: String, _ arguments: String...) async throws -> (process: RegisPayProcess, url: String) {
    let process = try RegisPayProcess(
      [
        "serve", "--dir", folder + "/data", "--port", "0", "--segment-bytes", "1048576", "--log-format", "text",
        "--tls-certificate", folder + "/server.crt", "--tls-key", folder + "/server.key",
      ] + arguments, folder: folder)
    let line = try #require(try await process.nextLine(), "\(process.errorText)")
    let url = try #require(line.split(separator: " ").last)
    return (process, String(url.replacing("127.0.0.1", with: "localhost")))
  }

  private func stop(_ process: RegisPayProcess) async throws {
    process.signal(SIGTERM)
    #expect(try await process.waitForExit() == .init(code: 0, isSignal: false))
  }

  @Test("a payment completes, with TLS 1.2 or later, over HTTP/2 and HTTP/1.1; what is no TLS gets nothing")
  func payment() async throws {
    try await withTemporaryFolder { folder in
      try await SelfSigned.make("one", in: folder)
      try use("one", key: "one", in: folder)
      let (process, url) = try await start(folder)
      #expect(url.hasPrefix("https://localhost:"))
      let created = try await curl(
        folder, root: "one", "--http2", "-w", "\n%{http_version}\n", "-H", "Content-Type: application/json", "-d",
        #"{"amount":1,"currency":"GBP"}"#,
        url + "/api/payment/create")
      #expect(created.output.hasSuffix("\n2"), "\(created)")
      let id = try #require(created.output.split(separator: "\"").dropFirst(3).first, "\(created)")
      try await eventually("it completes: the simulators are reached without TLS", within: .seconds(20)) {
        try await curl(folder, root: "one", "--http1.1", url + "/api/v1/payments/\(id)").output.contains(
          #""status":"Completed""#)
      }
      let handshake = try await run(
        folder,
        [
          "sh", "-c",
          "openssl s_client -connect \(url.dropFirst(8)) -CAfile \(folder)/one.crt -alpn h2,http/1.1 < /dev/null",
        ])
      #expect(handshake.output.contains("Verify return code: 0 (ok)"), "\(handshake)")
      #expect(handshake.output.contains("ALPN protocol: h2"))
      for old in ["1.0", "1.1"] {
        let refused = try await curl(folder, root: "one", "--tls-max", old, url + "/alive")
        #expect(refused.code == 35, "\(refused)")
      }
      #expect(try await curl(folder, root: "one", "--tls-max", "1.2", url + "/alive").output == "Healthy\n200")
      let plain = try await curl(folder, root: "one", "http" + url.dropFirst(5) + "/alive")
      #expect(plain.code != 0 && plain.output.hasSuffix("000"), "\(plain)")
      try await stop(process)
    }
  }

  @Test(
    "a new certificate is used once its key is there, without a restart; until then the old one is, and /health says so"
  )
  func swapped() async throws {
    try await withTemporaryFolder { folder in
      for name in ["one", "two"] { try await SelfSigned.make(name, in: folder) }
      try use("one", key: "one", in: folder)
      let (process, url) = try await start(folder)
      // A connection from before stays.
      let stream = try RegisPayProcess(
        program: "curl", ["-sSN", "--cacert", folder + "/one.crt", url + "/api/v1/events"], folder: folder)
      #expect(try await stream.nextLine() == ": from offset 0")
      try use("two", key: "one", in: folder)
      try await eventually("the mistake is shown", within: .seconds(20)) {
        try await curl(folder, root: "one", url + "/health").output.contains(
          "warning: TLS goes on with the certificate and key from before: \(folder)/server.key is not the key of the first"
            + " certificate in \(folder)/server.crt")
      }
      for content in ["", "no certificate"] {
        try Data(content.utf8).write(to: URL(fileURLWithPath: folder + "/server.crt"), options: .atomic)
        try await eventually("so is this one", within: .seconds(20)) {
          try await curl(folder, root: "one", url + "/health").output.contains("server.crt holds no certificate in PEM")
        }
      }
      try use("two", key: "two", in: folder)
      try await eventually("the new one is used", within: .seconds(20)) {
        try await curl(folder, root: "two", url + "/health").output == "Healthy\n200"
      }
      #expect(try await curl(folder, root: "one", url + "/alive").code == 60)
      #expect(process.errorText.contains("TLS certificate read again"))
      let paid = try await curl(
        folder, root: "two", "-H", "Content-Type: application/json", "-d", #"{"amount":1,"currency":"GBP"}"#,
        url + "/api/payment/create")
      #expect(paid.output.hasSuffix("200"))
      #expect(try await stream.nextLine() != nil, "events go to the connection from before")
      stream.signal(SIGTERM)
      try await stop(process)
    }
  }

  @Test("clients that don't end TLS hold up neither a stop nor connections that the server gives to others")
  func unended() async throws {
    try await withTemporaryFolder { folder in
      try await SelfSigned.make("one", in: folder)
      try use("one", key: "one", in: folder)
      let (process, url) = try await start(folder, "--max-connections", "20", "--stop-timeout", "2")
      let script = """
        import socket, ssl, sys, time
        context = ssl.create_default_context(cafile=sys.argv[2] + "/one.crt")
        port = int(sys.argv[1].rsplit(":", 1)[1])
        kept = []
        for _ in range(120):
            kept.append(context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="localhost"))
        # The last one has been used, and is kept.
        kept[-1].sendall(b"GET /alive HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
        assert b"200" in kept[-1].recv(4096)
        print("ready", flush=True)
        time.sleep(60)
        """
      let before = try FileManager.default.contentsOfDirectory(atPath: "/proc/\(process.pid)/fd").count
      let client = try RegisPayProcess(program: "python3", ["-c", script, url, folder], folder: folder)
      #expect(try await client.nextLine() == "ready", "\(client.errorText)")
      let now = try FileManager.default.contentsOfDirectory(atPath: "/proc/\(process.pid)/fd").count
      #expect(now - before <= 40, "\(before) descriptors before, \(now) now")
      try await stop(process)
      client.signal(SIGKILL)
    }
  }

  @Test("a certificate that has ended is served with a warning, since clients say best what they accept")
  func expired() async throws {
    try await withTemporaryFolder { folder in
      try await SelfSigned.make("one", in: folder)
      let configuration = """
        [ca]
        default_ca = test
        [test]
        database = \(folder)/index
        new_certs_dir = \(folder)
        rand_serial = yes
        default_md = sha256
        policy = any
        [any]
        commonName = supplied
        """
      try configuration.write(toFile: folder + "/ca.conf", atomically: true, encoding: .utf8)
      try Data().write(to: URL(fileURLWithPath: folder + "/index"))
      for arguments in [
        ["req", "-new", "-key", folder + "/one.key", "-subj", "/CN=localhost", "-out", folder + "/old.csr"],
        [
          "ca", "-batch", "-config", folder + "/ca.conf", "-selfsign", "-keyfile", folder + "/one.key", "-in",
          folder + "/old.csr", "-out", folder + "/old.crt", "-startdate", "20200101000000Z", "-enddate",
          "20210101000000Z", "-notext",
        ],
      ] {
        let made = try await run(folder, ["openssl"] + arguments)
        #expect(made.code == 0, "\(made)")
      }
      try use("old", key: "one", in: folder)
      let (process, url) = try await start(folder)
      #expect(process.errorText.contains("server.crt has ended at 2021-01-01T00:00:00Z: clients refuse it"))
      let refused = try await curl(folder, root: "old", url + "/alive")
      #expect(refused.code == 60 && refused.errors.contains("expired"), "\(refused)")
      let health = try await curl(folder, root: "old", "-k", url + "/health")
      #expect(health.output.contains("server.crt has ended at 2021-01-01T00:00:00Z"), "\(health)")
      try await stop(process)
    }
  }

  @Test("with --tls-client-roots only clients with a certificate get in, and the server's own calls go on")
  func clients() async throws {
    try await withTemporaryFolder { folder in
      for name in ["one", "client", "stranger"] { try await SelfSigned.make(name, in: folder) }
      try use("one", key: "one", in: folder)
      let (process, url) = try await start(folder, "--tls-client-roots", folder + "/client.crt")
      func pay(_ certificate: String?) async throws -> Ran {
        let arguments = certificate.map { ["--cert", "\(folder)/\($0).crt", "--key", "\(folder)/\($0).key"] } ?? []
        return try await run(
          folder,
          [
            "curl", "-sS", "--max-time", "20", "-w", "\\n", "--cacert", folder + "/one.crt", "-H",
            "Content-Type: application/json",
          ]
            + arguments + ["-d", #"{"amount":1,"currency":"GBP"}"#, url + "/api/payment/create"])
      }
      for certificate in [nil, "stranger"] {
        let refused = try await pay(certificate)
        #expect(refused.code != 0 && refused.output.isEmpty, "\(refused)")
      }
      let paid = try await pay("client")
      let id = try #require(paid.output.split(separator: "\"").dropFirst(3).first, "\(paid)")
      try await eventually("the payment completes", within: .seconds(20)) {
        try await run(
          folder,
          [
            "curl", "-sS", "-w", "\\n", "--cacert", folder + "/one.crt", "--cert", folder + "/client.crt", "--key",
            folder + "/client.key", url + "/api/v1/payments/\(id)",
          ]
        ).output.contains(#""status":"Completed""#)
      }
      // The commands do as curl does.
      let trust = ["--url", url, "--tls-roots", folder + "/one.crt"]
      let show = ["--tls-certificate", folder + "/client.crt", "--tls-key", folder + "/client.key"]
      for command in [["parked", "list"], ["unknown", "list"], ["load", "--rate", "5", "--seconds", "1"]] {
        for (arguments, code) in [(trust + show, 0), (trust, 1), (["--url", url] + show, 1)] as [([String], Int32)] {
          let process = try RegisPayProcess(command + arguments, folder: folder)
          #expect(try await process.waitForExit(within: .seconds(60)).code == code, "\(command): \(process.errorText)")
        }
      }
      let mixed = trust + ["--tls-certificate", folder + "/client.crt", "--tls-key", folder + "/one.key"]
      let refused = try RegisPayProcess(["parked", "list"] + mixed, folder: folder)
      #expect(try await refused.waitForExit().code == 1)
      #expect(refused.errorText.contains("one.key is not the key of the first certificate in"), "\(refused.errorText)")
      try await stop(process)
    }
  }

  @Test("a mistake in a command's TLS files is named with the option and the file, and the URL is not blamed")
  func clientFiles() async throws {
    try await withTemporaryFolder { folder in
      try await SelfSigned.make("one", in: folder)
      try await SelfSigned.make("two", in: folder)
      #expect(mkfifo(folder + "/pipe", 0o600) == 0)
      let mistakes: [(arguments: [String], code: Int32, text: String)] = [
        (["--tls-roots", "none"], 1, "--tls-roots: can't open \(folder)/none: No such file or directory"),
        (["--tls-roots", "pipe"], 1, "--tls-roots: \(folder)/pipe is no file"),
        (["--tls-roots", "one.key"], 1, "--tls-roots: \(folder)/one.key holds no certificate in PEM"),
        (["--tls-certificate", "one.key", "--tls-key", "one.key"], 1, "--tls-certificate: \(folder)/one.key holds no"),
        (
          ["--tls-certificate", "one.crt", "--tls-key", "one.crt"], 1,
          "--tls-key: \(folder)/one.crt holds no private key"
        ),
        (
          ["--tls-certificate", "one.crt", "--tls-key", "two.key"], 1, "--tls-key: \(folder)/two.key is not the key of"
        ),
        (
          ["--tls-roots", "one.crt", "--url", "http://localhost:1"], 64,
          "--tls-roots needs a --url that begins with https://"
        ),
        (
          ["--tls-certificate", "one.crt", "--tls-key", "one.key", "--url", "http://localhost:1"], 64,
          "--tls-certificate needs a --url that begins with https://"
        ),
      ]
      for command in [["parked", "list"], ["unknown", "list"], ["load", "--rate", "1", "--seconds", "1"]] {
        for (arguments, code, text) in mistakes {
          let words = arguments.map { $0.contains(".") || ["none", "pipe"].contains($0) ? "\(folder)/\($0)" : $0 }
          let process = try RegisPayProcess(
            command + (words.contains("--url") ? [] : ["--url", "https://localhost:1"]) + words, folder: folder)
          #expect(try await process.waitForExit().code == code, "\(arguments): \(process.errorText)")
          #expect(
            process.errorText.contains(text) && !process.errorText.contains("base URL"),
            "\(arguments): \(process.errorText)")
        }
      }
    }
  }

  @Test("peers that send anything, or nothing, cost a connection for a moment and no more")
  func hostile() async throws {
    try await withTemporaryFolder { folder in
      try await SelfSigned.make("one", in: folder)
      try use("one", key: "one", in: folder)
      let (process, url) = try await start(folder, "--head-timeout", "2")
      let script = """
        import os, random, socket, ssl, sys, time
        host, port = "127.0.0.1", int(sys.argv[1])
        random.seed(7)
        context = ssl.create_default_context(cafile=sys.argv[2])
        def connect():
          return socket.create_connection((host, port), 10)
        # The beginning of a real handshake, then noise: cut at each byte, or changed in some.
        class Recorder:
          pass
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        try: tls.do_handshake()
        except ssl.SSLWantReadError: pass
        hello = outgoing.read()
        for number in range(300):
          peer = connect()
          bytes_ = bytearray(hello if number % 3 else os.urandom(random.randrange(1, 600)))
          for _ in range(random.randrange(0, 6)): bytes_[random.randrange(len(bytes_))] = random.randrange(256)
          peer.sendall(bytes_[:random.randrange(1, len(bytes_) + 1)])
          if number % 5 == 0: peer.shutdown(socket.SHUT_WR)
          if number % 7 == 0: peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\0\\0\\0\\0")
          peer.close()
        # Silence before, within and after the handshake.
        def closed_within(peer, seconds):
          peer.settimeout(seconds)
          try:
            while peer.recv(65536): pass
          except (ConnectionError, ssl.SSLError): pass
          except TimeoutError: return False
          return True
        silent, half = connect(), connect()
        half.sendall(hello[:20])
        assert closed_within(silent, 8), "a client that sends nothing stays"
        assert closed_within(half, 8), "a client in the middle of its handshake stays"
        slow = context.wrap_socket(connect(), server_hostname="localhost")
        slow.sendall(b"GET / HTTP/1.1\\r\\nHost: loc")
        assert closed_within(slow, 8), "a client in the middle of a head stays"
        # An end without close_notify, in the middle of a body and of a response.
        for text in [b"POST /api/payment/create HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Length: 50\\r\\n\\r\\nx", b"GET /openapi.json HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n"]:
          peer = context.wrap_socket(connect(), server_hostname="localhost")
          peer.sendall(text)
          os.close(peer.detach())
        # Many small records, pipelined requests, and a close in the usual way.
        peer = context.wrap_socket(connect(), server_hostname="localhost")
        for byte in b"GET /alive HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n" * 3 + b"GET /alive HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n":
          peer.sendall(bytes([byte]))
        answer = b""
        while piece := peer.recv(65536): answer += piece
        assert answer.count(b"HTTP/1.1 200 OK") == 4, answer
        print("done")
        """
      try script.write(toFile: folder + "/hostile.py", atomically: true, encoding: .utf8)
      let port = try #require(url.split(separator: ":").last)
      let attacked = try await run(folder, ["python3", folder + "/hostile.py", String(port), folder + "/one.crt"])
      #expect(attacked.code == 0 && attacked.output == "done", "\(attacked)")
      #expect(try await curl(folder, root: "one", url + "/health").output == "Healthy\n200")
      try await eventually("no connection is left", within: .seconds(20)) {
        try await curl(folder, root: "one", url + "/metrics").output.contains("\nregispay_http_connections 1\n")
      }
      try await stop(process)
    }
  }

  @Test("files that can't be used refuse the start, with their names")
  func refused() async throws {
    try await withTemporaryFolder { folder in
      for name in ["one", "two"] { try await SelfSigned.make(name, in: folder) }
      try Data("no PEM".utf8).write(to: URL(fileURLWithPath: folder + "/text"))
      let cases = [
        (
          ["--tls-certificate", "one.crt", "--tls-key", "two.key"],
          "two.key is not the key of the first certificate in", 1
        ),
        (["--tls-certificate", "text", "--tls-key", "one.key"], "text holds no certificate in PEM", 1),
        (["--tls-certificate", "one.crt", "--tls-key", "text"], "text holds no private key in PEM that needs no", 1),
        (["--tls-certificate", "none", "--tls-key", "one.key"], "none: No such file or directory", 1),
        (["--tls-certificate", "one.crt"], "--tls-certificate needs --tls-key", 64),
        (["--tls-key", "one.key"], "--tls-key needs --tls-certificate", 64),
      ]
      for (arguments, text, code) in cases {
        let paths = arguments.map { $0.hasPrefix("--") ? $0 : "\(folder)/\($0)" }
        let process = try RegisPayProcess(["serve", "--dir", folder + "/data", "--port", "0"] + paths, folder: folder)
        #expect(try await process.waitForExit() == .init(code: Int32(code), isSignal: false))
        #expect(process.errorText.contains(text), "\(process.errorText)")
      }
      #expect(!FileManager.default.fileExists(atPath: folder + "/data"))
    }
  }
}
