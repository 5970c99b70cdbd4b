import Testing

@testable import RegisPay

@Suite("What an answer means")
struct VerdictTests {
  private func verdict(_ status: Int, retryAfter: Duration? = nil) -> Verdict {
    Verdict(.success(HTTPAnswer(status: status, body: [1], retryAfter: retryAfter)), from: "it")
  }

  @Test("2xx is accepted", arguments: [200, 201, 202, 204])
  func accepted(_ status: Int) {
    #expect(verdict(status) == .accepted([1]))
  }

  @Test("408 and 5xx are outages to be tried again", arguments: [408, 500, 501, 502, 503, 504, 599])
  func outages(_ status: Int) {
    guard case .outcome(.retry(_, nil, isOutage: true)) = verdict(status) else {
      Issue.record("\(verdict(status))")
      return
    }
  }

  @Test("429 is tried again when it says so, and is no outage")
  func tooMany() {
    guard case .outcome(.retry(_, .seconds(7), isOutage: false)) = verdict(429, retryAfter: .seconds(7)) else {
      Issue.record("\(verdict(429))")
      return
    }
  }

  @Test("503 is tried again when it says so")
  func unavailable() {
    guard case .outcome(.retry(_, .seconds(7), isOutage: true)) = verdict(503, retryAfter: .seconds(7)) else {
      Issue.record("\(verdict(503))")
      return
    }
  }

  @Test("other 4xx that are about the payment decline it", arguments: [400, 402, 409, 410, 412, 422, 451, 499])
  func refusals(_ status: Int) {
    #expect(verdict(status) == .outcome(.declined(reason: "it refused with \(status)")))
  }

  @Test("what is about the request's form or address is for a person", arguments: [404, 405, 406, 413, 414, 415, 431])
  func misdirected(_ status: Int) {
    #expect(verdict(status) == .outcome(.impossible(reason: "it refused with \(status)")))
  }

  @Test("what means nothing is for a person", arguments: [100, 199, 300, 301, 302, 600, 999])
  func meaningless(_ status: Int) {
    guard case .outcome(.impossible) = verdict(status) else {
      Issue.record("\(verdict(status))")
      return
    }
  }

  @Test("credentials that are not accepted are an outage: no payment pays for them", arguments: [401, 403, 407])
  func credentials(_ status: Int) {
    guard case .outcome(.retry(_, nil, isOutage: true)) = verdict(status) else {
      Issue.record("\(verdict(status))")
      return
    }
  }

  @Test(
    "no answer is an outage: it may have had an effect or not",
    arguments: [
      CallFailure.noAnswer(within: .seconds(1)), .connection("refused"),
    ])
  func noAnswer(_ failure: CallFailure) {
    guard case .outcome(.retry(_, nil, isOutage: true)) = Verdict(.failure(failure), from: "it") else {
      Issue.record("\(failure)")
      return
    }
  }

  @Test(
    "Retry-After is read as seconds, within bounds",
    arguments: [("0", 0), ("7", 7), ("900", 900), ("100000000000", 900)])
  func retryAfter(_ field: String, _ seconds: Int) {
    #expect(Caller.retryAfter(field) == .seconds(seconds))
  }

  @Test("other forms of Retry-After are left alone", arguments: ["", "-1", "soon", "Tue, 24 Nov 2026 03:12:21 GMT"])
  func retryAfterUnread(_ field: String) {
    #expect(Caller.retryAfter(field) == nil)
  }

  @Test("a reference can't leave its segment of a path")
  func percent() {
    #expect(percentEncoded("abc-DEF_09~") == "abc-DEF_09~")
    #expect(percentEncoded("../x?y#z%é") == "%2E%2E%2Fx%3Fy%23z%25%C3%A9")
  }
}
