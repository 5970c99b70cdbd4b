/// What stands between the calls of one step and a dependency: the dependency's breaker, which all its steps share, and
/// one for the address that this step's calls go to.
///
/// An address that is wrong (404, 405 and the like: a gateway during a deploy, a route that has moved) is answered fast,
/// and perhaps for one step only; so is a 4xx that doesn't tell what came of the call. Neither is an outage of the
/// dependency. They are judged by payments: the same answer to many of them, and to none another one, is not their fault.
struct Breakers: Sendable {
  enum Admission: Sendable, Hashable {
    case pass(Pass)
    /// Ask again then.
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

  /// The one that holds calls back; the dependency's if none does.
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

  /// The call was answered about its payment.
  func succeeded(_ pass: Pass, now: ContinuousClock.Instant) {
    dependency.succeeded(pass.dependency, now: now)
    address.succeeded(pass.address, now: now)
  }

  /// The call was not answered, or with an error of the dependency.
  func failed(
    _ pass: Pass, by payment: PaymentID, reason: String, now: ContinuousClock.Instant
  ) -> Breaker.Judgement {
    address.abandoned(pass.address, now: now)
    return dependency.failed(pass.dependency, by: payment, reason: reason, now: now)
  }

  /// The answer says that the address, or the form of the call, is wrong, or doesn't say what came of the call.
  func misaddressed(
    _ pass: Pass, by payment: PaymentID, reason: String, now: ContinuousClock.Instant
  ) -> Breaker.Judgement {
    dependency.abandoned(pass.dependency, now: now)
    return address.failed(pass.address, by: payment, reason: reason, now: now)
  }

  /// The call had no outcome.
  func abandoned(_ pass: Pass, now: ContinuousClock.Instant) {
    dependency.abandoned(pass.dependency, now: now)
    address.abandoned(pass.address, now: now)
  }
}
