import Synchronization

/// When this process appended what is on the log, by time that passes whatever the clock is set to. The times on the log are the
/// clock's: by them alone, everything is days old once the clock jumps forward by days.
///
/// It keeps the log's end as it was at many moments. An event was appended after a moment at which the log ended before it, and
/// before a moment at which it was there. The moments are as close to each other as they are looked at, about a second, and
/// later thinned out to 1/512 of their age: within a year that is some ten thousand.
///
/// Safe to use from any task.
final class AppendTimes: Sendable {
  private struct Moment {
    /// The log's end.
    var end: UInt64
    /// When it was seen first and last.
    var first: ContinuousClock.Instant
    var last: ContinuousClock.Instant
  }

  private struct Moments {
    var all: [Moment]
    /// With so many they are thinned out.
    var limit = 1 << 12
  }

  /// What is before this offset was appended by an earlier process.
  private let start: UInt64
  private let moments: Mutex<Moments>
  private let end: @Sendable () -> UInt64
  private let now: @Sendable () -> ContinuousClock.Instant

  /// - Parameters:
  ///   - end: the offset of the log's end.
  ///   - now: time that passes whatever the clock is set to.
  init(
    end: @escaping @Sendable () -> UInt64, now: @escaping @Sendable () -> ContinuousClock.Instant = { .now }
  ) {
    self.end = end
    self.now = now
    start = end()
    let instant = now()
    moments = Mutex(Moments(all: [Moment(end: start, first: instant, last: instant)]))
  }

  /// Moments held, for tests.
  var count: Int { moments.withLock { $0.all.count } }

  /// To be called about once a second, by any number of tasks.
  func note() {
    moments.withLock { moments in
      // First the time: what is appended after this look was appended later than that.
      let instant = now()
      let end = end()
      let last = moments.all.count - 1
      if moments.all[last].end == end {
        moments.all[last].last = max(moments.all[last].last, instant)
      } else if moments.all[last].end < end {
        moments.all.append(Moment(end: end, first: instant, last: instant))
      }
      if moments.all.count > moments.limit { Self.thinOut(&moments, now: instant) }
    }
  }

  /// How long ago an event was appended, at least and at most; nil for one of an earlier process.
  func age(of offset: UInt64) -> ClosedRange<Duration>? {
    guard offset >= start else { return nil }
    return moments.withLock { moments in
      let instant = now()
      // The first moment at which the event was there. The one before always is, as the first one's end is the start.
      var (low, high) = (1, moments.all.count)
      while low < high {
        let middle = low + (high - low) / 2
        if moments.all[middle].end > offset { high = middle } else { low = middle + 1 }
      }
      let most = moments.all[low - 1].last.duration(to: instant)
      let least = low < moments.all.count ? moments.all[low].first.duration(to: instant) : .zero
      return max(.zero, least)...max(.zero, least, most)
    }
  }

  private static func thinOut(_ moments: inout Moments, now: ContinuousClock.Instant) {
    let all = moments.all
    var kept = [all[0]]
    for index in 1..<(all.count - 1) {
      let next = all[index + 1]
      // Without this one, the gap is from the last that is kept to the next.
      let gap = kept[kept.count - 1].last.duration(to: next.first)
      if gap * 512 > next.first.duration(to: now) { kept.append(all[index]) }
    }
    kept.append(all[all.count - 1])
    moments.all = kept
    moments.limit = max(1 << 12, kept.count * 2)
  }
}
