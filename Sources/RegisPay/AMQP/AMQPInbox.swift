import NIOCore
import Synchronization

/// What has arrived on a connection and is not read yet, and what is not sent yet: between the event loop and the thread that uses the
/// connection.
///
/// Safe to use from any thread.
final class AMQPInbox: Sendable {
  /// Reading stops when so many bytes wait. One reading may add some more.
  static let arrivedLimit = 256 << 10
  /// No more messages are given when so many bytes wait to be sent.
  static let unsentLimit = 256 << 10

  private struct State {
    /// One buffer, so that many small readings take no more memory than their bytes.
    var arrived = ByteBuffer()
    var isPaused = false
    var unsentBytes = 0
    var failure: AMQPFailure?
  }

  private let state = Mutex(State())
  let wakeup: WakeUp

  init(_ wakeup: WakeUp) { self.wakeup = wakeup }

  // MARK: - The event loop

  /// - Returns: whether nothing more is to be read until ``take()`` says so.
  func add(_ bytes: ByteBuffer) -> Bool {
    let (isFirst, pauses) = state.withLock { state in
      let isFirst = state.arrived.readableBytes == 0
      if isFirst { state.arrived = bytes } else { state.arrived.writeImmutableBuffer(bytes) }
      let pauses = state.arrived.readableBytes >= Self.arrivedLimit && !state.isPaused
      if pauses { state.isPaused = true }
      return (isFirst, pauses)
    }
    if isFirst { wakeup.signal() }
    return pauses
  }

  var isPaused: Bool { state.withLock { $0.isPaused } }

  /// The connection has ended; the first reason counts.
  func end(_ failure: AMQPFailure) {
    state.withLock { state in if state.failure == nil { state.failure = failure } }
    wakeup.signal()
  }

  func sent(_ byteCount: Int) {
    let isWritableAgain = state.withLock { state in
      let wasFull = state.unsentBytes >= Self.unsentLimit
      state.unsentBytes -= byteCount
      return wasFull && state.unsentBytes < Self.unsentLimit
    }
    if isWritableAgain { wakeup.signal() }
  }

  // MARK: - The thread

  /// All that has arrived, nil for nothing, and whether reading is to begin again.
  func take() -> (bytes: ByteBuffer?, resumes: Bool) {
    state.withLock { state in
      guard state.arrived.readableBytes > 0 else { return (nil, false) }
      defer { (state.arrived, state.isPaused) = (ByteBuffer(), false) }
      return (state.arrived, state.isPaused)
    }
  }

  /// Why the connection has ended. What arrived before may still wait.
  var failure: AMQPFailure? { state.withLock { $0.failure } }

  func willSend(_ byteCount: Int) { state.withLock { $0.unsentBytes += byteCount } }

  var unsentBytes: Int { state.withLock { $0.unsentBytes } }
}
