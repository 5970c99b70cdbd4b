import Foundation
import Synchronization
import Testing

/// What a load requested, and what was acknowledged.
private final class Asked: Sendable {
  private struct State {
    /// Every amount asked for, in minor units; each is asked for once.
    var amounts: Set<Int> = []
    /// The acknowledged payments, by id.
    var acknowledged: [String: Int] = [:]
  }

  private let state = Mutex(State())

  var count: Int { state.withLock { $0.amounts.count } }
  var acknowledged: [String: Int] { state.withLock { $0.acknowledged } }

  /// An amount that was not asked for before.
  func next() -> Int {
    state.withLock {
      let amount = $0.amounts.count + 1
      $0.amounts.insert(amount)
      return amount
    }
  }

  func acknowledged(_ id: String, amount: Int) { state.withLock { $0.acknowledged[id] = amount } }
}

@Suite("RegisPay, killed")
struct RegisPayKillTests {
  private static let rate = 300
  private static let rounds =
    ProcessInfo.processInfo.environment["TEST_REGISPAY_KILL_ROUNDS"].flatMap(Int.init) ?? 3

  @Test("killed in the middle of a load, every acknowledged payment completes with one charge, and none is invented")
  func killRounds() async throws {
    var generator = SeededGenerator("kill rounds")
    let requested = Asked()
    try await withTemporaryFolder { folder in
      for round in 1...Self.rounds {
        let loaded = try await RunningServer.start(directory: folder)
        let runTime = Duration.milliseconds(Int.random(in: 300...3_000, using: &generator))
        let before = requested.count
        try await load(loaded, requested, for: runTime)
        let restarted = try await RunningServer.start(directory: folder)
        try await check(restarted, requested)
        print(
          "kill round \(round): ran \(runTime), requested \(requested.count - before), acknowledged \(requested.acknowledged.count) in all"
        )
        // The next round begins on a log that was closed, or on one that was not.
        if Bool.random(using: &generator) {
          #expect(try await restarted.stopGracefully() == .init(code: 0, isSignal: false))
        } else {
          try await restarted.killHard()
        }
      }
    }
    // A load without responses would prove nothing.
    #expect(requested.acknowledged.count > Self.rounds * Self.rate / 10)
  }

  /// Sends payments at a constant rate until the process is killed under them.
  private func load(_ server: RunningServer, _ requested: Asked, for runTime: Duration) async throws {
    try await withThrowingTaskGroup(of: Void.self) { group in
      let start = ContinuousClock.now
      var index = 0
      while start.duration(to: .now) < runTime {
        group.addTask {
          let amount = requested.next()
          // A request without a response counts as requested only.
          guard let id = try? await server.createPayment(decimal(amount)) else { return }
          requested.acknowledged(id, amount: amount)
        }
        index += 1
        try await Task.sleep(until: start + .seconds(1) / Self.rate * index)
      }
      try await server.killHard()
      try await group.waitForAll()
    }
  }

  private func check(_ server: RunningServer, _ requested: Asked) async throws {
    let acknowledged = requested.acknowledged
    try await waitForCompletion(server, acknowledged)
    // Payments without a response may be in progress as well.
    let payments = try await waitForAll(server)
    for (id, amount) in acknowledged { #expect(payments[id] == amount, "payment \(id) has its amount") }
    #expect(Set(payments.values).count == payments.count, "a request made at most one payment")
    #expect(payments.values.allSatisfy { (1...requested.count).contains($0) }, "no payment that was not asked for")
    try await checkLedger(server, payments)
  }

  private func waitForCompletion(_ server: RunningServer, _ acknowledged: [String: Int]) async throws {
    let deadline = ContinuousClock.now + .seconds(60)
    try await withThrowingTaskGroup(of: Void.self) { group in
      let ids = Array(acknowledged.keys)
      for worker in 0..<16 {
        group.addTask {
          for id in stride(from: worker, to: ids.count, by: 16).map({ ids[$0] }) {
            try await server.wait(for: id, status: "Completed", within: ContinuousClock.now.duration(to: deadline))
          }
        }
      }
      try await group.waitForAll()
    }
  }

  /// Every payment that there is with its amount in minor units, once all have completed.
  private func waitForAll(_ server: RunningServer) async throws -> [String: Int] {
    let deadline = ContinuousClock.now + .seconds(60)
    while true {
      var payments: [String: Int] = [:]
      var isCompleted = true
      var after = ""
      repeat {
        let page = try await server.get("/api/v1/payments?limit=200" + after).object()
        #expect(page["complete"] as? Bool == true, "the list reaches back to the first payment")
        for case let payment as [String: Any] in page["payments"] as? [Any] ?? [] {
          let id = try #require(payment["paymentId"] as? String)
          #expect(payments[id] == nil, "a payment is listed once")
          payments[id] = minorUnits(payment["amount"])
          if payment["status"] as? String != "Completed" { isCompleted = false }
        }
        after = (page["next"] as? String).map { "&after=\($0)" } ?? ""
      } while !after.isEmpty
      if isCompleted { return payments }
      try #require(ContinuousClock.now < deadline, "all payments complete in time")
      try await Task.sleep(for: .milliseconds(50))
    }
  }

  private func checkLedger(_ server: RunningServer, _ payments: [String: Int]) async throws {
    let ledger = try await server.get("/psp/api/ledger").object()
    var charges: [String: Int] = [:]
    for case let charge as [String: Any] in ledger["charges"] as? [Any] ?? [] {
      let id = try #require(charge["paymentId"] as? String)
      #expect(charges[id] == nil, "payment \(id) is charged once")
      charges[id] = minorUnits(charge["amount"])
      #expect(charge["status"] as? String == "settled")
      #expect(charge["idempotencyKey"] as? String == "\(id):create")
    }
    #expect(charges == payments, "one charge for each payment, over its amount")
    #expect(ledger["count"] as? Int == charges.count)
  }
}

func decimal(_ minorUnits: Int) -> String {
  let pence = minorUnits % 100
  return "\(minorUnits / 100).\(pence < 10 ? "0" : "")\(pence)"
}

/// Of a test's own small amounts, which a Double holds well enough to be rounded back.
func minorUnits(_ amount: Any?) -> Int? {
  (amount as? NSNumber).map { Int(($0.doubleValue * 100).rounded()) }
}
