import Dispatch
import Foundation
import RegisPay
import Synchronization

/// Standard error, written by its own thread, so that a pipe that nobody reads or a stopped terminal blocks no other thread.
/// Lines are buffered in memory up to ``byteLimit``. Lines beyond it are dropped, and one line reports their number once the
/// output is read again. Lines that can't be written, because the pipe is closed or the disk is full, are lost, and one line tells
/// that once a line can be written again. The thread also lets the ``LogWriter`` say each second what it left out.
///
/// Safe to use from any thread.
final class LogOutput: TextOutputStream, Sendable {
  static let standardError = LogOutput(descriptor: STDERR_FILENO)
  /// Formats all lines of this process. Text until ``useFormat(_:)``: `--help` and mistakes in options are for people.
  static var writer: LogWriter { current.withLock { $0 } }
  private static let current = Mutex(makeWriter(.text))
  /// About 2,000 lines.
  static let byteLimit = 256 << 10

  private struct State {
    var buffered: [UInt8] = []
    var droppedLineCount = 0
    /// The thread has taken bytes off `buffered` and not yet written all of them.
    var isWriting = false
    /// The last write failed.
    var isFailing = false
    /// The last byte that was written does not end a line.
    var isTorn = false
    /// False for ever if the system has no thread left.
    var hasThread = false
  }

  private let descriptor: Int32
  private let state = Mutex(State())
  private let arrival = DispatchSemaphore(value: 0)

  private init(descriptor: Int32) {
    self.descriptor = descriptor
    let thread = Thread { [self] in run() }
    thread.name = "log output"
    thread.start()
  }

  /// - Parameters:
  ///   - format: nil for text on a terminal, otherwise JSON.
  ///   - queue: gets the lines of loggers, too.
  static func useFormat(_ format: LogFormat?, queue: LogQueue? = nil) {
    let format = format ?? (isatty(STDERR_FILENO) == 1 ? .text : .json)
    current.withLock { $0 = makeWriter(format, queue: queue) }
  }

  private static func makeWriter(_ format: LogFormat, queue: LogQueue? = nil) -> LogWriter {
    LogWriter(format, queue: queue) { standardError.write($0) }
  }

  func write(_ text: String) {
    let isFirst = state.withLock { state in
      guard state.droppedLineCount == 0, state.buffered.count + text.utf8.count <= Self.byteLimit else {
        state.droppedLineCount += 1
        return false
      }
      defer { state.buffered.append(contentsOf: text.utf8) }
      return state.buffered.isEmpty
    }
    if isFirst { arrival.signal() }
  }

  /// Waits until everything is written, but at most `seconds`. Called before the process ends.
  func flush(seconds: Double) {
    Self.writer.drain(all: true)
    let start = ContinuousClock.now
    while start.duration(to: .now) < .seconds(seconds) {
      if state.withLock({ $0.buffered.isEmpty && !$0.isWriting }) { return }
      usleep(1_000)
    }
    // Without a thread nobody else writes it.
    if !state.withLock({ $0.hasThread }), let bytes = take() { put(bytes) }
  }

  private func run() {
    state.withLock { $0.hasThread = true }
    var lastDrain = ContinuousClock.now
    while true {
      _ = arrival.wait(timeout: .now() + 1)
      while let bytes = take() { put(bytes) }
      // Also while lines arrive all the time.
      if lastDrain.duration(to: .now) >= .seconds(1) {
        Self.writer.drain()
        lastDrain = .now
      }
    }
  }

  /// What is to be written next; nil if there is nothing.
  private func take() -> [UInt8]? {
    state.withLock { state in
      state.isWriting = !state.buffered.isEmpty || state.droppedLineCount > 0
      guard state.isWriting else { return nil }
      var bytes: [UInt8] = []
      if state.isFailing {
        if state.isTorn { bytes.append(UInt8(ascii: "\n")) }
        bytes += Self.writer.line(.warning, "log lines are missing here: standard error could not be written").utf8
      }
      bytes += state.buffered
      state.buffered = []
      if state.droppedLineCount > 0 {
        let message = "\(state.droppedLineCount) log lines are missing here: standard error was not read"
        bytes += Self.writer.line(.warning, message).utf8
        state.droppedLineCount = 0
      }
      return bytes
    }
  }

  private func put(_ bytes: [UInt8]) {
    var rest = bytes[...]
    while !rest.isEmpty {
      let count = rest.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
      if count >= 0 {
        rest = rest.dropFirst(count)
      } else if errno == EAGAIN {
        // Another process has set the pipe to non-blocking.
        var output = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
        _ = poll(&output, 1, -1)
      } else if errno != EINTR {
        // Closed, or the disk is full. The server goes on without these lines.
        break
      }
    }
    state.withLock { state in
      state.isFailing = !rest.isEmpty
      if let last = bytes[..<rest.startIndex].last { state.isTorn = last != UInt8(ascii: "\n") }
    }
  }
}
