import LogStore
import Logging

/// Reads the logs' files again in the background while the server runs, and tells what has gone bad.
struct Scrubbing: Sendable {
  private let scrubs: [(name: String, scrub: Scrub)]

  /// - Parameter options: with a rate of 0 nothing is read.
  /// - Parameter damage: told of what is found in the first log, so that the payments concerned are known.
  init(
    _ stores: [(name: String, store: LogStore)], options: ServerOptions, damage: DamageBoard, logger: Logger
  ) {
    guard options.scrubBytesPerSecond > 0 else {
      scrubs = []
      return
    }
    var rate = Scrub.Options()
    rate.bytesPerSecond = options.scrubBytesPerSecond
    scrubs = stores.enumerated().map { number, entry in
      let (name, store) = entry
      let scrub = store.scrub(rate) { found in
        logger.error(
          "damage found; see docs/OPERATIONS.md",
          metadata: [
            "log": "\(name)", "file": "\(found.file)", "byte": "\(found.position)", "reason": "\(found.reason)",
          ])
        if number == 0 { damage.inspect(file: found.file) }
      }
      return (name, scrub)
    }
  }

  /// One line for each damaged place.
  var findings: [String] {
    scrubs.flatMap { entry in entry.scrub.report.findings.map { "the \(entry.name) log: \($0)" } }
  }

  /// To be called before the stores are closed.
  func stop() {
    for entry in scrubs { entry.scrub.stop() }
  }
}
