import Testing

@testable import RegisPay

@Suite("What a response means")
struct VerdictTests {
  private func verdict(_ status: Int, retryAfter: Duration? = nil) -> Verdict {
    Verdict(.success(ClientResponse(status: status, body: [1], retryAfter: retryAfter)), from: "it")
  }

  private func cause(_ verdict: Verdict) -> CallRetry.Cause? {
    if case .outcome(.retry(let failure)) = verdict { failure.cause } else { nil }
  }

  @Test("2xx is accepted", arguments: [200, 201, 202, 204])
  func accepted(_ status: Int) {
    #expect(verdict(status) == .accepted([1]))
  }

  @Test(
    "what is not a success, a decline or a refusal is asked again, and the cause says why",
    arguments: [
      (408, CallRetry.Cause.serverError), (500, .serverError), (501, .serverError), (599, .serverError), (429, .busy),
      (409, .inProgress), (423, .inProgress), (425, .inProgress), (401, .credentials), (403, .credentials),
      (404, .misconfigured), (405, .misconfigured), (413, .misconfigured), (414, .misconfigured), (415, .misconfigured),
      (406, .unclear), (412, .unclear), (424, .unclear), (444, .unclear), (460, .unclear), (499, .unclear),
      (302, .broken), (600, .broken), (999, .broken),
    ])
  func asked(_ status: Int, _ expected: CallRetry.Cause) {
    #expect(cause(verdict(status)) == expected)
  }

  @Test("a call is retried after the time that the response asks for", arguments: [409, 429, 503])
  func later(_ status: Int) {
    guard case .outcome(.retry(let failure)) = verdict(status, retryAfter: .seconds(7)) else {
      Issue.record("\(verdict(status))")
      return
    }
    #expect(failure.after == .seconds(7))
  }

  @Test("402 is an explicit decline")
  func declined() {
    #expect(verdict(402) == .outcome(.declined(reason: "it refused with 402")))
  }

  @Test("a status that proves the payment was refused refuses it", arguments: [400, 410, 422])
  func refusals(_ status: Int) {
    #expect(verdict(status) == .outcome(.refused(status: status, reason: "it refused with \(status)")))
  }

  @Test(
    "to a call that was sent twice only 2xx and 402 decide: the first may have been carried out",
    arguments: [400, 401, 404, 409, 410, 422, 429, 499])
  func repeated(_ status: Int) {
    #expect(cause(Verdict(.success(ClientResponse(status: status, body: [], isToRepeat: true)), from: "it")) == .broken)
  }

  @Test("a denial that may be a stray response leaves open whether the call was carried out", arguments: [true, false])
  func unconfirmed(isUnconfirmed: Bool) {
    let response = ClientResponse(status: 429, body: [], isUnconfirmed: isUnconfirmed)
    guard case .outcome(.retry(let retry)) = Verdict(.success(response), from: "it") else {
      Issue.record("no retry")
      return
    }
    #expect(retry.cause == .busy && retry.mayHaveHappened == isUnconfirmed)
  }

  @Test("the responses that decide do so for a repeat too")
  func repeatedDecided() {
    #expect(Verdict(.success(ClientResponse(status: 200, body: [1], isToRepeat: true)), from: "it") == .accepted([1]))
    #expect(
      Verdict(.success(ClientResponse(status: 402, body: [], isToRepeat: true)), from: "it")
        == .outcome(.declined(reason: "it refused with 402")))
  }

  @Test("a missing response says whether the call can have reached the other side")
  func timeout() {
    #expect(cause(Verdict(.failure(.timeout(after: .seconds(1))), from: "it")) == .timeout)
    #expect(cause(Verdict(.failure(.broken("closed")), from: "it")) == .broken)
    #expect(cause(Verdict(.failure(.unreachable("refused")), from: "it")) == .unreachable)
  }

  @Test("which failures leave it unknown whether the call was carried out, and which are outages")
  func causes() {
    let unknown = CallRetry.Cause.allCases.filter { CallRetry($0, reason: "").mayHaveHappened }
    #expect(unknown == [.timeout, .broken, .serverError, .inProgress, .unclear])
    let others = CallRetry.Cause.allCases.filter { !CallRetry($0, reason: "").isOutage }
    #expect(others == [.inProgress, .busy, .misconfigured, .unclear])
  }

  @Test(
    "a payment waits for what Retry-After says, up to 15 minutes",
    arguments: [("0", 0), ("7", 7), ("900", 900), ("100000000000", 900), ("99999999999999999999999", 900)])
  func retryAfter(_ field: String, _ seconds: Int) {
    guard case .outcome(.retry(let failure)) = verdict(429, retryAfter: RetryAfter.wait(field)) else {
      Issue.record("not asked again")
      return
    }
    #expect(failure.after == .seconds(seconds))
  }

  @Test("a reference can't leave its segment of a path")
  func percent() {
    #expect(percentEncoded("abc-DEF_09~") == "abc-DEF_09~")
    #expect(percentEncoded("../x?y#z%é") == "%2E%2E%2Fx%3Fy%23z%25%C3%A9")
  }
}
