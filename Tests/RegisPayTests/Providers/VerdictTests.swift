import Testing

@testable import RegisPay

@Suite("What an answer means")
struct VerdictTests {
  private func verdict(_ status: Int, retryAfter: Duration? = nil) -> Verdict {
    Verdict(.success(HTTPAnswer(status: status, body: [1], retryAfter: retryAfter)), from: "it")
  }

  private func cause(_ verdict: Verdict) -> CallRetry.Cause? {
    if case .outcome(.retry(let failure)) = verdict { failure.cause } else { nil }
  }

  @Test("2xx is accepted", arguments: [200, 201, 202, 204])
  func accepted(_ status: Int) {
    #expect(verdict(status) == .accepted([1]))
  }

  @Test(
    "408 and 5xx are tried again: the call may have been carried out", arguments: [408, 500, 501, 502, 503, 504, 599])
  func outages(_ status: Int) {
    #expect(cause(verdict(status)) == .serverError)
  }

  @Test("425 and 429 are tried again, and did nothing", arguments: [425, 429])
  func busy(_ status: Int) {
    #expect(cause(verdict(status)) == .busy)
  }

  @Test("409 and 423 are tried again: another call, perhaps of ours, is being carried out", arguments: [409, 423])
  func inProgress(_ status: Int) {
    #expect(cause(verdict(status)) == .inProgress)
  }

  @Test("an answer that says when is asked again then", arguments: [409, 429, 503])
  func later(_ status: Int) {
    guard case .outcome(.retry(let failure)) = verdict(status, retryAfter: .seconds(7)) else {
      Issue.record("\(verdict(status))")
      return
    }
    #expect(failure.after == .seconds(7))
  }

  @Test("402 is a no in so many words")
  func declined() {
    #expect(verdict(402) == .outcome(.declined(reason: "it refused with 402")))
  }

  @Test("other 4xx that are about the payment refuse it", arguments: [400, 410, 412, 422, 451, 499])
  func refusals(_ status: Int) {
    #expect(verdict(status) == .outcome(.refused(status: status, reason: "it refused with \(status)")))
  }

  @Test(
    "what is about the request's form or address is no payment's fault",
    arguments: [404, 405, 406, 411, 413, 414, 415, 417, 421, 426, 431])
  func misdirected(_ status: Int) {
    #expect(cause(verdict(status)) == .misconfigured)
  }

  @Test(
    "what means nothing is tried again: the call may have been carried out",
    arguments: [100, 199, 300, 301, 302, 600, 999])
  func meaningless(_ status: Int) {
    #expect(cause(verdict(status)) == .broken)
  }

  @Test("credentials that are not accepted are an outage: no payment pays for them", arguments: [401, 403, 407])
  func credentials(_ status: Int) {
    #expect(cause(verdict(status)) == .credentials)
  }

  @Test(
    "to a call that was sent twice only 2xx and 402 decide: the first may have been carried out",
    arguments: [400, 401, 404, 409, 410, 422, 429])
  func repeated(_ status: Int) {
    #expect(cause(Verdict(.success(HTTPAnswer(status: status, body: [], isOfRepeat: true)), from: "it")) == .broken)
  }

  @Test("the answers that decide do so for a repeat as well")
  func repeatedDecided() {
    #expect(Verdict(.success(HTTPAnswer(status: 200, body: [1], isOfRepeat: true)), from: "it") == .accepted([1]))
    #expect(
      Verdict(.success(HTTPAnswer(status: 402, body: [], isOfRepeat: true)), from: "it")
        == .outcome(.declined(reason: "it refused with 402")))
  }

  @Test("no answer tells whether the call can have reached the other side")
  func noAnswer() {
    #expect(cause(Verdict(.failure(.noAnswer(within: .seconds(1))), from: "it")) == .noAnswer)
    #expect(cause(Verdict(.failure(.broken("closed")), from: "it")) == .broken)
    #expect(cause(Verdict(.failure(.unreachable("refused")), from: "it")) == .unreachable)
  }

  @Test("which failures leave it unknown whether the call was carried out, and which are outages")
  func causes() {
    let unknown = CallRetry.Cause.allCases.filter { CallRetry($0, reason: "").mayHaveHappened }
    #expect(unknown == [.noAnswer, .broken, .serverError, .inProgress])
    let others = CallRetry.Cause.allCases.filter { !CallRetry($0, reason: "").isOutage }
    #expect(others == [.inProgress, .busy, .misconfigured])
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
