import NIOHTTP1

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
      .init("id", delivery.number > 0 ? .string(String(delivery.number)) : .null),
      .init("event", .string(delivery.event)), .init("type", .string(delivery.type)),
      .init("offset", delivery.offset.map { .integer($0) } ?? .null), .init("attempt", .integer(delivery.attempt)),
      .init("startedAt", time(delivery.startMicroseconds)),
      .init("durationMilliseconds", .integer(delivery.durationMicroseconds / 1_000)),
      .init("status", delivery.status.map { .integer($0) } ?? .null),
      .init("error", delivery.error.map(JSONValue.string) ?? .null),
      .init("outcome", .string(delivery.outcome.rawValue)),
      .init("nextTryAt", optional(delivery.nextTryMicroseconds)),
      .init("response", delivery.response.map(JSONValue.string) ?? .null),
    ]
  }

  /// A delivery with the request that it consisted of, as far as it can be made again.
  static func details(_ delivery: WebhookDelivery, _ message: WebhookMessage?, url: String) -> JSONValue {
    var request = JSONValue.null
    if let message {
      var headers: HTTPHeaders = [
        "Content-Type": "application/json", "webhook-id": message.id,
        "webhook-timestamp": String(delivery.startMicroseconds / 1_000_000),
      ]
      message.trace?.add(to: &headers)
      request = [
        "url": .string(url), "headers": .object(headers.map { .init($0.name, .string($0.value)) }),
        "body": .string(String(decoding: message.body, as: UTF8.self)),
      ]
    }
    return .object(members(of: delivery) + [.init("request", request)])
  }

  private static func time(_ microseconds: UInt64) -> JSONValue { .string(timestamp(microseconds: microseconds)) }

  private static func optional(_ microseconds: UInt64?) -> JSONValue { microseconds.map(time) ?? .null }
}
