import Logging

/// What waits when somebody sets the calendar: as long as it would have waited otherwise.
extension EndpointWorker {
  /// The time by the calendar. Every time that the worker compares or keeps comes from here: what is kept moves along
  /// first, if the calendar was set since the last look.
  func now() -> UInt64 {
    followClock()
    return looked.now
  }

  /// Times that are compared with each other move together. The file gets each with its next change; a start bounds what
  /// it finds there (``WebhookTable/Kept/bounded(at:_:)``).
  private func followClock() {
    let look = clock.look()
    let step = look.step(since: looked)
    looked = look
    guard step != 0 else { return }
    logger.warning("the clock was set: what waits moves with it", metadata: ["seconds": "\(step / 1_000_000)"])
    func moved(_ microseconds: UInt64) -> UInt64 {
      // 0 is no time.
      guard microseconds > 0 else { return 0 }
      let (time, isOver) = Int64(clamping: microseconds).addingReportingOverflow(step)
      return isOver ? microseconds : UInt64(max(1, time))
    }
    progress.heldUntilMicroseconds = moved(progress.heldUntilMicroseconds)
    progress.failingSinceMicroseconds = progress.failingSinceMicroseconds.map(moved)
    progress.lastSuccessMicroseconds = progress.lastSuccessMicroseconds.map(moved)
    if let until = endpoint.previousSecret?.untilMicroseconds {
      endpoint.previousSecret?.untilMicroseconds = moved(until)
    }
    probeMicroseconds = moved(probeMicroseconds)
    commitMicroseconds = moved(commitMicroseconds)
    for (offset, entry) in waiting {
      waiting[offset]?.event.dueMicroseconds = moved(entry.event.dueMicroseconds)
      waiting[offset]?.event.firstTryMicroseconds = moved(entry.event.firstTryMicroseconds)
    }
  }
}

extension WebhookTable.Kept {
  /// As it counts at this time. What the file holds was written by a calendar that may have been wrong: nothing has happened
  /// later than now, and a wait that is longer than any can be is over.
  func bounded(at now: UInt64, _ options: WebhookOptions) -> Self {
    var kept = self
    if progress.heldUntilMicroseconds > now + options.retryAfterLimit.microseconds {
      kept.progress.heldUntilMicroseconds = 0
    }
    kept.progress.failingSinceMicroseconds = progress.failingSinceMicroseconds.map { min($0, now) }
    kept.progress.lastSuccessMicroseconds = progress.lastSuccessMicroseconds.map { min($0, now) }
    if let until = endpoint.previousSecret?.untilMicroseconds {
      kept.endpoint.previousSecret?.untilMicroseconds = min(until, now + options.secretOverlap.microseconds)
    }
    for (index, event) in waiting.enumerated() {
      // What the receiver asked for holds the endpoint, and not the message alone.
      let longest = options.schedule.longest(attempts: event.attempts).microseconds
      if event.dueMicroseconds > now + longest { kept.waiting[index].dueMicroseconds = now }
      kept.waiting[index].firstTryMicroseconds = min(event.firstTryMicroseconds, now)
    }
    return kept
  }
}
