/// The faults that a simulated service injects, decided at random for each request.
public struct Faults: Sendable, Hashable {
  /// The delay before each response, in milliseconds.
  var delay = Delay()
  /// Shares of the requests, 0…1, that get one of ``failStatuses`` instead of being carried out, or after they were carried out.
  var failBefore = 0.0
  var failAfter = 0.0
  var failStatuses = [500]
  /// Requests for this amount or more get one of ``failStatuses``, whatever the currency; nil for none.
  var failFrom: DecimalText?
  /// The `Retry-After` of these responses, in seconds; nil for none.
  var retryAfter: Int?
  /// Shares of the requests whose connection is closed without a response, before or after they were carried out.
  var dropBefore = 0.0
  var dropAfter = 0.0
  /// The share of payments that the PSP declines with 402.
  var decline = 0.0
  /// Payments of this amount or more are declined, whatever the currency; nil for none.
  var declineFrom: DecimalText?

  /// A fixed and an exponentially distributed part, as the wait for a busy service has, up to a limit.
  struct Delay: Sendable, Hashable {
    var fixed = 0.0
    var exponentialMean = 0.0
    var limit = 10_000.0

    func milliseconds(_ randomness: Double) -> Double {
      min(fixed - exponentialMean * Self.logarithm(1 - randomness), limit)
    }

    /// The natural logarithm of a number in (0, 1], by halving and a series; avoids Foundation.
    private static func logarithm(_ number: Double) -> Double {
      // With number = significand × 2^exponent, and y = (s-1)/(s+1): ln s = 2 (y + y³/3 + y⁵/5 + …), |y| ≤ 1/3.
      let y = (number.significand - 1) / (number.significand + 1)
      var (term, sum) = (y, 0.0)
      for divisor in stride(from: 1.0, through: 21, by: 2) {
        sum += term / divisor
        term *= y * y
      }
      return 2 * sum + Double(number.exponent) * 0.6931471805599453
    }
  }

  /// The fault of one request.
  enum Fault: Sendable, Hashable {
    case fail(Int, isAfter: Bool)
    case drop(isAfter: Bool)

    var isAfter: Bool {
      switch self {
      case .fail(_, let isAfter), .drop(let isAfter): isAfter
      }
    }
  }

  /// The fault of the next request; nil for none.
  ///
  /// - Parameter random: returns numbers from 0 to 1.
  func fault(random: () -> Double) -> Fault? {
    let draw = random()
    var sum = 0.0
    func isHit(_ share: Double) -> Bool {
      sum += share
      return draw < sum
    }
    if isHit(failBefore) { return .fail(status(random()), isAfter: false) }
    if isHit(failAfter) { return .fail(status(random()), isAfter: true) }
    if isHit(dropBefore) { return .drop(isAfter: false) }
    if isHit(dropAfter) { return .drop(isAfter: true) }
    return nil
  }

  /// The status that requests for this amount always get; nil when they may be carried out.
  func failure(of money: Money, randomness: Double) -> Int? {
    Self.isAtLeast(money, failFrom) ? status(randomness) : nil
  }

  private static func isAtLeast(_ money: Money, _ limit: DecimalText?) -> Bool {
    guard let limit else { return false }
    return DecimalText(money.decimal)?.isAtLeast(limit) ?? false
  }

  /// Whether the PSP declines a payment that it has not accepted before.
  func declines(_ money: Money, randomness: Double) -> Bool {
    Self.isAtLeast(money, declineFrom) || randomness < decline
  }

  private func status(_ randomness: Double) -> Int {
    failStatuses[min(Int(randomness * Double(failStatuses.count)), failStatuses.count - 1)]
  }
}

/// Why JSON does not describe faults; one line.
public struct FaultsError: Error, Sendable, Hashable, CustomStringConvertible {
  public let description: String

  init(description: String) { self.description = description }
}

extension Faults {
  /// Reads the JSON text that `PUT /psp/api/faults` takes. Missing members get their defaults.
  public init(text: String) throws(FaultsError) {
    do {
      try self.init(JSONReader.read(Array(text.utf8)))
    } catch let error as FaultsError {
      throw error
    } catch {
      throw FaultsError(description: "faults are a JSON object; this is \(error)")
    }
  }

