import NIOCore
import Synchronization

/// How late event loops are. A task is due on each loop once a second, and what it comes late is how long a connection's bytes
/// wait there.
///
/// Safe to use from any thread.
final class LoopDelays: Sendable {
  /// Milliseconds. Nothing may hold a loop longer than ten.
  private static let bounds: [Double] = [0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000]

  private final class Probe: Sendable {
    let loop: any EventLoop
    /// When the next task is due, in nanoseconds of ``MonotonicTime``; 0 while none is.
    let due = Atomic<UInt64>(0)

    init(_ loop: any EventLoop) { self.loop = loop }
  }

  private let probes: [Probe]
  private let interval: TimeAmount
  private let histogram = DurationHistogram(milliseconds: LoopDelays.bounds)
  private let isStopped = Atomic(false)

  init(_ group: any EventLoopGroup, interval: TimeAmount = .seconds(1)) {
    probes = group.makeIterator().map(Probe.init)
    self.interval = interval
  }

  /// Begins to measure. Call it once.
  func start() { for probe in probes { schedule(probe) } }

  /// Ends with the tasks that are due.
  func stop() { isStopped.store(true, ordering: .relaxed) }

  private func schedule(_ probe: Probe) {
    guard !isStopped.load(ordering: .relaxed) else { return probe.due.store(0, ordering: .relaxed) }
    probe.due.store(MonotonicTime.nanoseconds + UInt64(interval.nanoseconds), ordering: .relaxed)
    // Not run if the loop ends first; then there is nothing to measure.
    _ = probe.loop.scheduleTask(in: interval) { [self] in
      histogram.record(nanoseconds: Self.overdue(probe))
      schedule(probe)
    }
  }

  private static func overdue(_ probe: Probe) -> UInt64 {
    let (due, now) = (probe.due.load(ordering: .relaxed), MonotonicTime.nanoseconds)
    return due > 0 && now > due ? now - due : 0
  }

  var families: [MetricFamily] {
    var delays = MetricFamily(
      "regispay_event_loop_delay_seconds", .histogram,
      "How late a task is that is due on each event loop once a second.")
    delays.add([], .histogram(histogram.snapshot))
    let longest = probes.map(Self.overdue).max() ?? 0
    return [
      delays,
      .gauge(
        "regispay_event_loop_overdue_seconds",
        "How long the event loop that is held the longest has not run its due task; usually 0.", Double(longest) / 1e9),
    ]
  }
}
