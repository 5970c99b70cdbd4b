import Synchronization

/// When this process appended each event, by a clock that nobody can set. The times on the log come from the machine's clock:
/// by them alone, every event would be days old after the clock jumps forward by days.
///
/// It records the log's end at many moments. An event was appended after a moment at which the log ended before it, and before
/// a moment at which the log held it. Moments are recorded about once a second and later thinned out to 1/512 of their age:
/// within a year that is some ten thousand.
///
/// Safe to use from any task.
final class AppendTimes: Sendable {
  private struct Moment {
    /// The log's end.
    var end: UInt64
    /// The first and the last time at which the log ended there.
    var first: ContinuousClock.Instant
    var last: ContinuousClock.Instant
  }

  private struct Moments {
    var all: [Moment]
    /// At this count they are thinned out.
    var limit = 1 << 12
  }

  /// Events before this offset were appended by an earlier process.
  private let start: UInt64
  private let moments: Mutex<Moments>
  private let end: @Sendable () -> UInt64
  private let now: @Sendable () -> ContinuousClock.Instant

  /// - Parameters:
  ///   - end: the offset of the log's end.
  ///   - now: a clock that nobody can set.
  init(
    end: @escaping @Sendable () -> UInt64, now: @escaping @Sendable () -> ContinuousClock.Instant = { .now }
  ) {
    self.end = end
    self.now = now
    start = end()
    let instant = now()
    moments = Mutex(Moments(all: [Moment(end: start, first: instant, last: instant)]))
  }

  /// The number of moments, for tests.
  var count: Int { moments.withLock { $0.all.count } }

  /// Records a moment. Call it about once a second, from any number of tasks.
  func note() {
    moments.withLock { moments in
      // The time before the end: an event that is appended in between counts as later than this moment.
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

  /// How long ago an event was appended, at least and at most; nil for an event of an earlier process.
  func age(of offset: UInt64) -> ClosedRange<Duration>? {
    guard offset >= start else { return nil }
    return moments.withLock { moments in
      let instant = now()
      // The first moment at which the log held the event. A moment before it exists, as the first moment's end is `start`.
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
      // The gap that dropping this moment would leave.
      let gap = kept[kept.count - 1].last.duration(to: next.first)
      if gap * 512 > next.first.duration(to: now) { kept.append(all[index]) }
    }
    kept.append(all[all.count - 1])
    moments.all = kept
    moments.limit = max(1 << 12, kept.count * 2)
  }
}
