import Testing

@testable import RegisPay

@Suite("Faults of the simulators")
struct FaultsTests {
  @Test("set members are shown, and missing ones have their defaults")
  func roundTrip() throws {
    #expect(try Faults([:]) == Faults())
    var faults = Faults()
    faults.delay = .init(fixed: 5, exponentialMean: 20.5, limit: 1_000)
    (faults.failBefore, faults.failAfter, faults.dropBefore, faults.dropAfter) = (0.25, 0.125, 0.5, 0.0625)
    faults.failStatuses = [500, 503, 429]
    faults.decline = 0.01
    faults.declineFrom = DecimalText("100.50")
    (faults.failFrom, faults.retryAfter) = (DecimalText("9.99"), 60)
    #expect(try Faults(faults.json) == faults)
    #expect(try Faults(JSONReader.read(faults.json.bytes)) == faults)
  }

  @Test(
    "what makes no sense is refused with its name",
    arguments: [
      ("[]", "object"), (#"{"fail":1}"#, "fail"), (#"{"failBefore":1.1}"#, "failBefore"),
      (#"{"failBefore":-0.1}"#, "failBefore"), (#"{"failBefore":"1"}"#, "failBefore"),
      (#"{"failBefore":0.6,"dropAfter":0.6}"#, "together"), (#"{"failStatuses":[]}"#, "failStatuses"),
      (#"{"failStatuses":[200]}"#, "failStatuses"), (#"{"delay":5}"#, "delay"), (#"{"delay":{"mean":5}}"#, "mean"),
      (#"{"delay":{"fixed":-1}}"#, "fixed"), (#"{"declineFrom":"1"}"#, "declineFrom"),
      (#"{"failFrom":true}"#, "failFrom"), (#"{"retryAfter":-1}"#, "retryAfter"),
      (#"{"retryAfter":1.5}"#, "retryAfter"),
    ])
  func nonsense(_ text: String, _ name: String) throws {
    let json = try JSONReader.read(Array(text.utf8))
    let error = #expect(throws: FaultsError.self) { try Faults(json) }
    #expect(error?.description.contains(name) == true)
  }

  @Test("shares hold exactly")
  func shares() throws {
    var faults = Faults()
    (faults.failBefore, faults.failAfter, faults.dropBefore, faults.dropAfter) = (0.1, 0.2, 0.1, 0.1)
    var counts: [Faults.Fault?: Int] = [:]
    // Every draw once, evenly.
    for step in 0..<10_000 {
      var draws = [0, (Double(step) + 0.5) / 10_000]
      counts[faults.fault { draws.popLast() ?? 0 }, default: 0] += 1
    }
    #expect(counts[.fail(500, isAfter: false)] == 1_000)
    #expect(counts[.fail(500, isAfter: true)] == 2_000)
    #expect(counts[.drop(isAfter: false)] == 1_000)
    #expect(counts[.drop(isAfter: true)] == 1_000)
    #expect(counts[nil] == 5_000)
    faults.decline = 0.5
    faults.declineFrom = DecimalText("10.01")
    faults.failFrom = DecimalText("10.01")
    let ten = Money(minorUnits: 1_000, currency: Currency.supported[0])
    #expect(faults.declines(ten, randomness: 0.49))
    #expect(!faults.declines(ten, randomness: 0.5))
    let more = Money(minorUnits: 1_001, currency: ten.currency)
    #expect(faults.declines(more, randomness: 0.9))
    #expect(faults.failure(of: more, randomness: 0.9) == 500 && faults.failure(of: ten, randomness: 0.9) == nil)
  }

  @Test(
    "amounts are compared exactly",
    arguments: [
      ("100", "100.00", true), ("99.99", "100", false), ("1e2", "100", true), ("100.01", "1e2", true),
      ("0", "0.01", false), ("0.01", "0", true), ("1e-400", "0", true), ("5", "1e400", false), ("9", "10", false),
      ("-1", "0", false), ("0", "-1", true), ("-2", "-1", false), ("-1", "-2", true), ("0", "0", true),
    ])
  func comparison(_ amount: String, _ from: String, _ isDeclined: Bool) throws {
    #expect(try #require(DecimalText(amount)).isAtLeast(try #require(DecimalText(from))) == isDeclined)
  }

  @Test("an exponential delay has its mean, and keeps its limit")
  func delays() {
    let delay = Faults.Delay(fixed: 5, exponentialMean: 20, limit: 10_000)
    let draws = (0..<100_000).map { (Double($0) + 0.5) / 100_000 }
    let mean = draws.map(delay.milliseconds).reduce(0, +) / 100_000
    #expect(abs(mean - 25) < 0.01)
    #expect(Faults.Delay(fixed: 0, exponentialMean: 20, limit: 30).milliseconds(0.999999) == 30)
    #expect(Faults.Delay().milliseconds(0.5) == 0)
  }

  @Test("failing, dropping and slow simulators hold up no payment for ever, and no payment is charged twice")
  func overHTTP() async throws {
    try await TestServer.run({ $0.callTimeLimit = .seconds(1) }) { server in
      func put(_ service: String, _ body: String) async throws -> TestServer.Response {
        try await server.send(
          "PUT", "/\(service)/api/faults", headers: [("Content-Type", "application/json")], body: Array(body.utf8))
      }
      let bad = try await put("psp", #"{"failBefore":2}"#)
      #expect(bad.status == 400)
      let faults =
        #"{"failBefore":0.2,"failAfter":0.2,"dropBefore":0.1,"dropAfter":0.2,"failStatuses":[500,503,429],"#
        + #""delay":{"exponentialMean":2},"declineFrom":1000}"#
      for service in ["psp", "notifications"] { #expect(try await put(service, faults).status == 200) }
      var ids: [String] = []
      for index in 1...20 {
        let amount = index % 5 == 0 ? "1000.00" : "10.00"
        let response = try await server.create(#"{"amount":\#(amount),"currency":"GBP"}"#)
        ids.append(try #require(try response.json()["paymentId"]?.text))
      }
      for (index, id) in ids.enumerated() {
        let status = (index + 1) % 5 == 0 ? "Declined" : "Completed"
        try await eventually("\(id) is \(status)") {
          try await server.get("/api/v1/payments/\(id)").json()["status"] == .string(status)
        }
      }
      guard case .array(let charges) = try await server.get("/psp/api/ledger").json()["charges"] else {
        Issue.record("no ledger")
        return
      }
      #expect(charges.count == 16)
      #expect(charges.allSatisfy { $0["status"] == "settled" })
      #expect(try await server.send("DELETE", "/psp/api/faults").json()["failBefore"] == .number("0.0"))
    }
  }

  @Test("a notification whose response was lost is repeated with the same body, even after a refund")
  func notificationInTheSameWords() async throws {
    try await TestServer.run({ $0.callTimeLimit = .seconds(1) }) { server in
      let json = [("Content-Type", "application/json")]
      _ = try await server.send(
        "PUT", "/notifications/api/faults", headers: json, body: Array(#"{"dropAfter":1}"#.utf8))
      let id = try #require(try await server.create(#"{"amount":10,"currency":"GBP"}"#).json()["paymentId"]?.text)
      let path = "/api/v1/payments/\(id)"
      try await eventually("it is settled, and the notification was tried") {
        let payment = try await server.get(path).json()
        return payment["status"] == "Settled" && payment["waiting"] != nil
      }
      #expect(
        try await server.send("POST", path + "/refunds", headers: json, body: Array(#"{"amount":1}"#.utf8)).status
          == 202)
      try await eventually("money is back") { try await server.get(path).json()["refundedAmount"] == .number("1.00") }
      _ = try await server.send("DELETE", "/notifications/api/faults")
      try await eventually("it is notified") {
        try await server.get(path + "/events").text.contains(#""PaymentCompleted""#)
      }
      try await eventually("it is completed") { try await server.get(path).json()["status"] == "Completed" }
    }
  }
}
