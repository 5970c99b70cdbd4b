import Testing

@testable import RegisPay

@Suite("What becomes of a step, from what a response proves")
struct StepRuleTests {
  private static let works: [PaymentWork] = [
    PaymentWork(.create), PaymentWork(.settle), PaymentWork(.cancel), PaymentWork(.notify), PaymentWork(refund: 1),
  ]

  private func command(
    _ outcome: CallOutcome, _ work: PaymentWork, tried: Bool, exhausted: Bool = false
  ) -> PaymentCommand? {
    StepRule.command(for: outcome, of: work, mayHaveHappened: tried, isExhausted: exhausted)
  }

  private func isUnknown(_ command: PaymentCommand?, _ work: PaymentWork) -> Bool {
    if case .markUnknown(work, _) = command { true } else { false }
  }

  @Test("a success decides, whatever happened before", arguments: works)
  func done(_ work: PaymentWork) {
    for tried in [false, true] { #expect(command(.done(.recordSettled), work, tried: tried) == .recordSettled) }
  }

  @Test("a decline decides, whatever happened before", arguments: works)
  func declined(_ work: PaymentWork) {
    let no: PaymentCommand =
      work.step == .cancel ? .recordCancellationRefused(reason: "no") : .decline(work, reason: "no")
    for tried in [false, true] { #expect(command(.declined(reason: "no"), work, tried: tried) == no) }
  }

  @Test("another refusal counts only while no try can have reached the other side before", arguments: works)
  func refused(_ work: PaymentWork) {
    let refusal = CallOutcome.refused(status: 422, reason: "no")
    #expect(command(refusal, work, tried: false) == command(.declined(reason: "no"), work, tried: false))
    #expect(isUnknown(command(refusal, work, tried: true), work))
  }

  @Test("an unreadable response leaves the outcome unknown", arguments: works)
  func unreadable(_ work: PaymentWork) {
    for tried in [false, true] { #expect(isUnknown(command(.unreadable(reason: "?"), work, tried: tried), work)) }
  }

  @Test("an impossible call is parked while nothing was tried, and unknown afterwards", arguments: works)
  func impossible(_ work: PaymentWork) {
    #expect(command(.impossible(reason: "?"), work, tried: false) == .park(work, reason: "?"))
    #expect(isUnknown(command(.impossible(reason: "?"), work, tried: true), work))
  }

  @Test(
    "tries continue until they are exhausted; then the step is parked if no try can have had an effect",
    arguments: works)
  func retries(_ work: PaymentWork) {
    for cause in CallRetry.Cause.allCases {
      let failure = CallRetry(cause, reason: "r")
      for tried in [false, true] {
        #expect(command(.retry(failure), work, tried: tried) == nil)
        let end = command(.retry(failure), work, tried: tried, exhausted: true)
        #expect(isUnknown(end, work) == (tried || failure.mayHaveHappened), "\(cause)")
        guard !tried, !failure.mayHaveHappened else { continue }
        switch end {
        case .park(work, _): break
        case .recordCancellationRefused: #expect(work.step == .cancel && cause == .misconfigured)
        default: Issue.record("\(String(describing: end))")
        }
      }
    }
  }

  @Test("a 501 to a cancellation counts only if it can't have cancelled already")
  func cannotCancel() {
    let failure = CallOutcome.retry(CallRetry(.misconfigured, reason: "404"))
    let work = PaymentWork(.cancel)
    guard case .recordCancellationRefused = command(failure, work, tried: false, exhausted: true) else {
      Issue.record("not refused")
      return
    }
    #expect(isUnknown(command(failure, work, tried: true, exhausted: true), work))
  }

  private func payment(_ events: PaymentEvent...) throws -> Payment {
    try #require(
      try Payment([.initiated(.random(), Money(minorUnits: 1, currency: Currency.supported[0]))] + events))
  }

  @Test("a cancellation before any call for the creation needs no call")
  func neverCreated() throws {
    func before(_ payment: Payment, tried: Bool) -> PaymentCommand? {
      StepRule.commandWithoutCall(
        PaymentWork(.create), of: payment, mayHaveHappened: tried, age: .seconds(1), keyLifetime: .seconds(10))
    }
    let (wanted, cancelled) = (try payment(), try payment(.cancellationRequested))
    #expect(before(wanted, tried: false) == nil && before(wanted, tried: true) == nil)
    #expect(before(cancelled, tried: false) == .recordNotCreated)
    #expect(before(cancelled, tried: true) == nil)
  }

  @Test("a step that moves money is not repeated under a key that the PSP may have forgotten", arguments: works)
  func oldKeys(_ work: PaymentWork) throws {
    let payment = try payment()
    func before(tried: Bool, _ age: Duration, _ lifetime: Duration?) -> PaymentCommand? {
      StepRule.commandWithoutCall(work, of: payment, mayHaveHappened: tried, age: age, keyLifetime: lifetime)
    }
    #expect(before(tried: true, .seconds(10), .seconds(10)) == nil)
    #expect(isUnknown(before(tried: true, .seconds(11), .seconds(10)), work) == work.step.movesMoney)
    #expect(before(tried: false, .seconds(11), .seconds(10)) == nil, "an outage, however long, gives nothing up")
    #expect(before(tried: true, .seconds(1_000_000), nil) == nil)
  }
}
