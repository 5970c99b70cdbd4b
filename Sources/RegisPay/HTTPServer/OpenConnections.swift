import NIOCore
import Synchronization

/// A listener's open connections, to tell them of the server's stop, and to wait for their end. Safe to use from any thread.
final class OpenConnections: Sendable {
  private struct Entry {
    let channel: any Channel
    let stop: NIOLoopBound<ConnectionStop>
  }

  private struct State {
    var entries: [ObjectIdentifier: Entry] = [:]
    var isStopping = false
    /// Of ``ended()``.
    var waiter: CheckedContinuation<Void, Never>?
  }

  private let state = Mutex(State())

  /// Adds a connection. Called on its event loop. After ``stop()``, the connection is stopped at once, and still serves a request that
  /// comes soon.
  func add(_ channel: any Channel, _ stop: ConnectionStop) {
    let id = ObjectIdentifier(channel)
    let isStopping = state.withLock { state in
      state.entries[id] = Entry(channel: channel, stop: NIOLoopBound(stop, eventLoop: channel.eventLoop))
      return state.isStopping
    }
    if isStopping { stop.stop() }
    channel.closeFuture.whenComplete { [self] _ in remove(id) }
  }

  private func remove(_ id: ObjectIdentifier) {
    let waiter = state.withLock { state -> CheckedContinuation<Void, Never>? in
      state.entries[id] = nil
      guard state.entries.isEmpty else { return nil }
      defer { state.waiter = nil }
      return state.waiter
    }
    waiter?.resume()
  }

  /// Tells each connection that the server stops.
  func stop() {
    let entries = state.withLock { state in
      state.isStopping = true
      return Array(state.entries.values)
    }
    for entry in entries { entry.channel.eventLoop.execute { entry.stop.value.stop() } }
  }

  /// Closes each connection at once.
  func cutOff() { for entry in state.withLock({ Array($0.entries.values) }) { entry.channel.cutOff() } }

  /// Waits until no connection is open. Call it once, after the last was added.
  func ended() async {
    await withCheckedContinuation { continuation in
      let isEmpty = state.withLock { state in
        if !state.entries.isEmpty { state.waiter = continuation }
        return state.entries.isEmpty
      }
      if isEmpty { continuation.resume() }
    }
  }
}
