/// What the server did in ten seconds, or how it stood at their end. A member that isn't known is nil.
struct ActivityPoint: Sendable, Hashable {
  static let seconds: UInt64 = 10

  /// Payments in these seconds.
  struct Flow: Sendable, Hashable {
    var acceptedPerSecond: Double
    var completedPerSecond: Double
    var otherEndsPerSecond: Double
    /// From a payment's first event to its completion, of those that completed; nil if none did.
    var completion: TimeQuantiles?

    /// - Parameter seconds: in which the tally was counted.
    init(_ tally: PaymentFlow.Tally, seconds: Double) {
      // Never a division by zero; a shorter time says nothing.
      let seconds = max(seconds, 0.001)
      acceptedPerSecond = Double(tally.accepted) / seconds
      completedPerSecond = Double(tally.completed) / seconds
      otherEndsPerSecond = Double(tally.otherEnds) / seconds
      completion = TimeQuantiles(tally.completionTimes)
    }

    var members: [JSONValue.Member] {
      [
        .init("acceptedPerSecond", .rounded(acceptedPerSecond)),
        .init("completedPerSecond", .rounded(completedPerSecond)),
        .init("otherEndsPerSecond", .rounded(otherEndsPerSecond)),
        .init("completionMilliseconds", .quantiles(completion)),
      ]
    }
  }

  /// How far the processing of payments is behind the log.
  struct Lag: Sendable, Hashable {
    var events: UInt64
    var seconds: Double

    var json: JSONValue { ["events": .integer(events), "seconds": .rounded(seconds)] }
  }

  /// The number of its ten seconds since 1970.
  let number: UInt64
  var flow: Flow?
  var lag: Lag?
  var parked: Int?
  var outcomeUnknown: Int?
  var sync: TimeQuantiles?

  init(_ number: UInt64) { self.number = number }

  static func number(atMicroseconds microseconds: UInt64) -> UInt64 { microseconds / (seconds * 1_000_000) }

  static func beginMicroseconds(of number: UInt64) -> UInt64 { number * seconds * 1_000_000 }

  /// Nothing is known.
  var isEmpty: Bool { self == ActivityPoint(number) }

  var json: JSONValue {
    let unknown = ["acceptedPerSecond", "completedPerSecond", "otherEndsPerSecond", "completionMilliseconds"]
    return .object(
      [.init("at", .string(timestamp(microseconds: Self.beginMicroseconds(of: number))))]
        + (flow?.members ?? unknown.map { .init($0, .null) })
        + [
          .init("lag", lag?.json ?? .null), .init("parked", parked.map { .integer($0) } ?? .null),
          .init("outcomeUnknown", outcomeUnknown.map { .integer($0) } ?? .null),
          .init("syncMilliseconds", .quantiles(sync)),
        ])
  }
}

extension JSONValue {
  /// A number that is not negative, with at most two decimals.
  static func rounded(_ value: Double) -> JSONValue {
    // More than any rate or time here, and still exact.
    let hundredths = Int((min(max(value, 0), 1e13) * 100).rounded())
    let (whole, rest) = hundredths.quotientAndRemainder(dividingBy: 100)
    if rest == 0 { return .number("\(whole)") }
    return .number(rest % 10 == 0 ? "\(whole).\(rest / 10)" : "\(whole).\(rest < 10 ? "0" : "")\(rest)")
  }

  static func quantiles(_ quantiles: TimeQuantiles?) -> JSONValue {
    quantiles.map { ["p50": .rounded($0.p50), "p99": .rounded($0.p99)] } ?? .null
  }
}
