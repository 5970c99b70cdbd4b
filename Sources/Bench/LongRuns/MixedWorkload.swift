import Glibc
import LogStore
import Synchronization

/// Everything at once for some minutes: many synced writers, a reader that tails, random loads, segments that end and are
/// indexed all the time; and beside it a file of the same disk, written and synced now and then, which shows what the disk
/// itself does meanwhile.
struct MixedWorkload: Sendable {
  var shape: EventShape
  var writers: Int
  var seconds: Double
  var segmentBytes: Int
  var loadsPerSecond: Int

  static let eventsPerStream = 4
  /// Full within the first minute. The usual 32 MiB take ten minutes to fill, and would hide other growth.
  static let streamCacheBytes = 4 << 20
  /// Rare enough not to affect the measurement.
  static let probesPerSecond = 20
  /// A time that exceeds the disk's own by more than this is a stall.
  static let stallMilliseconds = 50.0

  /// Ten seconds, or what fits a short run.
  var windowSeconds: Double { seconds >= 60 ? 10 : max(1, seconds / 6) }

  func run(in directory: BenchDirectory, _ reporter: Reporter) async throws -> MixedResult {
    reporter.progress("mixed: preparing")
    var options = LogStore.Options()
    options.segmentBytes = segmentBytes
    options.streamCacheBytes = Self.streamCacheBytes
    let store = try LogStore.open(directory.file("store"), options: options)
    let probe = try RawFile(directory.file("probe"), byteCount: 64 << 20)
    let meters = MixedMeters(writers: writers)
    let memory = AnonymousMemory()
    let start = nowNanoseconds()
    let deadline = start + UInt64(seconds * 1e9)
    let watch = BusynessWatch()
    var result = MixedResult(start: start, windowSeconds: windowSeconds)
    try await withThrowingTaskGroup(of: [MixedResult.Window].self) { group in
      group.addTask {
        try await append(to: store, meters, until: deadline)
        // Ends the reader's wait; it has seen everything by then.
        try await store.close()
        return []
      }
      group.addTask {
        try await tail(store.reader, meters)
        return []
      }
      group.addTask {
        try await onThread { try load(store.reader, meters, until: deadline) }
        return []
      }
      group.addTask {
        try await onThread { try touch(probe, meters, until: deadline) }
        return []
      }
      group.addTask {
        try await onThread { watchWindows(meters, memory, start: start, until: deadline, reporter) }
      }
      for try await windows in group where !windows.isEmpty { result.windows = windows }
    }
    result.busyness = watch.since()
    result.finish(meters)
    for name in names(in: directory.file("store")) where name.hasSuffix(".log") { result.segments += 1 }
    guard meters.tailed.value == result.events else {
      throw BenchError("the reader saw \(meters.tailed.value) events of \(result.events)")
    }
    return result
  }

  /// Each writer begins streams and continues them, at the expected version. The payload holds the time at which the append
  /// began.
  private func append(to store: LogStore, _ meters: MixedMeters, until deadline: UInt64) async throws {
    try await withThrowingTaskGroup(of: Void.self) { group in
      for writer in 0..<writers {
        group.addTask {
          let names = OwnStreams(part: 0)
          var payload = shape.payload(writer)
          var count = 0
          while true {
            let start = nowNanoseconds()
            if start >= deadline { return }
            for index in 0..<8 { payload[index] = UInt8(truncatingIfNeeded: start >> UInt64(8 * index)) }
            let stream = names.name(writer: writer, number: count / Self.eventsPerStream)
            try await store.append(
              Append(
                NewEvent(stream: stream, type: EventShape.type, payload: payload),
                expecting: .version(UInt64(count % Self.eventsPerStream))))
            meters.append.record(from: start)
            count += 1
            if count % Self.eventsPerStream == 0 {
              meters.wholeStreams[writer].store(count / Self.eventsPerStream)
            }
          }
        }
      }
      try await group.waitForAll()
    }
  }

  private func tail(_ reader: LogReader, _ meters: MixedMeters) async throws {
    var next: UInt64 = 0
    do {
      while try await reader.waitForEvents(at: next) {
        next = try reader.forEach(from: next) { event in
          meters.tail.record(from: event.payload.unsafeLoadUnaligned(as: UInt64.self))
          return true
        }
        meters.tailed.store(Int(next))
      }
    } catch LogStoreError.closed {}
  }

