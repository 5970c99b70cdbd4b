import CStart
import Glibc

/// Signals that stop the server. A thread that exists from the start takes them, since libdispatch may need a new thread for a
/// signal, and the system may give none.
enum StopSignals {
  private final class Action: Sendable {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
  }

  /// From now on the first of these signals calls `body`, on that thread. Further ones do nothing. Called once.
  static func handle(_ numbers: [Int32], _ body: @escaping @Sendable () -> Void) {
    let action = Unmanaged.passRetained(Action(body)).toOpaque()
    let code = cstart_on_signals(numbers, Int32(numbers.count), action) { action in
      // Retained for ever: the thread never ends.
      if let action { Unmanaged<Action>.fromOpaque(action).takeUnretainedValue().body() }
    }
    if code != 0 { fail("the thread for signals can't be started: \(String(cString: strerror(code)))") }
  }
}

/// Address space that is kept free, so that there is some for a stop, or for its last line, when the rest is used up: Swift's tasks don't
/// survive an allocation that fails. Takes no memory.
final class AddressReserve: Sendable {
  private let byteCount: Int
  /// An address; nil without a reserve.
  private let address: UInt?

  init(byteCount: Int) {
    self.byteCount = byteCount
    let start = mmap(nil, byteCount, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    address = start == MAP_FAILED ? nil : start.map { UInt(bitPattern: $0) }
  }

  /// Gives it back to the process. Called once.
  func free() {
    if let address { munmap(UnsafeMutableRawPointer(bitPattern: address), byteCount) }
  }
}
