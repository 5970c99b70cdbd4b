import Hummingbird
import LogStore
import Logging
import NIOCore
import Synchronization
import Testing

@testable import RegisPay

/// The fault of one request.
private enum Fault: Sendable {
  /// Carried out, and no response comes: the call ends at its time limit.
  case silenceAfter
  /// Carried out, with a response that says otherwise.
  case errorAfter
  case errorBefore
  case tooManyRequests
  case silenceBefore
}

/// Injects a list of faults into the first requests of each idempotency key, and then responds normally.
private struct FaultMiddleware: RouterMiddleware {
  final class Attempts: Sendable {
    private let counts = Mutex<[String: Int]>([:])

    func next(_ key: String) -> Int {
      counts.withLock {
        $0[key, default: 0] += 1
        return $0[key, default: 1] - 1
      }
    }

    var all: [String: Int] { counts.withLock { $0 } }
  }

  let faults: [Fault]
  let attempts: Attempts

  func handle(
    _ request: Request, context: HTTPRequestContext, next: (Request, HTTPRequestContext) async throws -> Response
  ) async throws -> Response {
    guard let key = request.headers[.idempotencyKey] else { return try await next(request, context) }
    let attempt = attempts.next(key)
    guard attempt < faults.count else { return try await next(request, context) }
    switch faults[attempt] {
    case .silenceAfter:
      _ = try await next(request, context)
      try await Task.sleep(for: .seconds(3_600))
      return Response(status: .accepted)
    case .silenceBefore:
      try await Task.sleep(for: .seconds(3_600))
      return Response(status: .internalServerError)
    case .errorAfter:
      _ = try await next(request, context)
      return Response(status: .internalServerError)
    case .errorBefore: return Response(status: .serviceUnavailable)
    case .tooManyRequests: return Response(status: .tooManyRequests, headers: [.retryAfter: "0"])
    }
  }
}

@Suite("A PSP with faults, over real HTTP")
struct FaultyPSPTests {
  /// Runs a PSP of its own, with a ledger, while `work` runs.
  private func withPSP(
    _ faults: [Fault], _ work: @escaping @Sendable (String, Ledger, FaultMiddleware.Attempts) async throws -> Void
  ) async throws {
    try await withStore { store in
      let ledger = Ledger(follower: LogFollower(store.reader, DamageStatus(store.reader)))
      let attempts = FaultMiddleware.Attempts()
      let router = Routes(context: HTTPRequestContext.self)
      router.add(middleware: FaultMiddleware(faults: faults, attempts: attempts))
      SimulatorRoutes(simulator: Simulator(store: store), services: [.psp, .notifications], ledger: ledger).add(
        to: router)
      try await withApplication(router) { port in try await work("http://127.0.0.1:\(port)", ledger, attempts) }
    }
  }

  @Test("whatever fails before and after the charge, every payment completes and is charged once")
  func oneCharge() async throws {
    try await withPSP([.silenceAfter, .errorBefore, .tooManyRequests, .errorAfter, .silenceBefore]) {
      url, ledger, attempts in
      let change: (inout ServerOptions) -> Void = { options in
        options.pspURL = url + "/psp"
        options.notificationsURL = url + "/notifications"
        options.callTimeLimit = .milliseconds(200)
      }
      try await TestServer.run(change) { server in
        var ids: [String] = []
        for amount in 1...8 {
          let response = try await server.create(#"{"amount":\#(amount),"currency":"GBP"}"#)
          ids.append(try #require(try response.json()["paymentId"]?.text))
        }
        for id in ids {
          try await eventually("\(id) completes") {
            try await server.get("/api/v1/payments/\(id)").json()["status"] == "Completed"
          }
        }
        let charges = try await ledger.all()
        #expect(charges.map { $0.idempotencyKey ?? "" }.sorted() == ids.map { "\($0):create" }.sorted())
        #expect(charges.allSatisfy { $0.status == .settled })
        let keys = Set(ids.flatMap { id in ["create", "settle", "notify"].map { "\(id):\($0)" } })
        #expect(Set(attempts.all.keys) == keys, "one key for each step, whatever the number of tries")
        #expect(attempts.all.values.allSatisfy { $0 >= 6 })
      }
    }
  }

  @Test("an unreadable response leaves the outcome unknown, and the others proceed")
  func unreadable() async throws {
    let router = Routes(context: HTTPRequestContext.self)
    router.post("/psp/api/payments/create") { _, _ in
      Response(status: .accepted, body: .init(byteBuffer: .init(string: "?")))
    }
    try await withApplication(router) { port in
      try await TestServer.run({ $0.pspURL = "http://127.0.0.1:\(port)/psp" }) { server in
        let response = try await server.create(#"{"amount":1,"currency":"GBP"}"#)
        let id = try #require(try response.json()["paymentId"]?.text)
        try await eventually("its outcome is unknown") {
          try await server.get("/api/v1/payments/\(id)").json()["status"] == "OutcomeUnknown"
        }
        let payment = try await server.get("/api/v1/payments/\(id)").json()
        #expect(payment["unknown"]?["step"] == "create")
        #expect(payment["unknown"]?["reason"]?.text?.contains("readable paymentId") == true)
      }
    }
  }

  @Test("a PSP that refuses connections is an outage")
  func nobody() async throws {
    let change: (inout ServerOptions) -> Void = { options in
      // A port that the system has reserved for no process.
      options.pspURL = "http://127.0.0.1:1/psp"
      options.callTimeLimit = .milliseconds(200)
    }
    try await TestServer.run(change) { server in
      let response = try await server.create(#"{"amount":1,"currency":"GBP"}"#)
      let id = try #require(try response.json()["paymentId"]?.text)
      try await eventually("it is seen to wait") {
        let payment = try await server.get("/api/v1/payments/\(id)").json()
        return payment["status"] == "Initiated" && payment["waiting"]?["step"] == "create"
      }
    }
  }
}
