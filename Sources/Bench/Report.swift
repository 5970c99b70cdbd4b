import Glibc
import Histogram
import Synchronization

/// One line of the result.
struct Measurement {
  var workload: String
  var system: String
  var events: Int
  var payloadBytes: Int
  var writers: Int
  var batch: Int
  var seconds: Double
  /// Microseconds for one call (append, load of a stream, sight of an event); nil where there are no single calls.
  var p50: Double?
  var p99: Double?
  /// The limit's events a second, measured in turns with these.
  var limit: Double

  var eventsPerSecond: Double { Double(events) / seconds }
  var mebibytesPerSecond: Double { eventsPerSecond * Double(payloadBytes) / 1_048_576 }
  var ratio: Double { eventsPerSecond / limit }

  var json: String {
    """
    {"workload":"\(workload)","system":"\(system)","events":\(events),"payload_bytes":\(payloadBytes),\
    "writers":\(writers),"batch":\(batch),"seconds":\(fixed(seconds, 6)),\
    "events_per_second":\(fixed(eventsPerSecond, 1)),"mib_per_second":\(fixed(mebibytesPerSecond, 2)),\
    "p50_us":\(p50.map { fixed($0, 2) } ?? "null"),"p99_us":\(p99.map { fixed($0, 2) } ?? "null"),\
    "limit_events_per_second":\(fixed(limit, 1)),"ratio_to_limit":\(fixed(ratio, 4))}
    """
  }
}

/// Times of single calls, in nanoseconds: every one is counted, to three digits, in bounded memory.
final class Latencies: Sendable {
  private let histogram = Mutex(
    Histogram<UInt32>(highestTrackableValue: 60_000_000_000, numberOfSignificantValueDigits: .three))

  func record(_ nanoseconds: UInt64) {
    histogram.withLock { _ = $0.record(min(nanoseconds, 60_000_000_000)) }
  }

  /// Microseconds below which this many of a hundred calls were; nil if there were none.
  func percentile(_ percent: Double) -> Double? {
    histogram.withLock { $0.totalCount == 0 ? nil : Double($0.valueAtPercentile(percent)) / 1000 }
  }
}

/// Prints the results, and on a terminal what is being done.
final class Reporter: Sendable {
  private let asJSON: Bool
  private let isTerminal = isatty(STDERR_FILENO) == 1

  init(asJSON: Bool) {
    self.asJSON = asJSON
  }

  func begin() {
    #if DEBUG
      tell("bench: note: this is a debug build; use swift build -c release for numbers\n")
    #endif
    guard !asJSON else { return }
    printLine(
      column("workload", -32) + column("system", -10) + column("events/s", 13) + column("MiB/s", 10)
        + column("p50 µs", 11) + column("p99 µs", 11) + column("limit/s", 13) + column("ratio", 8))
  }

  func add(_ measurement: Measurement) {
    clear()
    if asJSON {
      printLine(measurement.json)
      return
    }
    printLine(
      column(measurement.workload, -32) + column(measurement.system, -10)
        + column(grouped(measurement.eventsPerSecond), 13) + column(fixed(measurement.mebibytesPerSecond, 1), 10)
        + column(measurement.p50.map { fixed($0, 1) } ?? "", 11)
        + column(measurement.p99.map { fixed($0, 1) } ?? "", 11) + column(grouped(measurement.limit), 13)
        + column(fixed(measurement.ratio, 2), 8))
  }

  /// What is going on now, only on a terminal.
  func progress(_ text: String) {
    if isTerminal { tell("\r\(text)\u{1B}[K") }
  }

  private func clear() {
    if isTerminal { tell("\r\u{1B}[K") }
  }

  private func tell(_ text: String) {
    var text = text
    _ = text.withUTF8 { write(STDERR_FILENO, $0.baseAddress, $0.count) }
  }
}

/// Prints a line at once, also into a pipe.
func printLine(_ text: String) {
  var line = text + "\n"
  _ = line.withUTF8 { write(STDOUT_FILENO, $0.baseAddress, $0.count) }
}

/// Digits behind the point, always with a point and never with an exponent.
private func fixed(_ number: Double, _ digits: Int) -> String {
  guard number.isFinite else { return "0" }
  var scale = 1.0
  for _ in 0..<digits { scale *= 10 }
  let scaled = (abs(number) * scale).rounded()
  guard scaled < 9e18 else { return "0" }
  let whole = UInt64(scaled)
  let fraction = String(whole % UInt64(scale))
  let sign = number < 0 && whole > 0 ? "-" : ""
  return sign + "\(whole / UInt64(scale))." + String(repeating: "0", count: digits - fraction.count) + fraction
}

/// 1234567 as 1,234,567.
private func grouped(_ number: Double) -> String {
  var text = ""
  for (index, digit) in String(UInt64(max(0, number.rounded()))).reversed().enumerated() {
    if index > 0, index % 3 == 0 { text.append(",") }
    text.append(digit)
  }
  return String(text.reversed())
}

/// Padded on the left, or with a negative width on the right.
private func column(_ text: String, _ width: Int) -> String {
  let padding = String(repeating: " ", count: max(0, abs(width) - text.count))
  return width < 0 ? text + padding : padding + text
}

/// Nanoseconds of a clock that all processes of the machine share.
func nowNanoseconds() -> UInt64 {
  var now = timespec()
  clock_gettime(CLOCK_MONOTONIC, &now)
  return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
}
