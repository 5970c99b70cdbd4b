import Foundation
import Testing

/// A real server, Debian's rabbitmq-server, workers and the simulators, each a process of its own.
/// TEST_REGISPAY_WORKER_ROUNDS sets how often something is killed.
@Suite("RegisPay's steps, taken from a broker by workers")
struct RegisPayWorkerTests {
  private static let rounds =
    ProcessInfo.processInfo.environment["TEST_REGISPAY_WORKER_ROUNDS"].flatMap(Int.init) ?? 5

  /// All processes of a test.
  private actor Site {
    let folder: String
    let rabbit: RabbitMQ
    let simulator: RunningServer
    private var broker: RabbitMQ.Running?
    private(set) var server: RunningServer
    private var workers: [RegisPayProcess] = []

    private init(_ folder: String, _ rabbit: RabbitMQ, _ broker: RabbitMQ.Running, _ simulator: RunningServer)
      async throws
    {
      (self.folder, self.rabbit, self.broker, self.simulator) = (folder, rabbit, broker, simulator)
      server = try await Self.startServer(folder, rabbit, simulator, port: 0)
    }

    static func start(in folder: String, workers: Int, faults: String = "{}") async throws -> Site {
      let rabbit = try await RabbitMQ(in: folder)
      let broker = try await rabbit.start()
      let simulator = try await RunningServer.startSimulator(
        folder, arguments: ["--psp-faults", faults, "--notifications-faults", faults])
      let site = try await Site(folder, rabbit, broker, simulator)
      for _ in 0..<workers { try await site.addWorker() }
      return site
    }

    private static func startServer(
      _ folder: String, _ rabbit: RabbitMQ, _ simulator: RunningServer, port: Int, fromLog: Bool = false
    ) async throws -> RunningServer {
      try await RunningServer.start(
        directory: folder,
        arguments: urls(simulator) + [
          "--broker", "amqp://guest@127.0.0.1:\(rabbit.port)", "--call-timeout", "2",
        ] + (fromLog ? ["--broker-event", "PaymentInitiated"] : ["--steps-from", "broker", "--broker-event", "none"]),
        port: port)
    }

    private static func urls(_ simulator: RunningServer) -> [String] {
      ["--psp-url", simulator.url + "/psp", "--notifications-url", simulator.url + "/notifications"]
    }

    func addWorker() async throws { workers.append(try makeWorker()) }

    private func makeWorker() throws -> RegisPayProcess {
      try RegisPayProcess(
        [
          "worker", "--broker", "amqp://guest@127.0.0.1:\(rabbit.port)", "--server", server.url, "--call-timeout", "2",
          "--log-format", "text",
        ] + Self.urls(simulator), folder: folder)
    }

    func killWorker(_ number: Int) async throws {
      workers[number].signal(SIGKILL)
      _ = try await workers[number].waitForExit()
      workers[number] = try makeWorker()
    }

    func killServer() async throws {
      let port = server.port
      try await server.killHard()
      server = try await Self.startServer(folder, rabbit, simulator, port: port)
    }

    func killBroker() async throws {
      try await broker?.killHard()
      broker = try await rabbit.start()
    }

    func killWorkers() async throws {
      for worker in workers {
        worker.signal(SIGKILL)
        _ = try await worker.waitForExit()
      }
      workers = []
    }

    /// Starts the server again, in the other mode.
    func restartServer(fromLog: Bool) async throws {
      let port = server.port
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
      server = try await Self.startServer(folder, rabbit, simulator, port: port, fromLog: fromLog)
    }

    func stopWorkers() async throws {
      for worker in workers {
        worker.signal(SIGTERM)
        #expect(try await worker.waitForExit() == .init(code: 0, isSignal: false), "\(worker.errorText)")
      }
      workers = []
    }

    var workerErrors: String { workers.map(\.errorText).joined() }
  }

  /// What a server answered, whatever was killed meanwhile.
  private func pay(_ site: Site) async throws -> String {
    while true {
      if let id = try? await site.server.createPayment("12.34") { return id }
      try await Task.sleep(for: .milliseconds(50))
    }
  }

  private func waitUntilCompleted(_ ids: [String], _ site: Site) async throws {
    for id in ids { try await site.server.wait(for: id, status: "Completed", within: .seconds(90)) }
  }

  /// One charge for each payment, and at most one for each that a killed server did not acknowledge.
  private func checkCharges(_ ids: [String], _ site: Site) async throws {
    let ledger = try await site.simulator.get("/psp/api/ledger").object()
    let charges = try #require(ledger["charges"] as? [[String: Any]])
    let charged = charges.compactMap { $0["paymentId"] as? String }
    #expect(Set(charged).count == charges.count)
    let settled = charges.filter { $0["status"] as? String == "settled" }.compactMap { $0["paymentId"] as? String }
    #expect(Set(settled).isSuperset(of: ids))
  }

