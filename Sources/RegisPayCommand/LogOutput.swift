import Dispatch
import Foundation
import Synchronization

/// Standard error, written by its own thread, so that a pipe that nobody reads or a stopped terminal blocks no other thread.
/// Lines are buffered in memory up to ``byteLimit``. Lines beyond it are dropped, and one line reports their number once the
/// output is read again.
///
/// Safe to use from any thread.
final class LogOutput: TextOutputStream, Sendable {
  static let standardError = LogOutput(descriptor: STDERR_FILENO)
  /// About 2,000 lines.
  static let byteLimit = 256 << 10

  private struct State {
    var buffered: [UInt8] = []
    var droppedLineCount = 0
    /// The thread has taken bytes off `buffered` and not yet written all of them.
    var isWriting = false
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
    while true {
      arrival.wait()
      while let bytes = take() { put(bytes) }
    }
  }

  private func take() -> [UInt8]? {
    state.withLock { state in
      var bytes: [UInt8] = []
      swap(&bytes, &state.buffered)
      if state.droppedLineCount > 0 {
        bytes += "regispay: \(state.droppedLineCount) log lines are missing here: standard error was not read\n".utf8
        state.droppedLineCount = 0
      }
      state.isWriting = !bytes.isEmpty
      return bytes.isEmpty ? nil : bytes
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
        // Closed, or the disk is full. The server goes on without its log lines.
        return
      }
    }
  }
}
