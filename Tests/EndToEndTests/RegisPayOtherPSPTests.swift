import Foundation
import Testing

/// A PSP that was written independently of the server responds late, drops connections before and after it has acted, forgets
/// keys, and responds to repeats with what the specifications allow; with or without a kill -9 in between.
@Suite("RegisPay, with another PSP")
struct RegisPayOtherPSPTests {
  @Test(
    "whatever it does, nothing is charged twice or called a no that happened, and a person resolves what is unknown")
  func keysKept() async throws {
    try await run(PSPCase.all([.late, .before, .after]), forgetSeconds: 0, lifetimeHours: 24)
  }

  @Test("one that forgets keys gets no repeat that moves money once it may have forgotten them")
  func keysForgotten() async throws {
    // The PSP keeps keys for 5 seconds; the server is configured with 3.6.
    try await run(PSPCase.all([.forgets]), forgetSeconds: 5, lifetimeHours: 0.001)
  }

  @Test("a first response that leaves open whether the call was carried out is never taken for a refusal")
  func unclear() async throws {
    try await run(PSPCase.unclear, forgetSeconds: 0, lifetimeHours: 24)
  }

  private func run(_ cases: [PSPCase], forgetSeconds: Double, lifetimeHours: Double) async throws {
    try await withTemporaryFolder { folder in
      let psp = try await OtherPSP.start(cases, forgetSeconds: forgetSeconds, in: folder)
      // The breaker would only make it slow: it is tested elsewhere.
      let arguments = [
        "--psp-url", psp.url, "--notifications-url", psp.url, "--call-timeout", "1", "--retry-delay-limit", "0.3",
        "--breaker-failures", "1000000", "--psp-key-lifetime", "\(lifetimeHours)",
      ]
      var server = try await RunningServer.start(directory: folder, arguments: arguments)
      let ids = try await create(cases, at: server)
      try await ask(cases, ids, at: server, psp)
      _ = try await rest(of: cases.filter { !$0.isRestarted }, at: server)
      try await eventually("the PSP was called once for all of them", within: .seconds(60)) {
        let calls = try await psp.ledger().calls
        return cases.allSatisfy { calls["\($0.amount)"] ?? 0 > 0 || $0.isCancelled }
      }
      try await server.killHard()
      server = try await RunningServer.start(directory: folder, arguments: arguments)
      try await psp.open()
      let rows = try await rest(of: cases, at: server)
      let ledger = try await psp.ledger()
      for item in cases {
        let row = try #require(rows[item.amount])
        if let expected = item.expected { #expect(row.status == expected, "\(item): \(row.reason ?? "")") }
        try check(item, row, ledger, isResolved: false)
      }
      let unknown = cases.filter { rows[$0.amount]?.status == "OutcomeUnknown" }
      #expect(unknown.count >= cases.count / 4)
      try await resolve(unknown, rows, ledger, at: server, folder)
      try await finish(cases, ids, psp, at: server)
    }
  }

  // MARK: - Asking

  private func create(_ cases: [PSPCase], at server: RunningServer) async throws -> [Int: String] {
    try await withThrowingTaskGroup(of: (Int, String).self) { group in
      for item in cases {
        group.addTask { (item.amount, try await server.createPayment("\(item.amount / 100).\(cents(item.amount))")) }
      }
      return try await group.reduce(into: [:]) { $0[$1.0] = $1.1 }
    }
  }

  private func cents(_ amount: Int) -> String { amount % 100 < 10 ? "0\(amount % 100)" : "\(amount % 100)" }

  /// Asks for what the cases are about and the payments don't do by themselves.
  private func ask(_ cases: [PSPCase], _ ids: [Int: String], at server: RunningServer, _ psp: OtherPSP) async throws {
    var open = cases.filter { $0.isCancelled || ["cancel", "refund"].contains($0.step) }
    try await eventually("all that is asked for was asked", within: .seconds(120)) {
      let (rows, calls) = (try await self.rows(server).rows, try await psp.ledger().calls)
      for item in open {
        guard let id = ids[item.amount], let status = rows[item.amount]?.status else { continue }
        if item.isCancelled, calls["\(item.amount)"] ?? 0 > 0 {
          // Too late for some, which then are cases of their creation alone.
          let response = try await server.post("/api/v1/payments/\(id)/cancel", "")
          #expect([200, 202, 409].contains(response.status), "\(item)")
          open.removeAll { $0 == item }
        } else if item.step == "cancel", status == "Created" {
          let response = try await server.post("/api/v1/payments/\(id)/cancel", "")
          #expect(response.status == 202, "\(item)")
          open.removeAll { $0 == item }
        } else if item.step == "refund", status == "Completed" {
          let response = try await server.post("/api/v1/payments/\(id)/refunds", #"{"amount":5}"#)
          #expect(response.status == 202, "\(item)")
          open.removeAll { $0 == item }
        }
      }
      return open.isEmpty
    }
  }

  // MARK: - Looking

  private struct Row: Sendable {
    var id: String
    var status: String
    var step: String?
    var refund: Int?
    var reason: String?
    /// A refund has no outcome yet.
    var isRefunding: Bool
  }

  private static let restStates: Set = ["Completed", "Declined", "Cancelled", "Failed", "OutcomeUnknown", "Refunded"]

  /// The whole list by amount, and whether it is as new as the log.
  private func rows(_ server: RunningServer, status: String? = nil) async throws -> (rows: [Int: Row], isNew: Bool) {
    var rows: [Int: Row] = [:]
    var isNew = true
    var after: String?
    repeat {
      let path = "/api/v1/payments?limit=200" + (status.map { "&status=\($0)" } ?? "")
      let page = try await server.get(path + (after.map { "&after=\($0)" } ?? "")).object()
      for payment in page["payments"] as? [[String: Any]] ?? [] {
        guard let amount = payment["amount"] as? Double, let id = payment["paymentId"] as? String,
          let status = payment["status"] as? String
        else { throw RegisPayProcess.Failure(description: "no payment: \(payment)") }
        let trouble = payment["unknown"] as? [String: Any] ?? payment["failure"] as? [String: Any]
        rows[Int((amount * 100).rounded())] = Row(
          id: id, status: status, step: trouble?["step"] as? String, refund: trouble?["refund"] as? Int,
          reason: trouble?["reason"] as? String, isRefunding: payment["refundingAmount"] != nil)
      }
      isNew = isNew && page["asOf"] as? Int == page["logEnd"] as? Int
      after = page["next"] as? String
    } while after != nil
    return (rows, isNew)
  }

  /// Waits until nothing happens to these payments any more by itself.
  private func rest(of cases: [PSPCase], at server: RunningServer) async throws -> [Int: Row] {
    let deadline = ContinuousClock.now + .seconds(180)
    while true {
      let (rows, isNew) = try await rows(server)
      let open = cases.filter { item in
        rows[item.amount].map { !Self.restStates.contains($0.status) || $0.isRefunding } ?? true
      }
      if open.isEmpty, isNew { return rows }
      guard ContinuousClock.now < deadline else {
        let states = open.map { "\($0): \(rows[$0.amount]?.status ?? "missing")" }
        throw RegisPayProcess.Failure(description: "no rest:\n" + states.joined(separator: "\n"))
      }
      // Polls the server: outside of it there is no event to wait for.
      try await Task.sleep(for: .milliseconds(200))
    }
  }

  /// What may never be, at any time.
  private func check(_ item: PSPCase, _ row: Row, _ ledger: OtherPSP.Ledger, isResolved: Bool) throws {
    let charges = ledger.charges(of: item.amount)
    #expect(charges.count <= 1, "\(item) is charged twice")
    #expect(charges.allSatisfy { $0.refunds.reduce(0, +) <= item.amount }, "\(item) is refunded beyond its amount")
    #expect(charges.allSatisfy { $0.refunds.isEmpty || $0.state == "settled" }, "\(item)")
    switch row.status {
    case "Declined", "Cancelled":
      // A person who finds that no settlement happened ends the payment; its hold is the PSP's to let go.
      let states = isResolved ? ["settled"] : ["settled", "held"]
      #expect(!charges.contains { states.contains($0.state) }, "\(item) is \(row.status) and \(charges)")
    case "Completed", "Refunded": #expect(charges.map(\.state) == ["settled"], "\(item)")
    case "Failed": #expect(["cancel", "notify"].contains(row.step), "\(item): \(row.reason ?? "")")
    default: break
    }
    if row.status == "Refunded" { #expect(charges.contains { !$0.refunds.isEmpty }, "\(item)") }
  }

  // MARK: - Resolving

  /// Says what the ledger says, by the API and by the command in turn.
  private func resolve(
    _ cases: [PSPCase], _ rows: [Int: Row], _ ledger: OtherPSP.Ledger, at server: RunningServer, _ folder: String
  ) async throws {
    let listed = try await self.rows(server, status: "OutcomeUnknown").rows
    #expect(Set(listed.keys) == Set(cases.map(\.amount)))
    let lines = try await command(folder, "list", "--url", server.url)
    #expect(Set(lines.compactMap { $0.split(separator: " ").first.map(String.init) }) == Set(listed.values.map(\.id)))
    let consumers = try await server.get("/api/v1/consumers").object()
    #expect(consumers["outcomeUnknown"] as? Int == cases.count)
    let health = try await server.get("/health")
    #expect(health.status == 200 && String(decoding: health.body, as: UTF8.self).contains("unknown"))
    var ways: Set<[Bool]> = []
    for (number, item) in cases.enumerated() {
      let row = try #require(rows[item.amount])
      let step = try #require(row.step)
      let hasHappened = ledger.hasHappened(step, item.amount)
      let reference = step == "create" && hasHappened ? ledger.charges(of: item.amount).first?.reference : nil
      // Nothing is done to it meanwhile, whatever is asked.
      if step != "notify" {
        for path in ["cancel", "refunds", "retry"] {
          let response = try await server.post("/api/v1/payments/\(row.id)/\(path)", "")
          #expect(response.status == 409, "\(item): \(path)")
        }
      }
      let isByCommand = number % 8 < 2
      ways.insert([isByCommand, hasHappened])
      if isByCommand {
        var arguments = ["resolve", row.id, "--step", step, "--url", server.url]
        arguments.append(hasHappened ? "--happened" : "--did-not-happen")
        if let number = row.refund { arguments += ["--refund", "\(number)"] }
        if let reference { arguments += ["--reference", reference] }
        let said = try await command(folder, arguments)
        #expect(said.count == 1 && said.first?.hasPrefix(row.id) == true)
      } else {
        var body: [String: Any] = ["step": step, "outcome": hasHappened ? "happened" : "did-not-happen"]
        body["refund"] = row.refund
        body["reference"] = reference
        let json = String(decoding: try JSONSerialization.data(withJSONObject: body), as: UTF8.self)
        let response = try await server.post("/api/v1/payments/\(row.id)/resolve", json)
        #expect([200, 202].contains(response.status), "\(item): \(String(decoding: response.body, as: UTF8.self))")
        // Said twice it is refused: there is nothing unknown any more.
        #expect(try await server.post("/api/v1/payments/\(row.id)/resolve", json).status == 409)
      }
    }
    #expect(ways.count >= 2)
  }

  private func command(_ folder: String, _ arguments: String...) async throws -> [String] {
    try await command(folder, arguments)
  }

  private func command(_ folder: String, _ arguments: [String]) async throws -> [String] {
    let process = try RegisPayProcess(["unknown"] + arguments, folder: folder)
    var lines: [String] = []
    while let line = try await process.nextLine() { lines.append(line) }
    #expect(try await process.waitForExit() == .init(code: 0, isSignal: false), "\(process.errorText)")
    return lines
  }

  /// Once more all that a person may ask, and then nothing is unknown, lost or paid twice.
  private func finish(
    _ cases: [PSPCase], _ ids: [Int: String], _ psp: OtherPSP, at server: RunningServer
  ) async throws {
    for (_, row) in try await rest(of: cases, at: server) where row.status == "Failed" {
      _ = try await server.post("/api/v1/payments/\(row.id)/retry", "")
    }
    var rows = try await rest(of: cases, at: server)
    // A cancellation that did not happen is refused when it is asked for again, and then the settlement may be unknown.
    let unknown = cases.filter { rows[$0.amount]?.status == "OutcomeUnknown" }
    for item in unknown {
      guard let row = rows[item.amount], let step = row.step else { continue }
      let outcome = try await psp.ledger().hasHappened(step, item.amount) ? "happened" : "did-not-happen"
      _ = try await server.post(
        "/api/v1/payments/\(row.id)/resolve", #"{"step":"\#(step)","outcome":"\#(outcome)"}"#)
    }
    for item in cases where item.step == "refund" {
      let response = try await server.post("/api/v1/payments/\(try #require(ids[item.amount]))/refunds", "")
      #expect(response.status == 202, "\(item): the rest can be refunded")
    }
    rows = try await rest(of: cases, at: server)
    let ledger = try await psp.ledger()
    for item in cases {
      let row = try #require(rows[item.amount])
      #expect(row.status != "OutcomeUnknown", "\(item)")
      try check(item, row, ledger, isResolved: true)
      if item.step == "refund" {
        #expect(ledger.charges(of: item.amount).first?.refunds.reduce(0, +) == item.amount, "\(item)")
      }
      if item.fault != .forgets {
        #expect(ledger.notified["\(item.amount)"] ?? 0 <= 1, "\(item) is notified twice")
      }
    }
  }
}
