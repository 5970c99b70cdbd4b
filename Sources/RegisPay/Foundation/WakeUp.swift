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
    // Whoever signals from here on signals the next wait; what was set before an earlier signal is seen after this.
    _ = isSignalled.exchange(false, ordering: .acquiringAndReleasing)
  }

  /// What the thread waits for is not wanted any more: whoever waits in steps ends after the present one.
  func cut() {
    cutFlag.store(true, ordering: .releasing)
    signal()
  }

  var isCut: Bool { cutFlag.load(ordering: .acquiring) }
}
