import Foundation
import Testing

/// Runs the commands in the documents as written. A block that no test names fails `complete()`.
@Suite("The commands in the documents", .serialized)
struct DocumentedCommandTests {
  private static let readme = "README.md"
  private static let operations = "docs/OPERATIONS.md"
  private static let address = "http://127.0.0.1:8080"

  @Test("README: the logstore command")
  func logstoreCommand() async throws {
    try await withTemporaryFolder { folder in
      let block = try CommandBlock.first(Self.readme, "The `logstore` command", "swift build")
      let printed = try await block.run(
        in: folder,
        replacing: [
          ".build/release/logstore tail --dir orders.log --from end":
            "timeout 1 logstore tail --dir orders.log --from end || [ $? = 124 ]"
        ], leavingOut: ["swift build"])
      #expect(printed.contains("ok 0"))
      #expect(printed.contains("order-1"))
    }
  }

  @Test("README: backup, restore and repair")
  func backupAndRepair() async throws {
    try await withTemporaryFolder { folder in
      let append = #"seq 5 | sed 's/.*/order-&\tPlaced\t{}/' | logstore append --dir orders.log > /dev/null"#
      let backup = try CommandBlock.first(Self.readme, "Backup", "logstore backup")
      let printed = try await backup.run(
        in: folder,
        replacing: [
          "/backup/orders/": "backup/orders/", "120000": "3", "ssh host 'cat > orders.backup'": "cat > piped",
        ],
        after: append + "; mkdir backup")
      #expect(printed.contains("backed up events 0..<5"))
      #expect(printed.contains("restored events 0..<3"))
      let repair = try CommandBlock.first(Self.readme, "Repair", "logstore verify")
      #expect(try await repair.run(in: folder).contains("saved 5 of 5"))
    }
  }

  @Test("README: the first payment, and the events of a load that completes")
  func start() async throws {
    try await withServer { folder, server in
      let block = try CommandBlock.first(Self.readme, "Start", "curl")
      let created = try await block.run(
        in: folder, replacing: [Self.address: server.url], leavingOut: ["PAYMENT-ID", "ledger"])
      let response = try #require(try JSONSerialization.jsonObject(with: Data(created.utf8)) as? [String: Any])
      let id = try #require(response["paymentId"] as? String)
      let shown = try await block.run(in: folder, replacing: [Self.address: server.url, "PAYMENT-ID": id])
      #expect(shown.contains(id) && shown.contains("\"charges\""))
      let load = try CommandBlock.first(Self.operations, "Load test", "regispay load")
      try await load.run(
        in: folder, replacing: ["--rate 300 --seconds 60": "--rate 50 --seconds 2 --url \(server.url)"])
    }
  }

  @Test("OPERATIONS: the settings in force are printed")
  func settings() async throws {
    try await withTemporaryFolder { folder in
      let block = try CommandBlock.first(Self.operations, "Settings", "regispay serve --config")
      let printed = try await block.run(in: folder, after: "echo 'port: 8090' > regispay.yaml")
      #expect(printed.contains("# regispay.yaml line 1\n"))
    }
  }

  @Test("OPERATIONS: the machine is checked before the first start")
  func diagnosis() async throws {
    try await withTemporaryFolder { folder in
      let block = try CommandBlock.first(Self.operations, "Check the machine", "regispay doctor")
      // Whether this machine is fit for a server is not what is tested.
      let printed = try await block.run(
        in: folder, replacing: ["--dir /var/lib/regispay": "--dir data --port 0 || test $? = 1"])
      #expect(printed.contains("permissions    ") && printed.contains("/data: "))
    }
  }

  @Test("OPERATIONS: keys are made, listed and revoked")
  func keys() async throws {
    try await withTemporaryFolder { folder in
      let block = try CommandBlock.first(Self.operations, "API keys", "regispay keys create")
      let printed = try await block.run(
        in: folder,
        replacing: [
          "/var/lib/regispay": "data",
          " ID": " $(regispay keys list --dir data | awk '$2 == \"shop\" { print $1 }')",
        ], after: "mkdir -m 700 data")
      #expect(printed.contains("rp_") && printed.contains("shop-2027"))
    }
  }

