import LogStore
import Logging

/// The consequences of a try's end.
extension EndpointWorker {
  func end(_ offset: UInt64, _ ended: WebhookAttempt.Ended) {
    if isRemoved {
      inFlightCount -= 1
      return
    }
    if ended.url != endpoint.url, case .completed(let result) = ended.result {
      return endAtFormerURL(offset, ended, result)
    }
    switch ended.result {
    case .abandoned:
      // As if the try had not begun. The event stays unfinished, so the checkpoint does not pass it.
      inFlightCount -= 1
      waiting[offset]?.isInFlight = false
    case .completed(.responded(let status, _, _)) where (200..<300).contains(status):
      succeed(offset, ended, status)
    case .completed(.responded(410, _, _)):
      fail(
        offset, ended, status: 410, reason: "responded with 410", after: nil, disabling: "It responded with 410 Gone.")
    case .completed(.responded(let status, let after, _)):
      let isRedirect = (300..<400).contains(status)
      fail(
        offset, ended, status: status,
        reason: "responded with \(status)" + (isRedirect ? "; redirects are not followed" : ""),
        after: status == 429 || status == 503 ? after : nil, disabling: nil)
    case .completed(.failed(let reason)):
      fail(offset, ended, status: nil, reason: reason, after: nil, disabling: nil)
    case .completed(.unsent(let reason)):
      postpone(offset, ended, reason)
    case .suspended:
      let reason = "The process crashed twice while a call to it was in flight."
      fail(offset, ended, status: nil, reason: reason, after: nil, disabling: reason)
      carefulStart.conclude(WebhookAttempt.carefulName(id))
    case .logUnreadable(let reason):
      // Not a failure of the endpoint.
      logger.error("can't read an event for a webhook", metadata: fields(offset, ended, reason))
      scheduleRetry(offset, attempts: tryCount(of: offset), after: 5_000_000, ended)
      record([waitChange(offset), checkpointChange()].compactMap { $0 })
    case .undeliverable(let reason):
      logger.error("event can't be sent to a webhook", metadata: fields(offset, ended, reason))
      forget(offset)
      record([.done(id: id, offset: offset), checkpointChange()])
    }
  }

  /// The URL was changed during the try, so the result says nothing about the current endpoint. A message that the former URL
  /// accepted is delivered; any other is sent to the current URL at once.
  private func endAtFormerURL(_ offset: UInt64, _ ended: WebhookAttempt.Ended, _ result: WebhookResult) {
    let attempts = tryCount(of: offset) + 1
    let wasWaiting = waiting[offset] != nil
    forget(offset)
    if case .responded(let status, _, _) = result, (200..<300).contains(status) {
      let changes = wasWaiting ? [WebhookChange.done(id: id, offset: offset)] : []
      let delivery = note(ended, offset, attempts, status: status, error: nil, .delivered, next: nil)
      return record(changes + delivery + [checkpointChange()])
    }
    // The change of the URL reset the number of tries of all events that waited then.
    scheduleRetry(offset, attempts: 0, after: 0, ended)
    var changes = [waitChange(offset)].compactMap { $0 }
    let next = waiting[offset]?.event.dueMicroseconds
    switch result {
    case .responded(let status, _, _):
      let error = "responded with \(status), at the URL before it was changed"
      changes += note(ended, offset, attempts, status: status, error: error, .retrying, next: next)
    case .failed(let reason):
      let error = "\(reason), at the URL before it was changed"
      changes += note(ended, offset, attempts, status: nil, error: error, .retrying, next: next)
    case .unsent: break
    }
    record(changes + [checkpointChange()])
  }

  /// Nothing was sent, and not because of the endpoint: the message is tried again soon. Until then no other message is started,
  /// because it would fail for the same reason and fill the waiting events.
  private func postpone(_ offset: UInt64, _ ended: WebhookAttempt.Ended, _ reason: String) {
    let pause: UInt64 = 1_000_000
    let now = self.now()
    if !waitsForRoom {
      logger.notice("webhook messages wait for room", metadata: fields(offset, ended, reason))
    }
    waitsForRoom = true
    progress.heldUntilMicroseconds = max(progress.heldUntilMicroseconds, now + pause)
    scheduleRetry(offset, attempts: tryCount(of: offset), after: pause, ended)
    record([waitChange(offset), checkpointChange()].compactMap { $0 })
  }

  /// The fields of a log line about a message.
  private func fields(_ offset: UInt64, _ ended: WebhookAttempt.Ended, _ reason: String) -> Logger.Metadata {
    var fields: Logger.Metadata = ["offset": "\(offset)", "reason": "\(reason)"]
    if let payment = ended.payment { fields["payment"] = "\(payment)" }
    return fields
  }

  private func tryCount(of offset: UInt64) -> Int { waiting[offset]?.event.attempts ?? 0 }

  private func waitChange(_ offset: UInt64) -> WebhookChange? { waiting[offset].map { .wait(id: id, $0.event) } }

  private func forget(_ offset: UInt64) {
    waiting[offset] = nil
    subscription.finish(offset)
  }

  private func scheduleRetry(_ offset: UInt64, attempts: Int, after microseconds: UInt64, _ ended: WebhookAttempt.Ended)
  {
    let first = waiting[offset]?.event.firstTryMicroseconds ?? ended.startMicroseconds
    waiting[offset] = Waiting(
      event: WaitingEvent(
        offset: offset, attempts: attempts, firstTryMicroseconds: first, dueMicroseconds: now() + microseconds))
    // From now on the journal holds it.
    subscription.finish(offset)
  }

