import CRabbitMQ
import Glibc
import Synchronization

/// Ends a call of the broker's library from another thread.
///
/// The library waits for a frame that it knows: frames that it skips, or a message that the broker does not read, hold the call
/// beyond its time limit, and skipped frames take memory until it returns. So a call that lasts too long, or takes in too much
/// without returning, loses its connection.
///
/// Safe to use from any thread.
final class CallGuard: Sendable {
  private static let durationLimit = Duration.seconds(15)
  /// A call that works returns after each frame, of at most 16 KiB; before the log-in they may have 64.
  private static let byteLimit: UInt64 = 4 << 20
  private static let receiveBufferBytes: Int32 = 64 << 10

  /// A call that was still running when it was looked at.
  private struct Seen {
    var number: UInt64
    var since: ContinuousClock.Instant
    var receivedBytes: UInt64
  }

  private struct State {
    /// A duplicate: the library closes its own descriptor at any time, and the number may then belong to something else.
    var descriptor: Int32?
    var seen: Seen?
    /// When the connection was last looked at.
    var receivedBytes: UInt64 = 0
  }

  private let state = Mutex(State())
  /// Odd during a call.
  private let number = Atomic<UInt64>(0)

  /// Runs a call of the library.
  func guarding<Value>(_ call: () -> Value) -> Value {
    number.add(1, ordering: .relaxed)
    defer { number.add(1, ordering: .relaxed) }
    return call()
  }

  /// From now on calls concern this connection; nil for none.
  func use(_ descriptor: Int32?) {
    state.withLock { state in
      if let former = state.descriptor { close(former) }
      // Without one the library's own limits hold.
      state.descriptor = descriptor.flatMap {
        let copy = fcntl($0, F_DUPFD_CLOEXEC, 0)
        return copy < 0 ? nil : copy
      }
      (state.seen, state.receivedBytes) = (nil, 0)
      guard let copy = state.descriptor else { return }
      // A broker has little to say to a publisher. Less can arrive then before a call is ended. A refusal does no harm.
      var bytes = Self.receiveBufferBytes
      _ = setsockopt(copy, SOL_SOCKET, SO_RCVBUF, &bytes, socklen_t(MemoryLayout<Int32>.size))
    }
  }

  /// Ends the connection if a call takes too long. Call it several times a second.
  func check(_ now: ContinuousClock.Instant = .now) {
    let number = number.load(ordering: .relaxed)
    state.withLock { state in
      guard let descriptor = state.descriptor else { return state.seen = nil }
      let before = state.receivedBytes
      state.receivedBytes = crabbit_received(descriptor)
      guard number % 2 == 1 else { return state.seen = nil }
      // What came before the call began is little: that since the last look.
      let seen =
        state.seen.flatMap { $0.number == number ? $0 : nil } ?? Seen(number: number, since: now, receivedBytes: before)
      state.seen = seen
      let received = state.receivedBytes - min(state.receivedBytes, seen.receivedBytes)
      if seen.since.duration(to: now) > Self.durationLimit || received > Self.byteLimit {
        shutdown(descriptor, Int32(SHUT_RDWR))
      }
    }
  }

  /// Ends the connection now, and with it the call.
  func cut() {
    state.withLock { state in
      if let descriptor = state.descriptor { shutdown(descriptor, Int32(SHUT_RDWR)) }
    }
  }
}
