import ArgumentParser
import RegisPay

/// Time limits, retries and circuit breakers of calls to the PSP and the notification service.
struct CallOptions: ParsableArguments {
  @Option(help: ArgumentHelp("Seconds a call may take.", valueName: "seconds"))
  var callTimeout = 10.0

  @Option(help: ArgumentHelp("Longest delay in seconds before a failed call is retried.", valueName: "seconds"))
  var retryDelayLimit = 60.0

  @Option(help: "Consecutive failures, with no success for a second, that open a service's circuit breaker.")
  var breakerFailures = 5

  @Option(
    help: ArgumentHelp(
      "Seconds an open circuit breaker waits before it lets one trial call through.", valueName: "seconds"))
  var breakerSeconds = 30.0

  @Option(
    help: ArgumentHelp(
      "Hours the PSP keeps an idempotency key; 0 means for ever.",
      discussion:
        "After this time a step that moves money is not retried if the PSP may have carried it out: its outcome becomes "
        + "unknown.",
      valueName: "hours"))
  var pspKeyLifetime = 24.0

  func validate() throws {
    guard (0...87_600).contains(pspKeyLifetime) else {
      throw ValidationError("--psp-key-lifetime must be 0 to 87600 hours")
    }
    for (name, seconds) in [
      ("--call-timeout", callTimeout), ("--retry-delay-limit", retryDelayLimit), ("--breaker-seconds", breakerSeconds),
    ] where !(0.01...86_400).contains(seconds) {
      throw ValidationError("\(name) must be 0.01 to 86400 seconds")
    }
    guard (1...1_000_000).contains(breakerFailures) else {
      throw ValidationError("--breaker-failures must be 1 to 1000000")
    }
  }

  func apply(to options: inout ServerOptions) {
    options.callTimeLimit = .seconds(callTimeout)
    options.consumer.keyLifetime = pspKeyLifetime == 0 ? nil : .seconds(pspKeyLifetime * 3_600)
    options.breaker = .init(failureLimit: breakerFailures, openDuration: .seconds(breakerSeconds))
    options.consumer.backoff.cap = .seconds(retryDelayLimit)
    options.consumer.backoff.base = min(options.consumer.backoff.base, .seconds(retryDelayLimit))
  }
}
