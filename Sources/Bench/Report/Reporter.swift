import Glibc
import Synchronization

/// Prints the results as they come, shows progress on a terminal, and keeps everything for the report.
final class Reporter: Sendable {
  private struct State {
    var measurements: [Measurement] = []
    var warnings: [String] = []
  }

  private let asJSON: Bool
  private let out: String?
  private let isTerminal = isatty(STDERR_FILENO) == 1
  private let state = Mutex(State())

  /// - Parameter out: the file for the report, if there is one.
  init(asJSON: Bool, out: String?) {
    self.asJSON = asJSON
    self.out = out
  }

  var measurements: [Measurement] { state.withLock { $0.measurements } }
  var warnings: [String] { state.withLock { $0.warnings } }

  /// Warns, before the first number, of what makes numbers unreliable.
  func begin() async throws {
    #if DEBUG
      warn("this is a debug build; use swift build -c release for numbers")
    #endif
    progress("looking at what else the machine does")
    let before = try await LoadBefore.look()
    if before.busyness.isBusy { warn("the machine was busy before the first measurement: \(before.text)") }
  }

  func printHeading() {
    guard !asJSON else { return }
    printLine(
      column("workload", -40) + column("system", -10) + column("events/s", 12) + column("min", 12)
        + column("max", 12) + column("p50 µs", 10) + column("p99 µs", 10) + column("p99.9 µs", 10)
        + column("ratio", 8) + "  bar")
  }

  func add(_ result: WorkloadResult) {
    let measurements = result.measurements()
    clear()
    for measurement in measurements { printLine(asJSON ? measurement.json : row(measurement)) }
    state.withLock { $0.measurements.append(contentsOf: measurements) }
    if result.busyness.isBusy {
      warn("the machine was busy with something else during \(result.name): \(result.busyness.text)")
    }
  }

  private func row(_ measured: Measurement) -> String {
    func microseconds(_ value: Double?) -> String { column(value.map { fixed($0, 1) } ?? "", 10) }
    var line = column(measured.workload, -40) + column(measured.system, -10)
    line += column(grouped(measured.rate.median), 12) + column(grouped(measured.rate.min), 12)
    line += column(grouped(measured.rate.max), 12) + microseconds(measured.percentiles?.p50)
    line += microseconds(measured.percentiles?.p99) + microseconds(measured.percentiles?.p999)
    line += column(fixed(measured.ratio.median, 2), 8)
    if let verdict = measured.verdict { line += "  \(verdict.bar): \(verdict.reached)" }
    return line
  }

  /// A line that is neither a measurement nor progress: as JSON if that was asked for, otherwise text.
  func line(text: String, json: String) {
    clear()
    printLine(asJSON ? json : text)
  }

  /// The bars and the results.
  func printVerdicts(_ more: [Verdict] = []) {
    guard !asJSON else { return }
    let verdicts = self.verdicts + more
    guard !verdicts.isEmpty else { return }
    printLine("")
    for verdict in verdicts {
      printLine(
        column(verdict.workload, -72) + column(verdict.bar, -28) + column(verdict.reached, -13) + verdict.value)
    }
  }

  var verdicts: [Verdict] {
    measurements.flatMap { [$0.verdict, $0.disk?.verdict] }.compactMap { $0 }
  }

  func warn(_ text: String) {
    state.withLock { $0.warnings.append(text) }
    clear()
    tell("bench: warning: \(text)\n")
  }

  /// The current work; only on a terminal.
  func progress(_ text: String) {
    if isTerminal { tell("\r\(text)\u{1B}[K") }
  }

  /// Writes the report, if one was asked for.
  func write(_ document: @autoclosure () -> String) throws {
    guard let out else { return }
    try writeWhole(document(), to: out)
    clear()
    tell("the report is in \(out)\n")
  }

  private func clear() {
    if isTerminal { tell("\r\u{1B}[K") }
  }

  private func tell(_ text: String) {
    var text = text
    _ = text.withUTF8 { Glibc.write(STDERR_FILENO, $0.baseAddress, $0.count) }
  }
}

/// Writes a file aside and renames it, so that nobody sees half of it.
private func writeWhole(_ text: String, to path: String) throws {
  let aside = path + ".tmp"
  guard let file = fopen(aside, "w") else {
    throw BenchError("\(path) could not be written: \(String(cString: strerror(errno)))")
  }
  var text = text
  let written = text.withUTF8 { fwrite($0.baseAddress, 1, $0.count, file) == $0.count }
  guard fclose(file) == 0, written, rename(aside, path) == 0 else {
    throw BenchError("\(path) could not be written: \(String(cString: strerror(errno)))")
  }
}
