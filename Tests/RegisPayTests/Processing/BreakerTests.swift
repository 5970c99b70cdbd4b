import Foundation
import SeededRandom
import Testing

@testable import RegisPay

private let start = ContinuousClock.now

@Suite("A circuit breaker")
struct BreakerTests {
  private let breaker = Breaker(
    name: "test", options: .init(failureLimit: 5, openDuration: .seconds(30), quietDuration: .seconds(1)))
  /// Late enough after `start` for the breaker to open.
  private let later = start + .seconds(1)

  private func pass(_ now: ContinuousClock.Instant, hasUntried: Bool = false) throws -> Breaker.Pass {
    guard case .pass(let pass) = breaker.admit(hasUntried: hasUntried, now: now) else { throw Refused() }
    return pass
  }

  /// A failure of another payment each time, unless one is named.
  ///
  /// - Returns: whether it opened the breaker.
  private func fail(_ pass: Breaker.Pass, by payment: PaymentID = .random(), now: ContinuousClock.Instant) -> Bool {
    breaker.failed(pass, by: payment, reason: "down", now: now).didOpen
  }

  private func open() throws {
    for _ in 0..<5 { _ = fail(try pass(start), now: later) }
  }

  private struct Refused: Error {}

  @Test("five failures in a row open it; fewer, or a success in between, do not")
  func opening() throws {
    for _ in 0..<4 { #expect(!fail(try pass(start), now: later)) }
    breaker.succeeded(try pass(later), now: later)
    for _ in 0..<4 { #expect(!fail(try pass(later), now: later + .seconds(2))) }
    #expect(breaker.state == .closed)
    let now = later + .seconds(2)
    // Four of nine have failed by now: a row must be a little longer to be no chance.
    var more = 0
    while breaker.state == .closed {
      _ = fail(try pass(later), now: now)
      more += 1
    }
    #expect((1...2).contains(more))
    #expect(breaker.status.reason == "down")
    #expect(breaker.admit(hasUntried: false, now: now + .seconds(29)) == .wait(until: now + .seconds(30)))
  }

  @Test("a person ends the wait of an open one: the next call is the trial, and a closed one stays as it is")
  func tried() throws {
    breaker.tryNow(start)
    #expect(breaker.state == .closed)
    try open()
    let now = later + .seconds(3)
    #expect(breaker.admit(hasUntried: false, now: now) == .wait(until: later + .seconds(30)))
    breaker.tryNow(now)
    let trial = try pass(now)
    #expect(trial.isTrial && breaker.state == .trying)
    // It doesn't make a second trial beside the first.
    breaker.tryNow(now)
    #expect(breaker.state == .trying)
    #expect(fail(trial, now: now))
    #expect(breaker.state == .open(until: now + .seconds(30)))
  }

  @Test("however many calls fail at once, it opens only when none has succeeded for a while")
  func quiet() throws {
    for _ in 0..<100 { #expect(!fail(try pass(start), now: start + .milliseconds(999))) }
    #expect(fail(try pass(start), now: later))
  }

  @Test("time-outs that arrive together are not in a row, as others succeeded since their calls began")
  func timeoutsTogether() throws {
    let hung = try (0..<200).map { _ in try pass(start) }
    breaker.succeeded(try pass(start + .seconds(9)), now: start + .seconds(9))
    for pass in hung { #expect(!fail(pass, now: start + .seconds(10))) }
    #expect(breaker.state == .closed)
  }

  @Test("when all calls hang, it opens with the first time-outs")
  func allHang() throws {
    breaker.succeeded(try pass(start), now: start)
    let hung = try (0..<10).map { _ in try pass(start) }
    for pass in hung.prefix(4) { #expect(!fail(pass, now: start + .seconds(10))) }
    #expect(fail(hung[4], now: start + .seconds(10)))
  }

  @Test("after the open duration one trial passes and other calls wait; its success closes the breaker")
  func trialSucceeds() throws {
    try open()
    let later = later + .seconds(30)
    let trial = try pass(later)
    #expect(throws: Refused.self) { try pass(later) }
    breaker.succeeded(trial, now: later)
    #expect(breaker.state == .closed && breaker.status.reason == nil)
    _ = try pass(later)
  }

  @Test("a failed trial opens it again at once")
  func trialFails() throws {
    try open()
    let later = later + .seconds(31)
    #expect(fail(try pass(later), now: later))
    #expect(breaker.admit(hasUntried: false, now: later) == .wait(until: later + .seconds(30)))
  }

  @Test("after an abandoned trial, another call becomes the trial")
  func trialAbandoned() throws {
    try open()
    let later = later + .seconds(31)
    breaker.abandoned(try pass(later), now: later)
    _ = try pass(later)
    #expect(breaker.state == .trying)
  }

  @Test("calls that began before it opened don't affect it")
  func stragglers() throws {
    let early = try (0..<10).map { _ in try pass(start) }
    for pass in early.prefix(5) { _ = fail(pass, now: later) }
    let muchLater = start + .seconds(10)
    for pass in early[5..<8] { #expect(!fail(pass, now: muchLater)) }
    breaker.succeeded(early[8], now: muchLater)
    breaker.abandoned(early[9], now: muchLater)
    #expect(breaker.state == .open(until: later + .seconds(30)))
  }

  @Test("failures of one payment hold back all that have failed, and an untried payment passes at once")
  func onePayment() throws {
    let poisoned = PaymentID.random()
    for _ in 0..<4 { #expect(!fail(try pass(start), by: poisoned, now: later)) }
    #expect(fail(try pass(start), by: poisoned, now: later))
    #expect(throws: Refused.self) { try pass(later) }
    let trial = try pass(later, hasUntried: true)
    #expect(trial.isTrial)
    #expect(throws: Refused.self, "one at a time") { try pass(later, hasUntried: true) }
    breaker.succeeded(trial, now: later)
    #expect(breaker.state == .closed)
  }

  @Test(
    "once as many payments have failed as failures open it, it is an outage: those that were not tried wait as well")
  func manyPayments() throws {
    let poisoned = PaymentID.random()
    for _ in 0..<5 { _ = fail(try pass(start), by: poisoned, now: later) }
    for _ in 0..<4 { #expect(fail(try pass(later, hasUntried: true), now: later)) }
    #expect(throws: Refused.self) { try pass(later, hasUntried: true) }
    let muchLater = later + .seconds(30)
    breaker.succeeded(try pass(muchLater, hasUntried: true), now: muchLater)
    for _ in 0..<5 { _ = fail(try pass(muchLater), by: poisoned, now: muchLater + .seconds(2)) }
    _ = try pass(muchLater + .seconds(2), hasUntried: true)
  }

  @Test("a breaker that counts payments opens for five of them, and not for one that fails repeatedly")
  func countingPayments() throws {
    let breaker = Breaker(name: "test", options: .init(), counting: .payments)
    let poisoned = PaymentID.random()
    func fail(_ payment: PaymentID) throws -> Breaker.Judgement {
      guard case .pass(let pass) = breaker.admit(hasUntried: false, now: start) else { throw Refused() }
      return breaker.failed(pass, by: payment, reason: "404", now: later)
    }
    for _ in 0..<100 { #expect(try fail(poisoned) == .init(didOpen: false, isOutage: false)) }
    for _ in 0..<3 { #expect(try fail(.random()) == .init(didOpen: false, isOutage: false)) }
    #expect(try fail(.random()) == .init(didOpen: true, isOutage: true))
  }
}

/// Calls at a rate, which succeed or fail at random, in simulated time.
@Suite("A circuit breaker over time")
struct BreakerModelTests {
  private struct Load {
    /// Calls a second, at random.
    var rate: Double
    var seconds: Double
    /// How long a call takes, by whether it fails.
    var latency: (_ fails: Bool) -> Double = { _ in 0.02 }
  }

  /// Runs a load on a new breaker.
  ///
  /// - Parameter fails: whether a call that begins at that time fails.
  /// - Returns: when the breaker first opened, in seconds from the start.
  private func firstOpening(
    _ load: Load, _ random: inout SeededGenerator,
    fails: (_ second: Double, _ random: inout SeededGenerator) -> Bool
  ) -> Double? {
    let breaker = Breaker(name: "model", options: .init())
    var ends = EndQueue()
    var now = 0.0
    let payment = PaymentID.random()
    while now < load.seconds {
      now -= log(Double.random(in: 0x1p-53...1, using: &random)) / load.rate
      while let end = ends.popFirst(before: now) {
        let instant = start + .seconds(end.time)
        if !end.fails {
          breaker.succeeded(end.pass, now: instant)
        } else if breaker.failed(end.pass, by: payment, reason: "down", now: instant).didOpen {
          return end.time
        }
      }
      guard case .pass(let pass) = breaker.admit(hasUntried: true, now: start + .seconds(now)) else { return now }
      let isFailing = fails(now, &random)
      ends.insert(.init(time: now + load.latency(isFailing), pass: pass, fails: isFailing))
    }
    return nil
  }

  @Test("a fifth of the calls fails at random: it stays closed", arguments: [20.0, 100, 1_000])
  func randomFailures(rate: Double) {
    var random = SeededGenerator.printed("TEST_REGISPAY_SEED")
    let load = Load(rate: rate, seconds: 300_000 / rate)
    #expect(firstOpening(load, &random) { _, random in .random(in: 0..<1, using: &random) < 0.2 } == nil)
  }

  @Test("half of few calls fail at random: it stays closed once it knows the share", arguments: [2.0, 20])
  func halfFail(rate: Double) {
    var random = SeededGenerator.printed("TEST_REGISPAY_SEED")
    // At first a row of five counts as an outage; later the share of failures is known.
    let load = Load(rate: rate, seconds: 50_000 / rate)
    let share = 0.5
    #expect(
      firstOpening(load, &random) { second, random in
        .random(in: 0..<1, using: &random) < min(share, second * rate / 4_000)
      } == nil)
  }

  @Test(
    "some calls hang for ten seconds and fail together: it stays closed",
    arguments: zip([20.0, 100, 1_000], [0.3, 0.05, 0.01]))
  func hanging(rate: Double, share: Double) {
    var random = SeededGenerator.printed("TEST_REGISPAY_SEED")
    // Calls also arrive in bursts: many hang at once.
    let load = Load(rate: rate, seconds: 200_000 / rate) { $0 ? 10 : 0.02 }
    #expect(firstOpening(load, &random) { _, random in .random(in: 0..<1, using: &random) < share } == nil)
  }

  @Test(
    "an outage opens it within seconds, at whatever rate",
    arguments: zip([1.0, 20, 100, 3_000], [20.0, 3, 2, 1.5]))
  func outage(rate: Double, limit: Double) throws {
    var random = SeededGenerator.printed("TEST_REGISPAY_SEED")
    for _ in 0..<5 {
      let load = Load(rate: rate, seconds: 300)
      let opened = firstOpening(load, &random) { second, _ in second >= 100 }
      #expect(try #require(opened) <= 100 + limit)
    }
  }

  @Test("when all calls begin to hang, it opens with the first time-outs")
  func allHang() throws {
    var random = SeededGenerator.printed("TEST_REGISPAY_SEED")
    let load = Load(rate: 100, seconds: 300) { $0 ? 10 : 0.02 }
    let opened = firstOpening(load, &random) { second, _ in second >= 100 }
    #expect((110...111).contains(try #require(opened)))
  }

  private struct End {
    var time: Double
    var pass: Breaker.Pass
    var fails: Bool
  }

  /// Ends of calls in order of time: short and long calls are each in order already.
  private struct EndQueue {
    private var short: ArraySlice<End> = []
    private var long: ArraySlice<End> = []

    mutating func insert(_ end: End) {
      // Latencies are constant: each queue stays sorted.
      if end.fails { long.append(end) } else { short.append(end) }
    }

    mutating func popFirst(before time: Double) -> End? {
      let isShortNext = (short.first?.time ?? .infinity) <= (long.first?.time ?? .infinity)
      guard let first = isShortNext ? short.first : long.first, first.time <= time else { return nil }
      return isShortNext ? short.popFirst() : long.popFirst()
    }
  }
}
