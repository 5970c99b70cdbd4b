import Foundation
import Testing

/// A real server, Debian's rabbitmq-server, and consumers on clients that others wrote: pika and py-amqp.
@Suite("RegisPay's integration events, received from a broker")
struct RegisPayBrokerTests {
  private static let prefix = "Regis.Pay.Domain.IntegrationEvents:"
  private static let types = ["PaymentInitiated", "PaymentCreated", "PaymentSettled", "PaymentCompleted"]
  /// Gets the events of all types.
  private static let all = prefix + "IntegrationEventBase"

  /// What the consumer has received, in its order.
  private actor Receiver {
    struct Message: Sendable, Hashable {
      var id: String
      var payment: String
    }

    /// A line of masstransit_consumer.py.
    private struct Received: Decodable {
      struct Content: Decodable { var aggregateId: String }
      var id: String
      var message: Content
    }

    private let process: RegisPayProcess
    private(set) var messages: [Message] = []
    private(set) var bad: [String] = []
    private(set) var differences: Set<String> = []
    private(set) var isReady = false

    init(_ process: RegisPayProcess) {
      self.process = process
      Task { [weak self] in
        while let line = try? await process.nextLine(within: .seconds(600)) { await self?.take(line) }
      }
    }

    /// - Parameter script: in the folder `Support`.
    static func start(_ python: PythonEnvironment, _ script: String, _ arguments: [String], folder: String) throws
      -> Receiver
    {
      // Its standard input ends with the test's own process only, so it is killed at the end.
      Receiver(
        try RegisPayProcess(
          program: "sh",
          [
            "-c", "tail -f /dev/null | exec \"$@\"", "sh", python.programs + "/python3", "-B",
            StoreUnderTest.support + "/" + script,
          ] + arguments, folder: folder))
    }

    deinit { kill(-process.pid, SIGKILL) }

    private func take(_ line: String) {
      let words = line.split(separator: " ").map(String.init)
      if words == ["ready"] {
        isReady = true
      } else if line.hasPrefix("{"), let read = try? JSONDecoder().decode(Received.self, from: Data(line.utf8)) {
        // A line that can't be read is bad.
        messages.append(Message(id: read.id, payment: read.message.aggregateId))
      } else if line.hasPrefix("difference ") {
        // MassTransit reads these messages, and would have written them otherwise: docs/INTEGRATION.md lists how.
        differences.insert(words.dropFirst(2).joined(separator: " "))
      } else if words.count == 5, words[0] != "bad" {
        messages.append(Message(id: words[0], payment: words[2]))
      } else {
        bad.append(line)
      }
    }

    func forget() { messages = [] }

    /// The ids of each payment's messages, without repeats.
    var ids: [String: [String]] {
      var ids: [String: [String]] = [:]
      var seen: Set<String> = []
      for message in messages where seen.insert(message.id).inserted {
        ids[message.payment, default: []].append(message.id)
      }
      return ids
    }
  }

