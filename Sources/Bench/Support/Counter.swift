import Synchronization

/// A number that threads and tasks share.
final class Counter: Sendable {
  private let number: Atomic<Int>

  init(_ number: Int = 0) { self.number = Atomic(number) }

  var value: Int { number.load(ordering: .acquiring) }
  func store(_ value: Int) { number.store(value, ordering: .releasing) }
  func raise(to value: Int) { number.max(value, ordering: .acquiringAndReleasing) }
  /// What it was before.
  func add(_ more: Int) -> Int { number.add(more, ordering: .relaxed).oldValue }
}
