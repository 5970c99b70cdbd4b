import LogStore
import Logging

/// Reads the logs' files again in the background while the server runs, and tells what has gone bad.
struct Scrubbing: Sendable {
  private let scrubs: [(name: String, scrub: Scrub)]

  /// - Parameter options: with a rate of 0 nothing is read.
  /// - Parameter stores: each with the board that is told what is found, so that what is concerned is known.
  init(
    _ stores: [(name: String, store: LogStore, damage: DamageStatus)], options: ServerOptions, logger: Logger
  ) throws(LogStoreError) {
    guard options.scrubBytesPerSecond > 0 else {
      scrubs = []
      return
    }
    var rate = Scrub.Options()
    rate.bytesPerSecond = max(options.scrubBytesPerSecond, Scrub.Options.bytesPerSecondMin)
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

  /// Damaged places of a log that are told one by one: a disk that fails may have any number.
  private static let lineLimit = 20

  /// One line for each damaged place; of many in a log for the first ones, and one for how many more there are.
  var findings: [String] {
    scrubs.flatMap { name, scrub in
      let findings = scrub.report.findings
      let lines = findings.prefix(Self.lineLimit).map { "the \(name) log: \($0)" }
      let more = findings.count - lines.count
      return more > 0 ? lines + ["the \(name) log: \(more) more damaged places; logstore verify lists all"] : lines
    }
  }

  /// To be called before the stores are closed.
  func stop() {
    for entry in scrubs { entry.scrub.stop() }
  }
}
