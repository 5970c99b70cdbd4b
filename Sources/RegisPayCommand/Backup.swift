import ArgumentParser
import Foundation
import RegisPay

/// `regispay backup`: a data directory in another one, also while the server runs.
struct Backup: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Copy everything a data directory needs, also while the server runs.",
    discussion: """
      Copies the logs, and the API keys and webhooks with their secrets, to a directory, which is private. The next run to \
      the same directory copies what is new. It checks every byte. A run that fails or is killed leaves the backup as it was, \
      and the next one continues. Restore it with regispay restore.
      """)

  @Option(help: ArgumentHelp("The server's data directory.", valueName: "directory"))
  var dir = "./data"

  @Option(help: ArgumentHelp("The backup's directory, which should be on another disk.", valueName: "directory"))
  var to: String

  @Option(
    help: ArgumentHelp(
      "Make a backup again and again, such as 30s, 5m or 1h after the start of the one before.",
      discussion: """
        If the data's disk is lost, at most what was written in that time and during one backup is lost. A backup that \
        fails is reported, and the next one is made at its time; if the first one fails, the command ends. You may end the \
        command at any moment.
        """, valueName: "time"))
  var every: Lifetime?

  @Option(
    help: ArgumentHelp(
      "Keep earlier backups for this time, such as 12h or 7d; regispay restore --at goes back to one.",
      discussion:
        "The logs are there once; each backup that is kept costs the size of the API keys and webhooks. Without this option the time of "
        + "the run before counts, and 1s keeps none.",
      valueName: "time"))
  var keep: Lifetime?

  func run() throws {
    var isFirst = true
    while true {
      let start = ContinuousClock.now
      do throws(DataBackupError) {
        try show(DataBackup(of: dir, to: to, keep: keep.map { .seconds($0.seconds) }).run())
      } catch {
        if isFirst { fail("\(error)") }
        LogOutput.standardError.write("regispay: no backup at \(Date().formatted(.iso8601)): \(error)\n")
      }
      isFirst = false
      guard let every else { return }
      let left = Duration.seconds(every.seconds) - (ContinuousClock.now - start)
      if left > .zero { Thread.sleep(forTimeInterval: left / .seconds(1)) }
    }
  }

  private func show(_ report: DataBackup.Report) {
    for warning in report.warnings { LogOutput.standardError.write("regispay: \(warning)\n") }
    var parts: [String] = []
    for (name, log) in [("payments", report.payments), ("simulator", report.simulator)] {
      guard let log else { continue }
      if let torn = log.tornTail {
        LogOutput.standardError.write(
          "regispay: the end of the \(name) log is not in the backup (\(torn.file) @\(torn.position): \(torn.reason))\n"
        )
      }
      parts.append("\(name) events 0..<\(log.endOffset) (\(log.bytesCopied) bytes copied)")
    }
    print("backed up at \(Date().formatted(.iso8601)): \((parts + report.files).joined(separator: ", "))")
    // Standard output may be a file or a pipe, and this process may run for months, or end here.
    fflush(nil)
    LogOutput.standardError.flush(seconds: 1)
  }
}

/// `regispay restore`: a data directory from a backup.
struct Restore: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Make a data directory from a backup.",
    discussion: """
      The directory must have no payments/. Other files that it has are kept: to restore into the old directory, stop the \
      server and move payments/ and simulator/ away first. If a run is killed, run it again. Events after the backup are \
      lost to the log but may have happened at the PSP: see "Backup and restore" in docs/OPERATIONS.md before you start the \
      server.
      """)

  @Option(help: ArgumentHelp("The backup's directory.", valueName: "directory"))
  var from: String

  @Option(help: ArgumentHelp("The new data directory.", valueName: "directory"))
  var dir = "./data"

  @Option(
    help: ArgumentHelp(
      "Restore the last backup of this time or before, such as 2026-12-31T23:00:00Z; see --list.", valueName: "time"),
    transform: { text in
      do {
        return try Date(text, strategy: .iso8601)
      } catch {
        throw ValidationError("--at must be a time such as 2026-12-31T23:00:00Z")
      }
    })
  var at: Date?

  @Flag(
    help: ArgumentHelp(
      "Show the backups that are there, and restore nothing: when each was made, and its number of events.",
      discussion:
        "The exit code is 1 if the set of one can't be read; standard error names it, and the others are shown."))
  var list = false

  func run() throws {
    do throws(DataBackupError) {
      if list { return try showList() }
      let report = try DataRestoration(of: from, to: dir, latest: at).run()
      for line in report.unreadable { LogOutput.standardError.write("regispay: \(line)\n") }
      print(
        "restored payments events 0..<\(report.events), from the backup of \(report.time.formatted(.iso8601))"
      )
      if let simulator = report.simulator { print("restored simulator events 0..<\(simulator.endOffset)") }
      if !report.files.isEmpty { print("restored \(report.files.joined(separator: ", "))") }
      if !report.kept.isEmpty { print("kept what \(dir) had: \(report.kept.joined(separator: ", "))") }
      LogOutput.standardError.flush(seconds: 1)
    } catch {
      fail("\(error)")
    }
  }

  /// Prints the backups that can be read, and ends the process with exit code 1 if there are others.
  private func showList() throws(DataBackupError) {
    let (choices, faults) = try DataRestoration.list(from)
    for backup in choices { print("\(backup.time.formatted(.iso8601))\t\(backup.events)") }
    fflush(nil)
    for fault in faults { LogOutput.standardError.write("regispay: \(fault)\n") }
    LogOutput.standardError.flush(seconds: 1)
    if !faults.isEmpty { Foundation.exit(1) }
  }
}
