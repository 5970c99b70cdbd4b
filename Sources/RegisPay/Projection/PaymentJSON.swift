import LogStore

/// A payment as the API shows it.
enum PaymentJSON {
  /// - Parameter concern: the payment has events that can't be read, so the JSON may be outdated.
  static func members(
    of row: PaymentRow, waiting: RetryStatus.Entry?, concern: DamageStatus.Concern? = nil
  ) -> [JSONValue.Member] {
    var members: [JSONValue.Member] = [
      .init("paymentId", .string(row.id.description)),
      .init("amount", .number(row.money.decimal)),
      .init("currency", .string(row.money.currency.code)),
      .init("status", .string(row.status.rawValue)),
      .init("refundedAmount", .number(row.refunded.decimal)),
      .init("paymentReference", row.reference.map(JSONValue.string) ?? .null),
      .init("version", .integer(row.version)),
      .init("createdAt", .string(timestamp(microseconds: row.createdMicroseconds))),
      .init("updatedAt", .string(timestamp(microseconds: row.updatedMicroseconds))),
    ]
    switch concern {
    case .incomplete: members.append(.init("incomplete", .bool(true)))
    case .newerEvent: members.append(.init("newerEvent", .bool(true)))
    case nil: break
    }
    if row.refunding.minorUnits > 0 { members.append(.init("refundingAmount", .number(row.refunding.decimal))) }
    if let trouble = row.trouble {
      var failure = Self.members(of: trouble)
      if row.furtherUnknown > 0 { failure.append(.init("further", .integer(row.furtherUnknown))) }
      // A step with an unknown outcome is not a failure.
      members.append(.init(row.status == .outcomeUnknown ? "unknown" : "failure", .object(failure)))
    }
    if let waiting {
      members.append(.init("waiting", Self.waiting(waiting.work, waiting.attempts, waiting.reason, until: nil)))
    } else if let delay = row.delays.first {
      members.append(
        .init("waiting", Self.waiting(delay.work, delay.attempts, delay.reason, until: delay.untilMicroseconds)))
    }
    return members
  }

  private static func members(of trouble: PaymentRow.Trouble) -> [JSONValue.Member] {
    var members: [JSONValue.Member] = [.init("step", .string(trouble.step.rawValue))]
    if let number = trouble.refund { members.append(.init("refund", .integer(number))) }
    return members + [.init("reason", .string(trouble.reason))]
  }

  /// Every step and refund whose outcome is unknown.
  static func unknownSteps(of payment: Payment) -> JSONValue {
    .array(
      payment.unknown.map {
        .object(members(of: .init(step: $0.work.step, refund: $0.work.refund, reason: $0.reason)))
      })
  }

  private static func waiting(_ work: PaymentWork, _ attempts: Int, _ reason: String, until: UInt64?) -> JSONValue {
    var members: [JSONValue.Member] = [
      .init("step", .string(work.step.rawValue)), .init("attempts", .integer(attempts)),
      .init("reason", .string(reason)),
    ]
    if let until { members.append(.init("until", .string(timestamp(microseconds: until)))) }
    return .object(members)
  }

  static func refund(_ refund: Refund) -> JSONValue {
    var members: [JSONValue.Member] = [
      .init("refund", .integer(refund.number)), .init("amount", .number(refund.amount.decimal)),
    ]
    switch refund.status {
    case .requested: members.append(.init("status", "Requested"))
    case .done: members.append(.init("status", "Refunded"))
    case .declined(let reason): members += [.init("status", "Declined"), .init("reason", .string(reason))]
    case .failed(let reason): members += [.init("status", "Failed"), .init("reason", .string(reason))]
    case .unknown(let reason): members += [.init("status", "OutcomeUnknown"), .init("reason", .string(reason))]
    }
    return .object(members)
  }
}

/// An event as the API shows it.
enum EventJSON {
  static func members(of event: Event) -> [JSONValue.Member] {
    // Null for a payload that is not JSON, which another program may have written.
    var data = (try? JSONReader.read(event.payload)) ?? .null
    var metadata: [JSONValue.Member] = []
    if case .object(let members) = data {
      metadata = members.filter { $0.key == EventMetadata.name }
      if !metadata.isEmpty { data = .object(members.filter { $0.key != EventMetadata.name }) }
    }
    return [
      .init("eventId", .string("\(event.stream):\(event.version)")),
      .init("stream", .string(event.stream)),
      .init("version", .integer(event.version)),
      .init("offset", .integer(event.offset)),
      .init("type", .string(event.type)),
      .init("timestamp", .string(timestamp(microseconds: event.timestampMicroseconds))),
      .init("data", data),
    ] + metadata
  }
}
