import LogStore
import Logging

/// What a person asks of an endpoint. Each returns when it is on disk.
extension EndpointWorker {
  /// An endpoint as people see it.
  struct Status: Sendable {
    var endpoint: WebhookEndpoint
    var progress: WebhookProgress
    var waitingCount: Int
    /// When the first of those that wait is tried again.
    var nextTryMicroseconds: UInt64?
    var logEnd: UInt64
  }

  struct Change: Sendable, Hashable {
    var url: WebhookURL?
    var description: String?
    /// The inner nil for all.
    var events: Set<PaymentEvent.TypeName>??
    var isEnabled: Bool?
  }

  /// Why something is not done; nothing was changed.
  enum Refusal: Error, Sendable, Hashable {
    case removed
    case isTesting
    case tooManyWaiting(limit: Int)
  }

  var status: Status {
    var shown = progress
    shown.place = place
    let next = waiting.values.map(\.event.dueMicroseconds).min()
    return Status(
      endpoint: endpoint, progress: shown, waitingCount: waiting.count,
      nextTryMicroseconds: endpoint.disabled == nil ? next : nil, logEnd: log.reader.endOffset)
  }

  func change(_ change: Change) async throws -> Status {
    let wasEnabled = endpoint.disabled == nil
    let isMoved = change.url.map { $0 != endpoint.url } ?? false
    let now = clock.now()
    var changed = endpoint
    changed.updatedMicroseconds = now
    changed.url = change.url ?? changed.url
    changed.description = change.description ?? changed.description
    if let events = change.events { changed.events = events }
    switch change.isEnabled {
    case true?: changed.disabled = nil
    case false? where wasEnabled: changed.disabled = .init(reason: "Somebody asked for it.", sinceMicroseconds: now)
    default: break
    }
    let restarts = isMoved || (!wasEnabled && changed.disabled == nil)
    return try await apply(changed, restarts: restarts)
  }

  /// - Returns: the new secret beside the rest.
  func rotate() async throws -> (status: Status, secret: WebhookSecret) {
    let now = clock.now()
    var changed = endpoint
    changed.updatedMicroseconds = now
    changed.previousSecret = .init(
      secret: endpoint.secret, untilMicroseconds: now + options.secretOverlap.microseconds)
    changed.secret = .random()
    return (try await apply(changed, restarts: false), changed.secret)
  }

  /// - Parameter restarts: what went wrong before counts no more, and everything that waits is tried now.
  private func apply(_ changed: WebhookEndpoint, restarts: Bool) async throws -> Status {
    guard !isRemoved else { throw Refusal.removed }
    let before = endpoint
    endpoint = changed
    var changes = [WebhookChange.configure(changed)]
    if restarts {
      (progress.failuresInRow, progress.failingSinceMicroseconds, progress.heldUntilMicroseconds) = (0, nil, 0)
      changes += makeAllDue(restarting: true) + [notePlace()]
    }
    do {
      try await journal.write(changes)
    } catch {
      endpoint = before
      throw error
    }
    mailbox.continuation.yield(.wake)
    return status
  }

  /// Sends everything from this offset on once more, beside what waits already.
  ///
  /// - Parameter offset: at or before the present place.
  func replay(from offset: UInt64) async throws -> Status {
    guard !isRemoved else { throw Refusal.removed }
    readPlace = min(offset, readPlace)
    try await journal.write([notePlace()])
    mailbox.continuation.yield(.wake)
    return status
  }

  /// Sends one event once more.
  func replay(_ offset: UInt64) async throws -> Status {
    guard !isRemoved else { throw Refusal.removed }
    // What waits is tried now; what was not come to, or is under way, is sent anyway.
    if waiting[offset] == nil {
      guard offset < readPlace, !firstTries.contains(offset) else { return status }
      guard waiting.count < options.waitingLimit else { throw Refusal.tooManyWaiting(limit: options.waitingLimit) }
      waiting[offset] = Waiting(
        event: WaitingEvent(offset: offset, attempts: 0, firstTryMicroseconds: clock.now(), dueMicroseconds: 0))
    }
    guard waiting[offset]?.isUnderWay == false else { return status }
    waiting[offset]?.event.dueMicroseconds = clock.now()
    if let event = waiting[offset]?.event { try await journal.write([.wait(id: id, event)]) }
    mailbox.continuation.yield(.wake)
    return status
  }

  /// Sends a message that is about no payment, now, and tells what came of it. It changes nothing for the others.
  func test() async throws -> WebhookDelivery {
    guard !isRemoved else { throw Refusal.removed }
    guard !isTesting else { throw Refusal.isTesting }
    isTesting = true
    defer { isTesting = false }
    let message = WebhookMessage(testOf: id, microseconds: clock.now())
    let attempt = WebhookAttempt(log: log, sender: sender, clock: clock)
    let ended = await attempt.send(message, to: endpoint)
    var delivery = WebhookDelivery(
      event: message.id, type: message.type, offset: nil, attempt: 1, startMicroseconds: ended.startMicroseconds,
      durationMicroseconds: ended.durationMicroseconds, outcome: .failed)
    switch ended.result {
    case .answered(.answered(let status, _)):
      delivery.status = status
      if (200..<300).contains(status) { delivery.outcome = .delivered } else { delivery.error = "answered \(status)" }
    case .answered(.failed(let reason)), .unread(let reason), .unreadable(let reason): delivery.error = reason
    case .abandoned: delivery.error = "given up, as the server stops"
    }
    if !isRemoved { try await journal.write(note(delivery)) }
    return delivery
  }

  func remove() async throws {
    guard !isRemoved else { throw Refusal.removed }
    isRemoved = true
    do {
      try await journal.write([.remove(id: id)])
    } catch {
      isRemoved = false
      throw error
    }
    mailbox.continuation.yield(.wake)
  }
}
