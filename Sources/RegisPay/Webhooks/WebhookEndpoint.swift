import LogStore

/// A receiver of messages about payments.
struct WebhookEndpoint: Sendable, Hashable {
  let id: String
  var url: WebhookURL
  var description: String
  /// Nil for all types, including those of later versions.
  var events: Set<PaymentEvent.TypeName>?
  var secret: WebhookSecret
  /// Also signs messages for a time after a rotation.
  var previousSecret: PreviousSecret?
  var disabled: Disabled?
  let createdMicroseconds: UInt64
  var updatedMicroseconds: UInt64

  struct PreviousSecret: Sendable, Hashable {
    var secret: WebhookSecret
    var untilMicroseconds: UInt64
  }

  /// A disabled endpoint gets nothing. When it is enabled again, it gets the events since.
  struct Disabled: Sendable, Hashable {
    /// The reason if a person did it.
    static let requested = "A request disabled it."

    var reason: String
    var sinceMicroseconds: UInt64

    var isRequested: Bool { reason == Self.requested }
  }

  /// Code points of a description, as JSON Schema counts.
  static let descriptionLimit = 500

  static func newID() -> String { "we_\(EventID.random())" }

  /// The secrets that sign a message at this time.
  func secrets(at microseconds: UInt64) -> [WebhookSecret] {
    guard let previousSecret, microseconds < previousSecret.untilMicroseconds else { return [secret] }
    return [secret, previousSecret.secret]
  }
}

/// How far an endpoint has read the log, and its recent failures.
struct WebhookProgress: Sendable, Hashable {
  /// The lowest offset that is neither done nor stored as a ``WaitingEvent``.
  var checkpoint: UInt64
  /// Since the last success.
  var failuresInRow = 0
  var failingSinceMicroseconds: UInt64?
  var lastSuccessMicroseconds: UInt64?
  /// No message is sent before this time: the receiver asked for it, or this process had no room.
  var heldUntilMicroseconds: UInt64 = 0
}

/// An event that waits for a retry.
struct WaitingEvent: Sendable, Hashable {
  let offset: UInt64
  /// Tries so far.
  var attempts: Int
  var firstTryMicroseconds: UInt64
  var dueMicroseconds: UInt64
}

/// One try, as the API shows it.
struct WebhookDelivery: Sendable, Hashable {
  enum Outcome: String, Sendable, CaseIterable {
    case delivered
    case retrying
    /// The message was tried for days while others were delivered.
    case givenUp = "given-up"
    /// The endpoint was disabled after this try; the event waits.
    case disabled
    /// A test message failed; it is not retried.
    case failed
  }

  /// Ascending in the order in which tries ended; 0 before the delivery is stored.
  var number: Int64 = 0
  var event: String
  var type: String
  /// Nil for a test message.
  var offset: UInt64?
  /// From 1.
  var attempt: Int
  var startMicroseconds: UInt64
  var durationMicroseconds: UInt64
  /// The response's status; nil without a response.
  var status: Int?
  /// Why the message was not delivered; nil if it was.
  var error: String?
  var outcome: Outcome
  var nextTryMicroseconds: UInt64?
  /// How the response's body begins; nil if it is empty, and without a response.
  var response: String?
}
