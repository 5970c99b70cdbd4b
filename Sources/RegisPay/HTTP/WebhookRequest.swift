import Hummingbird

/// The bodies of requests about webhooks. Unknown members are refused: a misspelt one must not mean "all".
enum WebhookRequest {
  /// `{"url": …, "description": …, "events": […]}`
  static func endpoint(
    _ request: Request, allowingPrivate: Bool
  ) async throws -> (url: WebhookURL, description: String, events: Set<PaymentEvent.TypeName>?) {
    let members = try await members(of: request, known: ["url", "description", "events"])
    return try mapped { () throws(ValidationError) in
      (
        try url(members["url"] ?? .null, allowingPrivate: allowingPrivate),
        try members["description"].map(description) ?? "", try members["events"].map(events) ?? nil
      )
    }
  }

  /// Any of `{"url": …, "description": …, "events": […] or null, "enabled": …}`
  static func change(_ request: Request, allowingPrivate: Bool) async throws -> EndpointWorker.Change {
    let members = try await members(of: request, known: ["url", "description", "events", "enabled"])
    return try mapped { () throws(ValidationError) in
      var change = EndpointWorker.Change()
      if let value = members["url"] { change.url = try url(value, allowingPrivate: allowingPrivate) }
      if let value = members["description"] { change.description = try description(value) }
      if let value = members["events"] { change.events = .some(try events(value)) }
      switch members["enabled"] {
      case nil: break
      case .bool(let isEnabled): change.isEnabled = isEnabled
      default: throw failure("enabled", "enabled must be true or false")
      }
      return change
    }
  }

  enum Replay: Sendable, Hashable {
    case event(payment: PaymentID, version: UInt64)
    case offset(UInt64)
    case time(microseconds: UInt64)

    /// What the audit log says of it.
    var detail: JSONValue.Member {
      switch self {
      case .event(let payment, let version): .init("event", .string("\(payment.stream):\(version)"))
      case .offset(let offset): .init("from", .integer(offset))
      case .time(let microseconds): .init("from", .string(timestamp(microseconds: microseconds)))
      }
    }
  }

  /// 2^53 - 1, which every JSON parser represents exactly. No log reaches it.
  private static let offsetLimit: Int64 = 9_007_199_254_740_991

  /// `{"event": "msg_…"}`, `{"from": 123}` or `{"from": "2026-01-31T23:59:59Z"}`
  static func replay(_ request: Request) async throws -> Replay {
    let members = try await members(of: request, known: ["event", "from"])
    return try mapped { () throws(ValidationError) in
      guard members.count == 1, let (name, value) = members.first else {
        throw failure("body", "Give either event or from")
      }
      switch (name, value) {
      case ("event", .string(let text)):
        guard let named = WebhookMessage.paymentAndVersion(of: text) else {
          throw failure("event", "This is not a message's id")
        }
        return .event(payment: named.payment, version: named.version)
      case ("from", .number):
        guard let offset = value.wholeNumber, (0...offsetLimit).contains(offset) else {
          throw failure("from", "An offset is a whole number from 0 to \(offsetLimit)")
        }
        return .offset(UInt64(offset))
      case ("from", .string(let text)):
        guard let time = microseconds(timestamp: text) else {
          throw failure("from", "A time is written as 2026-01-31T23:59:59Z")
        }
        return .time(microseconds: UInt64(max(time, 0)))
      case ("event", _): throw failure("event", "event is a message's id")
      default: throw failure("from", "from is an offset or a time")
      }
    }
  }

  private static func members(of request: Request, known: [String]) async throws -> [String: JSONValue] {
    let body: JSONValue
    do {
      body = try await request.readJSON(limit: CreateRequest.bodyLimit)
    } catch let error as JSONError {
      throw ValidationError(error).problem
    }
    guard case .object(let members) = body else { throw failure("body", "The body must be a JSON object").problem }
    for member in members where !known.contains(member.key) {
      let names = known.joined(separator: ", ")
      throw failure(member.key, "There is no such member; possible are \(names)").problem
    }
    // The JSON reader refuses duplicate keys.
    return Dictionary(members.map { ($0.key, $0.value) }) { first, _ in first }
  }

  private static func mapped<Value>(_ read: () throws(ValidationError) -> Value) throws(Problem) -> Value {
    do {
      return try read()
    } catch {
      throw error.problem
    }
  }

  private static func failure(_ field: String, _ message: String) -> ValidationError {
    ValidationError(errors: [FieldError(field: field, messages: [message])])
  }

  private static func url(_ value: JSONValue, allowingPrivate: Bool) throws(ValidationError) -> WebhookURL {
    guard case .string(let text) = value else { throw failure("url", "url must be a text such as \"https://…\"") }
    guard text.withoutKeys == text else { throw failure("url", "url must not hold an API key or a webhook's secret") }
    do throws(WebhookURL.Refusal) {
      let url = try WebhookURL(text)
      if let refusal = url.refusal(allowingPrivate: allowingPrivate) { throw refusal }
      return url
    } catch {
      throw failure("url", error.description)
    }
  }

  private static func description(_ value: JSONValue) throws(ValidationError) -> String {
    let limit = WebhookEndpoint.descriptionLimit
    guard case .string(let text) = value, text.unicodeScalars.count <= limit else {
      throw failure("description", "description must be a text of at most \(limit) characters")
    }
    guard text.withoutKeys == text else {
      throw failure("description", "description must not hold an API key or a webhook's secret")
    }
    return text
  }

  /// Nil means all types.
  private static func events(_ value: JSONValue) throws(ValidationError) -> Set<PaymentEvent.TypeName>? {
    if case .null = value { return nil }
    let names = PaymentEvent.TypeName.allCases.map(\.publicName).joined(separator: ", ")
    guard case .array(let values) = value, !values.isEmpty else {
      throw failure("events", "events must be a list with some of \(names)")
    }
    var types: Set<PaymentEvent.TypeName> = []
    for value in values {
      guard let type = value.text.flatMap(PaymentEvent.TypeName.init(publicName:)) else {
        throw failure("events", "events can hold \(names)")
      }
      types.insert(type)
    }
    return types
  }
}
