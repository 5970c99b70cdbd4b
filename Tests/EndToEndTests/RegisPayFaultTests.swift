import Foundation
import Synchronization
import Testing

/// The server, and a second one that only serves as PSP and notification service, each killed when it likes, while the
/// simulators fail, decline, drop and dawdle, and people cancel and refund.
@Suite("RegisPay, killed among faults")
struct RegisPayFaultTests {
  private static let rounds = ProcessInfo.processInfo.environment["TEST_REGISPAY_FAULT_ROUNDS"].flatMap(Int.init) ?? 5
  private static let rate = 250
  private static let settings = [
    "--call-timeout", "1", "--retry-delay-limit", "0.5", "--breaker-seconds", "0.3", "--scrub-rate", "0",
  ]

  /// What the clients requested, and what was acknowledged.
  private final class Asked: Sendable {
    private struct State {
      var amountCount = 0
      var acknowledged: [String: Int] = [:]
    }

    private let state = Mutex(State())

    var acknowledged: [String: Int] { state.withLock { $0.acknowledged } }
    var count: Int { state.withLock { $0.amountCount } }

    func next() -> Int {
      state.withLock {
        $0.amountCount += 1
        return $0.amountCount
      }
    }

    func acknowledged(_ id: String, amount: Int) { state.withLock { $0.acknowledged[id] = amount } }

    func some() -> String? { state.withLock { $0.acknowledged.keys.randomElement() } }
  }

  /// Both processes; either is another one from one moment to the next.
  private final class Pair: Sendable {
    private let both: Mutex<(server: RunningServer, psp: RunningServer)>

    init(_ server: RunningServer, _ psp: RunningServer) { both = Mutex((server, psp)) }

    var server: RunningServer {
      get { both.withLock { $0.server } }
      set { both.withLock { $0.server = newValue } }
    }
    var psp: RunningServer {
      get { both.withLock { $0.psp } }
      set { both.withLock { $0.psp = newValue } }
    }
  }

