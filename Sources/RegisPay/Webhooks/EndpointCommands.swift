import LogStore
import Logging

/// A person's commands to an endpoint. Each returns when its change is on disk.
extension EndpointWorker {
  /// An endpoint as the API shows it.
  struct Status: Sendable {
    var endpoint: WebhookEndpoint
    var progress: WebhookProgress
    var waitingCount: Int
    /// When the first waiting event is retried.
    var nextTryMicroseconds: UInt64?
    var logEnd: UInt64
  }

  struct Change: Sendable, Hashable {
    var url: WebhookURL?
    var description: String?
    /// The inner nil means all types.
    var events: Set<PaymentEvent.TypeName>??
    var isEnabled: Bool?
  }

  /// Why a command is refused. Nothing was changed.
  enum Refusal: Error, Sendable, Hashable {
    case removed
    case isTesting
    case tooManyWaiting(limit: Int)
  }

  var status: Status {
    _ = now()
    var shown = progress
    shown.checkpoint = subscription.nextCheckpoint
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
      case false? where wasEnabled:
        endpoint.disabled = .init(reason: WebhookEndpoint.Disabled.requested, sinceMicroseconds: now)
      default: break
      }
      return isMoved || (!wasEnabled && endpoint.disabled == nil)
    }
  }

  /// - Returns: the status and the new secret.
  func rotate() async throws -> (status: Status, secret: WebhookSecret) {
    let secret = WebhookSecret.random()
    let status = try await configure { [overlap = options.secretOverlap.microseconds] endpoint, now in
      endpoint.previousSecret = .init(secret: endpoint.secret, untilMicroseconds: now + overlap)
      endpoint.secret = secret
      return false
    }
    return (status, secret)
  }

  /// Decides the endpoint's new configuration, writes it, and applies it once it is on disk. After a failure nothing has
  /// changed.
  ///
  /// - Parameter decide: changes the endpoint; returns true if earlier failures no longer count and all waiting events are due now.
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
      changes += restarted.map { .wait(id: id, $0) } + [.progress(id: id, withoutFailures(progress))]
    }
    let disables = disableCount
    // Responses of the current URL that arrive during the write count only if the URL stays.
    let isMoved = changed.url != endpoint.url
    if isMoved { endedDuringWrite = [] }
    defer { if isMoved { processEndedDuringWrite() } }
    try await journal.write(changes)
    // A try that ended during the write has disabled the endpoint; that change was written after this one.
    if disableCount != disables {
      changed.disabled = endpoint.disabled
      changed.updatedMicroseconds = max(now, endpoint.updatedMicroseconds)
    }
    endpoint = changed
    if restarts {
      for event in restarted where waiting[event.offset]?.isInFlight == false { waiting[event.offset]?.event = event }
      progress = withoutFailures(progress)
      // After the changes of tries that ended during the write.
      commitCheckpoint()
    }
    mailbox.continuation.yield(.wake)
    return status
  }

  private func withoutFailures(_ progress: WebhookProgress) -> WebhookProgress {
    var progress = progress
    (progress.failuresInRow, progress.failingSinceMicroseconds, progress.heldUntilMicroseconds) = (0, nil, 0)
    progress.checkpoint = subscription.nextCheckpoint
    return progress
  }

  /// Sends everything from an offset on again, in addition to the waiting events.
  ///
  /// - Parameter offset: one past the checkpoint counts as the checkpoint.
  func replay(from offset: UInt64) async throws -> Status {
    await takeTurn()
    defer { endTurn() }
    guard !isRemoved else { throw Refusal.removed }
    var moved = progress
    moved.checkpoint = min(offset, subscription.nextCheckpoint)
    try await journal.write([.progress(id: id, moved)])
    subscription.rewind(to: offset)
    // After the changes of tries that ended during the write.
    commitCheckpoint()
    mailbox.continuation.yield(.wake)
    return status
  }

  /// Sends one event again.
  func replay(_ offset: UInt64) async throws -> Status {
    await takeTurn()
    defer { endTurn() }
    guard !isRemoved else { throw Refusal.removed }
    let now = self.now()
    // A waiting event is tried now. An event that is in flight, or not read yet, is sent anyway.
    var event = WaitingEvent(offset: offset, attempts: 0, firstTryMicroseconds: now, dueMicroseconds: now)
    if let entry = waiting[offset] {
      guard !entry.isInFlight else { return status }
      event = entry.event
      event.dueMicroseconds = now
    } else {
      guard offset < subscription.readOffset, !subscription.isUnfinished(offset) else { return status }
      guard waiting.count < options.waitingLimit else { throw Refusal.tooManyWaiting(limit: options.waitingLimit) }
    }
    try await journal.write([.wait(id: id, event)])
    if waiting[offset]?.isInFlight != true, !subscription.isUnfinished(offset) {
      waiting[offset] = Waiting(event: event)
    }
    mailbox.continuation.yield(.wake)
    return status
  }

  /// Sends a test message now and returns its result. It does not affect other messages.
  func test() async throws -> WebhookDelivery {
    guard !isRemoved else { throw Refusal.removed }
    guard !isTesting else { throw Refusal.isTesting }
    isTesting = true
    defer { isTesting = false }
    let message = WebhookMessage(testOf: id, microseconds: now())
    let attempt = WebhookAttempt(log: log, sender: sender, clock: clock, start: carefulStart, tracing: options.tracing)
    let ended = await attempt.send(message, to: endpoint)
    var delivery = WebhookDelivery(
      event: message.id, type: message.type, offset: nil, attempt: 1, startMicroseconds: ended.startMicroseconds,
      durationMicroseconds: ended.durationMicroseconds, outcome: .failed)
    switch ended.result {
    case .completed(.responded(let status, _, _)):
      delivery.status = status
      delivery.response = ended.text
      if (200..<300).contains(status) {
        delivery.outcome = .delivered
      } else {
        delivery.error = "responded with \(status)"
      }
    case .completed(.failed(let reason)), .completed(.unsent(let reason)), .logUnreadable(let reason),
      .undeliverable(let reason):
      delivery.error = reason
    case .abandoned, .suspended: delivery.error = "abandoned: the server stops"
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
    // A try that ends during the removal must not write its change after it.
    endedDuringWrite = []
    do {
      try await journal.write([.remove(id: id)])
    } catch {
      processEndedDuringWrite()
      throw error
    }
    isRemoved = true
    inFlightCount -= endedDuringWrite?.count ?? 0
    endedDuringWrite = nil
    mailbox.continuation.yield(.wake)
  }

  /// Processes the tries that ended during a write.
  private func processEndedDuringWrite() {
    let ended = endedDuringWrite ?? []
    endedDuringWrite = nil
    for (offset, ended) in ended { mailbox.continuation.yield(.ended(offset, ended)) }
    mailbox.continuation.yield(.wake)
  }

  // MARK: - One command at a time

  /// Waits until earlier commands have ended. Every call is followed by a call of ``endTurn()``.
  func takeTurn() async {
    guard isCommandRunning else {
      isCommandRunning = true
      return
    }
    await withCheckedContinuation { waitingCommands.append($0) }
  }

  func endTurn() {
    if waitingCommands.isEmpty { isCommandRunning = false } else { waitingCommands.removeFirst().resume() }
  }
}
