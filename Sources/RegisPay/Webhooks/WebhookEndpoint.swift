import LogStore

/// Somebody who is told what becomes of payments.
struct WebhookEndpoint: Sendable, Hashable {
  let id: String
  var url: WebhookURL
  var description: String
  /// Nil for all, those that come in later versions included.
  var events: Set<PaymentEvent.TypeName>?
  var secret: WebhookSecret
  /// Signs beside the new one until then.
  var previousSecret: PreviousSecret?
  var disabled: Disabled?
  let createdMicroseconds: UInt64
  var updatedMicroseconds: UInt64

  struct PreviousSecret: Sendable, Hashable {
    var secret: WebhookSecret
    var untilMicroseconds: UInt64
  }

  /// Nothing is sent; what happens meanwhile is sent when it is enabled again.
  struct Disabled: Sendable, Hashable {
    var reason: String
    var sinceMicroseconds: UInt64
  }

  /// Code points of a description, as JSON Schema counts.
  static let descriptionLimit = 500

  static func newID() -> String { "we_\(EventID.random())" }

  /// What a message is signed with at this time.
  func secrets(at microseconds: UInt64) -> [WebhookSecret] {
    guard let previousSecret, microseconds < previousSecret.untilMicroseconds else { return [secret] }
    return [secret, previousSecret.secret]
  }
}

/// How far an endpoint is with the log, and how it is doing.
struct WebhookProgress: Sendable, Hashable {
  /// The lowest offset that is neither done nor kept as ``WaitingEvent``.
  var place: UInt64
  /// Since the last success.
  var failuresInRow = 0
  var failingSinceMicroseconds: UInt64?
  var lastSuccessMicroseconds: UInt64?
  /// The receiver asked to be left alone until then, or this process has no room for a try before.
  var heldUntilMicroseconds: UInt64 = 0
}

/// An event that is to be tried again.
struct WaitingEvent: Sendable, Hashable {
  let offset: UInt64
  /// Tries so far.
  var attempts: Int
  var firstTryMicroseconds: UInt64
  var dueMicroseconds: UInt64
}

/// One try, for people to see.
struct WebhookDelivery: Sendable, Hashable {
  enum Outcome: String, Sendable, CaseIterable {
    case delivered
    case retrying
    /// Tried for days, while others got through.
    case givenUp = "given-up"
    /// It was this try after which the endpoint was disabled; the event waits.
    case disabled
    /// A test message, which is not tried again.
    case failed
  }

  /// In the order of the tries' ends; 0 before it is kept.
  var number: Int64 = 0
  var event: String
  var type: String
  /// Nil for a test message.
  var offset: UInt64?
  /// From 1.
  var attempt: Int
  var startMicroseconds: UInt64
  var durationMicroseconds: UInt64
  /// What was answered, if anything was.
  var status: Int?
  /// Why it was not delivered; nil if it was.
  var error: String?
  var outcome: Outcome
  var nextTryMicroseconds: UInt64?
}
