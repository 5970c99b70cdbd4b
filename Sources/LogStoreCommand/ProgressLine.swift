import Glibc

/// A line on standard error that shows the progress of long work, rewritten in place. Only on a terminal.
final class ProgressLine {
  private let label: String
  private let isTerminal = isatty(STDERR_FILENO) == 1
  private var lastShownMilliseconds: Int64 = 0
  private var hasShown = false

  init(_ label: String) {
    self.label = label
  }

  /// Shows the progress, at most ten times a second.
  func show(_ done: UInt64, of total: UInt64) {
    guard isTerminal else { return }
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    let milliseconds = Int64(now.tv_sec) * 1000 + Int64(now.tv_nsec) / 1_000_000
    guard milliseconds - lastShownMilliseconds >= 100 else { return }
    lastShownMilliseconds = milliseconds
    hasShown = true
    let percent = total == 0 ? 100 : done * 100 / total
    printRaw("\r\(label) \(percent) % (\(done >> 20) of \(total >> 20) MiB)\u{1B}[K")
  }

  /// Removes the line before something else is printed.
  func clear() {
    if hasShown { printRaw("\r\u{1B}[K") }
    hasShown = false
  }

  private func printRaw(_ text: String) {
    var text = text
    _ = text.withUTF8 { write(STDERR_FILENO, $0.baseAddress, $0.count) }
  }
}
