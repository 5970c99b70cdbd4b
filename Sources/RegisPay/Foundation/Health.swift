import LogStore
import Synchronization

/// Whether the server can do its work, and the reasons if it can't.
///
/// Safe to use from any task.
public final class Health: Sendable {
  /// A write that takes longer is a problem.
  private static let hangMilliseconds: UInt64 = 5_000

  private let stores: [(name: String, store: LogStore)]
  private let faults = Mutex<[String: String]>([:])
  private let watches = Mutex<[@Sendable () -> String?]>([])
  private let warners = Mutex<[@Sendable () -> [String]]>([])
  private let skippedEvents = Atomic<UInt64>(0)

  /// - Parameter stores: the logs that must be able to write.
  public init(stores: [(name: String, store: LogStore)]) { self.stores = stores }

  /// One line for each problem; empty when the server is healthy.
  public var problems: [String] {
    let failures = stores.compactMap { entry -> String? in
      if let failure = entry.store.failure { return "the \(entry.name) log can't write: \(failure)" }
      let milliseconds = entry.store.workMilliseconds
      return milliseconds < Self.hangMilliseconds
        ? nil : "the \(entry.name) log has waited \(milliseconds / 1000) seconds for its disk to write"
    }
    let watched = watches.withLock { $0 }.compactMap { $0() }
    return failures + watched + faults.withLock { $0.sorted { $0.key < $1.key }.map { "\($0.key): \($0.value)" } }
  }

  /// One line for each thing that needs attention while the server keeps working.
  public var warnings: [String] { warners.withLock { $0 }.flatMap { $0() } }

  /// Events that were skipped because they could not be read.
  public var skippedEventCount: UInt64 { skippedEvents.load(ordering: .relaxed) }

  /// Reports that a part of the server can't work until something changes; `nil` when it works again.
  func report(_ part: String, fault: String?) { faults.withLock { $0[part] = fault } }

  /// Adds a source of one problem; it returns nil while there is none.
  func watch(_ source: @escaping @Sendable () -> String?) { watches.withLock { $0.append(source) } }

  /// Adds a source of ``warnings``.
  func warn(_ source: @escaping @Sendable () -> [String]) { warners.withLock { $0.append(source) } }

  func countSkippedEvent() { skippedEvents.add(1, ordering: .relaxed) }
}