  /// Loads random complete streams at a steady rate.
  private func load(_ reader: LogReader, _ meters: MixedMeters, until deadline: UInt64) throws {
    var random = SplitMix(state: 7)
    try steadily(loadsPerSecond, until: deadline) {
      let writer = Int(random.next() % UInt64(writers))
      let whole = meters.wholeStreams[writer].value
      guard whole > 0 else { return }
      let name = OwnStreams(part: 0).name(writer: writer, number: Int(random.next() % UInt64(whole)))
      let start = nowNanoseconds()
      var found = 0
      try reader.forEach(inStream: name) { _ in found += 1 }
      meters.load.record(from: start)
      guard found == Self.eventsPerStream else { throw BenchError("stream \(name) has \(found) events") }
    }
  }

  private func touch(_ probe: RawFile, _ meters: MixedMeters, until deadline: UInt64) throws {
    let frame = shape.frame(1, first: 0)
    try steadily(Self.probesPerSecond, until: deadline) {
      let start = nowNanoseconds()
      try probe.append(frame)
      try probe.sync()
      meters.probe.record(from: start)
    }
  }

  /// Does something a number of times per second; skips what could not be done in time.
  private func steadily(_ perSecond: Int, until deadline: UInt64, _ body: () throws -> Void) throws {
    let pause = 1_000_000_000 / UInt64(perSecond)
    var next = nowNanoseconds()
    while next < deadline {
      sleepUntil(next)
      try body()
      next = max(next + pause, nowNanoseconds())
    }
  }

  /// Takes the measurements from the meters at the end of each window.
  private func watchWindows(
    _ meters: MixedMeters, _ memory: AnonymousMemory, start: UInt64, until deadline: UInt64, _ reporter: Reporter
  ) -> [MixedResult.Window] {
    var windows: [MixedResult.Window] = []
    var end = start
    while end < deadline {
      end = min(end + UInt64(windowSeconds * 1e9), deadline)
      // A remainder that is too short to mean anything belongs to the window before it.
      if deadline - end < UInt64(windowSeconds * 0.5e9) { end = deadline }
      sleepUntil(end)
      let window = MixedResult.Window(
        endSecond: Double(end - start) / 1e9, append: meters.append.take(), tail: meters.tail.take(),
        load: meters.load.take(), probe: meters.probe.take(), anonymousBytes: memory.takePeak())
      windows.append(window)
      reporter.line(text: window.text, json: window.json)
    }
    return windows
  }
}

/// The measurements while everything runs.
final class MixedMeters: Sendable {
  let append = StallMeter("append")
  let tail = StallMeter("tail")
  let load = StallMeter("load")
  let probe = StallMeter("disk")
  /// The complete streams of each writer.
  let wholeStreams: [Counter]
  /// Events that the tailing reader has had.
  let tailed = Counter()

  init(writers: Int) {
    wholeStreams = (0..<writers).map { _ in Counter() }
  }
}

/// Counts times, and keeps the long ones with their moments.
final class StallMeter: Sendable {
  /// More long times than this are only counted.
  private static let kept = 100_000
  let name: String
  let all = Latencies()
  private let window = Latencies()
  private let long = Mutex<[(start: UInt64, end: UInt64)]>([])

  init(_ name: String) { self.name = name }

  func record(from start: UInt64) {
    let now = nowNanoseconds()
    window.record(now > start ? now - start : 0)
    guard now > start, Double(now - start) > MixedWorkload.stallMilliseconds * 1e6 else { return }
    long.withLock { if $0.count < Self.kept { $0.append((start, now)) } }
  }

  /// What was counted since the last call.
  func take() -> (count: Int, percentiles: Percentiles?) {
    let taken = window.drain()
    all.add(taken)
    return (taken.count, taken.percentiles)
  }

  /// Times over the bound, with overlapping ones merged: many callers meet the same stall.
  var stalls: [(start: UInt64, end: UInt64)] {
    var merged: [(start: UInt64, end: UInt64)] = []
    for stall in long.withLock({ $0 }).sorted(by: { $0.start < $1.start }) {
      if let last = merged.last, stall.start <= last.end {
        merged[merged.count - 1].end = max(last.end, stall.end)
      } else {
        merged.append(stall)
      }
    }
    return merged
  }
}

func sleepUntil(_ nanoseconds: UInt64) {
  var time = timespec(tv_sec: Int(nanoseconds / 1_000_000_000), tv_nsec: Int(nanoseconds % 1_000_000_000))
  while clock_nanosleep(CLOCK_MONOTONIC, Int32(TIMER_ABSTIME), &time, nil) == EINTR {}
}
