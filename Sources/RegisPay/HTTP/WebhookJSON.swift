/// Endpoints and deliveries as the API shows them, without secrets.
enum WebhookJSON {
  static func members(of status: EndpointWorker.Status) -> [JSONValue.Member] {
    let endpoint = status.endpoint
    let progress = status.progress
    var members: [JSONValue.Member] = [
      .init("id", .string(endpoint.id)), .init("url", .string(endpoint.url.text)),
      .init("description", .string(endpoint.description)),
      .init(
        "events",
        endpoint.events.map { types in
          .array(types.map(\.publicName).sorted().map(JSONValue.string))
        } ?? .null),
      .init("enabled", .bool(endpoint.disabled == nil)),
    ]
    if let disabled = endpoint.disabled {
      members += [
        .init("disabledReason", .string(disabled.reason)), .init("disabledAt", time(disabled.sinceMicroseconds)),
      ]
    }
    members += [
      .init("createdAt", time(endpoint.createdMicroseconds)), .init("updatedAt", time(endpoint.updatedMicroseconds)),
      .init("previousSecretUntil", optional(endpoint.previousSecret?.untilMicroseconds)),
      .init("offset", .integer(progress.checkpoint)),
      .init("logEnd", .integer(max(status.logEnd, progress.checkpoint))),
      .init("waiting", .integer(status.waitingCount)), .init("nextTryAt", optional(status.nextTryMicroseconds)),
      .init("failuresInRow", .integer(progress.failuresInRow)),
      .init("failingSince", optional(progress.failingSinceMicroseconds)),
      .init("lastSuccessAt", optional(progress.lastSuccessMicroseconds)),
    ]
    return members
  }

  static func delivery(_ delivery: WebhookDelivery) -> JSONValue { .object(members(of: delivery)) }

  static func members(of delivery: WebhookDelivery) -> [JSONValue.Member] {
    [
      .init("event", .string(delivery.event)), .init("type", .string(delivery.type)),
      .init("offset", delivery.offset.map { .integer($0) } ?? .null), .init("attempt", .integer(delivery.attempt)),
      .init("startedAt", time(delivery.startMicroseconds)),
      .init("durationMilliseconds", .integer(delivery.durationMicroseconds / 1_000)),
      .init("status", delivery.status.map { .integer($0) } ?? .null),
      .init("error", delivery.error.map(JSONValue.string) ?? .null),
      .init("outcome", .string(delivery.outcome.rawValue)),
      .init("nextTryAt", optional(delivery.nextTryMicroseconds)),
    ]
  }

  private static func time(_ microseconds: UInt64) -> JSONValue { .string(timestamp(microseconds: microseconds)) }

  private static func optional(_ microseconds: UInt64?) -> JSONValue { microseconds.map(time) ?? .null }
}
