import Dispatch
import Synchronization

/// Lets one thread wait for others.
///
/// Safe to use from any thread.
final class WakeUp: Sendable {
  private let semaphore = DispatchSemaphore(value: 0)
  /// There is a signal that no wait has taken yet: further ones would add nothing to it.
  private let isSignalled = Atomic(false)
  private let cutFlag = Atomic(false)

  /// Ends the present wait, or the next one.
  func signal() {
    if !isSignalled.exchange(true, ordering: .acquiringAndReleasing) { semaphore.signal() }
  }

  /// Waits until ``signal()``, or until a time.
  func wait(until end: ContinuousClock.Instant) {
    let left = max(ContinuousClock.now.duration(to: end), .zero)
    guard semaphore.wait(timeout: .now() + left / .seconds(1)) == .success else { return }
    // A signal from now on ends the next wait. The thread now sees all that others wrote before they signalled.
    _ = isSignalled.exchange(false, ordering: .acquiringAndReleasing)
  }

  /// Tells the thread to stop waiting, for good. It ends the present wait; code that waits in a loop checks ``isCut``.
  func cut() {
    cutFlag.store(true, ordering: .releasing)
    signal()
  }

  var isCut: Bool { cutFlag.load(ordering: .acquiring) }
}
