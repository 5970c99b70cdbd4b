import LogStore
import Logging

/// What a person has done that is no command for one payment, as an event on the payments log says: an entry of the audit log.
/// The event's metadata name the person's key and its id.
struct OperatorAction: Sendable, Hashable {
  static let stream = "actions"
  static let eventType = "OperatorActed"

  enum Kind: String, Sendable, CaseIterable {
    case keyCreated = "key-created"
    case keyRevoked = "key-revoked"
    case webhookCreated = "webhook-created"
    case webhookChanged = "webhook-changed"
    case webhookDeleted = "webhook-deleted"
    case webhookSecretRotated = "webhook-secret-rotated"
    case webhookTested = "webhook-tested"
    case webhookReplayed = "webhook-replayed"
    case brokerReplayed = "broker-replayed"
    case deadLettersReleased = "dead-letters-released"
    case breakerTried = "breaker-tried"
    case batchBegun = "batch-begun"
    case batchStopped = "batch-stopped"
    case faultsChanged = "faults-changed"
    case errorsToggled = "errors-toggled"
    case logLevelChanged = "log-level-changed"
  }

  var kind: Kind
  /// What it was done to: an id or a name.
  var subject: String?
  /// Further facts, such as a webhook's new description. Never a secret: events stay on the log, and every key with the scope
  /// `read` can read them.
  var details: [JSONValue.Member] = []

  func event(by actor: KeyHolder?) -> NewEvent {
    var members: [JSONValue.Member] = [.init("action", .string(kind.rawValue))]
    if let subject { members.append(.init("subject", .string(subject))) }
    if !details.isEmpty { members.append(.init("details", .object(details))) }
    // Somebody may have pasted a key where it doesn't belong, such as into a filter.
    let text = String(decoding: JSONValue.object(members).bytes, as: UTF8.self).withoutKeys
    return NewEvent(
      stream: Self.stream, type: Self.eventType, payload: EventMetadata(actor: actor).added(to: Array(text.utf8)))
  }
}

/// Records on the payments log what persons have done.
struct ActionLog: Sendable {
  let log: PaymentLog
  let logger: Logger

  /// Call it when the action has taken effect, which must not depend on the log: a key can be revoked while the disk is full.
  /// Then only a log line tells of the action.
  func record(_ kind: OperatorAction.Kind, _ subject: String?, _ details: [JSONValue.Member] = [], by actor: KeyHolder?)
    async
  {
    let action = OperatorAction(kind: kind, subject: subject, details: details)
    do throws(LogStoreError) {
      try await log.append(Append([action.event(by: actor)]))
    } catch {
      // A message for each kind: a flood of one must not suppress the line about another.
      logger.error(
        "a person's action can't be recorded: \(kind.rawValue)",
        metadata: [
          "subject": "\(subject ?? "")", "actor": "\(actor?.name ?? "")", "key": "\(actor?.keyID ?? "")",
          "error": "\(error)",
        ])
    }
  }
}