  /// How the server's messages for workers fare at the broker.
  private func stepsState(_ server: RunningServer) async throws -> String {
    let consumers = try #require(try await server.get("/api/v1/consumers").object()["consumers"] as? [[String: Any]])
    let consumer = try #require(consumers.first { $0["name"] as? String == "broker-steps" })
    return (consumer["broker"] as? [String: Any])?["state"] as? String ?? ""
  }

  private func queue(_ step: String, _ server: RunningServer) async throws -> [String: Any] {
    let consumers = try #require(try await server.get("/api/v1/consumers").object()["consumers"] as? [[String: Any]])
    let consumer = try #require(consumers.first { $0["name"] as? String == "payment-\(step)" })
    return consumer["queue"] as? [String: Any] ?? [:]
  }

  @Test("every payment completes and is charged once, whatever is killed: workers, the server, the broker")
  func kills() async throws {
    try await withTemporaryFolder { folder in
      // Calls take long enough that each kill hits dozens of them, and some have an effect that no worker learns of.
      let site = try await Site.start(
        in: folder, workers: 3, faults: #"{"delay": {"fixed": 250}, "dropAfter": 0.02, "failAfter": 0.02}"#)
      let load = Task {
        var ids: [String] = []
        while !Task.isCancelled {
          ids.append(try await Task { try await pay(site) }.value)
          // Ends early only when the load does.
          try? await Task.sleep(for: .milliseconds(15))
        }
        return ids
      }
      for round in 0..<Self.rounds {
        try await Task.sleep(for: .milliseconds(Int.random(in: 200...1_500)))
        // In five rounds each of them at least once.
        switch round % 5 {
        case 0, 3: try await site.killWorker(Int.random(in: 0..<3))
        case 1: try await site.killServer()
        case 2: try await site.killBroker()
        default:
          try await site.killServer()
          for worker in 0..<3 { try await site.killWorker(worker) }
        }
      }
      load.cancel()
      let ids = try await load.value
      #expect(ids.count > 20)
      try await waitUntilCompleted(ids, site)
      try await checkCharges(ids, site)
      try await site.stopWorkers()
      #expect(try await site.server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test(
    "what is no message goes to the dead letters, which are shown and released; work is not lost with a queue or a mode"
  )
  func deadLetters() async throws {
    try await withTemporaryFolder { folder in
      let python = try await PythonEnvironment.make(in: folder, installing: "pika")
      let site = try await Site.start(in: folder, workers: 1)
      let script = """
        import sys, pika
        c = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", int(sys.argv[1]))).channel()
        q = "regispay.payment-create"
        if sys.argv[2] == "foreign":
          for body in [b"", b"not json", b"{}", b'{"aggregateId":"pay:x"}', b"x" * (16 << 20)]: c.basic_publish("", q, body)
        if sys.argv[2] == "reject":
          while True:
            m = c.basic_get(q)[0]
            if not m: break
            c.basic_reject(m.delivery_tag, requeue=False)
        if sys.argv[2] == "delete": c.queue_delete(q)
        if sys.argv[2] == "unbind": c.queue_unbind(q, "regispay.steps:PaymentInitiated", "")
        """
      func run(_ what: String) async throws {
        let process = try RegisPayProcess(
          program: python.programs + "/python3", ["-c", script, "\(site.rabbit.port)", what], folder: folder)
        let exit = try await process.waitForExit()
        #expect(exit.code == 0, "\(process.errorText)")
      }
      func wait(_ what: Comment, _ name: String, _ count: Int) async throws {
        try await eventually(what, within: .seconds(60)) {
          try await queue("create", site.server)[name] as? Int == count
        }
      }
      var ids = [try await pay(site)]
      try await waitUntilCompleted(ids, site)
      try await run("foreign")
      ids.append(try await pay(site))
      try await waitUntilCompleted(ids, site)
      try await wait("foreign messages are dead letters", "deadLetters", 5)
      let errors = await site.workerErrors
      #expect(errors.contains("a message names no payment"))

      // Without a worker they wait, and somebody rejects them.
      try await site.killWorkers()
      for _ in 0..<3 { ids.append(try await pay(site)) }
      try await wait("three messages wait", "messages", 3)
      let health = String(decoding: try await site.server.get("/health").body, as: UTF8.self)
      #expect(health.contains("broker-steps: no worker takes the 3 messages of regispay.payment-create"))
      #expect(health.contains("POST /api/v1/broker/dead-letters/create/release"))
      try await run("reject")
      try await wait("they are dead letters", "deadLetters", 8)
      try await site.addWorker()
      let release = try CommandBlock.first("docs/INTEGRATION.md", "What becomes of a message", "curl")
      _ = try await release.run(
        in: folder, replacing: ["http://127.0.0.1:8080": site.server.url, "curl": "curl --fail"])
      try await waitUntilCompleted(ids, site)
      let actions = String(decoding: try await site.server.get("/api/v1/actions").body, as: UTF8.self)
      #expect(actions.contains("dead-letters-released"))

      // While a memory alarm blocks messages, the connection stays, and nothing is asked on it that gets no answer.
      try await site.rabbit.control("set_vm_memory_high_watermark", "0.00001")
      ids.append(try await pay(site))
      try await eventually("the broker blocks", within: .seconds(30)) {
        try await stepsState(site.server) == "blocked"
      }
      let end = ContinuousClock.now + .seconds(10)
      while ContinuousClock.now < end {
        #expect(try await stepsState(site.server) == "blocked")
        try await Task.sleep(for: .milliseconds(200))
      }
      try await site.rabbit.control("set_vm_memory_high_watermark", "0.6")
      try await waitUntilCompleted(ids, site)

      // A queue that is deleted with its messages is declared again, and gets what is not done.
      try await site.killWorkers()
      for _ in 0..<3 { ids.append(try await pay(site)) }
      try await wait("three messages wait", "messages", 3)
      try await run("delete")
      try await site.addWorker()
      try await waitUntilCompleted(ids, site)

      // So is a binding, once a message has reached no queue.
      try await run("unbind")
      ids.append(try await pay(site))
      try await waitUntilCompleted(ids, site)

      // From the broker to the log and back, with work open each time.
      try await site.killWorkers()
      for _ in 0..<3 { ids.append(try await pay(site)) }
      try await site.restartServer(fromLog: true)
      try await waitUntilCompleted(ids, site)
      _ = try await site.simulator.post("/toggle-errors", "", headers: [])
      for _ in 0..<3 { ids.append(try await pay(site)) }
      try await site.restartServer(fromLog: false)
      try await site.addWorker()
      _ = try await site.simulator.post("/toggle-errors", "", headers: [])
      try await waitUntilCompleted(ids, site)
      try await checkCharges(ids, site)
      try await site.stopWorkers()
    }
  }

  @Test("a worker that has no way to the server takes no messages from one that has")
  func withoutServer() async throws {
    try await withTemporaryFolder { folder in
      let site = try await Site.start(in: folder, workers: 1)
      let ids = [try await pay(site)]
      try await waitUntilCompleted(ids, site)
      let other = try RegisPayProcess(
        [
          "worker", "--broker", "amqp://guest@127.0.0.1:\(site.rabbit.port)", "--server", "http://127.0.0.1:1",
          "--psp-url", "http://127.0.0.1:1", "--notifications-url", "http://127.0.0.1:1", "--log-format", "text",
        ], folder: folder)
      try await eventually("it says so", within: .seconds(30)) { other.errorText.contains("the server gives no work") }
      for _ in 0..<20 {
        let id = try await pay(site)
        try await site.server.wait(for: id, status: "Completed", within: .seconds(10))
      }
      other.signal(SIGTERM)
      #expect(try await other.waitForExit() == .init(code: 0, isSignal: false), "\(other.errorText)")
      try await site.stopWorkers()
    }
  }

  @Test("a broker that delivers more than it was asked for loses the connection")
  func tooManyDeliveries() async throws {
    try await withTemporaryFolder { folder in
      let peer = try RegisPayProcess(
        program: "python3", ["-B", StoreUnderTest.support + "/hostile_broker.py", "deliveries"], folder: folder)
      let port = try #require((try await peer.nextLine() ?? "").split(separator: " ").first)
      let server = try await RunningServer.start(
        directory: folder,
        arguments: ["--broker", "amqp://127.0.0.1:1", "--steps-from", "broker", "--broker-event", "none"])
      let worker = try RegisPayProcess(
        [
          "worker", "--broker", "amqp://127.0.0.1:\(port)", "--server", server.url, "--log-format", "text",
          "--psp-url", "http://127.0.0.1:1", "--notifications-url", "http://127.0.0.1:1",
        ], folder: folder)
      #expect(try await peer.nextLine() == "begin deliveries")
      #expect(try await peer.nextLine(within: .seconds(30)) == "end deliveries")
      try await eventually("the reason is told", within: .seconds(10)) {
        worker.errorText.contains("it delivers more messages than it was asked for (--prefetch 64)")
      }
      worker.signal(SIGTERM)
      #expect(try await worker.waitForExit() == .init(code: 0, isSignal: false), "\(worker.errorText)")
    }
  }
}
