import Glibc
import Synchronization

/// Prints the results as they come, on a terminal also what is being done, and keeps all of it for the report.
final class Reporter: Sendable {
  private struct State {
    var measurements: [Measurement] = []
    var warnings: [String] = []
  }

  private let asJSON: Bool
  private let out: String?
  private let isTerminal = isatty(STDERR_FILENO) == 1
  private let state = Mutex(State())

  /// - Parameter out: where the report is to be written, if it is.
  init(asJSON: Bool, out: String?) {
    self.asJSON = asJSON
    self.out = out
  }

  var measurements: [Measurement] { state.withLock { $0.measurements } }
  var warnings: [String] { state.withLock { $0.warnings } }

  /// Says what stands in the way of good numbers before the first of them.
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

  /// A line that is neither a measurement nor progress: JSON, or text where that isn't asked for.
  func line(text: String, json: String) {
    clear()
    printLine(asJSON ? json : text)
  }

  /// What was to be reached, and what was.
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

  /// What is going on now, only on a terminal.
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

/// Writes a file beside its place and renames it, so that nobody sees half of it.
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
