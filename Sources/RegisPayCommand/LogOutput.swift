import Dispatch
import Foundation
import Synchronization

/// Standard error, written by a thread of its own, so that a pipe that nobody reads, or a terminal that was stopped, holds
/// nothing else. Lines wait in memory, up to ``byteLimit``; those that come then are dropped, and their number is written once
/// there is room again.
///
/// May be used from any thread.
final class LogOutput: TextOutputStream, Sendable {
  static let standardError = LogOutput(descriptor: STDERR_FILENO)
  /// Some 2,000 lines.
  static let byteLimit = 256 << 10

  private struct State {
    var waiting: [UInt8] = []
    var dropped = 0
    /// Bytes are taken off `waiting` and not yet written.
    var isWriting = false
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
      guard state.dropped == 0, state.waiting.count + text.utf8.count <= Self.byteLimit else {
        state.dropped += 1
        return false
      }
      defer { state.waiting.append(contentsOf: text.utf8) }
      return state.waiting.isEmpty
    }
    if isFirst { arrival.signal() }
  }

  /// Waits until everything is written, at most for a time: for the end of the process.
  func flush(seconds: Double) {
    let start = ContinuousClock.now
    while start.duration(to: .now) < .seconds(seconds) {
      if state.withLock({ $0.waiting.isEmpty && !$0.isWriting }) { return }
      usleep(1_000)
    }
  }

  private func run() {
    while true {
      arrival.wait()
      while let bytes = take() { put(bytes) }
    }
  }

  private func take() -> [UInt8]? {
    state.withLock { state in
      var bytes: [UInt8] = []
      swap(&bytes, &state.waiting)
      if state.dropped > 0 {
        bytes +=
          "regispay: \(state.dropped) log lines are missing here, as standard error was not read for a while\n".utf8
        state.dropped = 0
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
        // Somebody else has made the pipe one that doesn't wait.
        var output = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
        _ = poll(&output, 1, -1)
      } else if errno != EINTR {
        // Closed, or a full disk: a log that can't be written is no reason to end.
        return
      }
    }
  }
}