  @Test("whatever is killed and whatever fails: one charge for each payment that was settled, and none for others")
  func faultRounds() async throws {
    var random = SeededGenerator("fault rounds")
    let requested = Asked()
    try await withTemporaryFolder { folder in
      let (own, others) = (folder + "/server", folder + "/psp")
      for name in [own, others] {
        try FileManager.default.createDirectory(atPath: name, withIntermediateDirectories: true)
      }
      let psp = try await RunningServer.start(directory: others, arguments: Self.settings)
      let port = try #require(URL(string: psp.url)?.port)
      let pair = Pair(try await startServer(own, psp), psp)
      for round in 1...Self.rounds {
        let seconds = Double.random(in: 0.5...2.5, using: &random)
        let doing = (0..<Int.random(in: 2...6, using: &random)).map { _ in
          (at: Double.random(in: 0...seconds, using: &random), what: Int.random(in: 0..<10, using: &random))
        }.sorted { $0.at < $1.at }
        let faults = doing.map { _ in Self.faults(using: &random) }
        let before = (requested.count, requested.acknowledged.count)
        for service in ["psp", "notifications"] {
          _ = try await pair.psp.put("/\(service)/api/faults", Self.faults(using: &random))
        }
        try await withThrowingTaskGroup(of: Void.self) { group in
          group.addTask { await load(pair, requested, seconds) }
          let start = ContinuousClock.now
          for (action, fault) in zip(doing, faults) {
            try await Task.sleep(until: start + .seconds(action.at))
            switch action.what {
            case 0, 1:
              try await pair.server.killHard()
              pair.server = try await startServer(own, pair.psp)
            case 2:
              try await pair.psp.killHard()
              pair.psp = try await RunningServer.start(directory: others, arguments: Self.settings, port: port)
            case 3:
              try await pair.psp.killHard()
              try await pair.server.killHard()
              pair.psp = try await RunningServer.start(directory: others, arguments: Self.settings, port: port)
              pair.server = try await startServer(own, pair.psp)
            default:
              let service = action.what < 8 ? "psp" : "notifications"
              _ = try await pair.psp.put("/\(service)/api/faults", fault)
            }
          }
          try await group.waitForAll()
        }
        for service in ["psp", "notifications"] { _ = try await pair.psp.put("/\(service)/api/faults", "{}") }
        let statuses = try await check(pair, requested)
        print(
          "fault round \(round): \(doing.map(\.what)), requested \(requested.count - before.0), acknowledged "
            + "\(requested.acknowledged.count - before.1); in all \(statuses.sorted { $0.key < $1.key })")
      }
    }
    #expect(
      requested.acknowledged.count > Self.rounds * Self.rate / 10, "a load without responses proves nothing")
  }

  private func startServer(_ folder: String, _ psp: RunningServer) async throws -> RunningServer {
    try await RunningServer.start(
      directory: folder,
      arguments: Self.settings + ["--psp-url", psp.url + "/psp", "--notifications-url", psp.url + "/notifications"])
  }

  private static func faults(using random: inout SeededGenerator) -> String {
    func share(_ most: Double) -> Double {
      Bool.random(using: &random) ? Double.random(in: 0...most, using: &random) : 0
    }
    let decline = share(0.3)
    return """
      {"failBefore":\(share(0.3)),"failAfter":\(share(0.3)),"dropBefore":\(share(0.2)),"dropAfter":\(share(0.2)),\
      "failStatuses":[500,503,408,429],"decline":\(decline),"delay":{"exponentialMean":\(share(200)),"limit":3000}}
      """
  }

  /// New payments at a constant rate, and now and then a cancellation or a refund of an acknowledged one.
  private func load(_ pair: Pair, _ requested: Asked, _ seconds: Double) async {
    await withDiscardingTaskGroup { group in
      let start = ContinuousClock.now
      var index = 0
      while start.duration(to: .now) < .seconds(seconds) {
        group.addTask {
          let amount = requested.next()
          // A request without a response counts as requested only.
          if let id = try? await pair.server.createPayment(decimal(amount)) {
            requested.acknowledged(id, amount: amount)
          }
        }
        if index % 10 == 0, let id = requested.some() {
          let (action, body) = index % 20 == 0 ? ("cancel", "") : ("refunds", #"{"amount":0.01}"#)
          group.addTask { _ = try? await pair.server.post("/api/v1/payments/\(id)/\(action)", body) }
        }
        index += 1
        try? await Task.sleep(until: start + .seconds(1) / Self.rate * index)
      }
    }
  }

  /// - Returns: how many payments ended in which state.
  private func check(_ pair: Pair, _ requested: Asked) async throws -> [String: Int] {
    let acknowledged = requested.acknowledged
    let payments = try await waitForAll(pair)
    for (id, amount) in acknowledged {
      #expect(payments[id]?.amount == amount, "payment \(id) is there with its amount")
    }
    #expect(Set(payments.values.map(\.amount)).count == payments.count, "a request made at most one payment")
    #expect(
      payments.values.allSatisfy { (1...requested.count).contains($0.amount) }, "no payment that was not asked for")
    let ledger = try await pair.psp.get("/psp/api/ledger").object()
    var charges: [String: (amount: Int?, refunded: Int?)] = [:]
    for case let charge as [String: Any] in ledger["charges"] as? [Any] ?? [] {
      let id = try #require(charge["paymentId"] as? String)
      let refunded = try #require(minorUnits(charge["refunded"]))
      #expect(refunded <= minorUnits(charge["amount"]) ?? 0, "payment \(id): no more goes back than was charged")
      guard charge["status"] as? String == "settled" else { continue }
      #expect(charges[id] == nil, "payment \(id) is charged once")
      charges[id] = (minorUnits(charge["amount"]), refunded)
    }
    for (id, payment) in payments {
      let isSettled = payment.status == "Completed" || payment.status == "Refunded"
      #expect(charges[id]?.amount == (isSettled ? payment.amount : nil), "payment \(id) is \(payment.status)")
      #expect(charges[id]?.refunded ?? 0 == payment.refunded, "what went back for payment \(id)")
    }
    #expect(Set(charges.keys).isSubset(of: payments.keys), "no charge without a payment")
    return payments.values.reduce(into: [:]) { $0[$1.status, default: 0] += 1 }
  }

  private struct Row {
    var amount: Int
    var status: String
    var refunded: Int
    /// A refund has no outcome yet.
    var isRefunding: Bool
  }

  private static let final: Set = ["Completed", "Refunded", "Declined", "Cancelled"]

  /// Says what became of a step whose outcome is unknown, as a person who looks at the PSP's ledger does.
  private func resolve(_ id: String, _ pair: Pair) async throws {
    let payment = try await pair.server.get("/api/v1/payments/\(id)").object()
    // The list may be behind; and a refund in flight makes the ledger say less of the others.
    guard let unknown = payment["unknown"] as? [String: Any] else { return }
    let refunds = payment["refunds"] as? [[String: Any]] ?? []
    guard !refunds.contains(where: { $0["status"] as? String == "Requested" }) else { return }
    let step = try #require(unknown["step"] as? String)
    let ledger = try await pair.psp.get("/psp/api/ledger").object()
    let charge = (ledger["charges"] as? [[String: Any]] ?? []).first { $0["paymentId"] as? String == id }
    let status = charge?["status"] as? String
    var body: [String: Any] = ["step": step]
    let hasHappened: Bool
    switch step {
    case "create":
      hasHappened = charge != nil
      body["reference"] = charge?["reference"]
    case "settle": hasHappened = status == "settled"
    case "cancel": hasHappened = status == "cancelled"
    case "refund":
      // All are of the same amount: it does not matter which of them went through.
      hasHappened = charge?["refunded"].flatMap(minorUnits) ?? 0 > payment["refundedAmount"].flatMap(minorUnits) ?? 0
      body["refund"] = unknown["refund"]
    default: hasHappened = false
    }
    body["outcome"] = hasHappened ? "happened" : "did-not-happen"
    let json = String(decoding: try JSONSerialization.data(withJSONObject: body), as: UTF8.self)
    let response = try await pair.server.post("/api/v1/payments/\(id)/resolve", json)
    #expect([200, 202].contains(response.status), "\(String(decoding: response.body, as: UTF8.self))")
  }

  /// Every payment, once all are finished. Payments that the faults parked are retried, and unknown outcomes are
  /// looked up, as a person would.
  private func waitForAll(_ pair: Pair) async throws -> [String: Row] {
    let server = pair.server
    let deadline = ContinuousClock.now + .seconds(90)
    while true {
      var payments: [String: Row] = [:]
      var after = ""
      var isComplete = true
      repeat {
        let page = try await server.get("/api/v1/payments?limit=200" + after).object()
        isComplete = isComplete && page["complete"] as? Bool == true
        for case let payment as [String: Any] in page["payments"] as? [Any] ?? [] {
          let id = try #require(payment["paymentId"] as? String)
          #expect(payments[id] == nil, "a payment is listed once")
          payments[id] = Row(
            amount: try #require(minorUnits(payment["amount"])), status: try #require(payment["status"] as? String),
            refunded: try #require(minorUnits(payment["refundedAmount"])),
            isRefunding: payment["refundingAmount"] != nil)
          if payment["status"] as? String == "OutcomeUnknown" { try await resolve(id, pair) }
        }
        after = (page["next"] as? String).map { "&after=\($0)" } ?? ""
      } while !after.isEmpty
      let open = payments.filter { !Self.final.contains($0.value.status) || $0.value.isRefunding }
      if open.isEmpty, isComplete { return payments }
      for (id, row) in open where row.status == "Failed" {
        _ = try await server.post("/api/v1/payments/\(id)/retry", "")
      }
      let what = open.prefix(3).map { "\($0.key) \($0.value.status)" }
      try #require(ContinuousClock.now < deadline, "all payments come to an end; \(open.count) have not: \(what)")
      try await Task.sleep(for: .milliseconds(100))
    }
  }
}
