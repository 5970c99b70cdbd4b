import Glibc
import Synchronization

/// The process's anonymous memory: what it would keep if all file pages left the cache.
final class AnonymousMemory: Sendable {
  private struct State {
    var now = 0
    var peak = 0
  }

  private let state = Mutex(State())
  private static let everyMicroseconds: UInt32 = 20_000

  init() {
    look()
    startThread { [self] in
      while true {
        usleep(Self.everyMicroseconds)
        look()
      }
    }
  }

  /// Bytes at the last sample.
  var now: Int { state.withLock { $0.now } }
  /// The most since the start, or since ``takePeak()``.
  var peak: Int { state.withLock { $0.peak } }

  /// The most since the last call.
  func takePeak() -> Int {
    state.withLock { state in
      defer { state.peak = state.now }
      return state.peak
    }
  }

  private func look() {
    let bytes = Self.bytes()
    state.withLock { state in
      state.now = bytes
      state.peak = max(state.peak, bytes)
    }
  }

  /// `RssAnon` of proc(5), `status`.
  private static func bytes() -> Int {
    for line in (contents("/proc/self/status") ?? "").split(separator: "\n") where line.hasPrefix("RssAnon:") {
      return line.split(separator: " ").dropFirst().first.flatMap { Int($0) }.map { $0 << 10 } ?? 0
    }
    return 0
  }
}
