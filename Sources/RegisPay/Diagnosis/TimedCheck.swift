import Dispatch
import Foundation
import Synchronization

/// Runs checks on threads of their own, and waits only so long for them: a disk, a mount or a name server that hangs must not hang
/// the diagnosis. A thread that hangs is left behind; it ends with the process.
final class TimedCheck: Sendable {
  static let limit = Duration.seconds(10)

  private let check: any Check
  private let findings = Mutex<[Finding]?>(nil)
  private let end = DispatchSemaphore(value: 0)

  private init(_ check: any Check) { self.check = check }

  /// Runs all checks at the same time.
  ///
  /// - Returns: their findings, in the order of the checks.
  static func run(_ checks: [any Check], limit: Duration = limit) -> [Finding] {
    let running = checks.map(TimedCheck.init)
    for check in running {
      Thread.detachNewThread {
        let findings = check.check.run()
        check.findings.withLock { $0 = findings }
        check.end.signal()
      }
    }
    let deadline = DispatchTime.now() + limit / .seconds(1)
    return running.flatMap { check in
      _ = check.end.wait(timeout: deadline)
      return check.findings.withLock { $0 } ?? [check.overdue(limit)]
    }
  }

  private func overdue(_ limit: Duration) -> Finding {
    .problem(
      check.name, "the check did not end within \(limit.components.seconds) seconds",
      advice: "Something that it asks does not respond: a disk, a network file system or a name server. Look into the"
        + " kernel's log (dmesg), and at processes in state D (ps).")
  }
}
