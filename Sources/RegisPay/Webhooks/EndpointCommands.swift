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
    _ = now()
    var shown = progress
    shown.place = place
    let next = waiting.values.map(\.event.dueMicroseconds).min()
    return Status(
      endpoint: endpoint, progress: shown, waitingCount: waiting.count,
      nextTryMicroseconds: endpoint.disabled == nil ? next : nil, logEnd: log.reader.endOffset)
  }

  func change(_ change: Change) async throws -> Status {
    try await configure { endpoint, now in
      let wasEnabled = endpoint.disabled == nil
      let isMoved = change.url.map { $0 != endpoint.url } ?? false
      endpoint.url = change.url ?? endpoint.url
      endpoint.description = change.description ?? endpoint.description
      if let events = change.events { endpoint.events = events }
      switch change.isEnabled {
      case true?: endpoint.disabled = nil
      case false? where wasEnabled: endpoint.disabled = .init(reason: "Somebody asked for it.", sinceMicroseconds: now)
      default: break
      }
      return isMoved || (!wasEnabled && endpoint.disabled == nil)
    }
  }

  /// - Returns: the new secret beside the rest.
  func rotate() async throws -> (status: Status, secret: WebhookSecret) {
    let secret = WebhookSecret.random()
    let status = try await configure { [overlap = options.secretOverlap.microseconds] endpoint, now in
      endpoint.previousSecret = .init(secret: endpoint.secret, untilMicroseconds: now + overlap)
      endpoint.secret = secret
      return false
    }
    return (status, secret)
  }

  /// Decides what the endpoint is to be from what it is, writes it, and lets it hold when it is written. After a failure
  /// nothing has changed.
  ///
  /// - Parameter decide: returns whether what went wrong before counts no more, and everything that waits is tried now.
  private func configure(
    _ decide: @Sendable (_ endpoint: inout WebhookEndpoint, _ now: UInt64) -> Bool
  ) async throws -> Status {
    await takeTurn()
    defer { endTurn() }
    guard !isRemoved else { throw Refusal.removed }
    let now = self.now()
    var changed = endpoint
    changed.updatedMicroseconds = now
    let restarts = decide(&changed, now)
    var changes = [WebhookChange.configure(changed)]
    var restarted: [WaitingEvent] = []
    if restarts {
      restarted = allDue(at: now, restarting: true)
      changes += restarted.map { .wait(id: id, $0) } + [.progress(id: id, soundAgain(progress))]
    }
    let disables = disableCount
    // What the present URL answers meanwhile counts only if it stays.
    let isMoved = changed.url != endpoint.url
    if isMoved { endedMeanwhile = [] }
    defer { if isMoved { endMissed() } }
    try await journal.write(changes)
    // A try that ended meanwhile has disabled it: that was written behind this.
    if disableCount != disables {
      changed.disabled = endpoint.disabled
      changed.updatedMicroseconds = max(now, endpoint.updatedMicroseconds)
    }
    endpoint = changed
    if restarts {
      for event in restarted where waiting[event.offset]?.isUnderWay == false { waiting[event.offset]?.event = event }
      progress = soundAgain(progress)
      // Behind what tries that ended meanwhile have written.
      commitPlace()
    }
    mailbox.continuation.yield(.wake)
    return status
  }

  private func soundAgain(_ progress: WebhookProgress) -> WebhookProgress {
    var progress = progress
    (progress.failuresInRow, progress.failingSinceMicroseconds, progress.heldUntilMicroseconds) = (0, nil, 0)
    progress.place = place
    return progress
  }

  /// Sends everything from this offset on once more, beside what waits already.
  ///
  /// - Parameter offset: at or before the present place.
  func replay(from offset: UInt64) async throws -> Status {
    await takeTurn()
    defer { endTurn() }
    guard !isRemoved else { throw Refusal.removed }
    var moved = progress
    moved.place = min(offset, place)
    try await journal.write([.progress(id: id, moved)])
    readPlace = min(offset, readPlace)
    // Behind what tries that ended meanwhile have written.
    commitPlace()
    mailbox.continuation.yield(.wake)
    return status
  }

  /// Sends one event once more.
  func replay(_ offset: UInt64) async throws -> Status {
    await takeTurn()
    defer { endTurn() }
    guard !isRemoved else { throw Refusal.removed }
    let now = self.now()
    // What waits is tried now; what was not come to, or is under way, is sent anyway.
    var event = WaitingEvent(offset: offset, attempts: 0, firstTryMicroseconds: now, dueMicroseconds: now)
    if let entry = waiting[offset] {
      guard !entry.isUnderWay else { return status }
      event = entry.event
      event.dueMicroseconds = now
    } else {
      guard offset < readPlace, !firstTries.contains(offset) else { return status }
      guard waiting.count < options.waitingLimit else { throw Refusal.tooManyWaiting(limit: options.waitingLimit) }
    }
    try await journal.write([.wait(id: id, event)])
    if waiting[offset]?.isUnderWay != true, !firstTries.contains(offset) { waiting[offset] = Waiting(event: event) }
    mailbox.continuation.yield(.wake)
    return status
  }

  /// Sends a message that is about no payment, now, and tells what came of it. It changes nothing for the others.
  func test() async throws -> WebhookDelivery {
    guard !isRemoved else { throw Refusal.removed }
    guard !isTesting else { throw Refusal.isTesting }
    isTesting = true
    defer { isTesting = false }
    let message = WebhookMessage(testOf: id, microseconds: now())
    let attempt = WebhookAttempt(log: log, sender: sender, clock: clock, start: careful)
    let ended = await attempt.send(message, to: endpoint)
    var delivery = WebhookDelivery(
      event: message.id, type: message.type, offset: nil, attempt: 1, startMicroseconds: ended.startMicroseconds,
      durationMicroseconds: ended.durationMicroseconds, outcome: .failed)
    switch ended.result {
    case .answered(.answered(let status, _)):
      delivery.status = status
      if (200..<300).contains(status) { delivery.outcome = .delivered } else { delivery.error = "answered \(status)" }
    case .answered(.failed(let reason)), .answered(.unsent(let reason)), .unread(let reason), .unreadable(let reason):
      delivery.error = reason
    case .abandoned, .suspended: delivery.error = "given up, as the server stops"
    }
    await takeTurn()
    defer { endTurn() }
    if !isRemoved { try await journal.write(note(delivery)) }
    return delivery
  }

  func remove() async throws {
    await takeTurn()
    defer { endTurn() }
    guard !isRemoved else { throw Refusal.removed }
    // What a try that ends now would write has no place behind the removal.
    endedMeanwhile = []
    do {
      try await journal.write([.remove(id: id)])
    } catch {
      endMissed()
      throw error
    }
    isRemoved = true
    underWay -= endedMeanwhile?.count ?? 0
    endedMeanwhile = nil
    mailbox.continuation.yield(.wake)
  }

  /// Lets the tries that ended during a write count.
  private func endMissed() {
    let missed = endedMeanwhile ?? []
    endedMeanwhile = nil
    for (offset, ended) in missed { mailbox.continuation.yield(.ended(offset, ended)) }
    mailbox.continuation.yield(.wake)
  }

  // MARK: - Turns

  /// Waits until the commands before have ended. Each call is followed by one of ``endTurn()``.
  func takeTurn() async {
    guard isCommanded else {
      isCommanded = true
      return
    }
    await withCheckedContinuation { turns.append($0) }
  }

  func endTurn() {
    if turns.isEmpty { isCommanded = false } else { turns.removeFirst().resume() }
  }
}