  private func succeed(_ offset: UInt64, _ ended: WebhookAttempt.Ended, _ status: Int) {
    let wasFailing = isFailing
    let wasWaiting = waiting[offset] != nil
    let attempts = tryCount(of: offset) + 1
    waitsForRoom = false
    progress.failuresInRow = 0
    progress.failingSinceMicroseconds = nil
    progress.lastSuccessMicroseconds = now()
    forget(offset)
    var changes = wasWaiting ? [WebhookChange.done(id: id, offset: offset)] : []
    if wasFailing {
      logger.notice("webhook endpoint responds again", metadata: ["waiting": "\(waiting.count)"])
      // The events wait because of the outage, which is over.
      changes += makeAllDue()
    }
    changes += note(ended, offset, attempts, status: status, error: nil, .delivered, next: nil)
    record(changes + [checkpointChange()])
  }

  private func fail(
    _ offset: UInt64, _ ended: WebhookAttempt.Ended, status: Int?, reason: String, after asked: Duration?,
    disabling: String?
  ) {
    let now = self.now()
    let attempts = tryCount(of: offset) + 1
    let asked = asked.map { min($0, options.retryAfterLimit) }
    waitsForRoom = false
    progress.failuresInRow += 1
    progress.failingSinceMicroseconds = progress.failingSinceMicroseconds ?? ended.startMicroseconds
    if let asked { progress.heldUntilMicroseconds = max(progress.heldUntilMicroseconds, now + asked.microseconds) }
    if progress.failuresInRow == options.failureLimit {
      probeMicroseconds = now + options.probeInterval.microseconds
      // A disabled endpoint has its own log line.
      if disabling == nil, endpoint.disabled == nil {
        logger.warning("webhook endpoint keeps failing", metadata: ["reason": "\(reason)"])
      }
    }
    let first = waiting[offset]?.event.firstTryMicroseconds ?? ended.startMicroseconds
    var changes: [WebhookChange] = []
    var outcome = WebhookDelivery.Outcome.retrying
    var next: UInt64?
    if let disabling {
      scheduleRetry(offset, attempts: attempts, after: 0, ended)
      (changes, outcome) = ([disable(disabling)], .disabled)
    } else if let delay = options.schedule.delay(attempts: attempts, atLeast: asked) {
      scheduleRetry(offset, attempts: attempts, after: delay.microseconds, ended)
      next = waiting[offset]?.event.dueMicroseconds
    } else if let success = progress.lastSuccessMicroseconds, success >= first {
      // Other messages were delivered meanwhile, so the receiver can't accept this message.
      logger.error("webhook message given up", metadata: fields(offset, ended, reason))
      forget(offset)
      (changes, outcome) = ([.done(id: id, offset: offset)], .givenUp)
    } else {
      scheduleRetry(offset, attempts: attempts, after: 0, ended)
      let since = timestamp(microseconds: first)
      (changes, outcome) = (
        [disable("Nothing has been delivered since \(since), in \(attempts) tries of one event; the last: \(reason).")],
        .disabled
      )
    }
    if let change = waitChange(offset) { changes.append(change) }
    changes += note(ended, offset, attempts, status: status, error: reason, outcome, next: next)
    record(changes + [checkpointChange()])
  }

  /// Makes all waiting events due now.
  private func makeAllDue() -> [WebhookChange] {
    let events = allDue(at: now(), restarting: false)
    for event in events { waiting[event.offset]?.event = event }
    return events.map { .wait(id: id, $0) }
  }

  /// Copies of the waiting events that are due now. Changes nothing.
  ///
  /// - Parameter restarting: resets the number of tries.
  func allDue(at now: UInt64, restarting: Bool) -> [WaitingEvent] {
    waiting.values.filter { !$0.isInFlight }.map(\.event).sorted { $0.offset < $1.offset }.map { event in
      var event = event
      event.dueMicroseconds = min(event.dueMicroseconds, now)
      if restarting { (event.attempts, event.firstTryMicroseconds) = (0, now) }
      return event
    }
  }

  private func disable(_ reason: String) -> WebhookChange {
    // Messages that were in flight together end alike. The first one's reason stays.
    if let disabled = endpoint.disabled {
      return .disable(id: id, disabled, updatedMicroseconds: endpoint.updatedMicroseconds)
    }
    logger.error("webhook endpoint disabled", metadata: ["reason": "\(reason)"])
    let now = self.now()
    disableCount += 1
    endpoint.disabled = .init(reason: reason, sinceMicroseconds: now)
    endpoint.updatedMicroseconds = now
    return .disable(id: id, endpoint.disabled, updatedMicroseconds: now)
  }

  private func note(
    _ ended: WebhookAttempt.Ended, _ offset: UInt64, _ attempt: Int, status: Int?, error: String?,
    _ outcome: WebhookDelivery.Outcome, next: UInt64?
  ) -> [WebhookChange] {
    guard let message = ended.message else { return [] }
    return note(
      WebhookDelivery(
        event: message.id, type: message.type, offset: offset, attempt: attempt,
        startMicroseconds: ended.startMicroseconds, durationMicroseconds: ended.durationMicroseconds, status: status,
        error: error, outcome: outcome, nextTryMicroseconds: next, response: ended.text))
  }

  func note(_ delivery: WebhookDelivery) -> [WebhookChange] {
    metrics.count(delivery.outcome)
    deliveriesSinceTrim += 1
    guard deliveriesSinceTrim > options.deliveryLimit / 10 else { return [.delivery(id: id, delivery)] }
    deliveriesSinceTrim = 0
    return [.delivery(id: id, delivery), .trimDeliveries(id: id, limit: options.deliveryLimit)]
  }
}
