import Synchronization

/// The disabled endpoints and their reasons, for `/health`.
///
/// Safe to use from any task.
final class WebhookWarnings: Sendable {
  private let reasons = Mutex<[String: String]>([:])

  func set(_ id: String, _ reason: String?) { reasons.withLock { $0[id] = reason } }

  /// One line for each disabled endpoint.
  var lines: [String] {
    reasons.withLock { $0.sorted { $0.key < $1.key }.map { "webhook \($0.key) is disabled: \($0.value)" } }
  }
}