  /// Reads what ``json`` writes. Missing members get their defaults.
  init(_ json: JSONValue) throws(FaultsError) {
    guard case .object(let members) = json else { throw FaultsError(description: "faults are a JSON object") }
    for member in members {
      switch member.key {
      case "delay": delay = try Self.delay(member.value)
      case "failBefore": failBefore = try Self.share(member)
      case "failAfter": failAfter = try Self.share(member)
      case "failStatuses": failStatuses = try Self.statuses(member.value)
      case "dropBefore": dropBefore = try Self.share(member)
      case "dropAfter": dropAfter = try Self.share(member)
      case "decline": decline = try Self.share(member)
      case "declineFrom": declineFrom = try Self.amount(member)
      case "failFrom": failFrom = try Self.amount(member)
      case "retryAfter": retryAfter = try Self.retryAfter(member.value)
      default: throw FaultsError(description: "there is no fault named \(member.key.debugDescription)")
      }
    }
    guard failBefore + failAfter + dropBefore + dropAfter <= 1 else {
      throw FaultsError(description: "failBefore, failAfter, dropBefore and dropAfter are more than 1 together")
    }
  }

  var json: JSONValue {
    [
      "delay": [
        "fixed": .number("\(delay.fixed)"), "exponentialMean": .number("\(delay.exponentialMean)"),
        "limit": .number("\(delay.limit)"),
      ],
      "failBefore": .number("\(failBefore)"), "failAfter": .number("\(failAfter)"),
      "failStatuses": .array(failStatuses.map { .integer($0) }),
      "failFrom": failFrom.map { .number($0.description) } ?? .null,
      "retryAfter": retryAfter.map { .integer($0) } ?? .null,
      "dropBefore": .number("\(dropBefore)"), "dropAfter": .number("\(dropAfter)"), "decline": .number("\(decline)"),
      "declineFrom": declineFrom.map { .number($0.description) } ?? .null,
    ]
  }

  private static func amount(_ member: JSONValue.Member) throws(FaultsError) -> DecimalText? {
    if case .null = member.value { return nil }
    guard case .number(let text) = member.value, let number = DecimalText(text) else {
      throw FaultsError(description: "\(member.key) must be an amount, such as 100.00")
    }
    return number
  }

  private static func retryAfter(_ json: JSONValue) throws(FaultsError) -> Int? {
    if case .null = json { return nil }
    guard case .number(let text) = json, let seconds = Int(text), (0...86_400).contains(seconds) else {
      throw FaultsError(description: "retryAfter must be whole seconds, 0 to 86400")
    }
    return seconds
  }

  private static func share(_ member: JSONValue.Member) throws(FaultsError) -> Double {
    guard case .number(let text) = member.value, let share = Double(text), (0...1).contains(share) else {
      throw FaultsError(description: "\(member.key) must be a share of the requests, 0 to 1")
    }
    return share
  }

  private static func delay(_ json: JSONValue) throws(FaultsError) -> Delay {
    guard case .object(let members) = json else {
      throw FaultsError(description: "delay must be an object with fixed, exponentialMean and limit")
    }
    var delay = Delay()
    for member in members {
      guard case .number(let text) = member.value, let number = Double(text), (0...3_600_000).contains(number) else {
        throw FaultsError(description: "delay.\(member.key) must be milliseconds, 0 to 3600000")
      }
      switch member.key {
      case "fixed": delay.fixed = number
      case "exponentialMean": delay.exponentialMean = number
      case "limit": delay.limit = number
      default: throw FaultsError(description: "a delay has no \(member.key.debugDescription)")
      }
    }
    return delay
  }

  private static func statuses(_ json: JSONValue) throws(FaultsError) -> [Int] {
    guard case .array(let elements) = json, !elements.isEmpty else {
      throw FaultsError(description: "failStatuses must be a list of statuses, such as [500, 503]")
    }
    var statuses: [Int] = []
    for element in elements {
      guard case .number(let text) = element, let status = Int(text), (400...599).contains(status) else {
        throw FaultsError(description: "failStatuses must be statuses of 400 to 599")
      }
      statuses.append(status)
    }
    return statuses
  }
}
