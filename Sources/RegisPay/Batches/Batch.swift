/// One action, carried out for all payments that pass a filter: what was asked for, and how far it is. A value.
struct Batch: Sendable, Hashable {
  enum Action: String, Sendable, Hashable, CaseIterable {
    case retry
    case cancel
    /// Of all that is left.
    case refund

    var command: PaymentCommand {
      switch self {
      case .retry: .retry
      case .cancel: .cancel
      case .refund: .refund(nil)
      }
    }

    /// Statuses in which the action may be possible. Payments with another one are passed over.
    var statuses: Set<PaymentStatus> {
      switch self {
      case .retry: [.failed]
      case .cancel: [.initiated, .created, .failed, .outcomeUnknown]
      case .refund: [.settled, .completed, .refunding, .failed, .outcomeUnknown]
      }
    }
  }

  enum State: String, Sendable, Hashable {
    case running
    /// All payments were reached, or as many as were asked for.
    case done
    /// A person stopped it, the key of the one who began it ended, or the server stopped.
    case stopped
    /// The rest could not be carried out.
    case failed
  }

  let id: String
  let action: Action
  /// In the order of creation.
  let query: PaymentQuery
  /// The filter as it was asked for, for those who look.
  let filter: JSONValue
  /// Carries out no more than this many; nil for no limit.
  let limit: Int?
  /// The name of the API key that began it; nil without one.
  let actor: KeyHolder?
  let startMicroseconds: UInt64
  /// Payments that pass the filter and may allow the action, at the start; nil if there were too many to count.
  var expected: Int?

  var state = State.running
  /// Why it has stopped or failed.
  var reason: String?
  var endMicroseconds: UInt64?
  /// Payments for which the action was accepted.
  var accepted = 0
  /// Payments that refused it.
  var refused = 0
  /// By their reasons, at most ``reasonLimit`` of them.
  private(set) var refusals: [String: Int] = [:]

  /// Reasons that have a count of their own. Payments with a further reason count together, as `others`.
  static let reasonLimit = 10

  mutating func refuse(_ reason: String) {
    refused += 1
    let name = refusals[reason] != nil || refusals.count < Self.reasonLimit ? reason : "others"
    refusals[name, default: 0] += 1
  }

  mutating func end(_ state: State, _ reason: String? = nil, at microseconds: UInt64) {
    guard self.state == .running else { return }
    (self.state, self.reason, endMicroseconds) = (state, reason, microseconds)
  }

  var json: JSONValue {
    let reasons = refusals.sorted { ($1.value, $0.key) < ($0.value, $1.key) }
    return [
      "id": .string(id),
      "action": .string(action.rawValue),
      "filter": filter,
      "limit": limit.map { .integer($0) } ?? .null,
      "actor": actor.map { .string($0.name) } ?? .null,
      "state": .string(state.rawValue),
      "reason": reason.map { .string($0) } ?? .null,
      "startedAt": .string(timestamp(microseconds: startMicroseconds)),
      "endedAt": endMicroseconds.map { .string(timestamp(microseconds: $0)) } ?? .null,
      "expected": expected.map { .integer($0) } ?? .null,
      "accepted": .integer(accepted),
      "refused": .integer(refused),
      "refusals": .array(reasons.map { ["reason": .string($0.key), "payments": .integer($0.value)] }),
    ]
  }
}
