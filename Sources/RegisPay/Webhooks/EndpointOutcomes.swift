import LogStore
import Logging

/// What follows from a try's end.
extension EndpointWorker {
  func end(_ offset: UInt64, _ ended: WebhookAttempt.Ended) {
    if isRemoved {
      underWay -= 1
      return
    }
    if ended.url != endpoint.url, case .answered(let result) = ended.result {
      return endElsewhere(offset, ended, result)
    }
    switch ended.result {
    case .abandoned:
      // As it was: a first try holds the place where it is.
      underWay -= 1
      waiting[offset]?.isUnderWay = false
    case .answered(.answered(let status, _)) where (200..<300).contains(status):
      succeed(offset, ended, status)
    case .answered(.answered(410, _)):
      fail(offset, ended, status: 410, reason: "answered 410", after: nil, disabling: "It answered 410: it is gone.")
    case .answered(.answered(let status, let after)):
      let isRedirect = (300..<400).contains(status)
      fail(
        offset, ended, status: status,
        reason: isRedirect ? "answered \(status); redirects are not followed" : "answered \(status)",
        after: status == 429 || status == 503 ? after : nil, disabling: nil)
    case .answered(.failed(let reason)):
      fail(offset, ended, status: nil, reason: reason, after: nil, disabling: nil)
    case .answered(.unsent(let reason)):
      postpone(offset, ended, reason)
    case .suspended:
      let reason = "The process crashed twice while a call to it was in flight."
      fail(offset, ended, status: nil, reason: reason, after: nil, disabling: reason)
      careful.conclude(WebhookAttempt.carefulName(id))
    case .unread(let reason):
      // No fault of the endpoint's.
      logger.error("can't read an event", metadata: ["offset": "\(offset)", "reason": "\(reason)"])
      keep(offset, attempts: tries(of: offset), after: 5_000_000, ended)
      record([wait(offset), notePlace()].compactMap { $0 })
    case .unreadable(let reason):
      logger.error("an event can't be sent", metadata: ["offset": "\(offset)", "reason": "\(reason)"])
      forget(offset)
      record([.done(id: id, offset: offset), notePlace()])
    }
  }

  /// The URL was changed during the try: what the former one came to says nothing about the endpoint as it is. A message
  /// that it took is delivered, and any other is sent to the present URL at once.
  private func endElsewhere(_ offset: UInt64, _ ended: WebhookAttempt.Ended, _ result: WebhookResult) {
    let attempts = tries(of: offset) + 1
    let wasWaiting = waiting[offset] != nil
    forget(offset)
    if case .answered(let status, _) = result, (200..<300).contains(status) {
      let changes = wasWaiting ? [WebhookChange.done(id: id, offset: offset)] : []
      let delivery = note(ended, offset, attempts, status: status, error: nil, .delivered, next: nil)
      return record(changes + delivery + [notePlace()])
    }
    // The change of the URL began the counting of tries again for those that waited then.
    keep(offset, attempts: 0, after: 0, ended)
    var changes = [wait(offset)].compactMap { $0 }
    let next = waiting[offset]?.event.dueMicroseconds
    switch result {
    case .answered(let status, _):
      let error = "answered \(status), by the URL before it was changed"
      changes += note(ended, offset, attempts, status: status, error: error, .retrying, next: next)
    case .failed(let reason):
      let error = "\(reason), at the URL before it was changed"
      changes += note(ended, offset, attempts, status: nil, error: error, .retrying, next: next)
    case .unsent: break
    }
    record(changes + [notePlace()])
  }

  /// Nothing was sent, through no fault of the endpoint's: it is asked for again soon. Until then no other message is
  /// begun, which would fare no better and fill up those that wait.
  private func postpone(_ offset: UInt64, _ ended: WebhookAttempt.Ended, _ reason: String) {
    let pause: UInt64 = 1_000_000
    let now = self.now()
    logger.notice("a message waits for room", metadata: ["offset": "\(offset)", "reason": "\(reason)"])
    progress.heldUntilMicroseconds = max(progress.heldUntilMicroseconds, now + pause)
    keep(offset, attempts: tries(of: offset), after: pause, ended)
    record([wait(offset), notePlace()].compactMap { $0 })
  }

  private func tries(of offset: UInt64) -> Int { waiting[offset]?.event.attempts ?? 0 }

  private func wait(_ offset: UInt64) -> WebhookChange? { waiting[offset].map { .wait(id: id, $0.event) } }

  private func forget(_ offset: UInt64) {
    waiting[offset] = nil
    firstTries.remove(offset)
  }

  private func keep(_ offset: UInt64, attempts: Int, after microseconds: UInt64, _ ended: WebhookAttempt.Ended) {
    let first = waiting[offset]?.event.firstTryMicroseconds ?? ended.startMicroseconds
    waiting[offset] = Waiting(
      event: WaitingEvent(
        offset: offset, attempts: attempts, firstTryMicroseconds: first, dueMicroseconds: now() + microseconds))
    firstTries.remove(offset)
  }

