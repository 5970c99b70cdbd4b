/// The two circuit breakers between the calls of one step and a dependency: the dependency's, which all its steps share, and
/// one for the address of this step's calls.
///
/// A wrong address (404, 405 and the like: a gateway during a deploy, a route that has moved) fails fast, and perhaps for one
/// step only; so does a 4xx that doesn't say whether the call was carried out. Neither is an outage of the dependency. The
/// address breaker counts payments: when many get the same response and none another, the payments are not at fault.
struct Breakers: Sendable {
  enum Admission: Sendable, Hashable {
    case pass(Pass)
    /// Ask again at this time.
    case wait(until: ContinuousClock.Instant)
  }

  struct Pass: Sendable, Hashable {
    fileprivate let dependency: Breaker.Pass
    fileprivate let address: Breaker.Pass

    var isTrial: Bool { dependency.isTrial || address.isTrial }
  }

  let dependency: Breaker
  let address: Breaker

  init(_ step: PaymentStep, of dependency: Breaker) {
    self.dependency = dependency
    address = Breaker(
      name: "\(dependency.name), for \(step.rawValue)", options: dependency.options, counting: .payments)
  }

  /// The breaker that holds calls back; the dependency's if neither does.
  var shown: Breaker { dependency.state == .closed && address.state != .closed ? address : dependency }

  func admit(hasUntried: Bool, now: ContinuousClock.Instant) -> Admission {
    switch address.admit(hasUntried: hasUntried, now: now) {
    case .wait(let until): return .wait(until: until)
    case .pass(let addressPass):
      switch dependency.admit(hasUntried: hasUntried, now: now) {
      case .wait(let until):
        address.abandoned(addressPass, now: now)
        return .wait(until: until)
      case .pass(let pass): return .pass(Pass(dependency: pass, address: addressPass))
      }
    }
  }

  /// Ends the wait of those that are open.
  func tryNow(_ now: ContinuousClock.Instant) {
    dependency.tryNow(now)
    address.tryNow(now)
  }

  /// Reports that the call got a response about its payment.
  func succeeded(_ pass: Pass, now: ContinuousClock.Instant) {
    dependency.succeeded(pass.dependency, now: now)
    address.succeeded(pass.address, now: now)
  }

  /// Reports that the call got no response, or an error of the dependency.
  func failed(
    _ pass: Pass, by payment: PaymentID, reason: String, now: ContinuousClock.Instant
  ) -> Breaker.Judgement {
    address.abandoned(pass.address, now: now)
    return dependency.failed(pass.dependency, by: payment, reason: reason, now: now)
  }

  /// Reports a response that says the address or the form of the call is wrong, or that doesn't say whether the call was carried
  /// out.
  func misaddressed(
    _ pass: Pass, by payment: PaymentID, reason: String, now: ContinuousClock.Instant
  ) -> Breaker.Judgement {
    dependency.abandoned(pass.dependency, now: now)
    return address.failed(pass.address, by: payment, reason: reason, now: now)
  }

  /// Reports that the call had no outcome.
  func abandoned(_ pass: Pass, now: ContinuousClock.Instant) {
    dependency.abandoned(pass.dependency, now: now)
    address.abandoned(pass.address, now: now)
  }
}