  @Test("OPERATIONS: a key for the simulator's own directory is made")
  func simulatorKey() async throws {
    try await withTemporaryFolder { folder in
      let block = try CommandBlock.first(Self.operations, "Run the simulator by itself", "regispay keys create")
      let printed = try await block.run(in: folder, replacing: ["/var/lib/regispay-simulator": "data"])
      #expect(printed.hasPrefix("rp_"))
    }
  }

  @Test("OPERATIONS: everything is backed up while the server runs, readable by its user only, and restored")
  func backUpEverything() async throws {
    try await withServer { folder, server in
      let id = try await server.createPayment("12.34")
      try await server.wait(for: id, status: "Completed", within: .seconds(20))
      let heading = "Backup and restore"
      let blocks = try CommandBlock.all(in: Self.operations).filter { $0.heading == heading }
      try #require(blocks.count == 3)
      let (data, backup) = ("/var/lib/regispay", "/backup/regispay")
      try await blocks[0].run(
        in: folder, replacing: [data: folder + "/data", backup: folder + "/backup"],
        after: "regispay keys create --dir data --name shop --scope read")
      try await blocks[1].run(
        in: folder,
        replacing: [
          data: folder + "/data", backup: folder + "/backup", "--every 5m": "--every 1s & sleep 2.5; kill $!",
        ])
      let copies = try FileManager.default.subpathsOfDirectory(atPath: folder + "/backup")
      for name in ["keys.sqlite", "webhooks.sqlite"] {
        #expect(copies.contains { $0.hasPrefix("files-") && $0.hasSuffix("/" + name) }, "\(name)")
      }
      for copy in copies {
        let attributes = try FileManager.default.attributesOfItem(atPath: folder + "/backup/" + copy)
        let mode = try #require(attributes[.posixPermissions] as? Int)
        #expect(mode & 0o077 == 0, "\(copy) is for nobody else")
      }
      _ = try await server.stopGracefully()
      try await blocks[2].run(
        in: folder, replacing: [backup: folder + "/backup", "/srv/regispay": folder + "/restored/data"],
        leavingOut: ["regispay serve"],
        after: "mkdir -p \(folder)/restored; rm -rf \(folder)/data")
      let restored = try await RunningServer.start(directory: folder + "/restored")
      // A key was made, so nothing is told without one.
      #expect(try await restored.get("/api/v1/payments/\(id)").status == 401)
      _ = try await restored.stopGracefully()
      let dump = CommandBlock(document: "", heading: "", lines: ["logstore dump --dir restored/data/payments"])
      #expect(try await dump.run(in: folder).contains("PaymentCompleted"))
    }
  }

  @Test("OPERATIONS: parked payments are listed, shown and released; faults are set and ended")
  func parked() async throws {
    try await withServer { folder, server in
      let faults = try CommandBlock.first(Self.operations, "Inject faults", "curl -X PUT")
      #expect(try await faults.run(in: folder, replacing: [Self.address: server.url]).contains("\"failAfter\""))
      try await post(server, "DELETE", "/psp/api/faults")
      let block = try CommandBlock.first(Self.operations, "A payment is parked", "regispay parked list")
      let list = try await block.run(
        in: folder, replacing: ["regispay parked list": "regispay parked list --url \(server.url)"],
        leavingOut: ["parked show", "parked release"])
      #expect(list.isEmpty)
      let id = try await server.createPayment("12.34")
      try await server.wait(for: id, status: "Completed", within: .seconds(20))
      let shown = try await block.run(
        in: folder, replacing: ["show ID": "show \(id) --url \(server.url)"],
        leavingOut: ["parked list", "parked release"])
      #expect(shown.contains(id))
      // There is nothing to release.
      try await block.run(
        in: folder, replacing: ["release ID …": "release \(id) --url \(server.url) && exit 9 || [ $? = 1 ]"],
        leavingOut: ["parked list", "parked show"])
      let unknown = try CommandBlock.first(Self.operations, "The outcome of a step is unknown", "regispay unknown list")
      let none = try await unknown.run(
        in: folder, replacing: ["unknown list": "unknown list --url \(server.url)"], leavingOut: ["resolve"])
      #expect(none.isEmpty)
      for line in unknown.lines where line.contains("resolve") {
        let one = CommandBlock(document: unknown.document, heading: unknown.heading, lines: [line])
        try await one.run(
          in: folder, replacing: [" ID": " \(id) --url \(server.url)", "regispay": "! regispay"])
      }
    }
  }

