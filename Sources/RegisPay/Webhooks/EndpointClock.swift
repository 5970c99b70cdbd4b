import Logging

/// Waits keep their length when the calendar is set.
extension EndpointWorker {
  /// The calendar time. Every time that the worker compares or stores comes from here. If the calendar was set since the last
  /// reading, the stored times move first.
  func now() -> UInt64 {
    followClock()
    return lastReading.now
  }

  /// All times that are compared with each other move together. The file gets each moved time with its next change; a start
  /// bounds the times that it finds there (``WebhookTable/StoredEndpoint/bounded(at:_:)``).
  private func followClock() {
    let reading = clock.read()
    let step = reading.step(since: lastReading)
    lastReading = reading
    guard step != 0 else { return }
    logger.warning("clock was set: webhook waits move with it", metadata: ["seconds": "\(step / 1_000_000)"])
    func moved(_ microseconds: UInt64) -> UInt64 {
      // 0 means no time.
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

extension WebhookTable.StoredEndpoint {
  /// Bounds the times in the file, which a wrong calendar may have written: no event happened later than now, and a wait longer
  /// than the longest possible one is over.
  func bounded(at now: UInt64, _ options: WebhookOptions) -> Self {
    var stored = self
    if progress.heldUntilMicroseconds > now + options.retryAfterLimit.microseconds {
      stored.progress.heldUntilMicroseconds = 0
    }
    stored.progress.failingSinceMicroseconds = progress.failingSinceMicroseconds.map { min($0, now) }
    stored.progress.lastSuccessMicroseconds = progress.lastSuccessMicroseconds.map { min($0, now) }
    if let until = endpoint.previousSecret?.untilMicroseconds {
      stored.endpoint.previousSecret?.untilMicroseconds = min(until, now + options.secretOverlap.microseconds)
    }
    for (index, event) in waiting.enumerated() {
      // A receiver's Retry-After holds the whole endpoint and is bounded above, so it does not count here.
      let longest = options.schedule.longest(attempts: event.attempts).microseconds
      if event.dueMicroseconds > now + longest { stored.waiting[index].dueMicroseconds = now }
      stored.waiting[index].firstTryMicroseconds = min(event.firstTryMicroseconds, now)
    }
    return stored
  }
}
