import LogStore
import Logging

/// Reads the logs' files again in the background while the server runs, and reports damage.
struct Scrubbing: Sendable {
  private let scrubs: [(name: String, scrub: Scrub)]

  /// - Parameters:
  ///   - stores: each with the status that records its damage and finds the streams concerned.
  ///   - bytesPerSecond: 0 turns scrubbing off.
  init(
    _ stores: [(name: String, store: LogStore, damage: DamageStatus)], bytesPerSecond: UInt64, logger: Logger
  ) throws(LogStoreError) {
    guard bytesPerSecond > 0 else {
      scrubs = []
      return
    }
    var rate = Scrub.Options()
    rate.bytesPerSecond = max(bytesPerSecond, Scrub.Options.bytesPerSecondMin)
    scrubs = try stores.map { (entry) throws(LogStoreError) in
      let (name, store, damage) = entry
      let scrub = try store.scrub(rate) { found in
        logger.error(
          "damage found; see docs/OPERATIONS.md",
          metadata: [
            "log": "\(name)", "file": "\(found.file)", "byte": "\(found.position)", "reason": "\(found.reason)",
          ])
        damage.inspect(file: found.file)
      }
      return (name, scrub)
    }
  }

  /// Findings of a log with their own lines: a failing disk may have any number of them.
  private static let lineLimit = 20

  /// One line for each finding, up to ``lineLimit`` for each log, and one line with the number of the others.
  var findings: [String] {
    scrubs.flatMap { name, scrub in
      let findings = scrub.report.findings
      let lines = findings.prefix(Self.lineLimit).map { "the \(name) log: \($0)" }
      let more = findings.count - lines.count
      return more > 0 ? lines + ["the \(name) log: \(more) more damaged positions; logstore verify lists all"] : lines
    }
  }

  /// What the scrub of a log has done; nil if scrubbing is off.
  func report(of log: String) -> Scrub.Report? { scrubs.first { $0.name == log }?.scrub.report }

  /// Call it before the stores are closed.
  func stop() {
    for entry in scrubs { entry.scrub.stop() }
  }
}
