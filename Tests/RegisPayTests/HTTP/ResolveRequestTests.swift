import Testing

@testable import RegisPay

@Suite("The body of a resolution")
struct ResolveRequestTests {
  private func read(_ body: String) throws -> ResolveRequest {
    try ResolveRequest(try JSONReader.read(Array(body.utf8)))
  }

  @Test("each step, and each way")
  func right() throws {
    let request = try read(#"{"step":"create","outcome":"happened","reference":"r"}"#)
    #expect(request.work == PaymentWork(.create) && request.outcome == .happened(reference: "r"))
    for step in ["settle", "cancel", "notify"] {
      #expect(try read(#"{"step":"\#(step)","outcome":"happened"}"#).outcome == .happened(reference: nil))
      #expect(try read(#"{"outcome":"did-not-happen","step":"\#(step)"}"#).outcome == .didNotHappen)
    }
    for number in ["2", "2.0", "0.2e1", "20E-1"] {
      #expect(try read(#"{"step":"refund","refund":\#(number),"outcome":"happened"}"#).work == PaymentWork(refund: 2))
    }
  }

  @Test(
    "an error names its field",
    arguments: [
      ("[]", "body"), ("1", "body"), (#"{"step":"settle","outcome":"happened","why":1}"#, "why"),
      (#"{"outcome":"happened"}"#, "step"), (#"{"step":"pay","outcome":"happened"}"#, "step"),
      (#"{"step":1,"outcome":"happened"}"#, "step"), (#"{"step":"settle"}"#, "outcome"),
      (#"{"step":"settle","outcome":"perhaps"}"#, "outcome"), (#"{"step":"settle","outcome":true}"#, "outcome"),
      (#"{"step":"refund","outcome":"happened"}"#, "refund"),
      (#"{"step":"refund","refund":0,"outcome":"happened"}"#, "refund"),
      (#"{"step":"refund","refund":1.5,"outcome":"happened"}"#, "refund"),
      (#"{"step":"refund","refund":-1,"outcome":"happened"}"#, "refund"),
      (#"{"step":"refund","refund":1e99999,"outcome":"happened"}"#, "refund"),
      (#"{"step":"refund","refund":"1","outcome":"happened"}"#, "refund"),
      (#"{"step":"refund","refund":99999999999999999999,"outcome":"happened"}"#, "refund"),
      (#"{"step":"settle","refund":1,"outcome":"happened"}"#, "refund"),
      (#"{"step":"create","outcome":"happened"}"#, "reference"),
      (#"{"step":"create","outcome":"happened","reference":""}"#, "reference"),
      (#"{"step":"create","outcome":"happened","reference":null}"#, "reference"),
      (#"{"step":"create","outcome":"happened","reference":7}"#, "reference"),
      (#"{"step":"create","outcome":"did-not-happen","reference":"r"}"#, "reference"),
      (#"{"step":"settle","outcome":"happened","reference":"r"}"#, "reference"),
    ])
  func wrong(_ body: String, _ field: String) {
    #expect {
      try read(body)
    } throws: { error in
      (error as? ValidationError)?.errors.map(\.field) == [field]
    }
  }

  @Test(
    "a reference has 200 bytes at most, whatever its characters are",
    arguments: ["a", "é", "漢", "🙂", "\u{0}", "e\u{301}"])
  func references(_ character: String) throws {
    let most = 200 / character.utf8.count
    for (count, isUsable) in [(1, true), (most, true), (most + 1, false), (200, most == 200), (1_000, false)] {
      let reference = String(repeating: character, count: count)
      #expect(PSPReference.isUsable(reference) == isUsable, "\(count)")
      let body: JSONValue = ["step": "create", "outcome": "happened", "reference": .string(reference)]
      #expect(((try? ResolveRequest(body)) != nil) == isUsable, "\(count)")
    }
    #expect(!PSPReference.isUsable(""))
  }
}