  /// The ids of all events of payments, in the log's order.
  private func idsOnLog(_ folder: String) async throws -> [String: [String]] {
    let process = try RegisPayProcess(
      program: RegisPayProcess.buildFolder.appendingPathComponent("logstore").path,
      ["dump", "--format", "json", "--dir", folder + "/data/payments"], folder: folder)
    var ids: [String: [String]] = [:]
    while let line = try await process.nextLine(within: .seconds(60)) {
      guard let event = try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any],
        let stream = event["stream"] as? String, stream.hasPrefix("pay:"), let id = event["id"] as? String
      else { continue }
      ids[stream, default: []].append(id)
    }
    return ids
  }

  private func broker(_ server: RunningServer) async throws -> [String: Any] {
    let object = try await server.get("/api/v1/consumers").object()
    let consumers = try #require(object["consumers"] as? [[String: Any]])
    return try #require(consumers.first { $0["name"] as? String == "broker" })
  }

  private func connection(_ server: RunningServer) async throws -> (state: String, reason: String) {
    let connection = try #require(try await broker(server)["broker"] as? [String: Any])
    return (connection["state"] as? String ?? "", connection["reason"] as? String ?? "")
  }

  private func warnings(_ server: RunningServer) async throws -> String {
    String(decoding: try await server.get("/health").body, as: UTF8.self)
  }

  private func pay(_ count: Int, _ server: RunningServer) async throws {
    try await withThrowingTaskGroup(of: Void.self) { group in
      for worker in 0..<8 {
        group.addTask {
          for _ in 0..<(count / 8 + (worker < count % 8 ? 1 : 0)) { _ = try await server.createPayment("12.34") }
        }
      }
      try await group.waitForAll()
    }
  }

  private func waitUntilPublished(_ server: RunningServer, within limit: Duration = .seconds(120)) async throws {
    try await eventually("all is published", within: limit) { try await broker(server)["lag"] as? Int == 0 }
  }

  @Test(
    "each event arrives, and a payment's in their order, while the broker is killed, blocked, emptied and filled again")
  func everything() async throws {
    try await withTemporaryFolder { folder in
      let python = try await PythonEnvironment.make(in: folder, installing: "pika", "amqp")
      let rabbit = try await RabbitMQ(in: folder)
      var running: RabbitMQ.Running? = try await rabbit.start()
      let receivers = [
        try Receiver.start(
          python, "receive_integration_events.py", ["\(rabbit.port)", "everything", Self.all], folder: folder),
        // Written from MassTransit's documentation and source alone.
        try Receiver.start(python, "masstransit_consumer.py", ["\(rabbit.port)", "regis-pay"], folder: folder),
      ]
      for receiver in receivers {
        try await eventually("the consumer is there", within: .seconds(60)) { await receiver.isReady }
      }
      let server = try await RunningServer.start(
        directory: folder, arguments: ["--broker", "amqp://guest@127.0.0.1:\(rabbit.port)"])
      try await pay(100, server)
      try await waitUntilPublished(server)

      // Killed in the middle of a load, and away for a while.
      async let load: Void = pay(300, server)
      try await Task.sleep(for: .milliseconds(300))
      try await running?.killHard()
      try await eventually("the server has noticed", within: .seconds(30)) {
        try await connection(server).state == "connecting"
      }
      try await load
      try await eventually("the reason is told", within: .seconds(30)) {
        try await warnings(server).contains(
          "warning: broker: no connection to the broker at 127.0.0.1:\(rabbit.port): nothing listens there")
      }
      let id = try await server.createPayment("1.00")
      try await server.wait(for: id, status: "Completed", within: .seconds(30))
      running = try await rabbit.start()
      try await waitUntilPublished(server)

      // Blocked by a memory alarm.
      try await rabbit.control("set_vm_memory_high_watermark", "0.00001")
      try await pay(100, server)
      try await eventually("the broker blocks", within: .seconds(30)) {
        try await connection(server).state == "blocked"
      }
      #expect(try await warnings(server).contains("warning: broker: the broker takes no messages"))
      try await rabbit.control("set_vm_memory_high_watermark", "0.6")
      try await waitUntilPublished(server)
      #expect(try await connection(server) == ("publishing", ""))
      #expect(!(try await warnings(server).contains("broker")))

      let wanted = try await idsOnLog(folder)
      #expect(wanted.count == 501)
      for receiver in receivers {
        try await eventually("all has arrived, in order", within: .seconds(60)) { await receiver.ids == wanted }
      }

      // What a broker has lost is published again.
      for receiver in receivers { await receiver.forget() }
      let replayed = try await server.post("/api/v1/broker/replay", "{\"from\":0}")
      #expect(replayed.status == 202)
      try await waitUntilPublished(server)
      for receiver in receivers {
        try await eventually("all has arrived again, in order", within: .seconds(60)) { await receiver.ids == wanted }
        #expect(await receiver.bad.isEmpty)
      }
      let actions = String(decoding: try await server.get("/api/v1/actions").body, as: UTF8.self)
      #expect(actions.contains("broker-replayed"))
      let metrics = String(decoding: try await server.get("/metrics").body, as: UTF8.self)
      #expect(metrics.contains("regispay_broker_state{state=\"publishing\"} 1"))
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
      withExtendedLifetime(running) {}
    }
  }

  @Test(
    "what no queue gets, a full queue refuses, or an exchange of another type can't take, waits with a reason and is not lost"
  )
  func refused() async throws {
    try await withTemporaryFolder { folder in
      let python = try await PythonEnvironment.make(in: folder, installing: "pika")
      let rabbit = try await RabbitMQ(in: folder)
      let running = try await rabbit.start()
      let script = """
        import sys, pika
        c = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", int(sys.argv[1]))).channel()
        p = "Regis.Pay.Domain.IntegrationEvents:"
        what = sys.argv[2]
        if what == "begin": c.exchange_declare(p + "PaymentCompleted", "direct", durable=True)
        if what == "full":
          for t in ["Initiated", "Created", "Settled"]:
            c.exchange_declare(p + "Payment" + t, "fanout", durable=True)
          c.queue_declare("small", durable=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
          c.queue_bind("small", p + "PaymentInitiated")
          for t in ["Created", "Settled"]:
            c.queue_declare("q" + t, durable=True); c.queue_bind("q" + t, p + "Payment" + t)
        if what == "mend":
          c.queue_declare("all", durable=True); c.queue_bind("all", p + "IntegrationEventBase")
          c.queue_delete("small"); c.exchange_delete(p + "PaymentCompleted")
        if what == "delete": c.exchange_delete(p + "PaymentSettled")
        if what == "base":
          c.exchange_delete(p + "IntegrationEventBase")
          c.exchange_declare(p + "IntegrationEventBase", "fanout", durable=True)
          c.queue_bind("all", p + "IntegrationEventBase")
        if what == "count": print(c.queue_declare("all", passive=True).method.message_count)
        """
      func run(_ what: String) async throws -> String? {
        let process = try RegisPayProcess(
          program: python.programs + "/python3", ["-c", script, "\(rabbit.port)", what], folder: folder)
        let line = try await process.nextLine()
        let exit = try await process.waitForExit()
        #expect(exit.code == 0, "\(process.errorText)")
        return line
      }
      func held(_ type: String, _ server: RunningServer) async throws -> String {
        let held = try await broker(server)["heldExchanges"] as? [[String: Any]] ?? []
        return held.first { $0["exchange"] as? String == Self.prefix + type }?["reason"] as? String ?? ""
      }
      _ = try await run("begin")
      let server = try await RunningServer.start(
        directory: folder, arguments: ["--broker", "amqp://127.0.0.1:1,amqp://guest@127.0.0.1:\(rabbit.port)/%2F"])
      try await eventually("an exchange of another type is reported", within: .seconds(30)) {
        try await held("PaymentCompleted", server).contains("exists with other properties")
      }
      for _ in 0..<3 { _ = try await server.createPayment("12.34") }
      try await eventually("messages that no queue gets are reported", within: .seconds(30)) {
        try await held("PaymentInitiated", server).contains("no queue gets its messages")
      }
      #expect(try await warnings(server).contains("warning: broker: exchange \(Self.prefix)PaymentInitiated: no queue"))
      try await pay(520, server)
      try await eventually("all that fits in memory waits", within: .seconds(60)) {
        try await connection(server).state == "held"
      }
      #expect(try await warnings(server).contains("events wait for the exchanges below"))
      _ = try await run("full")
      try await eventually("a full queue is reported", within: .seconds(60)) {
        try await held("PaymentInitiated", server).contains("may be full")
      }
      #expect(try await broker(server)["checkpoint"] as? Int == 0)
      _ = try await run("mend")
      try await waitUntilPublished(server, within: .seconds(90))
      _ = try await run("delete")
      _ = try await server.createPayment("12.34")
      try await waitUntilPublished(server, within: .seconds(60))
      #expect(try await run("count").flatMap { Int($0) } ?? 0 >= 12)
      // Made again by its operator, without RegisPay's bindings.
      _ = try await run("base")
      _ = try await server.createPayment("12.34")
      try await waitUntilPublished(server, within: .seconds(60))
      #expect(try await broker(server)["heldExchanges"] as? [[String: String]] == [])
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))

      try FileManager.default.createDirectory(atPath: folder + "/skipping", withIntermediateDirectories: true)
      let skipping = try await RunningServer.start(
        directory: folder + "/skipping",
        arguments: [
          "--broker", "amqp://127.0.0.1:\(rabbit.port)", "--broker-exchange-prefix", "nobody.", "--broker-unroutable",
          "skip",
        ])
      let id = try await skipping.createPayment("12.34")
      try await skipping.wait(for: id, status: "Completed", within: .seconds(30))
      try await waitUntilPublished(skipping, within: .seconds(30))
      let skipped = try #require(try await broker(skipping)["skippedExchanges"] as? [[String: Any]])
      #expect(
        Set(skipped.compactMap { $0["exchange"] as? String })
          == ["nobody.PaymentInitiated", "nobody.PaymentCreated", "nobody.PaymentSettled", "nobody.PaymentCompleted"])
      #expect(
        skipped.allSatisfy { $0["messages"] as? Int == 1 && $0["firstOffset"] as? Int == $0["lastOffset"] as? Int })
      #expect(!(try await warnings(skipping).contains("broker")))
      #expect(try await skipping.stopGracefully() == .init(code: 0, isSignal: false))
      withExtendedLifetime(running) {}
    }
  }

  @Test("a broker that sends anything ends nothing: payments go on, memory stays, and a stop is soon")
  func hostile() async throws {
    try await withTemporaryFolder { folder in
      let peer = try RegisPayProcess(
        program: "python3", ["-B", StoreUnderTest.support + "/hostile_broker.py"], folder: folder)
      let numbers = (try await peer.nextLine() ?? "").split(separator: " ").compactMap { Int($0) }
      try #require(numbers.count == 2, "no port: \(peer.errorText)")
      // Named as often as there are cases: between several brokers there is no wait.
      let url = "amqp://127.0.0.1:\(numbers[0])"
      let server = try await RunningServer.start(
        directory: folder,
        arguments: ["--broker", Array(repeating: url, count: numbers[1]).joined(separator: ",")])
      _ = try await server.createPayment("12.34")
      var names: Set<String> = []
      while let line = try await peer.nextLine(within: .seconds(60)), line != "round" {
        if line.hasPrefix("begin ") { names.insert(line) }
      }
      #expect(names.count == numbers[1])
      let id = try await server.createPayment("12.34")
      try await server.wait(for: id, status: "Completed", within: .seconds(30))
      let status = try String(contentsOfFile: "/proc/\(server.process.pid)/status", encoding: .utf8)
      let peak = try #require(status.firstMatch(of: /VmHWM:\s+(\d+) kB/)).1
      #expect(try #require(Int(peak)) < 300 << 10, "\(peak) KiB")
      let began = ContinuousClock.now
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false), "\(server.process.errorText)")
      #expect(began.duration(to: .now) < .seconds(8))
    }
  }

  @Test("a broker that repeats the password does not get it into a log line or /health")
  func echo() async throws {
    try await withTemporaryFolder { folder in
      let peer = try RegisPayProcess(
        program: "python3", ["-B", StoreUnderTest.support + "/hostile_broker.py", "echo"], folder: folder)
      let port = try #require((try await peer.nextLine() ?? "").split(separator: " ").first)
      let server = try await RunningServer.start(
        directory: folder, arguments: ["--broker", "amqp://shop@127.0.0.1:\(port)", "--broker-password", "sesame"])
      try await eventually("the refusal is told", within: .seconds(30)) {
        try await warnings(server).contains("refuses the user shop: PLAIN")
      }
      let said = try await warnings(server) + server.process.errorText
      #expect(said.contains("shop:…") && !said.contains("sesame"), "\(said)")
    }
  }

  @Test("a broker that confirms only what it has confirmed before is told of as one that confirms nothing")
  func stalled() async throws {
    try await withTemporaryFolder { folder in
      let peer = try RegisPayProcess(
        program: "python3", ["-B", StoreUnderTest.support + "/hostile_broker.py", "stalled"], folder: folder)
      let port = try #require((try await peer.nextLine() ?? "").split(separator: " ").first)
      let server = try await RunningServer.start(
        directory: folder, arguments: ["--broker", "amqp://127.0.0.1:\(port)"])
      _ = try await server.createPayment("12.34")
      try await eventually("the stall is told", within: .seconds(30)) {
        try await warnings(server).contains("the broker has confirmed no message")
      }
    }
  }

  @Test(
    "a user that may not declare exchanges is told of, and once it may, the warnings end, also of types that have no event"
  )
  func permissions() async throws {
    try await withTemporaryFolder { folder in
      let rabbit = try await RabbitMQ(in: folder)
      let running = try await rabbit.start()
      try await rabbit.control("add_user", "shop", "sesame")
      try await rabbit.control("set_permissions", "shop", "", ".*", ".*")
      let server = try await RunningServer.start(
        directory: folder,
        arguments: [
          "--broker", "amqp://shop@127.0.0.1:\(rabbit.port)", "--broker-password", "sesame", "--broker-unroutable",
          "skip",
        ])
      try await eventually("the refusal is told", within: .seconds(30)) {
        let text = try await warnings(server)
        return text.contains("PaymentRefunded: the user may not declare it")
      }
      let id = try await server.createPayment("12.34")
      try await server.wait(for: id, status: "Completed", within: .seconds(30))
      #expect(try await broker(server)["lag"] as? Int != 0)
      try await rabbit.control("set_permissions", "shop", ".*", ".*", ".*")
      try await waitUntilPublished(server, within: .seconds(60))
      try await eventually("no warning is left", within: .seconds(90)) {
        !(try await warnings(server).contains("broker"))
      }
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
      withExtendedLifetime(running) {}
    }
  }

  @Test("over TLS a broker whose certificate is not trusted, or names another host, gets no password and no message")
  func encrypted() async throws {
    try await withTemporaryFolder { folder in
      let python = try await PythonEnvironment.make(in: folder, installing: "pika")
      try await SelfSigned.make("broker", in: folder)
      try await SelfSigned.make("other", in: folder)
      let rabbit = try await RabbitMQ(in: folder, certificate: folder + "/broker")
      let running = try await rabbit.start()
      // The certificate is for localhost.
      for (host, roots, reason) in [
        ("localhost", "other", "the certificate of localhost isn't trusted"),
        ("127.0.0.1", "broker", "the certificate of 127.0.0.1 is not for this name"),
      ] {
        let server = try await RunningServer.start(
          directory: folder,
          arguments: [
            "--broker", "amqps://guest@\(host):\(rabbit.portOfTLS)", "--broker-roots", "\(folder)/\(roots).crt",
          ])
        try await eventually("the broker is not trusted", within: .seconds(30)) {
          let (state, why) = try await connection(server)
          return state == "connecting" && why.contains(reason)
        }
        #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
      }
      let server = try await RunningServer.start(
        directory: folder,
        arguments: [
          "--broker", "amqps://guest@localhost:\(rabbit.portOfTLS)", "--broker-roots", folder + "/broker.crt",
          "--broker-format", "cloudevents-binary", "--broker-exchange-prefix", "shop.",
        ])
      try await eventually("it is connected", within: .seconds(30)) {
        try await connection(server).state == "publishing"
      }
      let id = try await server.createPayment("12.34")
      let script = """
        import json, sys, pika
        c = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", int(sys.argv[1]))).channel()
        c.queue_declare("all", durable=True)
        for t in ["Initiated", "Created", "Settled", "Completed"]: c.queue_bind("all", "shop.Payment" + t)
        for method, properties, body in c.consume("all", inactivity_timeout=60):
          h = properties.headers
          print(method.exchange, h["cloudEvents_type"], h["cloudEvents_subject"], properties.content_type,
            h["cloudEvents_id"] == properties.message_id, json.loads(body)["aggregateId"], flush=True)
          c.basic_ack(method.delivery_tag)
          if method.exchange == "shop.PaymentCompleted": break
        """
      let receiver = try RegisPayProcess(
        program: python.programs + "/python3", ["-c", script, "\(rabbit.port)"], folder: folder)
      for (type, name) in [
        ("Initiated", "initiated"), ("Created", "created"), ("Settled", "settled"), ("Completed", "completed"),
      ] {
        let line = try await receiver.nextLine(within: .seconds(90))
        #expect(
          line == "shop.Payment\(type) payment.\(name) \(id) application/json True pay:\(id)", "\(receiver.errorText)")
      }
      try await waitUntilPublished(server)
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
      withExtendedLifetime(running) {}
    }
  }
}