  private func succeed(_ offset: UInt64, _ ended: WebhookAttempt.Ended, _ status: Int) {
    let wasFailing = isFailing
    let wasWaiting = waiting[offset] != nil
    let attempts = tries(of: offset) + 1
    progress.failuresInRow = 0
    progress.failingSinceMicroseconds = nil
    progress.lastSuccessMicroseconds = now()
    forget(offset)
    var changes = wasWaiting ? [WebhookChange.done(id: id, offset: offset)] : []
    if wasFailing {
      logger.notice("an endpoint answers again", metadata: ["waiting": "\(waiting.count)"])
      // They wait because of the outage, which is over.
      changes += makeAllDue()
    }
    changes += note(ended, offset, attempts, status: status, error: nil, .delivered, next: nil)
    record(changes + [notePlace()])
  }

  private func fail(
    _ offset: UInt64, _ ended: WebhookAttempt.Ended, status: Int?, reason: String, after asked: Duration?,
    disabling: String?
  ) {
    let now = self.now()
    let attempts = tries(of: offset) + 1
    let asked = asked.map { min($0, options.retryAfterLimit) }
    progress.failuresInRow += 1
    progress.failingSinceMicroseconds = progress.failingSinceMicroseconds ?? ended.startMicroseconds
    if let asked { progress.heldUntilMicroseconds = max(progress.heldUntilMicroseconds, now + asked.microseconds) }
    if progress.failuresInRow == options.failureLimit {
      probeMicroseconds = now + options.probeInterval.microseconds
      // Of one that is disabled there is a line of its own.
      if disabling == nil, endpoint.disabled == nil {
        logger.warning("an endpoint fails again and again", metadata: ["reason": "\(reason)"])
      }
    }
    let first = waiting[offset]?.event.firstTryMicroseconds ?? ended.startMicroseconds
    var changes: [WebhookChange] = []
    var outcome = WebhookDelivery.Outcome.retrying
    var next: UInt64?
    if let disabling {
      keep(offset, attempts: attempts, after: 0, ended)
      (changes, outcome) = ([disable(disabling)], .disabled)
    } else if let delay = options.schedule.delay(attempts: attempts, atLeast: asked) {
      keep(offset, attempts: attempts, after: delay.microseconds, ended)
      next = waiting[offset]?.event.dueMicroseconds
    } else if let success = progress.lastSuccessMicroseconds, success >= first {
      // Others got through meanwhile, so it is this message that the receiver can't take.
      logger.error("gave a message up", metadata: ["offset": "\(offset)", "reason": "\(reason)"])
      forget(offset)
      (changes, outcome) = ([.done(id: id, offset: offset)], .givenUp)
    } else {
      keep(offset, attempts: attempts, after: 0, ended)
      let since = timestamp(microseconds: first)
      (changes, outcome) = (
        [disable("Nothing has been delivered since \(since), in \(attempts) tries of one event; the last: \(reason).")],
        .disabled
      )
    }
    if let change = wait(offset) { changes.append(change) }
    changes += note(ended, offset, attempts, status: status, error: reason, outcome, next: next)
    record(changes + [notePlace()])
  }

  /// What waits is due now.
  private func makeAllDue() -> [WebhookChange] {
    let events = allDue(at: now(), restarting: false)
    for event in events { waiting[event.offset]?.event = event }
    return events.map { .wait(id: id, $0) }
  }

  /// What waits, as it is when it is due now. Changes nothing.
  ///
  /// - Parameter restarting: the tries so far count no more.
  func allDue(at now: UInt64, restarting: Bool) -> [WaitingEvent] {
    waiting.values.filter { !$0.isUnderWay }.map(\.event).sorted { $0.offset < $1.offset }.map { event in
      var event = event
      event.dueMicroseconds = min(event.dueMicroseconds, now)
      if restarting { (event.attempts, event.firstTryMicroseconds) = (0, now) }
      return event
    }
  }

  private func disable(_ reason: String) -> WebhookChange {
    // Messages that were in flight together end alike: the first has said why.
    if let disabled = endpoint.disabled {
      return .disable(id: id, disabled, updatedMicroseconds: endpoint.updatedMicroseconds)
    }
    logger.error("an endpoint is disabled", metadata: ["reason": "\(reason)"])
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
        error: error, outcome: outcome, nextTryMicroseconds: next))
  }

  func note(_ delivery: WebhookDelivery) -> [WebhookChange] {
    deliveriesSinceTrim += 1
    guard deliveriesSinceTrim > options.deliveryLimit / 10 else { return [.delivery(id: id, delivery)] }
    deliveriesSinceTrim = 0
    return [.delivery(id: id, delivery), .trimDeliveries(id: id, kept: options.deliveryLimit)]
  }
}
