import Synchronization

/// Which endpoints are disabled and why, for `/health` to tell.
///
/// Safe to use from any task.
final class WebhookWarnings: Sendable {
  private let reasons = Mutex<[String: String]>([:])

  func set(_ id: String, _ reason: String?) { reasons.withLock { $0[id] = reason } }

  /// One line each.
  var lines: [String] {
    reasons.withLock { $0.sorted { $0.key < $1.key }.map { "webhook \($0.key) is disabled: \($0.value)" } }
  }
}