  @Test("OPERATIONS: the log level is changed while the server runs")
  func logLevel() async throws {
    try await withServer { folder, server in
      let block = try CommandBlock.first(Self.operations, "Monitoring", "curl -X PUT")
      #expect(try await block.run(in: folder, replacing: [Self.address: server.url]).contains(#"{"level":"debug"}"#))
      let id = try await server.createPayment("1")
      try await eventually("a line of a lower level than --log-level", within: .seconds(20)) {
        server.process.errorText.contains("info payment completed") && server.process.errorText.contains(id)
      }
    }
  }

  @Test("INTEGRATION: the messages of a payment are received, and published again")
  func integration() async throws {
    try await withTemporaryFolder { folder in
      let rabbit = try await RabbitMQ(in: folder)
      let broker = try await rabbit.start()
      let url = "amqp://127.0.0.1:\(rabbit.port)"
      let server = try await RunningServer.start(directory: folder, arguments: ["--broker", url])
      let receive = try CommandBlock.first("docs/INTEGRATION.md", "Try it", "amqp-consume")
      let again = try CommandBlock.first("docs/INTEGRATION.md", "Publish again", "curl")
      let id = try await server.createPayment("12.34")
      try await eventually("the exchanges are declared", within: .seconds(30)) {
        String(decoding: try await server.get("/health").body, as: UTF8.self).contains("no queue gets its messages")
      }
      var ids: [[String]] = []
      for isRepeat in [false, true] {
        if isRepeat { _ = try await again.run(in: folder, replacing: [Self.address: server.url]) }
        let printed = try await receive.run(
          in: folder,
          replacing: ["amqp-consume": "timeout 60 amqp-consume -u \(url)"])
        let messages = try printed.split(separator: "\n").compactMap {
          try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any]
        }
        #expect(messages.count == 4)
        #expect(messages.allSatisfy { ($0["message"] as? [String: String]) == ["aggregateId": "pay:\(id)"] })
        ids.append(messages.compactMap { $0["messageId"] as? String })
      }
      #expect(ids[0] == ids[1])
      withExtendedLifetime(broker) {}
    }
  }

  @Test("OPERATIONS: each alert's commands work on a running server")
  func alerts() async throws {
    try await withServer(["--broker", "amqp://127.0.0.1:1"]) { folder, server in
      let id = try await server.createPayment("12.34")
      try await server.wait(for: id, status: "Completed", within: .seconds(20))
      let names = try AlertRules.names()
      let blocks = try CommandBlock.all(in: Self.operations).filter { names.contains($0.heading) }
      #expect(Set(blocks.map(\.heading)) == Set(names))
      for block in blocks {
        let lines = block.lines.map {
          $0.replacing(Self.address, with: server.url).replacing("/var/lib/regispay", with: folder + "/data")
            .replacing("/backup/regispay", with: folder + "/backup")
            .replacing(#/(parked|unknown) list/#) { "\($0.output.1) list --url \(server.url)" }
        }
        let here = CommandBlock(document: block.document, heading: block.heading, lines: lines)
        let printed = try await here.run(in: folder, after: "mkdir -p backup")
        #expect(!printed.isEmpty || ["RegisPayOutcomeUnknown", "RegisPayPaymentsParked"].contains(block.heading))
      }
      let check = try CommandBlock.first(Self.operations, "Alerts", "promtool")
      let docs = CommandBlock.repository.path + "/docs/"
      let printed = try await check.run(in: folder, replacing: ["docs/": docs])
      #expect(printed.contains("SUCCESS"))
    }
  }

  @Test("OPERATIONS: the metrics pass Prometheus' own check, which prints what it finds")
  func metrics() async throws {
    try await withServer { folder, server in
      let block = try CommandBlock.first(Self.operations, "Metrics", "curl")
      let printed = try await block.run(in: folder, replacing: [Self.address: server.url])
      let lines = printed.split(separator: "\n").filter {
        !$0.hasPrefix("#") && !$0.hasPrefix("regispay_consumer_lag_seconds")
      }
      #expect(lines == [], "a finding")
      #expect(printed.contains("regispay_consumer_lag_seconds{consumer=\"payment-list\"}"))
    }
  }

  @Test("OPERATIONS: the activity is shown, and followed")
  func activity() async throws {
    try await withServer { folder, server in
      let block = try CommandBlock.first(Self.operations, "Activity", "curl")
      let follow = "curl -sN \(Self.address)/api/v1/activity/stream"
      let printed = try await block.run(
        in: folder, replacing: [follow: "timeout 3 \(follow) || [ $? = 124 ]", Self.address: server.url])
      #expect(printed.hasPrefix("{\"stepSeconds\":10,") && printed.contains("\ndata: {\"at\":"))
    }
  }

  @Test("OPERATIONS: traces are switched on by the environment, and shown without a collector")
  func traces() async throws {
    try await withServer { folder, server in
      let serve = try CommandBlock.first(Self.operations, "Traces", "OTEL_EXPORTER")
      let config = try await serve.run(in: folder, replacing: ["regispay serve": "regispay serve --print-config"])
      #expect(config.contains("# OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318"))
      let id = try await server.createPayment("1")
      try await server.wait(for: id, status: "Completed", within: .seconds(20))
      let show = try CommandBlock.first(Self.operations, "A trace without a collector", "curl")
      let printed = try await show.run(in: folder, replacing: [Self.address: server.url, "PAYMENT-ID": id])
      #expect(printed.contains("\"name\":\"psp settle\""))
    }
  }

  @Test("PROVIDERS: the simulator speaks the documented protocol")
  func provider() async throws {
    try await withServer { folder, server in
      let block = try CommandBlock.first("docs/PROVIDERS.md", "Try it", "curl")
      let printed = try await block.run(in: folder, replacing: ["https://psp.example/v2": server.url + "/psp"])
      #expect(printed.contains("\"paymentId\""))
    }
  }

  @Test("WEBHOOKS: an endpoint is registered")
  func webhook() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      let block = try CommandBlock.first("docs/WEBHOOKS.md", "Register", "curl")
      let printed = try await block.run(in: folder, replacing: [Self.address: server.url])
      #expect(printed.contains("\"whsec_"))
      _ = try await server.stopGracefully()
    }
  }

  @Test("WEBHOOKS: the message shown verifies, and the Python sample reads its amount as a decimal")
  func webhookSample() async throws {
    try await withTemporaryFolder { folder in
      let python = try await PythonEnvironment.make(in: folder, installing: "standardwebhooks")
      let path = CommandBlock.repository.appendingPathComponent("docs/WEBHOOKS.md")
      let text = try String(contentsOf: path, encoding: .utf8)
      let parts = text.components(separatedBy: "   ```python\n")
      try #require(parts.count == 2)
      let sample = parts[1].components(separatedBy: "   ```")[0]
        .components(separatedBy: "\n").map { String($0.dropFirst(3)) }.joined(separator: "\n")
      let judge = """
        import base64, datetime, re, sys
        text = open(sys.argv[1]).read()
        def shown(field): return re.search("^    " + field + ": (.*)$", text, re.M)[1]
        body = re.search('^    ({"type".*)$', text, re.M)[1]
        secret = re.search("`(whsec_[^`]*)`. The body", text)[1]
        identity, sent = shown("webhook-id"), datetime.datetime.fromtimestamp(
            int(shown("webhook-timestamp")), datetime.timezone.utc)
        assert Webhook(secret).sign(identity, sent, body) == shown("webhook-signature")
        assert sent.isoformat()[:19] == json.loads(body)["timestamp"][:19]
        now = datetime.datetime.now(datetime.timezone.utc)
        headers = {"webhook-id": identity, "webhook-timestamp": str(int(now.timestamp())),
                   "webhook-signature": Webhook(secret).sign(identity, now, body)}
        assert receive(secret, headers, body)["data"]["amount"] == Decimal("12.30")
        try:
            receive(secret, headers, body + " ")
            sys.exit("a body that was changed is refused")
        except Exception as error:
            assert type(error).__name__ == "WebhookVerificationError", error
        """
      try (sample + "\n" + judge).write(toFile: folder + "/sample.py", atomically: true, encoding: .utf8)
      let process = try RegisPayProcess(
        program: python.programs + "/python3", [folder + "/sample.py", path.path], folder: folder)
      let exit = try await process.waitForExit(within: .seconds(60))
      #expect(exit == .init(code: 0, isSignal: false), "\(process.errorText)")
    }
  }

  @Test("payment.http from top to bottom: each request gets the status in its comment, and no fault remains")
  func requests() async throws {
    try await withServer { folder, server in
      let requests = try DocumentedRequest.all(in: "docs/payment.http")
      #expect(requests.count > 20)
      var bodies: [String: [String: Any]] = [:]
      for request in requests {
        let response = try await request.send(to: server, after: bodies)
        #expect(response.status == request.status, "\(request.title)")
        guard let name = request.name else { continue }
        bodies[name] = try response.object()
        guard name == "create", let id = bodies[name]?["paymentId"] as? String else { continue }
        // A reader needs longer for the next request than the payment does.
        try await server.wait(for: id, status: "Completed", within: .seconds(20))
      }
      let id = try await server.createPayment("12.34")
      try await server.wait(for: id, status: "Completed", within: .seconds(20))
    }
  }

  /// Blocks that no test runs, each with the reason.
  private static let notRun: [(document: String, beginning: String, reason: String)] = [
    (readme, "make run", "installs packages; the tests are begun by the second line"),
    (readme, "swift build -c release --product bench", "minutes; LogStoreBenchTests runs the benchmark"),
    ("CONTRIBUTING.md", "make run", "as README's"),
    ("CONTRIBUTING.md", "LOGSTORE_SEED=4711", "a release build; `make simulate` runs the program"),
    ("CONTRIBUTING.md", "Tests/Fuzz/run", "a release build; `make fuzz-briefly` runs it"),
    (operations, "regispay serve --dir /var/lib/regispay", "every test starts it"),
    (operations, "regispay simulator --dir /var/lib/regispay-simulator", "RegisPaySimulatorTests starts it"),
    (operations, "regispay serve --psp-url", "RegisPaySimulatorTests starts it with these options"),
    (operations, "regispay serve --tls-certificate", "RegisPayTLSTests starts it with files of its own"),
    (operations, "Tests/Bounds/measure.py", "minutes; for a machine that does nothing else"),
    ("docs/INSTALL.md", "make deb", "a release build; `make deb-test` installs the package and uses it"),
    ("docs/INTEGRATION.md", "regispay serve --broker", "RegisPayBrokerTests starts it with brokers of its own"),
    ("docs/INTEGRATION.md", "make run", "as README's"),
    (
      "docs/INTEGRATION.md", "curl -X POST http://127.0.0.1:8080/api/v1/broker/dead-letters",
      "RegisPayWorkerTests runs it"
    ),
    ("docs/PROVIDERS.md", "regispay serve --psp-url", "OtherPSP starts it with these options"),
  ]

  @Test("a test runs every block of commands in the documents, or the block is listed with the reason why not")
  func complete() throws {
    // `alerts()` runs each block under the name of an alert.
    let source =
      try String(contentsOfFile: #filePath, encoding: .utf8) + AlertRules.names().map { "\"\($0)\"" }.joined()
    for document in CommandBlock.documents {
      for block in try CommandBlock.all(in: document) {
        let isListed = Self.notRun.contains { $0.document == document && block.lines[0].hasPrefix($0.beginning) }
        let isNamed = source.contains("\"\(block.heading)\"")
        #expect(isListed || isNamed, "\(block)")
      }
    }
    for listed in Self.notRun {
      let isThere = try CommandBlock.all(in: listed.document).contains { $0.lines[0].hasPrefix(listed.beginning) }
      #expect(isThere, "\(listed.beginning) is no longer in \(listed.document)")
    }
  }

  // MARK: - Help

  private func withServer(
    _ arguments: [String] = [], _ work: (String, RunningServer) async throws -> Void
  ) async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder, arguments: arguments)
      try await work(folder, server)
    }
  }

  private func post(_ server: RunningServer, _ method: String, _ path: String) async throws {
    let block = CommandBlock(document: "", heading: "", lines: ["curl -sf -X \(method) \(server.url)\(path)"])
    try await withTemporaryFolder { _ = try await block.run(in: $0) }
  }
}
