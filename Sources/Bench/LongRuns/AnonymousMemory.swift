import Glibc
import Synchronization

/// How much memory this process has that is not a file's: what it would keep if all files went from the cache.
/// A thread looks fifty times a second, for as long as the process lives.
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

  /// Bytes at the last look.
  var now: Int { state.withLock { $0.now } }
  /// The most since the beginning, or since ``takePeak()``.
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
